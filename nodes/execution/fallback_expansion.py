"""Subgraphs of ComfyUI's own nodes that do a node's tasks on this machine when the network can't."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...xalora_client.config import UpscaleModelName
from ...xalora_client.engines.ncnn.models import DEFAULT, PACKAGED, is_ncnn_file, lacking, packaged
from ...xalora_client.errors import (
    NOTHING_CHARGED,
    ConfigurationError,
    EngineError,
    InvalidTaskError,
    XaloraError,
)
from ...xalora_client.media.result_files import image_files
from ...xalora_client.tasks import WorkflowTask
from ...xalora_client.workflows import (
    BoundWorkflow,
    check_bound,
    choose_installed,
    missing_files,
)
from ...xalora_client.workflows.model_files import pick_installed
from ...xalora_client.workflows.task import definition_of
from ..host import compat
from ..host.catalogs import catalog
from ..host.comfyui_settings import read_settings
from . import wording
from .batch_plan import charges_of
from .node_progress import ResultSource
from .node_run import FallbackRequest, source_of
from .open_subgraphs import open_subgraphs
from .subgraph import Graph, Link, Subgraph, batched, image_result, subgraph, video_result

log = logging.getLogger("xalora_client.nodes")

AUTO = "auto"
UPSCALE = "upscale"
LANCZOS = "LANCZOS"
LANCZOS_UPSCALE = "lanczos-upscale"
NCNN_SUFFIX = " (ncnn)"
FACTOR = 2
GET_A_MODEL = "Put one into models/upscale_models, or choose LANCZOS as local_model, then press Run."
UPSCALE_MODELS = "upscale_models"
EVENT = "xalora.fallback"

TAKE_IMAGES = "XaloraTakeImages"
MERGE_IMAGES = "XaloraMergeImages"
NCNN_UPSCALE = "XaloraNcnnUpscale"
LOCAL_VIDEO = "XaloraLocalVideo"


@dataclass(frozen=True)
class ParentNode:
    """The expanding node, as it is in the running prompt.

    Attributes:
        node_id: Its id.
        list_index: The element of list inputs that it executes.
        prompt_id: The prompt.
        inputs: Its inputs in the prompt: links and constants.
    """

    node_id: str
    list_index: int
    prompt_id: str
    inputs: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        # ComfyUI's default prefix is a global variable, which holds another node's after an `await`.
        return f"{self.node_id}.{self.list_index}.0."


@dataclass(frozen=True)
class Expansion:
    """What a node returns instead of a result: ``links`` (or values) become its outputs.

    ``engine`` tells what makes it.
    """

    nodes: Graph
    links: list[Any]
    engine: str


# --- upscaling --------------------------------------------------------------------------------------------


def expand_upscale(
    parent: ParentNode, request: FallbackRequest, total: int, local_model: str, socket: str = "image"
) -> Expansion:
    """Upscale the missing images with a model on this machine, or by LANCZOS where that is allowed by name.

    Args:
        local_model: One of :func:`upscale_models`.
        socket: The input that holds the whole batch.

    Raises:
        XaloraError: This machine can't do the tasks either.
    """
    model, engine = _upscale_model(local_model, request)
    ncnn_model = model.removesuffix(NCNN_SUFFIX) if model.endswith(NCNN_SUFFIX) else ""
    if ncnn_model:
        take, upscale = f"{parent.prefix}take", f"{parent.prefix}ncnn"
        inputs = {"images": [take, 0], "model": ncnn_model, "factor": FACTOR}
        nodes: Graph = {
            take: _take_images(parent, socket, request.missing),
            upscale: {"class_type": NCNN_UPSCALE, "inputs": inputs},
        }
        images: Link = [upscale, 0]
    else:
        is_lanczos = model == LANCZOS
        definition = catalog().get(LANCZOS_UPSCALE if is_lanczos else UPSCALE)
        values = {"image": "by a link"} | ({} if is_lanczos else {"model_name": model})
        bound = _runnable(definition.bind(values), request)
        graph = _with_images(parent, bound, parent.prefix, {"image": socket}, request.missing)
        nodes, images = graph.nodes, image_result(graph, bound.name)
    return _merged(parent, request, nodes, images, total, engine, whole=socket, ncnn_model=ncnn_model)


def upscale_models() -> list[str]:
    """The choices of the widget ``local_model``."""
    own = own_ncnn_model()
    models: list[UpscaleModelName | Path] = [model.name for model in PACKAGED]
    if own is not None:
        models.insert(0, own)
    by_ncnn = dict.fromkeys(_ncnn_choice(model) for model in models if not lacking(model))
    return [AUTO, *compat.installed_models(UPSCALE_MODELS), *by_ncnn, LANCZOS]


def own_ncnn_model() -> Path | None:
    """The model file of the user's that the setting names for ncnn."""
    try:
        setting = read_settings().settings.upscale_model
    except ConfigurationError:  # told where the settings are needed; nodes are listed without them
        return None
    return setting if isinstance(setting, Path) and is_ncnn_file(setting) else None


