"""The current settings inside ComfyUI, and those of them that ComfyUI's settings dialog holds.

Precedence, highest first: environment, ``.env`` of ComfyUI's base folder, the pack's ``.env``, the key file,
ComfyUI's settings, the key of ``xalora login``, the default. An endpoint that was entered with a key is used
with that key only: a key is sent only to the network that it was entered for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...xalora_client.config import ENV_PREFIX, LoadedSettings, Settings, load_settings
from ...xalora_client.errors import ConfigurationError, SettingProblem
from . import compat
from .keyfile import read_endpoint, read_key

log = logging.getLogger("xalora_client.nodes")

STATE_FOLDER = "xalora"

KEY_FILE = "the key file"
COMFYUI_SETTINGS = "ComfyUI's settings"
USER_FOLDER = "ComfyUI's user folder"

ACCOUNT = ("api_key", "workflow_url")
"""What is entered in a dialog of its own."""

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True)
class ComfySetting:
    """One setting in ComfyUI's dialog.

    Args:
        id: Its id in ComfyUI, on which saved settings rely.
        name: The field of :class:`Settings`.
        unit: The dialog's unit in units of the field, such as bytes in a MiB.
        unset: The dialog's value for "not set".
    """

    id: str
    name: str
    unit: int = 1
    unset: Any = ""

    def to_field(self, value: Any) -> Any:
        """The field's value for the dialog's, None where it is not set."""
        if value is None or value == self.unset:
            return None
        return round(value * self.unit) if self.unit != 1 and isinstance(value, int | float) else value

    def to_dialog(self, value: Any) -> Any:
        """The dialog's value for the field's."""
        if value is None:
            return self.unset
        if isinstance(value, Mapping):
            return ", ".join(f"{name}={price}" for name, price in value.items())
        if isinstance(value, Decimal):
            return float(value)
        return round(value / self.unit, 3) if self.unit != 1 else value


COMFY_SETTINGS = (
    ComfySetting("Xalora.Fallback", "fallback"),
    ComfySetting("Xalora.QueueLimit", "queue_limit", unset=0),
    ComfySetting("Xalora.MaxInFlight", "max_in_flight"),
    ComfySetting("Xalora.Reuse", "reuse"),
    ComfySetting("Xalora.InlineLimitMiB", "inline_limit", unit=MIB),
    ComfySetting("Xalora.ResultsLimitGiB", "results_limit", unit=GIB),
    ComfySetting("Xalora.Prices", "prices"),
    ComfySetting("Xalora.DailyTasks", "daily_tasks", unset=0),
    ComfySetting("Xalora.DailyCost", "daily_cost", unset=0),
    ComfySetting("Xalora.StoreUrl", "store_url"),
    ComfySetting("Xalora.StoreEndpoint", "store_endpoint"),
    ComfySetting("Xalora.StoreRegion", "store_region"),
)


def read_settings() -> LoadedSettings:
    """The current settings, read again at each call, so that a change needs no restart.

    Raises:
        ConfigurationError: A value is invalid; the message names its source.
    """
    account = {"api_key": read_key(), "workflow_url": read_endpoint()}
    loaded = _load(account)
    if loaded.sources["api_key"] != KEY_FILE and loaded.sources["workflow_url"] == KEY_FILE:
        return _load({})
    return loaded


def of_same_account(one: Settings, other: Settings) -> bool:
    """Whether both settings have a key of the same consumer, for the same network."""
    try:
        consumers = {settings.credentials().consumer_id for settings in (one, other)}
    except ConfigurationError:
        return False
    return len(consumers) == 1 and one.sequencer_url == other.sequencer_url


def _load(account: Mapping[str, Any]) -> LoadedSettings:
    return load_settings(
        env_files=[compat.base_directory() / ".env", compat.pack_directory() / ".env"],
        stored={
            KEY_FILE: {name: value for name, value in account.items() if value is not None},
            COMFYUI_SETTINGS: from_dialog(_dialog.read()),
            USER_FOLDER: {"state_dir": compat.user_directory() / STATE_FOLDER},
        },
    )


def from_dialog(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of :class:`Settings` from the contents of ComfyUI's settings file."""
    fields = {setting.name: setting.to_field(values.get(setting.id)) for setting in COMFY_SETTINGS}
    return {name: value for name, value in fields.items() if value is not None}


def in_force(loaded: LoadedSettings) -> list[dict[str, Any]]:
    """Each setting of the dialog as JSON: ``id``, ``value`` in the dialog's unit, ``source``, the environment
    ``variable``, and whether a source of higher precedence has ``overridden`` the dialog."""
    described = []
    for setting in COMFY_SETTINGS:
        value = getattr(loaded.settings, setting.name)
        source = loaded.sources[setting.name]
        described.append(
            {
                "id": setting.id,
                "value": setting.to_dialog(value),
                "source": source,
                "variable": f"{ENV_PREFIX}{setting.name.upper()}",
                "overridden": source not in (COMFYUI_SETTINGS, "default"),
            }
        )
    return described


def described(problem: SettingProblem) -> dict[str, Any]:
    """A value that does not fit, as JSON: the ``message``, the ``source``, the environment ``variable``, and
    the setting's ``id`` in the dialog, None where it has none."""
    ids = {setting.name: setting.id for setting in COMFY_SETTINGS} | dict.fromkeys(ACCOUNT, "Xalora.Key")
    return {
        "id": ids.get(problem.name),
        "source": problem.source,
        "variable": f"{ENV_PREFIX}{problem.name.upper()}",
        "message": problem.message,
    }


def defaults() -> dict[str, Any]:
    """The dialog's default of each setting, by id."""
    fields = Settings.model_fields
    return {
        setting.id: setting.to_dialog(fields[setting.name].get_default(call_default_factory=True))
        for setting in COMFY_SETTINGS
    }


class SettingsFile:
    """The settings of ComfyUI's default user: with `--multi-user` too, a prompt does not name its user."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._values: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """The file's contents; while it can't be read, its last contents."""
        try:
            stat = self._path().stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                # ComfyUI writes the file in place, so that it is incomplete for a moment.
                self._values = dict(json.loads(self._path().read_text(encoding="utf-8")))
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._values = None, {}
        except (OSError, ValueError) as error:
            log.debug("ComfyUI's settings can't be read now: %s", error)
        return self._values


_dialog = SettingsFile(lambda: compat.user_directory() / "default" / "comfy.settings.json")
