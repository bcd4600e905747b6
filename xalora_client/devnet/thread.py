"""``DevnetThread``: the devnet on a thread of its own, for code without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from .server import Devnet


class DevnetThread:
    """A blocking context manager that takes the arguments of :class:`Devnet` and has its attributes.

    Each method may be called from any thread, blocks, and does the same as the method of that name there.
    """

    def __init__(self, port: int = 0, **options: Any) -> None:
        self._devnet = Devnet(port, **options)

    def __enter__(self) -> DevnetThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="xalora-devnet", daemon=True)
        self._thread.start()
        try:
            self._call(self._devnet.__aenter__)
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call(self._devnet.__aexit__)
        finally:
            self._end_loop()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._devnet, name)
        return partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is self._thread:
            # A `wait_for` condition runs on this thread; waiting here for the same thread would never end.
            return method(*arguments, **options)

        async def call() -> Any:
            result = method(*arguments, **options)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _end_loop(self) -> None:
        self._call(self._loop.shutdown_default_executor)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