def ncnn_model_named(name: str) -> UpscaleModelName | Path:
    """The model of a choice, without its suffix: a graph names no path, as it may be a stranger's.

    Raises:
        ConfigurationError: There is none of that name.
    """
    own, known = own_ncnn_model(), packaged(name)
    if own is not None and own.stem == name:
        return own
    if known is None:
        raise ConfigurationError(
            f"The model {name} is not here", next_step="Choose another one as local_model, then press Run."
        )
    return known.name


def _ncnn_choice(model: str | Path) -> str:
    return f"{model.stem if isinstance(model, Path) else model}{NCNN_SUFFIX}"


def _upscale_model(local_model: str, request: FallbackRequest) -> tuple[str, str]:
    """The choice in place of "auto", and what is told of it."""
    model = local_model if local_model != AUTO else _best_model(request)
    if model == LANCZOS:
        return model, "LANCZOS on this machine, which is no model"
    device = "" if model.endswith(NCNN_SUFFIX) else f" ({compat.device_name()})"
    return model, f"{model} on this machine{device}"


def _best_model(request: FallbackRequest) -> str:
    """The user's own file for ncnn, a file in ComfyUI's folder, or what ncnn has."""
    own = own_ncnn_model()
    if own is not None:
        if reason := lacking(own):
            raise _cannot(request, reason.rstrip("."))
        return _ncnn_choice(own)
    setting = read_settings().settings.upscale_model
    named = setting if isinstance(setting, str) and packaged(setting) else DEFAULT
    if installed := pick_installed(compat.installed_models(UPSCALE_MODELS)):
        return installed
    if setting == LANCZOS.lower():
        return LANCZOS
    if lacking(named):
        raise _cannot(request, "no upscale model is installed", GET_A_MODEL)
    return _ncnn_choice(named)


# --- workflow definitions ---------------------------------------------------------------------------------


def expand_images(
    parent: ParentNode,
    request: FallbackRequest,
    tasks: Sequence[WorkflowTask],
    *,
    sockets: Mapping[str, str] | None = None,
) -> Expansion:
    """Make the missing images, each with its own copy of its task's workflow.

    Args:
        tasks: All of the node's tasks, in order.
        sockets: The node's input for each image parameter of the workflow.

    Raises:
        XaloraError: This machine can't do the tasks either.
    """
    nodes: Graph = {}
    images: list[Link] = []
    engine = ""
    for index in request.missing:
        bound, engine = _bound(tasks[index], request)
        prefix = f"{parent.prefix}{index}."
        graph = _with_images(parent, bound, prefix, sockets or {}, [index])
        nodes |= graph.nodes
        images.append(image_result(graph, bound.name))
    return _merged(parent, request, nodes, batched(images, nodes, parent.prefix), len(tasks), engine)


def expand_video(
    parent: ParentNode,
    request: FallbackRequest,
    task: WorkflowTask,
    *,
    decode_frames: bool,
    sockets: Mapping[str, str] | None = None,
) -> Expansion:
    """Make a video with its task's workflow; ``links`` are VIDEO, IMAGE and fps.

    Raises:
        XaloraError: This machine can't do the tasks either.
    """
    bound, engine = _bound(task, request)
    prefix = parent.prefix
    graph = _with_images(parent, bound, prefix, sockets or {}, [0])
    video = video_result(graph, prefix, bound.name)
    nodes = graph.nodes
    nodes[f"{prefix}local"] = {
        "class_type": LOCAL_VIDEO,
        "inputs": {
            "video": video,
            "decode_frames": decode_frames,
            "told": _report(parent, request, engine),
        },
    }
    _announce(parent, request, 1, engine)
    return Expansion(nodes, [[f"{prefix}local", output] for output in range(3)], engine)


def _bound(task: WorkflowTask, request: FallbackRequest) -> tuple[BoundWorkflow, str]:
    definition, values = definition_of(task, catalog())
    if definition is None:
        raise _cannot(request, f"there is no workflow definition for {task.kind_of_task} tasks")
    try:
        bound = definition.bind(values)
    except InvalidTaskError as error:
        raise _cannot(request, error.what) from error
    return _runnable(bound, request), f"{definition.title} on this machine ({compat.device_name()})"


