"""The nodes that submit tasks, and the node that collects their results elsewhere in the graph."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from typing_extensions import NotRequired

from ..xalora_client.errors import (
    STILL_RETRIEVABLE,
    InvalidTaskError,
    ResultError,
    TaskCanceledError,
    TaskFailedError,
    XaloraError,
)
from ..xalora_client.media.images import decode_image
from ..xalora_client.media.media_types import sniff_file
from ..xalora_client.media.png_encode import encode_png
from . import shared_inputs
from .base import XaloraNode, worded
from .conversion.image_tensors import TensorBatch, split_batch
from .conversion.tiled_images import fits
from .conversion.videos import VideoDecoder, VideoValue
from .execution.freshness import freshness
from .execution.interrupts import Interrupt
from .execution.node_run import CollectTasks, SubmitTasks
from .execution.open_tasks import open_tasks
from .execution.saved_facts import facts_of
from .host import compat
from .host.bridge import bridge
from .host.comfyui_settings import read_settings
from .host.compat import ExecutionBlocker, io
from .shared_inputs import seed_input
from .text_to_image import image_inputs, image_tasks, lora_input
from .text_to_video import prompt_input, video_inputs, video_task
from .upscale import TOO_LARGE_FOR_A_REQUEST, advised, inline_limit, upscale_tasks

if TYPE_CHECKING:
    from PIL import Image

    from ..xalora_client.results import RunResult
    from ..xalora_client.tasks import WorkflowTask

Kind = Literal["image", "video"]

XaloraTask = io.Custom("XALORA_TASK")
"""Socket type: a :class:`Submitted`."""

_IN_TILES = "Use Xalora Upscale Image, which cuts it into tiles."

SENDS_NOTHING = "To have it made anew, run the node or program that sent it: Xalora Collect sends nothing."

NO_IMAGE = "The collected task made a video, so Xalora Collect's IMAGE output is empty. Use its VIDEO output."
NO_VIDEO = "The collected task made images, so Xalora Collect's VIDEO output is empty. Use its IMAGE output."


def _is_for_good(error: XaloraError) -> bool:
    """Whether no result of the task will come, so that only a new task makes one."""
    has_ended_without = isinstance(error, TaskFailedError | TaskCanceledError)
    return has_ended_without or (isinstance(error, ResultError) and error.is_worthless)


class SubmittedTask(TypedDict):
    """One task: its index in the batch, its id, and the input's alpha channel as a PNG in base64."""

    index: int
    task_id: str
    alpha: NotRequired[str]


class Submitted(TypedDict):
    """The value of an XALORA_TASK link: plain JSON data, and never a key."""

    kind: Kind
    tasks: list[SubmittedTask]


class _SubmitNode(XaloraNode):
    """The common part of the three Submit nodes."""

    @classmethod
    def _schema(cls, display_name: str, what: str, inputs: list[io.Input]) -> io.Schema:
        return cls.schema(
            display_name,
            f"Submits {what} to the Xalora network and ends at once. Xalora Collect, anywhere in "
            "the graph, waits for the result.",
            aliases=["submit", "queue", "async"],
            # Submitting is useful without a Collect node: the task id collects the result at any time.
            is_output_node=True,
            inputs=[*inputs, *shared_inputs.task_inputs(), *shared_inputs.money_inputs()],
            outputs=[XaloraTask.Output("task", display_name="XALORA_TASK", tooltip="For Xalora Collect.")],
        )

    @classmethod
    async def _submit(
        cls, kind: Kind, tasks: Sequence[WorkflowTask], widgets: Mapping[str, Any], alpha: Sequence[str] = ()
    ) -> io.NodeOutput:
        key, prompt_id, interrupt = cls.cache_key(), compat.executing_prompt_id(), Interrupt()

        async with _canceled_if_interrupted():
            with freshness.attempt(key, cls.how()) as attempt:

                def note(task_id: str) -> None:
                    open_tasks.opened(prompt_id, task_id, interrupt, run.settings)
                    attempt.note_task(task_id)

                how = replace(shared_inputs.run_options(widgets), reuse_among=attempt.earlier)
                run = SubmitTasks(cls.origin(), how, "task", len(tasks), tasks, note)
                task_ids = await run.on_bridge()
                attempt.completed()
        freshness.submitted(key, task_ids)
        submitted = Submitted(kind=kind, tasks=[])
        for index, task_id in enumerate(task_ids):
            task = SubmittedTask(index=index, task_id=task_id)
            if alpha:
                task["alpha"] = alpha[index]
            submitted["tasks"].append(task)
        return io.NodeOutput(submitted)


