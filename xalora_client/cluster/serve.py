"""The front's process: ``python -m xalora_client.cluster.serve FOLDER``; ``FOLDER/head.json`` says how."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sqlite3
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from aiohttp import web

from ..files import write_private
from ..workflows.catalog import WorkflowCatalog
from .front import Front
from .keys import Keys
from .ray_node import NAMESPACE
from .store import Store
from .workforce import Workforce

logger = logging.getLogger("xalora_client.cluster")

HEAD_FILE = "head.json"
KEYS_FILE = "keys.json"
TOKEN_FILE = "token"
RELOAD_SECONDS = 15.0
_FORGET_SECONDS = 3600.0
_CONNECT_SECONDS = 60.0


@dataclass(frozen=True)
class Head:
    """How the head serves.

    Attributes:
        host: Address of the front.
        port: Its port.
        ray: ``host:port`` of Ray's head.
        network: Whether other machines can join; else Ray listens on loopback only.
        workflows: Folder of definitions besides those shipped.
        keep_days: For how many days an ended task and its result are kept.
    """

    host: str
    port: int
    ray: str
    network: bool
    workflows: str | None
    keep_days: float

    @property
    def url(self) -> str:
        """Base URL of the front."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def write(self, folder: Path) -> None:
        """Note it."""
        write_private(folder / HEAD_FILE, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Head:
        """What a folder notes. Raises ``FileNotFoundError`` where there is no head."""
        return cls(**json.loads((folder / HEAD_FILE).read_text(encoding="utf-8")))


class Definitions:
    """The definitions shipped and those of a folder, read anew every 15 seconds."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._catalog = WorkflowCatalog.load(self._folder)

    def present(self) -> WorkflowCatalog:
        """Those of the last reading."""
        return self._catalog

    async def keep_reading(self) -> None:
        """Read them until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self._catalog = await asyncio.to_thread(WorkflowCatalog.load, self._folder)


async def serve(folder: Path) -> None:
    """Serve until SIGTERM or SIGINT, or until Ray can't be reached."""
    head = Head.read(folder)
    token = (folder / TOKEN_FILE).read_text(encoding="utf-8").strip()
    definitions, workforce = Definitions(head.workflows), Workforce()
    store = Store(folder)
    loop = asyncio.get_running_loop()

    from .dispatcher import Dispatcher

    dispatcher = Dispatcher(store, workforce, definitions.present)
    keys = Keys(folder / KEYS_FILE)
    front = Front(store, workforce, dispatcher, definitions.present, keys, token)
    runner = web.AppRunner(front.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    # Tasks are taken and results given out while Ray still starts.
    await web.TCPSite(runner, head.host, head.port).start()

    async def work() -> None:
        await asyncio.to_thread(_connect, head.ray)
        await dispatcher.run()

    parts = [
        loop.create_task(part)
        for part in (work(), definitions.keep_reading(), _forget_old(store, head.keep_days))
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, parts[0].cancel)
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in parts:
            each.cancel()
        problems = await asyncio.gather(*parts, return_exceptions=True)
        await runner.cleanup()
        store.close()
    for problem in problems:
        if isinstance(problem, Exception):
            raise problem


def _connect(address: str) -> None:
    import ray

    until = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            # An explicit address: a bare init may join another cluster.
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError):
            # Its head still starts.
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        else:
            return


async def _forget_old(store: Store, days: float) -> None:
    while True:
        try:
            forgotten = store.forget(time.time() - days * 86400)
        except sqlite3.Error:
            logger.exception("old tasks")
        else:
            if forgotten:
                logger.info("%d tasks that ended more than %g days ago are forgotten", forgotten, days)
        await asyncio.sleep(_FORGET_SECONDS)


def main() -> None:
    """Serve the folder that the command line names."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("xalora_client").setLevel(logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))
    # Ray's exit handlers wait for its head, which may be gone.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
