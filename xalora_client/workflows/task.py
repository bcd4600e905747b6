"""A task for any workflow definition, so that a new workflow needs two files and no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from ..tasks import BASE_OPTIONS, WorkflowTask
from . import WorkflowCatalog, WorkflowDefinition


class DefinedWorkflowTask(WorkflowTask):
    """Run a workflow by the name of its definition::

        DefinedWorkflowTask("mochi-fp8", prompt="a fox in the snow", seed=7)

    Args:
        definition: A definition, or the name of one: shipped, or in the folder ``XALORA_WORKFLOWS_DIR``. A
            name is looked up anew each time, in some 20 ms; for thousands of tasks, look it up once.
        **values: The workflow's parameters (``xalora workflows show NAME`` lists them) and the base options.

    Raises:
        WorkflowDefinitionError: There is no such definition, or it is broken.
        InvalidTaskError: A parameter is unknown, missing, or does not fit.
    """

    task_type: ClassVar[str] = "defined"

    _definition: WorkflowDefinition = PrivateAttr()
    _values: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, definition: WorkflowDefinition | str, **values: Any) -> None:
        found = catalog().get(definition) if isinstance(definition, str) else definition
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
        """The parameters as given, those meant for a local run alone included."""
        return dict(self._values)

    @property
    def kind_of_task(self) -> str:
        return self._definition.task_type

    @property
    def is_hosted(self) -> bool:
        return self._definition.workflow_id is not None

    def parameters(self) -> dict[str, Any]:
        return self._definition.network_parameters(self._values)

    def image_parameters(self) -> dict[str, Any]:
        names = {parameter.name for parameter in self._definition.image_parameters}
        return {name: value for name, value in self._values.items() if name in names}

    @property
    def repeatable(self) -> bool:
        seed = self._definition.seed_parameter
        return seed is None or seed.name in self._values

    def describe(self) -> str:
        prompt = self._values.get("prompt")
        text = f"{self._definition.title}: {prompt}" if prompt else self._definition.title
        return text if len(text) <= 80 else text[:77] + "..."


def catalog(*folders: Path) -> WorkflowCatalog:
    """The shipped definitions, those in ``folders``, and those in ``XALORA_WORKFLOWS_DIR``."""
    return WorkflowCatalog.load(folders)
