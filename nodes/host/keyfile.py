"""The API key that the user entered in ComfyUI, and its endpoint: files that no route returns.

A widget's value ends up in workflow files and in the metadata of every image, and ComfyUI's settings can be
read over HTTP, so the key is neither.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from ...xalora_client.config import Settings, load_settings
from ...xalora_client.errors import ConfigurationError
from . import compat

KEY_FILE_NAME = "api-key"
ENDPOINT_FILE_NAME = "endpoint"

COPY_THE_KEY = "Copy the whole key, both halves, from your account."


def read_key() -> str | None:
    """The stored key, None where there is none.

    Raises:
        ConfigurationError: The file exists and can't be read.
    """
    return _read(KEY_FILE_NAME)


def read_endpoint() -> str | None:
    """The stored endpoint, None where the key is for the hosted network.

    Raises:
        ConfigurationError: The file exists and can't be read.
    """
    return _read(ENDPOINT_FILE_NAME)


def store_account(key: SecretStr, endpoint: str | None) -> None:
    """Store a key together with its network; None for the hosted one.

    An older key is never paired with the new endpoint, not even after a crash in between.

    Raises:
        ConfigurationError: One of them is malformed or can't be written.
    """
    settings = checked(key, endpoint)
    forget_account()
    if endpoint:
        _write(ENDPOINT_FILE_NAME, SecretStr(settings.workflow_url))
    _write(KEY_FILE_NAME, key)


def forget_account() -> None:
    """Delete the stored key and its endpoint, if there are any."""
    _path(KEY_FILE_NAME).unlink(missing_ok=True)
    _path(ENDPOINT_FILE_NAME).unlink(missing_ok=True)


def checked(key: SecretStr, endpoint: str | None) -> Settings:
    """Settings that hold only this key and endpoint.

    Raises:
        ConfigurationError: One of them is malformed. The message does not contain the key.
    """
    settings = load_settings(env_files=(), api_key=key, workflow_url=endpoint or None).settings
    try:
        settings.credentials()
    except ConfigurationError as error:
        # Who enters the key here has no variable to change.
        raise ConfigurationError(error.what, money="", next_step=COPY_THE_KEY) from None
    return settings


def _path(name: str) -> Path:
    return compat.system_user_directory() / name


def _read(name: str) -> str | None:
    path = _path(name)
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} can't be read: {error}",
            next_step="Enter the key and its endpoint again, or set XALORA_API_KEY and XALORA_WORKFLOW_URL.",
        ) from error


def _write(name: str, text: SecretStr) -> None:
    """Write a file that only this user can read (mode 0600), completely or not at all."""
    path = _path(name)
    draft = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text.get_secret_value())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path} can't be written: {error.strerror or error}",
            next_step="Set XALORA_API_KEY and XALORA_WORKFLOW_URL instead.",
        ) from error