class XaloraSubmitUpscale(_SubmitNode):
    """Submits the images of a batch for upscaling."""

    NODE_ID = "XaloraSubmitUpscale"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "Xalora Submit Upscale",
            "images for upscaling",
            [io.Image.Input("image", tooltip="One image or a batch."), *shared_inputs.batch_inputs()],
        )

    @classmethod
    @worded
    async def execute(cls, image: torch.Tensor, **widgets: Any) -> io.NodeOutput:
        colour, alpha = split_batch(image)
        limit = inline_limit(read_settings().settings)
        # Before any of them is submitted and paid for.
        if not all(fits(one, limit) for one in colour):
            raise InvalidTaskError(TOO_LARGE_FOR_A_REQUEST, next_step=_IN_TILES)
        try:
            return await cls._submit(
                "image", upscale_tasks(colour, widgets), widgets, [_packed(plane) for plane in alpha]
            )
        except XaloraError as error:
            raise advised(error, _IN_TILES) from error


class XaloraSubmitTextToVideo(_SubmitNode):
    """Submits a prompt for a video."""

    NODE_ID = "XaloraSubmitTextToVideo"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "Xalora Submit Text to Video", "a video", [prompt_input(), seed_input(), *video_inputs()]
        )

    @classmethod
    @worded
    async def execute(cls, prompt: str, seed: int, **widgets: Any) -> io.NodeOutput:
        return await cls._submit("video", [video_task(prompt, seed, widgets)], widgets)


class XaloraSubmitTextToImage(_SubmitNode):
    """Submits a prompt for images."""

    NODE_ID = "XaloraSubmitTextToImage"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "Xalora Submit Text to Image",
            "images",
            [prompt_input(), lora_input(), seed_input(), *image_inputs(), *shared_inputs.batch_inputs()],
        )

    @classmethod
    @worded
    async def execute(cls, prompt: str, lora_name: str, seed: int, **widgets: Any) -> io.NodeOutput:
        return await cls._submit("image", image_tasks(prompt, lora_name, seed, widgets), widgets)


class XaloraCollect(XaloraNode):
    """Waits for submitted tasks, of this graph or of another program."""

    NODE_ID = "XaloraCollect"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            "Xalora Collect",
            "Waits for the tasks of a linked Submit node, or for tasks with given ids, and "
            "returns their images or video.",
            aliases=["collect", "wait", "resume", "result", "task id"],
            inputs=[
                XaloraTask.Input("task", optional=True, tooltip="From a Submit node."),
                io.String.Input(
                    "task_id",
                    default="",
                    optional=True,
                    tooltip="Ids of submitted tasks, separated by spaces or commas; used when no Submit node "
                    "is linked.",
                ),
                *shared_inputs.batch_inputs(),
                *shared_inputs.wait_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="IMAGE", tooltip="The images, if the tasks made images."
                ),
                io.Video.Output("video", display_name="VIDEO", tooltip="The video, if the task made one."),
            ],
        )

    @classmethod
    def press_after(cls, error: XaloraError) -> str:
        # After Run, a linked Submit node sends those anew that have no result.
        is_linked = "task" in cls._inputs()
        return "" if is_linked or not _is_for_good(error) else SENDS_NOTHING

    @classmethod
    @worded
    async def execute(cls, task: Submitted | None = None, task_id: str = "", **widgets: Any) -> io.NodeOutput:
        submitted = _of_socket(task) if task is not None else _of_text(task_id)
        task_ids = [one["task_id"] for one in submitted]
        if task is not None:
            # Tasks named by their ids were not submitted by this prompt, so its interrupt does not cancel
            # them.
            prompt_id, interrupt = compat.executing_prompt_id(), Interrupt()
            for one in task_ids:
                open_tasks.opened(prompt_id, one, interrupt)
        async with _canceled_if_interrupted():
            run = CollectTasks(
                cls.origin(),
                shared_inputs.run_options(widgets),
                "task",
                len(task_ids),
                decoder=_CollectDecoder(submitted),
                task_ids=task_ids,
                cancels=task is not None,
                on_collected=open_tasks.collected,
            )
            if task is not None:
                # The user may have entered another key since.
                run.settings = open_tasks.settings_of(task_ids)
            value = await run.on_bridge()
        cls._note_facts(facts_of(None, run.outcomes[index]) for index in range(len(task_ids)))
        if isinstance(value, VideoValue):
            return io.NodeOutput(ExecutionBlocker(NO_IMAGE), value.video)
        return io.NodeOutput(value, ExecutionBlocker(NO_VIDEO))


