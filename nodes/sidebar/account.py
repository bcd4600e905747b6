"""The state of the user's key and network for the dialogs, which never get the key itself."""

from __future__ import annotations

import asyncio
import hashlib
from time import monotonic
from typing import Any

from pydantic import SecretStr

from ...xalora_client import __version__
from ...xalora_client.concurrency import run_in_thread
from ...xalora_client.config import DEFAULT_WORKFLOW_URL, ENV_PREFIX, LOGIN, Settings
from ...xalora_client.errors import (
    AuthenticationError,
    ConfigurationError,
    NoMinerError,
    XaloraConnectionError,
    XaloraError,
)
from ..execution.wording import words_for_dialog
from ..host import keyfile
from ..host.clients import SIDEBAR_READS, clients
from ..host.comfyui_settings import KEY_FILE, defaults, described, in_force, read_settings

TEST_SECONDS = 15.0
RECENT_SECONDS = 60.0
TEST_TASK_TYPE = "upscaler"


async def status() -> dict[str, Any]:
    """The sidebar's status as JSON: ``key`` (``present``, ``source``, ``editable``), ``endpoint`` (``url``,
    ``source``, ``editable``), ``network`` (the last verdict on this key there, or None), ``fallback``,
    ``version``, a ``problem`` with the settings, and the ``problems`` with each, see :func:`.described`."""
    try:
        loaded = await run_in_thread(read_settings, SIDEBAR_READS)
        if loaded.settings.api_key is not None:
            loaded.settings.credentials()
    except ConfigurationError as error:
        return {
            "version": __version__,
            "problem": str(words_for_dialog(error)),
            "problems": [described(problem) for problem in error.problems],
            "key": None,
            "endpoint": None,
            "network": None,
        }
    verdict, _ = _verdicts.get(_pair(loaded.settings), (None, 0.0))
    return {
        "version": __version__,
        "problem": None,
        "problems": [],
        "key": {
            "present": loaded.settings.api_key is not None,
            "source": loaded.sources["api_key"] if loaded.settings.api_key is not None else None,
            "variable": f"{ENV_PREFIX}API_KEY",
            # A key from the dialog is used only where no source of higher precedence is set.
            "editable": loaded.settings.api_key is None or loaded.sources["api_key"] in (KEY_FILE, LOGIN),
        },
        "endpoint": {
            "url": loaded.settings.sequencer_url,
            "source": loaded.sources["workflow_url"],
            "variable": f"{ENV_PREFIX}WORKFLOW_URL",
            "default": DEFAULT_WORKFLOW_URL,
            "editable": loaded.sources["workflow_url"] in (KEY_FILE, LOGIN, "default"),
        },
        "network": verdict,
        "fallback": loaded.settings.fallback,
    }


async def lift_daily_limit() -> dict[str, Any]:
    """Let more be sent than the limit of a day, until midnight; an empty answer."""
    clients.lift_daily_limit()
    return {}


async def settings() -> dict[str, Any]:
    """The dialog's current settings and their defaults."""
    return {"settings": in_force(await run_in_thread(read_settings, SIDEBAR_READS)), "defaults": defaults()}


async def enter_key(key: SecretStr, url: str | None) -> dict[str, Any]:
    """Test a key at its network, store both unless the network refuses the key, and return the verdict.

    If the network can't be reached, they are stored all the same, and the verdict says so.

    Raises:
        ConfigurationError: The key is malformed, overridden by another source, or can't be stored.
        AuthenticationError: The network refuses the key.
    """
    await asyncio.to_thread(_check_not_overridden)
    pair = keyfile.checked(key, url)
    verdict = await _test(pair)
    if verdict["outcome"] == "refused":
        raise AuthenticationError(
            "The network refuses this key",
            money="",
            next_step=keyfile.COPY_THE_KEY,
        )
    await asyncio.to_thread(keyfile.store_account, key, url)
    return verdict


def _check_not_overridden() -> None:
    try:
        loaded = read_settings()
    except ConfigurationError:
        # An invalid setting must not keep the user from entering a key.
        return
    if loaded.settings.api_key is not None and loaded.sources["api_key"] not in (KEY_FILE, LOGIN):
        raise ConfigurationError(
            f"{ENV_PREFIX}API_KEY is set (by {loaded.sources['api_key']}) and overrides a key entered here",
            next_step="Change it there, or remove it there first.",
        )


async def remove_key() -> dict[str, Any]:
    """Delete the stored key and its endpoint; the status afterwards."""
    await asyncio.to_thread(keyfile.forget_account)
    return await status()


_verdicts: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
"""The last verdict on each key at its network and its time, so that none is taken for another key's."""


async def test_key(recent: bool = False) -> dict[str, Any]:
    """Request a miner with the current key, which is free, and return the verdict.

    Args:
        recent: Accept a good answer of the last minute, because a request reserves a miner for a moment.

    Raises:
        MissingKeyError: There is no key.
    """
    loaded = await asyncio.to_thread(read_settings)
    loaded.settings.credentials()
    verdict, at = _verdicts.get(_pair(loaded.settings), ({}, 0.0))
    # After a bad answer the network is asked each time: the user may have corrected the key.
    if recent and verdict.get("outcome") == "accepted" and monotonic() - at < RECENT_SECONDS:
        return verdict
    return await _test(loaded.settings)


def _pair(settings: Settings) -> tuple[str, str]:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    return hashlib.sha256(key.encode()).hexdigest(), settings.workflow_url


async def _test(pair: Settings) -> dict[str, Any]:
    """The verdict: ``outcome`` is ``accepted``, ``no_miner`` (accepted, but no miner is free), ``refused``,
    ``unreachable`` or ``failed``; ``message`` is the error's text."""
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
        # The page says itself what can't be reached.
        outcome, message = "unreachable", error.reason or error.what
    except ConfigurationError:
        raise
    except XaloraError as error:
        outcome, message = "failed", error.what
    else:
        outcome, message = "accepted", ""
    verdict = {"outcome": outcome, "message": message, "endpoint": pair.sequencer_url}
    _verdicts[_pair(pair)] = verdict, monotonic()
    return verdict
