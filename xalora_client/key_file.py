"""The key file: an API key and the network that it is for, which only their user can read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path
from pydantic import SecretStr

from .errors import ConfigurationError
from .files import write_private

KEY_FILE_NAME = "api-key"
ENDPOINT_FILE_NAME = "endpoint"

FOLDER_VARIABLE = "XALORA_CONFIG_DIR"


@dataclass(frozen=True)
class KeyFile:
    """A stored key and its endpoint, each a file of its own in a folder that need not exist yet."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file that holds the key."""
        return self.folder / KEY_FILE_NAME

    def read_key(self) -> SecretStr | None:
        """The stored key, None where there is none.

        Raises:
            ConfigurationError: The file exists and can't be read.
        """
        text = _read(self.path)
        return None if text is None else SecretStr(text)

    def read_endpoint(self) -> str | None:
        """The stored endpoint, None where the key is for the hosted network.

        Raises:
            ConfigurationError: The file exists and can't be read.
        """
        return _read(self.folder / ENDPOINT_FILE_NAME)

    def store(self, key: SecretStr, endpoint: str | None) -> None:
        """Store a key together with its network; None for the hosted one.

        An older key is never paired with the new endpoint, not even after a crash in between.

        Raises:
            ConfigurationError: They can't be written.
        """
        self.forget()
        if endpoint:
            _write(self.folder / ENDPOINT_FILE_NAME, SecretStr(endpoint))
        _write(self.path, key)

    def forget(self) -> bool:
        """Delete the stored key and its endpoint; False where there was no key.

        Raises:
            ConfigurationError: They can't be deleted.
        """
        was_there = self.path.exists()
        try:
            self.path.unlink(missing_ok=True)
            (self.folder / ENDPOINT_FILE_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} can't be deleted: {error.strerror or error}", next_step="Delete it by hand."
            ) from error
        return was_there


def login_file() -> KeyFile:
    """The key file of ``xalora login``: in the user's folder for configuration, or ``$XALORA_CONFIG_DIR``.

    Raises:
        ConfigurationError: The user has no home folder, as some services have none.
    """
    if given := os.environ.get(FOLDER_VARIABLE):
        return KeyFile(Path(given))
    try:
        folder = user_config_path("xalora", appauthor=False)
    except RuntimeError:  # older releases of platformdirs leave the ~ in the path
        folder = Path("~")
    if not folder.is_absolute():
        raise ConfigurationError(
            "This user has no home folder, in which the key file would be",
            next_step=f"Set {FOLDER_VARIABLE} to a folder that can be written, or XALORA_API_KEY.",
        )
    return KeyFile(folder)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} can't be read: {error}",
            next_step="Enter the key and its endpoint again, or set XALORA_API_KEY and XALORA_WORKFLOW_URL.",
        ) from error


def _write(path: Path, text: SecretStr) -> None:
    """Write a file that only this user can read (mode 0600), completely or not at all."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text.get_secret_value())
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be written: {error.strerror or error}",
            next_step="Set XALORA_API_KEY and XALORA_WORKFLOW_URL instead.",
        ) from error
