"""Checks of a create: which parameters a known workflow takes. No I/O."""

from __future__ import annotations

from ..serving.requests import Body, Refusal

_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "upscaler": (frozenset({"image"}), frozenset()),
    "txt2img": (
        frozenset({"prompt", "lora_name"}),
        frozenset(
            {"aspect_ratio", "width", "height", "guidance", "steps", "noise_seed", "strength_model"},
        ),
    ),
    "txt2vid": (
        frozenset({"prompt"}),
        frozenset({"width", "height", "length", "steps", "seed", "fps", "quality"}),
    ),
}
_KNOWN_WORKFLOWS = {
    "1": "txt2vid",
    "2": "txt2vid",
    "3": "txt2img",
    "upscale": "upscaler",
    "lanczos-upscale": "upscaler",
}
_GRAPH = "comfyui-graph"
"""Tasks of this type carry the graph that is to be run; miners with a ComfyUI server take them."""


def check_parameters(task_type: str, workflow_id: str, details: Body) -> None:
    """Check the ``task_details`` of a create.

    Raises:
        Refusal: A parameter is null, or a known workflow lacks it or does not take it.
    """
    parameters = details.get("parameters")
    more = {"prompt", "output_node_id"} if task_type == _GRAPH else set[str]()
    if not isinstance(parameters, dict) or not details.keys() <= {"parameters", *more}:
        raise Refusal(400, 'task_details must be {"parameters": {...}}')
    if nulls := sorted(name for name, value in parameters.items() if value is None):
        raise Refusal(400, f"Parameters must not be null: {', '.join(nulls)}")
    if workflow_id not in _KNOWN_WORKFLOWS:
        return
    if task_type != _KNOWN_WORKFLOWS[workflow_id]:
        raise Refusal(400, f"Workflow {workflow_id} runs {_KNOWN_WORKFLOWS[workflow_id]}, not {task_type}")
    required, optional = _PARAMETERS[task_type]
    if missing := sorted(required - parameters.keys()):
        raise Refusal(400, f"{task_type} needs {', '.join(missing)}")
    if unknown := sorted(parameters.keys() - required - optional):
        raise Refusal(400, f"{task_type} does not take {', '.join(unknown)}")
