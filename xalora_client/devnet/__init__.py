"""The devnet: the Xalora network on one machine (sequencer, result store, miners), for development and tests.

``Devnet`` is the whole network as an async context manager, ``DevnetThread`` the same for code without an
event loop, ``serve_forever`` and ``run_miners`` serve a command line. The devnet speaks the public protocol
and shares no protocol code with the client, so that each tests the other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faults import Fault as Fault
    from .foreground import run_miners as run_miners
    from .foreground import serve_forever as serve_forever
    from .server import Devnet as Devnet
    from .thread import DevnetThread as DevnetThread

DEFAULT_API_KEY = "devnet#devnet"
DEFAULT_MINERS = 3
DEFAULT_POLL_SECONDS = 0.1

_MODULES = {
    "Devnet": "server",
    "DevnetThread": "thread",
    "Fault": "faults",
    "run_miners": "foreground",
    "serve_forever": "foreground",
}

__all__ = ["Devnet", "DevnetThread", "Fault", "run_miners", "serve_forever"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
