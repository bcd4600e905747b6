"""A task class for any workflow definition, and the definition of any task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import PrivateAttr

from ..tasks import BASE_OPTIONS, WorkflowTask
from . import WorkflowCatalog, WorkflowDefinition
from .catalog import own_folders
from .definition import GRAPH


class DefinedWorkflowTask(WorkflowTask):
    """Run a workflow by the name of its definition::

        DefinedWorkflowTask("mochi-fp8", prompt="a fox in the snow", seed=7)

    Args:
        definition: A definition, or the name of one: shipped, or in the folder that the setting
            ``workflows_dir`` names, in the environment, a ``.env`` file, or as an argument of a client that
            is there already. A name is looked up each time, in some 20 ms; for thousands of tasks, take
            :meth:`AsyncXalora.workflow` once.
        **values: The workflow's parameters (``xalora workflows show NAME`` lists them) and the base options.

    Raises:
        WorkflowDefinitionError: There is no such definition, or it is broken.
        InvalidTaskError: A parameter is unknown, missing, or does not fit.
        ConfigurationError: A setting is invalid.
    """

    task_type: ClassVar[str] = "defined"

    _definition: WorkflowDefinition = PrivateAttr()
    _values: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, definition: WorkflowDefinition | str, **values: Any) -> None:
        found = _named(definition) if isinstance(definition, str) else definition
        options = {name: value for name, value in values.items() if name in BASE_OPTIONS}
        # Own miners know a workflow without a hosted id by its name.
        options.setdefault("workflow_id", found.network_id)
        super().__init__(**options)
        self._definition = found
        self._values = {
            name: value for name, value in values.items() if name not in BASE_OPTIONS and value is not None
        }
        found.validate(self._values)

    @property
    def definition(self) -> WorkflowDefinition:
        """The workflow's definition."""
        return self._definition

    @property
    def values(self) -> dict[str, Any]:
        """The parameters as given, including those for a local run only."""
        return dict(self._values)

    @property
    def kind_of_task(self) -> str:
        return GRAPH if self._definition.sends_graph else self._definition.task_type

    @property
    def is_hosted(self) -> bool:
        return self._definition.workflow_id is not None and not self._definition.sends_graph

    def details(self) -> dict[str, Any]:
        if not self._definition.sends_graph:
            return super().details()
        bound = self._definition.bind(self._values)
        return {
            "parameters": self.image_parameters(),
            "prompt": bound.prompt,
            "output_node_id": bound.output_node_id,
        }

    def parameters(self) -> dict[str, Any]:
        return self._definition.network_parameters(self._values)

    def images_among(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        names = {parameter.name for parameter in self._definition.image_parameters}
        return {name: value for name, value in parameters.items() if name in names}

    def image_parameters(self) -> dict[str, Any]:
        return self.images_among(self._values)

    @property
    def repeatable(self) -> bool:
        seed = self._definition.seed_parameter
        return seed is None or seed.name in self._values

    @property
    def recipe(self) -> str | None:
        graph = json.dumps(self._definition.prompt, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(graph.encode()).hexdigest()

    def describe(self) -> str:
        prompt = self._values.get("prompt")
        text = f"{self._definition.title}: {prompt}" if prompt else self._definition.title
        return text if len(text) <= 80 else text[:77] + "..."


def _named(name: str) -> WorkflowDefinition:
    return WorkflowCatalog.load(*own_folders()).get(name)


def definition_of(
    task: WorkflowTask, catalog: WorkflowCatalog
) -> tuple[WorkflowDefinition | None, Mapping[str, Any]]:
    """The workflow definition of a task, and those of the task's parameters that the definition has."""
    if isinstance(task, DefinedWorkflowTask):
        return task.definition, task.values
    definition = catalog.find(task_type=task.kind_of_task, workflow_id=task.workflow_id)
    if definition is None:
        return None, {}
    known = {parameter.name for parameter in definition.parameters}
    given = task.details()["parameters"]
    return definition, {name: value for name, value in given.items() if name in known}