def _with_images(
    parent: ParentNode, bound: BoundWorkflow, prefix: str, sockets: Mapping[str, str], indexes: Sequence[int]
) -> Subgraph:
    """The workflow as a subgraph that takes these images of the parent's inputs."""
    takes: Graph = {}
    loaders: dict[str, str] = {}
    for slot in bound.image_inputs:
        loaders[slot.parameter] = f"{prefix}take.{slot.parameter}"
        takes[loaders[slot.parameter]] = _take_images(parent, sockets[slot.parameter], indexes)
    graph = subgraph(bound, prefix, loaders)
    graph.nodes.update(takes)
    return graph


def _runnable(bound: BoundWorkflow, request: FallbackRequest) -> BoundWorkflow:
    """The workflow with an installed file in place of each "auto".

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
        raise _cannot(request, f"{bound.title} needs " + ", ".join(str(file) for file in files))
    raise _cannot(request, f"{bound.title}: " + "; ".join(str(problem) for problem in problems))


def _cannot(
    request: FallbackRequest,
    lacks: str,
    next_step: str = "Install what is missing, or try again when the network is available.",
) -> XaloraError:
    error = request.error
    return EngineError(
        f"{request.reason}, and this machine can't take over: {lacks}",
        money=NOTHING_CHARGED if error is None else error.money,
        next_step=next_step,
        task_id=error.task_id if error is not None else None,
        job_id=error.job_id if error is not None else None,
    )


# --- the pack's own nodes in a subgraph -------------------------------------------------------------------


def _take_images(parent: ParentNode, socket: str, indexes: Sequence[int]) -> dict[str, Any]:
    return {
        "class_type": TAKE_IMAGES,
        "inputs": {
            "image": parent.inputs[socket],
            "list_index": parent.list_index,
            "indexes": ",".join(str(index) for index in indexes),
        },
    }


def _merged(
    parent: ParentNode,
    request: FallbackRequest,
    nodes: Graph,
    images: Link,
    total: int,
    engine: str,
    *,
    whole: str | None = None,
    ncnn_model: str = "",
) -> Expansion:
    """The subgraph with its images and the network's in one batch; ``whole`` is the input with alpha."""
    results = sorted(request.results.items())
    inputs: dict[str, Any] = {
        "made": images,
        "total": total,
        "kept": json.dumps({index: [str(file) for file in image_files(one.files)] for index, one in results}),
        "list_index": parent.list_index,
        "told": _report(parent, request, engine, ncnn_model),
    }
    if whole is not None:
        inputs["whole"] = parent.inputs[whole]
    merge = f"{parent.prefix}merge"
    _announce(parent, request, total, engine)
    nodes = {**nodes, merge: {"class_type": MERGE_IMAGES, "inputs": inputs}}
    return Expansion(nodes, [[merge, 0]], engine)


def _report(parent: ParentNode, request: FallbackRequest, engine: str, ncnn_model: str = "") -> str:
    """The JSON from which the subgraph's last node writes the parent's final line."""
    sources = [source_of(result) for _, result in sorted(request.results.items())]
    sources += [ResultSource(engine)] * len(request.missing)
    began = time.time() - request.seconds
    return json.dumps(
        {
            "node_id": parent.node_id,
            "prefix": parent.prefix,
            "began": began,
            "ncnn_model": ncnn_model,
            "sources": [asdict(source) for source in sources],
            "replaced_jobs": [error.job_id for error in request.errors if error.job_id is not None],
        }
    )


def _announce(parent: ParentNode, request: FallbackRequest, total: int, engine: str) -> None:
    """Announce the fallback on the node, in the log, and in the browser."""
    open_subgraphs.begun(
        parent.prefix,
        parent.prompt_id,
        parent.node_id,
        tuple(request.results.values()),
        wording.money_of(request.errors, some_finished=bool(request.results)) if request.errors else "",
    )
    count = len(request.missing)
    share = f"{count} of {total} are made by {engine}" if total > 1 else f"it is made by {engine}"
    compat.send_line(f"{request.reason}: {share}", parent.node_id)
    numbers = ", ".join(str(index + 1) for index in request.missing)
    money = charges_of(request.errors)
    log.warning(
        "node %s: %s: %s (number %s)%s",
        parent.node_id,
        request.reason,
        share,
        numbers,
        f". {money}" if money else "",
    )
    if request.error is None:
        return
    server = compat.prompt_server()
    event = {
        "prompt_id": parent.prompt_id,
        "node_id": parent.node_id,
        "reason": request.reason,
        "money": money or wording.NOTHING_CHARGED,
        "engine": engine,
        "count": count,
        "total": total,
    }
    server.send_sync(EVENT, event, server.client_id)
