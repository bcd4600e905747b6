"""Nodes built from workflow definitions, one for each, when ComfyUI loads the pack."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from ..xalora_client.errors import ConfigurationError, InvalidTaskError
from ..xalora_client.workflows import AUTO, Parameter, ParameterType, WorkflowCatalog, WorkflowDefinition
from ..xalora_client.workflows.model_files import model_folder
from ..xalora_client.workflows.prompt import as_link
from ..xalora_client.workflows.task import DefinedWorkflowTask
from . import shared_inputs
from .base import CATEGORY, XaloraNode, worded
from .conversion.image_tensors import TensorBatch, checked_batch
from .conversion.videos import VideoDecoder
from .execution.fallback_expansion import Expansion, ParentNode, expand_images, expand_video
from .execution.node_run import FallbackRequest
from .host import compat
from .host.catalogs import catalog
from .host.compat import ExecutionBlocker, io
from .text_to_video import frames_output

log = logging.getLogger("xalora_client.nodes")

WORKFLOWS = f"{CATEGORY}/workflows"
NOT_HOSTED = f"{WORKFLOWS}/not hosted"
NO_VIDEO = "This workflow makes images, so its VIDEO output is empty. Use its IMAGE output."
OWN = "The hosted network has no id for this workflow: own miners and this machine run it."
NUMBER_STEP = 0.01


def workflow_nodes() -> list[type[io.ComfyNode]]:
    """A node class for each definition. A faulty definition is logged and gets none."""
    try:
        found = catalog()
    except ConfigurationError as error:
        log.warning("%s", error)
        found = WorkflowCatalog.load()
    for told in (*found.problems, *found.notices):
        log.warning("%s", told)
    classes: list[type[io.ComfyNode]] = []
    for definition in found:
        try:
            node_class = node_of(definition)
            node_class.GET_SCHEMA()
        except Exception as error:  # noqa: BLE001 - a user's file must not keep the other nodes from loading
            log.warning("Workflow definition %s has no node: %s", definition.name, error)
        else:
            classes.append(node_class)
    return classes


def node_of(definition: WorkflowDefinition) -> type[WorkflowNode]:
    """The node class of one definition."""
    node_id = f"XaloraWorkflow_{definition.name}"
    namespace = {
        "NODE_ID": node_id,
        "DEFINITION": definition,
        "__doc__": definition.title,
        "__module__": __name__,
    }
    return type(node_id, (WorkflowNode,), namespace)


class WorkflowNode(XaloraNode):
    """Runs one definition: in the network by its name, or on this machine as a subgraph."""

    DEFINITION: ClassVar[WorkflowDefinition]

    @classmethod
    def define_schema(cls) -> io.Schema:
        definition = cls.DEFINITION
        hosted = definition.workflow_id is not None
        sentences = (definition.description, definition.tip, "" if hosted else OWN)
        return cls.schema(
            f"Xalora: {definition.title}" + ("" if hosted else " (not hosted)"),
            " ".join(filter(None, sentences)),
            category=WORKFLOWS if hosted else NOT_HOSTED,
            aliases=["workflow", definition.name, definition.task_type],
            enable_expand=True,
            inputs=[*(parameter_input(definition, one) for one in definition.parameters), *cls._options()],
            outputs=[
                io.Image.Output(
                    "result_images", display_name="IMAGE", tooltip="The images, or the video's frames."
                ),
                io.Video.Output(
                    "result_video", display_name="VIDEO", tooltip="The video, if the workflow makes one."
                ),
            ],
        )

    @classmethod
    def _options(cls) -> list[io.Input]:
        """The other inputs, without those that the workflow has a parameter of the same name for."""
        inputs = shared_inputs.run_inputs()
        if cls.DEFINITION.output_kind == "video":
            inputs.insert(0, shared_inputs.decode_frames_input())
        elif cls.DEFINITION.image_parameters:
            inputs = [*shared_inputs.batch_inputs(), *inputs]
        own = {parameter.name for parameter in cls.DEFINITION.parameters}
        # The definition sets the workflow.
        return [one for one in inputs if one.id not in own and one.id != "workflow_id"]

    @classmethod
    @worded
    async def execute(cls, **widgets: Any) -> io.NodeOutput:
        definition = cls.DEFINITION
        own = {parameter.name for parameter in definition.parameters}
        other = {name: value for name, value in widgets.items() if name not in own}
        tasks = _tasks(definition, widgets, shared_inputs.task_options(other))
        run_options = shared_inputs.run_options(other)
        sockets = {parameter.name: parameter.name for parameter in definition.image_parameters}
        if definition.output_kind == "image":

            def images_here(parent: ParentNode, request: FallbackRequest) -> Expansion:
                here = expand_images(parent, request, tasks, sockets=sockets)
                return replace(here, links=[*here.links, ExecutionBlocker(NO_VIDEO)])

            return await cls.run_tasks(
                tasks,
                run_options,
                TensorBatch(len(tasks)),
                images_here,
                lambda images: [images, ExecutionBlocker(NO_VIDEO)],
            )
        if len(tasks) > 1:
            raise InvalidTaskError(
                f"The image input holds {len(tasks)} images, and {definition.title} makes a video of one",
                next_step="Use a single image.",
            )
        frames = other.get("decode_frames", True)

        def video_here(parent: ParentNode, request: FallbackRequest) -> Expansion:
            here = expand_video(parent, request, tasks[0], decode_frames=frames, sockets=sockets)
            return replace(here, links=[here.links[1], here.links[0]])

        return await cls.run_tasks(
            tasks,
            run_options,
            VideoDecoder(decode_frames=frames),
            video_here,
            lambda video: [frames_output(video), video.video],
            noun="video",
        )


def _tasks(
    definition: WorkflowDefinition, widgets: Mapping[str, Any], base: Mapping[str, Any]
) -> list[DefinedWorkflowTask]:
    """One task for each image of the batch; without an image input, one task."""
    names = {parameter.name for parameter in definition.image_parameters}
    batches = {name: checked_batch(widgets[name]) for name in names if widgets.get(name) is not None}
    values = {
        parameter.name: widgets[parameter.name]
        for parameter in definition.parameters
        if parameter.name not in names and _is_given(definition, parameter, widgets.get(parameter.name))
    }
    count = max((len(batch) for batch in batches.values()), default=1)
    return [
        DefinedWorkflowTask(definition, **values, **_images_at(batches, index), **base)
        for index in range(count)
    ]


def _images_at(batches: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One image of each batch; a shorter batch repeats its last."""
    return {name: batch[min(index, len(batch) - 1)] for name, batch in batches.items()}


