"""The user's key and network, as the dialogs see them: whether a key is there and works, never the key."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from time import monotonic
from typing import Any

from pydantic import SecretStr

from ...xalora_client import __version__
from ...xalora_client.config import DEFAULT_WORKFLOW_URL, ENV_PREFIX, LoadedSettings, Settings
from ...xalora_client.errors import (
    AuthenticationError,
    ConfigurationError,
    NoMinerError,
    XaloraConnectionError,
    XaloraError,
)
from ..host import keyfile
from ..host.settings import KEY_FILE, defaults, in_force, read_settings

TEST_SECONDS = 15.0
RECENT_SECONDS = 60.0
TEST_TASK_TYPE = "upscaler"


async def status() -> dict[str, Any]:
    """What the sidebar's head shows, as JSON: ``key`` (``present``, ``source``, ``editable``), ``endpoint``
    (``url``, ``source``, ``hosted``), ``network`` (the last verdict on this key there, or None),
    ``fallback``, ``version``, and a ``problem`` with the settings."""
    try:
        loaded = await asyncio.to_thread(read_settings)
        if loaded.settings.api_key is not None:
            loaded.settings.credentials()
    except ConfigurationError as error:
        return {"version": __version__, "problem": str(error), "key": None, "endpoint": None, "network": None}
    tried = _tried.get(_pair(loaded.settings))
    return {
        "version": __version__,
        "problem": None,
        "key": {
            "present": loaded.settings.api_key is not None,
            "source": loaded.sources["api_key"] if loaded.settings.api_key is not None else None,
            "variable": f"{ENV_PREFIX}API_KEY",
            # What is entered in the dialog counts only where nothing stronger is set.
            "editable": loaded.settings.api_key is None or loaded.sources["api_key"] == KEY_FILE,
        },
        "endpoint": {
            "url": loaded.settings.sequencer_url,
            "source": loaded.sources["workflow_url"],
            "variable": f"{ENV_PREFIX}WORKFLOW_URL",
            "default": DEFAULT_WORKFLOW_URL,
            "editable": loaded.sources["workflow_url"] in (KEY_FILE, "default"),
        },
        "network": tried.verdict if tried is not None else None,
        "fallback": loaded.settings.fallback,
    }


async def settings() -> dict[str, Any]:
    """The dialog's settings in force, and their defaults."""
    return {"settings": in_force(await asyncio.to_thread(read_settings)), "defaults": defaults()}


async def enter_key(key: str, url: str | None) -> dict[str, Any]:
    """Try a key at its network and store the pair, unless the network refuses it; gives the verdict.

    Where the network can't be reached the pair is stored all the same, and the verdict says so.

    Raises:
        ConfigurationError: It has a wrong form, or a stronger source makes it useless, or it can't be stored.
        AuthenticationError: The network refuses the key.
    """
    await asyncio.to_thread(_check_that_it_counts)
    pair = keyfile.checked(key, url)
    verdict = await _try(pair)
    if verdict["outcome"] == "refused":
        raise AuthenticationError(
            "The network refuses this key",
            money="",
            next_step="Copy the whole key, both halves, from your account.",
        )
    await asyncio.to_thread(keyfile.store_account, key, url)
    return verdict


def _check_that_it_counts() -> None:
    loaded = _loaded_or_none()
    if loaded is None or loaded.settings.api_key is None or loaded.sources["api_key"] == KEY_FILE:
        return
    raise ConfigurationError(
        f"{ENV_PREFIX}API_KEY is set (by {loaded.sources['api_key']}) and wins over a key entered here",
        next_step="Change it there, or remove it there first.",
    )


def _loaded_or_none() -> LoadedSettings | None:
    # Settings that are broken elsewhere must not keep the user from entering a key.
    try:
        return read_settings()
    except ConfigurationError:
        return None


async def remove_key() -> dict[str, Any]:
    """Delete the stored key and its endpoint; the status afterwards."""
    await asyncio.to_thread(keyfile.forget_account)
    return await status()


@dataclass(frozen=True)
class _Tried:
    verdict: dict[str, Any]
    at: float


_tried: dict[tuple[str, str], _Tried] = {}
"""The last verdict on each key at its network: an answer that comes late says nothing about another key."""


async def test_key(recent: bool = False) -> dict[str, Any]:
    """Ask the network for a miner with the key in force, which is free; gives the verdict.

    Args:
        recent: Be content with a good answer of the last minute: asking reserves a miner for a moment.

    Raises:
        MissingKeyError: There is no key.
    """
    loaded = await asyncio.to_thread(read_settings)
    loaded.settings.credentials()
    last = _tried.get(_pair(loaded.settings))
    # What is bad is asked again each time: the user may just have mended it.
    is_good = last is not None and last.verdict["outcome"] == "accepted"
    if recent and last is not None and is_good and monotonic() - last.at < RECENT_SECONDS:
        return last.verdict
    return await _try(loaded.settings)


def _pair(settings: Settings) -> tuple[str, str]:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    return hashlib.sha256(key.encode()).hexdigest(), settings.workflow_url


async def _try(pair: Settings) -> dict[str, Any]:
    """``outcome``: ``accepted``, ``no_miner`` (accepted, nobody serves now), ``refused``, ``unreachable`` or
    ``failed``; ``message`` has the words."""
    from ...xalora_client.client import AsyncXalora

    key = pair.api_key or SecretStr("")
    once = pair.model_copy(update={"api_key": key, "max_retries": 0, "request_timeout": TEST_SECONDS})
    try:
        async with AsyncXalora(settings=once) as client:
            await client.resource_request(task_type=TEST_TASK_TYPE)
    except NoMinerError as error:
        outcome, message = "no_miner", error.what
    except AuthenticationError as error:
        outcome, message = "refused", error.what
    except XaloraConnectionError as error:
        outcome, message = "unreachable", error.what
    except ConfigurationError:
        raise
    except XaloraError as error:
        outcome, message = "failed", error.what
    else:
        outcome, message = "accepted", ""
    verdict = {"outcome": outcome, "message": message, "endpoint": pair.sequencer_url}
    _tried[_pair(pair)] = _Tried(verdict, monotonic())
    return verdict
