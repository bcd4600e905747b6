"""Bound workflows as subgraphs of the running prompt. No ComfyUI, no I/O.

The graph of a definition loads its images from files and saves its result. In a subgraph both are links: to
the images in place of the loaders, and from the input of the saving node as the result.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...xalora_client.errors import WorkflowDefinitionError
from ...xalora_client.workflows import BoundWorkflow
from ...xalora_client.workflows.prompt import as_link

Graph = dict[str, dict[str, Any]]
"""Node id -> ``{"class_type": str, "inputs": {...}}``, as ComfyUI takes an expansion."""

Link = list[Any]
"""``[node id, output index]``."""

IMAGE_LOADER = "LoadImage"


@dataclass(frozen=True)
class Subgraph:
    """A bound workflow with prefixed ids.

    Attributes:
        nodes: The nodes to add to the prompt.
        results: The links to the saving node's inputs: ``{"images": [...]}``, ``{"video": [...]}``.
        saving: The saving node's other inputs, such as ``fps``.
    """

    nodes: Graph
    results: dict[str, Link]
    saving: dict[str, Any]


def subgraph(bound: BoundWorkflow, prefix: str, images: Mapping[str, str]) -> Subgraph:
    """Turn a bound workflow into a subgraph.

    Args:
        bound: The workflow, with a file in place of each "auto".
        prefix: The prefix of all ids, unique in the prompt.
        images: For each image parameter that has a value, the node whose outputs replace the loader's IMAGE
            and MASK.

    Raises:
        WorkflowDefinitionError: An image parameter belongs to another node than a LoadImage.
    """
    loaders: dict[str, str] = {}
    for slot in bound.image_inputs:
        class_type = bound.prompt[slot.node_id]["class_type"]
        if class_type != IMAGE_LOADER:
            raise WorkflowDefinitionError(
                f"Workflow {bound.name} reads its image {slot.parameter} with a {class_type} node, so it "
                "can't run as part of a graph",
                next_step=f"Use a {IMAGE_LOADER} node for the parameter.",
            )
        loaders[slot.node_id] = images[slot.parameter]

    def translated(value: Any) -> Any:
        link = as_link(value)
        if link is None:
            return copy.deepcopy(value)
        origin, index = link
        return [loaders.get(origin, prefix + origin), index]

    nodes: Graph = {}
    for node_id, node in bound.prompt.items():
        if node_id not in loaders and node_id != bound.output_node_id:
            inputs = {name: translated(value) for name, value in node["inputs"].items()}
            nodes[prefix + node_id] = {"class_type": node["class_type"], "inputs": inputs}
    saving = bound.prompt[bound.output_node_id]["inputs"]
    return Subgraph(
        nodes=nodes,
        results={name: translated(value) for name, value in saving.items() if as_link(value)},
        saving={name: value for name, value in saving.items() if not as_link(value)},
    )


def image_result(graph: Subgraph, name: str) -> Link:
    """The IMAGE link of a subgraph.

    Raises:
        WorkflowDefinitionError: Its saving node takes no images.
    """
    if "images" in graph.results:
        return graph.results["images"]
    raise _no_result(name, "images")


def video_result(graph: Subgraph, prefix: str, name: str) -> Link:
    """The VIDEO link of a subgraph; if it saves frames, a CreateVideo node is added.

    Raises:
        WorkflowDefinitionError: Its saving node takes neither.
    """
    if "video" in graph.results:
        return graph.results["video"]
    if "images" not in graph.results:
        raise _no_result(name, "a video")
    fps: Any = graph.results.get("fps") or graph.saving.get("fps") or graph.saving.get("frame_rate") or 24.0
    graph.nodes[f"{prefix}video"] = {
        "class_type": "CreateVideo",
        "inputs": {"images": graph.results["images"], "fps": fps if as_link(fps) else float(fps)},
    }
    return [f"{prefix}video", 0]


def batched(links: Sequence[Link], nodes: Graph, prefix: str) -> Link:
    """One IMAGE of several, joined in pairs, because a chain would copy the first ones repeatedly."""
    level = list(links)
    step = 0
    while len(level) > 1:
        joined: list[Link] = []
        for first in range(0, len(level) - 1, 2):
            node_id = f"{prefix}batch{step}"
            step += 1
            nodes[node_id] = {
                "class_type": "ImageBatch",
                "inputs": {"image1": level[first], "image2": level[first + 1]},
            }
            joined.append([node_id, 0])
        level = joined + level[len(level) - len(level) % 2 :]
    return level[0]


def _no_result(name: str, what: str) -> WorkflowDefinitionError:
    return WorkflowDefinitionError(
        f"Workflow {name} saves its result with a node that takes no {what}, so it can't run as part of a "
        "graph",
        next_step="Use SaveImage or SaveVideo to save the result.",
    )
