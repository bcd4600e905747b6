"""A ComfyUI server as the engine of a miner: it runs every definition that the server has the models for."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from ..engines.comfyui import ComfyUIEngine
from ..errors import EngineError, XaloraError
from ..workflows.catalog import WorkflowCatalog
from ..workflows.check import check_definition
from ..workflows.definition import WorkflowDefinition
from .engines import EngineError as MinerError
from .engines import MinerTask

FETCHED_PARAMETER = "image"
"""The one parameter whose picture the miner itself fetches before it asks an engine."""

logger = logging.getLogger("xalora_client.engines")


class ComfyUIMinerEngine:
    """Runs a miner's tasks on a ComfyUI server; fits ``MinerEngine`` of the devnet.

    Args:
        url: The server's base URL.
        catalog: The definitions to serve; None for those shipped and the user's own.
    """

    def __init__(self, url: str, catalog: WorkflowCatalog | None = None) -> None:
        self._engine = ComfyUIEngine(url)
        self._catalog = WorkflowCatalog.load() if catalog is None else catalog

    def servable(self) -> tuple[tuple[WorkflowDefinition, ...], dict[str, str]]:
        """Definitions that the server can run now, and for the names of the others why it can't.

        Raises:
            EngineError: The server can't be reached.
        """
        classes = {node["class_type"] for definition in self._catalog for node in definition.prompt.values()}
        info = self._engine.object_info(classes)
        able: list[WorkflowDefinition] = []
        lacking: dict[str, str] = {}
        for definition in self._catalog:
            errors = [f.message for f in check_definition(definition, info) if f.severity == "error"]
            if errors:
                lacking[definition.name] = "; ".join(errors)
            else:
                able.append(definition)
        return tuple(able), lacking

    def workflow_ids(self) -> tuple[str, ...]:
        """What to ask the sequencer for: the ids of :meth:`servable`, and task types for tasks without one.

        Raises:
            EngineError: The server can't be reached.
        """
        able, lacking = self.servable()
        for name, reason in lacking.items():
            logger.info("the ComfyUI at %s can't serve %s: %s", self._engine.url, name, reason)
        ids = [definition.network_id for definition in able]
        return tuple(dict.fromkeys([*ids, *(definition.task_type for definition in able)]))

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """The result file of a task and its suffix.

        Raises:
            MinerError: The server can't do it; the message says why.
        """
        try:
            definition = self._definition_for(task)
            # Like the public miner: what the workflow has no parameter for is left aside.
            known = {parameter.name for parameter in definition.parameters}
            bound = definition.bind({name: value for name, value in task.parameters.items() if name in known})
            images = {FETCHED_PARAMETER: task.image} if task.image is not None else {}
            if unfetched := {slot.parameter for slot in bound.image_inputs} - images.keys():
                raise EngineError(
                    f"A miner fetches the parameter {FETCHED_PARAMETER} only, not {', '.join(unfetched)}"
                )
            with tempfile.TemporaryDirectory(prefix="xalora-miner-") as folder:
                run = self._engine.run(bound, images, Path(folder) / "result", cancel=task.stopped)
                return run.files[0].read_bytes(), run.files[0].suffix
        except XaloraError as error:
            raise MinerError(error.what) from error

    def _definition_for(self, task: MinerTask) -> WorkflowDefinition:
        named = self._catalog.find(workflow_id=task.workflow_id)
        if named is not None:
            return named
        # Without a workflow of its own a task takes the first one of its type that the server can run.
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
