"""The Xalora network on one machine: sequencer, result store and miners, for development and tests.

It speaks the public protocol and shares nothing with the client. ``Devnet`` is the whole network as an async
context manager, ``DevnetThread`` the same for code without an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faults import Fault as Fault
    from .server import Devnet as Devnet
    from .server import DevnetThread as DevnetThread
    from .server import serve_forever as serve_forever

__all__ = ["Devnet", "DevnetThread", "Fault", "serve_forever"]


def __getattr__(name: str) -> Any:
    if name == "Fault":
        from .faults import Fault

        return Fault
    if name in __all__:
        from . import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