# --- inputs of parameters ---------------------------------------------------------------------------------


def parameter_input(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    """The node's input for one parameter."""
    build = _INPUTS[parameter.type]
    if parameter.options is not None or parameter.installed:
        build = _choice
    return build(definition, parameter)


def _common(parameter: Parameter) -> dict[str, Any]:
    return {
        "id": parameter.name,
        "display_name": parameter.label or None,
        "optional": not parameter.required,
        "tooltip": " ".join(part for part in (parameter.description, parameter.tip) if part)
        or parameter.title,
    }


def _image(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    return io.Image.Input(**_common(parameter))


def _choice(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    choices = list(parameter.options or ())
    if parameter.installed:
        choices = list(dict.fromkeys([AUTO, *choices, *_installed(definition, parameter)]))
    default = _default(definition, parameter)
    return io.Combo.Input(
        **_common(parameter), options=choices, default=default if default in choices else choices[0]
    )


def _text(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    return io.String.Input(
        **_common(parameter),
        default=str(_default(definition, parameter) or ""),
        multiline=parameter.multiline,
        dynamic_prompts=parameter.multiline or None,
    )


def _whole_number(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    low, high = parameter.user_minimum, parameter.user_maximum
    unset = _unset(definition, parameter)
    return io.Int.Input(
        **_common(parameter),
        default=unset if unset is not None else _default(definition, parameter) or low or 0,
        min=low if unset is None else unset,
        max=high,
        step=parameter.step if isinstance(parameter.step, int) else 1,
        control_after_generate=True if parameter.is_seed else None,
    )


def _number(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    unset = _unset(definition, parameter)
    return io.Float.Input(
        **_common(parameter),
        default=float(
            unset if unset is not None else _default(definition, parameter) or parameter.minimum or 0
        ),
        min=parameter.minimum if unset is None else unset,
        max=parameter.maximum,
        step=float(parameter.step or NUMBER_STEP),
    )


def _switch(definition: WorkflowDefinition, parameter: Parameter) -> io.Input:
    return io.Boolean.Input(**_common(parameter), default=bool(_default(definition, parameter)))


_INPUTS = {
    ParameterType.IMAGE: _image,
    ParameterType.STRING: _text,
    ParameterType.INT: _whole_number,
    ParameterType.NUMBER: _number,
    ParameterType.BOOL: _switch,
}


def _default(definition: WorkflowDefinition, parameter: Parameter) -> Any:
    """The default, else the value saved in the graph, else None."""
    if parameter.default is not None:
        return parameter.default
    if parameter.comfyui is None or parameter.required:
        return None
    saved = definition.prompt[parameter.comfyui.node_id]["inputs"].get(parameter.comfyui.subfield)
    return None if as_link(saved) is not None else saved


def _unset(definition: WorkflowDefinition, parameter: Parameter) -> int | None:
    """The number that means "not set", one below the range; None where the parameter has a default."""
    if parameter.required or _default(definition, parameter) is not None or parameter.minimum is None:
        return None
    return int(parameter.minimum) - 1


def _is_given(definition: WorkflowDefinition, parameter: Parameter, value: Any) -> bool:
    if value is None:
        return False
    if parameter.type is ParameterType.STRING:
        return value != "" or parameter.required
    if parameter.type in (ParameterType.INT, ParameterType.NUMBER):
        return bool(value != _unset(definition, parameter))
    return True


def _installed(definition: WorkflowDefinition, parameter: Parameter) -> list[str]:
    """Files in the model folder of the parameter's loader."""
    if parameter.comfyui is None:
        return []
    class_type = definition.prompt[parameter.comfyui.node_id]["class_type"]
    folder = model_folder(class_type, parameter.comfyui.subfield)
    return compat.installed_models(folder) if folder else []
