"""A miner's engine that runs workflow definitions on a ComfyUI server."""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import suppress
from pathlib import Path

from ..engines.comfyui import ComfyUIEngine
from ..errors import EngineError
from ..workflows.catalog import WorkflowCatalog
from ..workflows.definition import GRAPH, WorkflowDefinition
from ..workflows.exported import definition_of_graph
from ..workflows.prompt import parse_prompt
from .engines import MinerTask

FETCHED_PARAMETER = "image"
"""The only parameter whose image the miner fetches before it calls an engine."""

logger = logging.getLogger("xalora_client.engines")


class ComfyUIMinerEngine:
    """Runs a miner's tasks on a ComfyUI server; a :class:`.engines.MinerEngine`.

    Args:
        url: The server's base URL.
        catalog: The definitions to run.
        folder: The user's definitions among them, for :meth:`changed_workflow_ids`.
    """

    def __init__(self, url: str, catalog: WorkflowCatalog, folder: Path | None = None) -> None:
        self._engine = ComfyUIEngine(url)
        self._catalog = catalog
        self._folder, self._read = folder, _files_in(folder)

    def servable(self) -> tuple[tuple[WorkflowDefinition, ...], dict[str, str]]:
        """The definitions that the server can run now, and by name the reasons why it can't run the others.

        Raises:
            EngineError: The server can't be reached.
        """
        lacking = self._engine.lacking(self._catalog)
        return tuple(each for each in self._catalog if each.name not in lacking), lacking

    def workflow_ids(self) -> tuple[str, ...]:
        """The ids of the :meth:`servable` workflows, task types for tasks without one, and that of graphs.

        Raises:
            EngineError: The server can't be reached.
        """
        able, lacking = self.servable()
        for name, reason in lacking.items():
            logger.info("the ComfyUI at %s can't run %s: %s", self._engine.url, name, reason)
        ids = [definition.network_id for definition in able]
        return tuple(dict.fromkeys([*ids, *(definition.task_type for definition in able), GRAPH]))

    def changed_workflow_ids(self) -> tuple[str, ...] | None:
        """:meth:`workflow_ids` where files of the folder have changed since they were read; else None.

        Raises:
            EngineError: The server can't be reached.
        """
        found = _files_in(self._folder)
        if found == self._read:
            return None
        before = set(self._catalog.names)
        self._catalog = WorkflowCatalog.load(self._folder)
        ids = self.workflow_ids()
        self._read = found
        able = {definition.name for definition in self._catalog if definition.network_id in ids}
        for name in self._catalog.names:
            if name not in before | able:
                logger.warning("the ComfyUI at %s can't run the new workflow %s", self._engine.url, name)
        return ids

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`.engines.MinerEngine.run`."""
        definition = self._definition_for(task)
        bound = definition.bind(definition.known(task.parameters))
        images = {FETCHED_PARAMETER: task.image} if task.image is not None else {}
        if unfetched := {slot.parameter for slot in bound.image_inputs} - images.keys():
            raise EngineError(
                f"A miner fetches the parameter {FETCHED_PARAMETER} only, not {', '.join(unfetched)}"
            )
        with tempfile.TemporaryDirectory(prefix="xalora-miner-") as folder:
            run = self._engine.run(bound, images, Path(folder) / "result", cancel=task.stopped)
            return run.files[0].read_bytes(), run.files[0].suffix

    def _definition_for(self, task: MinerTask) -> WorkflowDefinition:
        if task.task_type == GRAPH:
            prompt = parse_prompt(json.dumps(task.details.get("prompt")), "The task's graph")
            return definition_of_graph(prompt, str(task.details.get("output_node_id")))
        named = self._catalog.find(workflow_id=task.workflow_id)
        if named is not None:
            return named
        # A task without a known workflow gets the first one of its type that the server can run.
        able, lacking = self.servable()
        for definition in able:
            if definition.task_type == task.task_type:
                return definition
        reasons = [
            f"{definition.name}: {lacking[definition.name]}"
            for definition in self._catalog
            if definition.task_type == task.task_type and definition.name in lacking
        ]
        raise EngineError(
            f"No workflow for {task.task_type} tasks can run here"
            + (f" ({'; '.join(reasons)})" if reasons else "")
        )


def _files_in(folder: Path | None) -> frozenset[tuple[str, int, int]]:
    """What tells whether a folder's definitions were changed: names, times and sizes of its files."""
    found = set()
    for path in folder.glob("*") if folder is not None else ():
        with suppress(OSError):
            about = path.stat()
            found.add((path.name, about.st_mtime_ns, about.st_size))
    return frozenset(found)
