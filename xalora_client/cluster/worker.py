"""The actor that runs tasks: one for each GPU, or for each slot of a machine without one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from .._version import __version__
from ..engines.base import LocalEngine
from ..errors import EngineError, XaloraError
from ..serving.inputs import fetch_input
from ..workflows.definition import WorkflowDefinition
from ..workflows.upscaling import uses_model
from .comfyui_process import ComfyUIProcess
from .machine import Machine
from .workforce import Offer

logger = logging.getLogger("xalora_client.cluster")

_FETCH_SECONDS = 300.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        files: Of the result, each a suffix and bytes.
        seconds: What the engine took.
        error: Why the engine failed; empty for a result.
        lost: Whether that was the end of the engine itself, so that another run may succeed.
    """

    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    seconds: float = 0.0
    error: str = ""
    lost: bool = False


class Worker:
    """Runs one task at a time with the engine of its machine; an async actor of Ray's.

    Args:
        slot: Its number on the machine.
        gpu: The id of its GPU; None without one.
    """

    def __init__(self, slot: int) -> None:
        import ray

        machine = Machine.of_this_process()
        for name, value in machine.environment.items():
            # Ray's head process has other values.
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        self._miner_id = f"{machine.name}/gpu{gpus[0]}" if gpus else f"{machine.name}/cpu{slot}"
        self._machine = machine
        self._lock = asyncio.Lock()
        self._current: asyncio.Task[Any] | None = None
        self._folder = Path(machine.folder) / f"worker-{slot}"
        self._comfyui: ComfyUIProcess | None = None
        if machine.engine == "comfyui":
            self._comfyui = ComfyUIProcess(
                Path(str(machine.comfyui)),
                Path(machine.python or sys.executable),
                self._folder / "comfyui",
                gpu=bool(gpus),
            )
        self._engine: LocalEngine | None = None

    async def describe(self, definitions: Sequence[WorkflowDefinition], release: str) -> Offer:
        """Which of these definitions it can run now; starts its ComfyUI where that is needed.

        Args:
            definitions: Those of the head.
            release: Of this package on the head; with another one a worker runs nothing.
        """
        try:
            if release != __version__:
                raise EngineError(f"xalora {__version__} is installed there, and {release} on the head")
            lacking = await self._lacking(definitions)
        except XaloraError as problem:
            lacking = dict.fromkeys((each.name for each in definitions), problem.what)
        able = frozenset(each.name for each in definitions) - lacking.keys()
        return Offer(self._miner_id, self._machine.engine, able, lacking)

    async def run(self, definition: WorkflowDefinition, details: bytes) -> Outcome:
        """Run a task; cancelled, it returns once the engine has stopped.

        Args:
            definition: The workflow.
            details: The JSON text of ``task_details``.
        """
        if self._current is not None:
            # A run whose head is gone: nobody waits for it.
            self._current.cancel()
        self._current = own = asyncio.current_task()
        try:
            async with self._lock:
                return await self._outcome(definition, details)
        finally:
            if self._current is own:
                self._current = None

    async def _outcome(self, definition: WorkflowDefinition, details: bytes) -> Outcome:
        began = time.monotonic()
        try:
            parameters = json.loads(details)["parameters"]
            images = await self._images(definition, parameters)
            await self._ready_comfyui()
            began = time.monotonic()
            return Outcome(await self._files(definition, parameters, images), time.monotonic() - began)
        except XaloraError as problem:
            is_gone = self._comfyui is not None and not self._comfyui.is_alive
            why = "its ComfyUI ended" if is_gone else problem.what
            return Outcome(error=why, lost=is_gone, seconds=time.monotonic() - began)
        except Exception as problem:
            logger.exception("the engine failed")
            name = f"{type(problem).__name__}: {problem}"
            return Outcome(error=f"The engine failed: {name}", seconds=time.monotonic() - began)

    async def _images(
        self, definition: WorkflowDefinition, parameters: Mapping[str, Any]
    ) -> dict[str, bytes]:
        names = [each.name for each in definition.image_parameters if each.name in parameters]
        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS, sock_connect=10)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            return {name: await fetch_input(session, str(parameters[name])) for name in names}

    async def _files(
        self, definition: WorkflowDefinition, parameters: Mapping[str, Any], images: Mapping[str, bytes]
    ) -> tuple[tuple[str, bytes], ...]:
        stop = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(self._run, definition, parameters, images, stop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({work})
            # Asyncio logs an exception that nothing retrieved.
            _ = work.cancelled() or work.exception()
            raise

    def _run(
        self,
        definition: WorkflowDefinition,
        parameters: Mapping[str, Any],
        images: Mapping[str, bytes],
        stop: threading.Event,
    ) -> tuple[tuple[str, bytes], ...]:
        bound = definition.bind(definition.known(parameters))
        folder = self._folder / "result"
        # What a killed process left, too.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run = self._local_engine().run(bound, images, folder / "result", cancel=stop)
            return tuple((path.suffix, path.read_bytes()) for path in run.files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if self._comfyui is not None:
                self._comfyui.drop_files()

    async def _lacking(self, definitions: Sequence[WorkflowDefinition]) -> dict[str, str]:
        await self._ready_comfyui()
        if self._comfyui is not None:
            from ..engines.comfyui import ComfyUIEngine

            return await asyncio.to_thread(ComfyUIEngine(self._comfyui.url).lacking, definitions)
        engine = self._local_engine()
        available = engine.available()
        if not available:
            raise EngineError(available.reason)
        return {
            each.name: f"the {engine.name} engine does not run it"
            for each in definitions
            if not engine.can_run(bound := each.write({})) or (engine.name == "pillow" and uses_model(bound))
        }

    async def _ready_comfyui(self) -> None:
        """Have the ComfyUI run, where it is the engine.

        Raises:
            EngineError: It does not start.
        """
        if self._comfyui is None:
            return
        if not self._comfyui.is_alive:
            # On the loop's thread, which lives as long as the actor.
            self._comfyui.start()
        await asyncio.to_thread(self._comfyui.wait_until_serving)

    def _local_engine(self) -> LocalEngine:
        model = self._machine.model
        if self._comfyui is not None:
            from ..engines.comfyui import ComfyUIEngine

            return ComfyUIEngine(self._comfyui.url)
        if self._engine is None:
            match self._machine.engine:
                case "torch":
                    from ..engines.torch import TorchEngine

                    self._engine = TorchEngine(None if model is None else Path(model))
                case "ncnn":
                    from ..engines.ncnn.engine import NcnnEngine
                    from ..engines.ncnn.models import DEFAULT, is_ncnn_file

                    is_file = model is not None and is_ncnn_file(Path(model))
                    threads = max(1, (os.cpu_count() or 1) // max(1, self._machine.slots))
                    self._engine = NcnnEngine(Path(str(model)) if is_file else DEFAULT, threads=threads)
                case _:
                    from ..engines.pillow import PillowEngine

                    self._engine = PillowEngine()
        return self._engine
