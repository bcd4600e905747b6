"""The API key that was entered in ComfyUI: a file of its own, which no route gives back.

A widget's value ends up in workflow files and in the metadata of every image, and ComfyUI's settings are
readable over HTTP, so the key is neither.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ...xalora_client.config import Settings, parse_api_key
from ...xalora_client.errors import ConfigurationError
from . import compat

KEY_FILE_NAME = "api-key"
ENDPOINT_FILE_NAME = "endpoint"


def key_file() -> Path:
    """Where the key is stored: ComfyUI's system user folder, ``<user folder>/__xalora/api-key``."""
    return compat.system_user_directory() / KEY_FILE_NAME


def read_key() -> str | None:
    """The stored key, None where none is stored.

    Raises:
        ConfigurationError: The file is there and can't be read.
    """
    try:
        return key_file().read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The key file {key_file()} can't be read: {error}",
            next_step="Enter the key again, or set XALORA_API_KEY.",
        ) from error


def write_key(key: str) -> None:
    """Store a key for this user only (mode 0600), whole or not at all.

    Raises:
        ConfigurationError: It has not the form of a key, or can't be written.
    """
    parse_api_key(key)
    path = key_file()
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key.strip())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigurationError(
            f"The key can't be stored in {path}: {error.strerror or error}",
            next_step="Set XALORA_API_KEY instead.",
        ) from error


def forget_key() -> None:
    """Delete the stored key, if there is one."""
    key_file().unlink(missing_ok=True)


def endpoint_file() -> Path:
    """Where the endpoint is stored: beside the key."""
    return key_file().with_name(ENDPOINT_FILE_NAME)


def read_endpoint() -> str | None:
    """The stored endpoint, None where the key is for the hosted network.

    Raises:
        ConfigurationError: The file is there and can't be read.
    """
    try:
        return endpoint_file().read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The endpoint file {endpoint_file()} can't be read: {error}",
            next_step="Enter the key and its endpoint again.",
        ) from error


def store_account(key: str, endpoint: str | None) -> None:
    """Store a key together with the network it is for; None for the hosted one.

    At no moment is an older key paired with the new endpoint, not even after a crash in between.

    Raises:
        ConfigurationError: One of them has a wrong form, or can't be written.
    """
    settings = checked(key, endpoint)
    forget_account()
    if endpoint:
        _write(endpoint_file(), settings.workflow_url)
    write_key(key)


def forget_account() -> None:
    """Delete the stored key and its endpoint, if there are any."""
    forget_key()
    endpoint_file().unlink(missing_ok=True)


def checked(key: str, endpoint: str | None) -> Settings:
    """Settings that hold nothing but this pair.

    Raises:
        ConfigurationError: One of them has a wrong form. The key is not in the message.
    """
    from ...xalora_client.config import load_settings

    settings = load_settings(env_files=(), api_key=key, workflow_url=endpoint or None).settings
    settings.credentials()
    return settings


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigurationError(
            f"The endpoint can't be stored in {path}: {error.strerror or error}",
            next_step="Set XALORA_WORKFLOW_URL instead.",
        ) from error
