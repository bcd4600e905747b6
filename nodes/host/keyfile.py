"""The API key that the user entered in ComfyUI, and its endpoint: files that no route returns.

A widget's value ends up in workflow files and in the metadata of every image, and ComfyUI's settings can be
read over HTTP, so the key is neither. Where none was entered here, that of `xalora login` counts.
"""

from __future__ import annotations

from pydantic import SecretStr

from ...xalora_client.config import Settings, load_settings
from ...xalora_client.errors import ConfigurationError
from ...xalora_client.key_file import KeyFile
from . import compat

COPY_THE_KEY = "Copy the whole key, both halves, from your account."


def read_key() -> SecretStr | None:
    """The stored key, None where there is none.

    Raises:
        ConfigurationError: The file exists and can't be read.
    """
    return _file().read_key()


def read_endpoint() -> str | None:
    """The stored endpoint, None where the key is for the hosted network.

    Raises:
        ConfigurationError: The file exists and can't be read.
    """
    return _file().read_endpoint()


def store_account(key: SecretStr, endpoint: str | None) -> None:
    """Store a key together with its network; None for the hosted one.

    Raises:
        ConfigurationError: One of them is malformed or can't be written.
    """
    settings = checked(key, endpoint)
    _file().store(key, settings.workflow_url if endpoint else None)


def forget_account() -> None:
    """Delete the stored key and its endpoint, if there are any."""
    _file().forget()


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


def _file() -> KeyFile:
    return KeyFile(compat.system_user_directory())
