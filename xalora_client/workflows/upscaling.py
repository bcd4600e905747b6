"""What an upscaling workflow asks for: a model or none, and the size of its result. No I/O.

Engines other than ComfyUI run no graphs: they make what a graph asks for, and refuse one that asks for more.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from .definition import BoundWorkflow
from .prompt import Prompt

UPSCALER = "upscaler"

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


class OtherWorkflowError(Exception):
    """The workflow does more than to enlarge an image."""


def uses_model(workflow: BoundWorkflow) -> bool:
    """Whether an upscale model makes the result."""
    return any(node["class_type"] == "ImageUpscaleWithModel" for node in workflow.prompt.values())


def only_upscales(workflow: BoundWorkflow) -> bool:
    """Whether :func:`result_size` can tell its size."""
    try:
        result_size(workflow, (64, 64), 4)
    except OtherWorkflowError:
        return False
    return True


def result_size(workflow: BoundWorkflow, size: Size, model_scale: int) -> Size:
    """The size of the result for an input image of ``size`` and a model of that scale.

    Raises:
        OtherWorkflowError: The workflow is not for upscaling, or has other nodes.
    """
    if workflow.task_type != UPSCALER:
        raise OtherWorkflowError(f"it is for {workflow.task_type} tasks")
    saved = workflow.prompt[workflow.output_node_id]["inputs"].get("images")
    return _Sizes(workflow.prompt, size, model_scale).of(saved)


class _Sizes:
    """The sizes of the images in a graph."""

    def __init__(self, prompt: Prompt, size: Size, model_scale: int) -> None:
        self._prompt = prompt
        self._size = size
        self._model_scale = model_scale

    def of(self, link: Any) -> Size:
        """The size of the image behind a link."""
        node, _ = self._node(link)
        inputs = node["inputs"]
        match node["class_type"]:
            case "LoadImage":
                return self._size
            case "ImageUpscaleWithModel":
                width, height = self.of(inputs.get("image"))
                return width * self._model_scale, height * self._model_scale
            case "ImageScaleBy":
                width, height = self.of(inputs.get("image"))
                factor = inputs.get("scale_by")
                if not isinstance(factor, int | float):
                    raise OtherWorkflowError("its factor comes from another node")
                return round(width * factor), round(height * factor)
            case "ImageFromBatch":
                return self.of(inputs.get("image"))
            case "ImageScale" if inputs.get("crop", "disabled") == "disabled":
                width, height = self.of(inputs.get("image"))
                asked = self._number(inputs.get("width")), self._number(inputs.get("height"))
                # As in ComfyUI, 0 keeps the shape.
                if asked == (0, 0):
                    return width, height
                return (
                    asked[0] or max(1, round(width * asked[1] / height)),
                    asked[1] or max(1, round(height * asked[0] / width)),
                )
            case other:
                raise OtherWorkflowError(f"it has a {other} node")

    def _number(self, value: Any) -> int:
        if isinstance(value, int):
            return value
        node, output = self._node(value)
        if node["class_type"] != "GetImageSize" or output > 1:
            raise OtherWorkflowError(f"it has a {node['class_type']} node")
        return self.of(node["inputs"].get("image"))[output]

    def _node(self, link: Any) -> tuple[dict[str, Any], int]:
        try:
            node_id, output = link
            return self._prompt[node_id], int(output)
        except (TypeError, ValueError, KeyError):
            raise OtherWorkflowError(f"it has an input without a node: {link!r}") from None
