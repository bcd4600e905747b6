"""``xalora config``: every setting with its value and source. Keys are masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ByteSize, SecretStr
from rich.table import Table
from rich.text import Text

from ...config import ENV_PREFIX, LoadedSettings, Settings, load_settings
from ...errors import ConfigurationError
from ..command import command
from ..exit_codes import ExitCode
from ..formats import printable, short_path
from ..options import AsJson
from ..screen import Screen

MASK = "********"


@command
def config(as_json: AsJson = False) -> ExitCode:
    """Show each setting with its value (keys masked) and its source."""
    loaded = load_settings()
    screen = Screen(json=as_json)
    problem = _key_problem(loaded.settings)
    if as_json:
        screen.document({"settings": _documents(loaded), "problem": problem and str(problem)})
    else:
        screen.show(_table(loaded))
        screen.say(
            ("Arguments override environment variables, these override .env, and .env the defaults.", "dim")
        )
    if problem is None:
        return ExitCode.DONE
    screen.error(problem)
    return ExitCode.CONFIGURATION


def masked(value: Any) -> Any:
    """A setting's value without its secrets: a key's consumer id alone, a URL without user and password."""
    if isinstance(value, SecretStr):
        # A "-" may be the separator or a part of the key, so only "#" marks a consumer id.
        consumer, found, _ = value.get_secret_value().strip().partition("#")
        return f"{consumer}#{MASK}" if found and consumer else MASK
    if isinstance(value, str) and "://" in value and "@" in value:
        parts = urlsplit(value)
        return parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}").geturl()
    return value


def _key_problem(settings: Settings) -> ConfigurationError | None:
    """The error in the format of the key, if there is one."""
    try:
        if settings.api_key is not None:
            settings.credentials()
    except ConfigurationError as error:
        return error
    return None


def _documents(loaded: LoadedSettings) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "variable": f"{ENV_PREFIX}{name.upper()}",
            "value": _plain(masked(getattr(loaded.settings, name))),
            "source": loaded.sources[name],
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _table(loaded: LoadedSettings) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Setting", no_wrap=True)
    table.add_column("Value", overflow="fold")
    table.add_column("From", overflow="fold")
    for name in Settings.model_fields:
        value, source = masked(getattr(loaded.settings, name)), loaded.sources[name]
        is_default = source == "default"
        style = "dim" if is_default else ""
        table.add_row(
            Text(f"{ENV_PREFIX}{name.upper()}", style=style),
            Text(_shown(value), style="dim" if value is None else style or "bold"),
            Text(printable(source), style=style or "cyan"),
        )
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, ByteSize):
        return value.human_readable()
    return short_path(value) if isinstance(value, Path) else printable(str(value))
