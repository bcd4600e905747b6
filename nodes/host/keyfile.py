"""The API key that was entered in ComfyUI: a file of its own, which no route gives back.

A widget's value ends up in workflow files and in the metadata of every image, and ComfyUI's settings are
readable over HTTP, so the key is neither.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ...xalora_client.config import parse_api_key
from ...xalora_client.errors import ConfigurationError
from . import compat

FILE_NAME = "api-key"


def key_file() -> Path:
    """Where the key is stored: ComfyUI's system user folder, ``<user folder>/__xalora/api-key``."""
    return compat.system_user_directory() / FILE_NAME


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
