"""When the network can't: the bound workflow becomes a subgraph, so that ComfyUI's own nodes do the work."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...xalora_client.errors import NOTHING_CHARGED, NOTHING_SPENT, EngineError, InvalidTaskError, XaloraError
from ...xalora_client.media.result_files import image_files
from ...xalora_client.tasks import WorkflowTask
from ...xalora_client.workflows import (
    BoundWorkflow,
    WorkflowDefinition,
    check_bound,
    choose_installed,
    missing_files,
)
from ...xalora_client.workflows.model_files import pick_installed
from ...xalora_client.workflows.task import DefinedWorkflowTask
from ..conversion.held_results import handed_on
from ..host import compat
from ..host.catalogs import catalog
from .node_run import HandedOver, made_of
from .progress import Made
from .subgraph import Graph, ImageLinks, Link, Subgraph, batched, image_result, subgraph, video_result

log = logging.getLogger("xalora_client.nodes")

AUTO = "auto"
UPSCALE = "upscale"
LANCZOS_UPSCALE = "lanczos-upscale"
UPSCALE_MODELS = "upscale_models"
EVENT = "xalora.fallback"

TAKE_IMAGES = "XaloraTakeImages"
MERGE_IMAGES = "XaloraMergeImages"
LOCAL_VIDEO = "XaloraLocalVideo"


@dataclass(frozen=True)
class Place:
    """The node that expands, as it stands in the running prompt.

    Attributes:
        node_id: Its id.
        list_index: Which element of list inputs it is at.
        prompt_id: The prompt.
        inputs: Its inputs as the prompt has them: links and constants.
    """

    node_id: str
    list_index: int
    prompt_id: str
    inputs: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        # ComfyUI's default prefix is state of the whole process, and another node's after an `await`.
        return f"{self.node_id}.{self.list_index}.0."


@dataclass(frozen=True)
class Expansion:
    """What a node returns instead of a result: ``links`` stand for its outputs, and so may values."""

    nodes: Graph
    links: list[Any]


# --- upscaling --------------------------------------------------------------------------------------------


def upscale_here(
    place: Place, handed: HandedOver, total: int, local_model: str, socket: str = "image"
) -> Expansion:
    """The images still missing, upscaled by a model of this machine, or by LANCZOS where there is none.

    Args:
        local_model: A file of ``models/upscale_models``, or "auto".
        socket: The input that holds the whole batch.

    Raises:
        XaloraError: This machine can't do it either.
    """
    bound, words = _upscale_workflow(local_model)
    bound = _runnable(bound, handed)
    prefix = place.prefix
    taken = _take(place, socket, handed.missing)
    nodes: Graph = {f"{prefix}take": taken}
    links = ImageLinks([f"{prefix}take", 0], [f"{prefix}take", 1])
    graph = subgraph(bound, prefix, {slot.parameter: links for slot in bound.image_inputs})
    nodes |= graph.nodes
    result = image_result(graph, bound.name)
    nodes[f"{prefix}merge"] = _merge(place, handed, result, total, words, whole=socket)
    handed_on.put(prefix, handed.results.values())
    _tell(place, handed, total, words)
    return Expansion(nodes, [[f"{prefix}merge", 0]])


def upscale_models() -> list[str]:
    """What the widget ``local_model`` offers."""
    return [AUTO, *compat.installed_models(UPSCALE_MODELS)]


def _upscale_workflow(local_model: str) -> tuple[BoundWorkflow, str]:
    installed = compat.installed_models(UPSCALE_MODELS)
    chosen = pick_installed(installed) if local_model == AUTO else local_model
    if chosen is None:
        bound = catalog().get(LANCZOS_UPSCALE).bind({}, image_names={"image": ""})
        return bound, "LANCZOS on this machine, as no upscale model is installed"
    bound = catalog().get(UPSCALE).bind({"model_name": chosen}, image_names={"image": ""})
    return bound, f"{chosen} on this machine ({compat.device_name()})"


# --- any definition ---------------------------------------------------------------------------------------


def images_here(
    place: Place,
    handed: HandedOver,
    tasks: Sequence[WorkflowTask],
    *,
    sockets: Mapping[str, str] | None = None,
) -> Expansion:
    """The images still missing, each by its own copy of its task's workflow.

    Args:
        tasks: All of the node's tasks, in order.
        sockets: For a workflow with image parameters, which input of the node feeds which.

    Raises:
        XaloraError: This machine can't do it either.
    """
    nodes: Graph = {}
    made: list[Link] = []
    words = ""
    for index in handed.missing:
        bound, words = _bound(tasks[index], handed)
        prefix = f"{place.prefix}{index}."
        graph = _placed(place, bound, prefix, sockets or {}, index)
        nodes |= graph.nodes
        made.append(image_result(graph, bound.name))
    result = batched(made, nodes, place.prefix)
    merge = f"{place.prefix}merge"
    nodes[merge] = _merge(place, handed, result, len(tasks), words)
    handed_on.put(place.prefix, handed.results.values())
    _tell(place, handed, len(tasks), words)
    return Expansion(nodes, [[merge, 0]])


def video_here(
    place: Place,
    handed: HandedOver,
    task: WorkflowTask,
    *,
    decode_frames: bool,
    sockets: Mapping[str, str] | None = None,
) -> Expansion:
    """A video by its task's workflow; ``links`` stand for VIDEO, IMAGE and fps.

    Raises:
        XaloraError: This machine can't do it either.
    """
    bound, words = _bound(task, handed)
    prefix = place.prefix
    graph = _placed(place, bound, prefix, sockets or {}, 0)
    video = video_result(graph, prefix, bound.name)
    nodes = graph.nodes
    nodes[f"{prefix}local"] = {
        "class_type": LOCAL_VIDEO,
        "inputs": {
            "video": video,
            "decode_frames": decode_frames,
            "told": _told(place, handed, words),
        },
    }
    _tell(place, handed, 1, words)
    return Expansion(nodes, [[f"{prefix}local", output] for output in range(3)])


def _bound(task: WorkflowTask, handed: HandedOver) -> tuple[BoundWorkflow, str]:
    definition, values = _definition_of(task)
    if definition is None:
        raise _cannot(handed, f"there is no workflow definition for {task.kind_of_task} tasks")
    images = {parameter.name for parameter in definition.image_parameters}
    try:
        bound = definition.bind(
            {name: value for name, value in values.items() if name not in images},
            image_names={name: "" for name in images if name in values},
        )
    except InvalidTaskError as error:
        raise _cannot(handed, error.what) from error
    return _runnable(bound, handed), f"{definition.title} on this machine ({compat.device_name()})"


def _definition_of(task: WorkflowTask) -> tuple[WorkflowDefinition | None, Mapping[str, Any]]:
    if isinstance(task, DefinedWorkflowTask):
        return task.definition, task.values
    definition = catalog().find(task_type=task.task_type, workflow_id=task.workflow_id)
    if definition is None:
        return None, {}
    known = {parameter.name for parameter in definition.parameters}
    return definition, {name: value for name, value in task.parameters().items() if name in known}


def _placed(
    place: Place, bound: BoundWorkflow, prefix: str, sockets: Mapping[str, str], index: int
) -> Subgraph:
    links: dict[str, ImageLinks] = {}
    takes: Graph = {}
    for slot in bound.image_inputs:
        node_id = f"{prefix}take.{slot.parameter}"
        takes[node_id] = _take(place, sockets[slot.parameter], [index])
        links[slot.parameter] = ImageLinks([node_id, 0], [node_id, 1])
    graph = subgraph(bound, prefix, links)
    graph.nodes.update(takes)
    return graph


def _runnable(bound: BoundWorkflow, handed: HandedOver) -> BoundWorkflow:
    """The workflow with a file chosen wherever "auto" stood.

    Raises:
        XaloraError: Node classes or model files are missing here.
    """
    infos = compat.node_infos(node["class_type"] for node in bound.prompt.values())
    bound = choose_installed(bound, infos)
    problems = [finding for finding in check_bound(bound, infos) if finding.severity == "error"]
    if not problems:
        return bound
    files = missing_files(problems)
    if files and len(files) == len(problems):
        raise _cannot(handed, f"{bound.title} needs " + ", ".join(str(file) for file in files))
    raise _cannot(handed, f"{bound.title}: " + "; ".join(str(problem) for problem in problems))


def _cannot(handed: HandedOver, lacks: str) -> XaloraError:
    error = handed.error
    return EngineError(
        f"{handed.reason}, and this machine can't take over: {lacks}",
        money=NOTHING_CHARGED if error is None else error.money,
        next_step="Put what is missing into place, or try again when the network is there.",
        task_id=error.task_id if error is not None else None,
        job_id=error.job_id if error is not None else None,
    )


# --- the pack's own nodes in a subgraph -------------------------------------------------------------------


def _take(place: Place, socket: str, indexes: Sequence[int]) -> dict[str, Any]:
    return {
        "class_type": TAKE_IMAGES,
        "inputs": {
            "image": place.inputs[socket],
            "list_index": place.list_index,
            "indexes": ",".join(str(index) for index in indexes),
        },
    }


def _merge(
    place: Place, handed: HandedOver, made: Link, total: int, words: str, *, whole: str | None = None
) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "made": made,
        "total": total,
        "kept": json.dumps(
            {
                str(index): [str(file) for file in image_files(result.files)]
                for index, result in sorted(handed.results.items())
            }
        ),
        "list_index": place.list_index,
        "told": _told(place, handed, words),
    }
    if whole is not None:
        inputs["whole"] = place.inputs[whole]
    return {"class_type": MERGE_IMAGES, "inputs": inputs}


def _told(place: Place, handed: HandedOver, words: str) -> str:
    """What the last node of the subgraph needs to say on its parent how everything was made."""
    made = [made_of(result) for _, result in sorted(handed.results.items())]
    made += [Made(words)] * len(handed.missing)
    began = time.time() - handed.seconds
    return json.dumps(
        {
            "node_id": place.node_id,
            "prefix": place.prefix,
            "began": began,
            "made": [asdict(one) for one in made],
            "instead_of": [error.job_id for error in handed.errors if error.job_id is not None],
        }
    )


def _tell(place: Place, handed: HandedOver, total: int, words: str) -> None:
    """Say it on the node, in the log, and once to the browser."""
    count = len(handed.missing)
    share = f"{count} of {total} are made by {words}" if total > 1 else f"made by {words}"
    compat.send_progress_text(f"{handed.reason}: {share}", place.node_id)
    numbers = ", ".join(str(index + 1) for index in handed.missing)
    money = money_of(handed.errors)
    log.warning(
        "node %s: %s: %s (number %s)%s",
        place.node_id,
        handed.reason,
        share,
        numbers,
        f". {money}" if money else "",
    )
    if handed.error is None:
        return
    server = compat.prompt_server()
    told = {
        "prompt_id": place.prompt_id,
        "node_id": place.node_id,
        "reason": handed.reason,
        "money": money,
        "engine": words,
        "count": count,
        "total": total,
    }
    server.send_sync(EVENT, told, server.client_id)


def money_of(errors: Sequence[XaloraError]) -> str:
    """What the network may charge although this machine does the work; empty where that is nothing."""
    return " ".join(dict.fromkeys(error.money for error in errors if error.money not in NOTHING_SPENT))