@asynccontextmanager
async def _canceled_if_interrupted() -> AsyncIterator[None]:
    """Make an interrupted node wait until its tasks are canceled, for a limited time."""
    try:
        yield
    except compat.InterruptProcessingException:
        await bridge.run(open_tasks.wait_for_cancels())
        raise


class _CollectDecoder:
    """Decodes images or one video, as the results' files tell."""

    def __init__(self, submitted: Sequence[SubmittedTask]) -> None:
        alpha = [_unpacked(task["alpha"]) for task in submitted if "alpha" in task]
        self._images = TensorBatch(len(submitted), alpha)
        self._video = VideoDecoder(decode_frames=False)

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        return (self._video if _is_video(result) else self._images).add(index, result)

    def close(self, results: Sequence[RunResult]) -> torch.Tensor | VideoValue:
        videos = [result for result in results if _is_video(result)]
        if not videos:
            return self._images.close(results)
        if len(results) > 1:
            raise InvalidTaskError(
                f"{len(videos)} of the {len(results)} tasks made videos",
                money=STILL_RETRIEVABLE,
                next_step="Collect each video with an Xalora Collect of its own.",
                task_id=videos[0].task_id,
            )
        return self._video.close(results)


def _is_video(result: RunResult) -> bool:
    kind = sniff_file(result.files[0])
    return kind is not None and kind.is_video


def _of_socket(task: Any) -> list[SubmittedTask]:
    """The tasks of a link, in order; another node may have made what comes over it.

    Raises:
        InvalidTaskError: It names no tasks.
    """
    try:
        tasks: list[SubmittedTask] = sorted(task["tasks"], key=lambda one: int(one["index"]))
        is_named = bool(tasks) and all(isinstance(one["task_id"], str) for one in tasks)
    except (TypeError, KeyError, ValueError):
        is_named = False
    if not is_named:
        raise InvalidTaskError("The task input names no task", next_step="Link a Submit node to it.")
    return tasks


def _of_text(text: str) -> list[SubmittedTask]:
    ids = list(dict.fromkeys(filter(None, re.split(r"[\s,;]+", text))))
    if not ids:
        raise InvalidTaskError(
            "There is nothing to collect",
            next_step="Link a Submit node to the task input, or enter a task id in task_id.",
        )
    return [SubmittedTask(index=index, task_id=task_id) for index, task_id in enumerate(ids)]


def _packed(alpha: torch.Tensor) -> str:
    """An alpha channel ``[H, W]`` as text, because a link holds only JSON data."""
    plane = alpha.detach().float().cpu().numpy()[..., None]
    return base64.b64encode(encode_png(plane)).decode("ascii")


def _unpacked(text: str) -> torch.Tensor:
    return torch.from_numpy(decode_image(base64.b64decode(text)))[..., 0]
