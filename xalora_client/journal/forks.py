"""Objects that survive ``os.fork``: locked while it happens, told afterwards on which side they are."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """What has a lock, and an identity that a child must not share."""

    def before_fork(self) -> None:
        """Takes the lock, so that the child's copy is not caught in the middle of something."""

    def after_fork_in_parent(self) -> None:
        """Releases the lock."""

    def after_fork_in_child(self) -> None:
        """Replaces the lock and the identity. It must not raise."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_forking: list[ForkAware] = []
_guard = threading.Lock()


def register(item: ForkAware) -> None:
    """Has `item` told of every fork for as long as it lives."""
    with _guard:
        _registered.add(item)


def _before() -> None:
    _guard.acquire()
    for item in list(_registered):
        item.before_fork()
        _forking.append(item)


def _after_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork_in_parent()
    _guard.release()


def _after_in_child() -> None:
    while _forking:
        _forking.pop().after_fork_in_child()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
