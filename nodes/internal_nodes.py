"""Nodes of category "Xalora/internal", in the subgraphs of :mod:`.running.fallback`; nobody places them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..xalora_client.errors import STILL_RETRIEVABLE, JournalError, ResultExpiredError
from .base import CATEGORY
from .conversion.held_results import handed_on
from .conversion.images import COLOUR_CHANNELS, merged, split_batch
from .execution.progress import Made, summary
from .host import compat
from .host.clients import clients
from .host.compat import ExecutionBlocker, io, schema
from .text_to_video import FRAMES_OFF

log = logging.getLogger("xalora_client.nodes")

INTERNAL = f"{CATEGORY}/internal"
PURPOSE = "Part of what a Xalora node becomes when this machine takes over from the network."


def _element(values: Sequence[Any], list_index: Sequence[int]) -> Any:
    """What the parent was given of a list input: ComfyUI repeats the last element of a shorter list."""
    index = list_index[0]
    return values[index] if len(values) > index else values[-1]


class XaloraTakeImages(io.ComfyNode):
    """Some images of a batch, as LoadImage would give them: colour, and a mask of what is transparent.

    Past its end, a batch goes on with its last image.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="XaloraTakeImages",
            display_name="Xalora Take Images",
            category=INTERNAL,
            description=PURPOSE,
            # A list has to be seen whole: a link can't name one of its elements.
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="A batch."),
                io.String.Input("indexes", tooltip="Which images, from 0, separated by commas."),
                io.Int.Input(
                    "list_index", default=0, min=0, optional=True, tooltip="Which element of a list."
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="IMAGE", tooltip="The images named."),
                io.Mask.Output("mask", display_name="MASK", tooltip="Where they are transparent."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        indexes: list[str],
        list_index: Sequence[int] = (0,),
    ) -> io.NodeOutput:
        batch = _element(image, list_index)
        last = len(batch) - 1
        taken = batch[[min(int(index), last) for index in indexes[0].split(",")]]
        if taken.shape[3] > COLOUR_CHANNELS:
            mask = 1.0 - taken[..., COLOUR_CHANNELS]
        else:
            mask = torch.zeros(taken.shape[:3])
        return io.NodeOutput(taken[..., :COLOUR_CHANNELS], mask)


class XaloraMergeImages(io.ComfyNode):
    """Images made here and images of the network, in order and at one size, alpha rejoined."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="XaloraMergeImages",
            display_name="Xalora Merge Images",
            category=INTERNAL,
            description=PURPOSE,
            is_input_list=True,
            inputs=[
                io.Image.Input("made", tooltip="The images made on this machine, in order."),
                io.Int.Input("total", default=1, min=1, tooltip="How many images there are in all."),
                io.String.Input(
                    "kept", default="{}", optional=True, tooltip="The network's, by place: files as JSON."
                ),
                io.Image.Input("whole", optional=True, tooltip="The batch whose alpha is rejoined."),
                io.Int.Input(
                    "list_index", default=0, min=0, optional=True, tooltip="Which element of a list."
                ),
                io.String.Input("told", default="", optional=True, tooltip="How they were made, as JSON."),
            ],
            outputs=[io.Image.Output("images", display_name="IMAGE", tooltip="All images, in order.")],
        )

    @classmethod
    def execute(
        cls,
        made: list[torch.Tensor],
        total: list[int],
        kept: Sequence[str] = ("{}",),
        whole: list[torch.Tensor] | None = None,
        list_index: Sequence[int] = (0,),
        told: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        files = {int(index): [Path(path) for path in paths] for index, paths in json.loads(kept[0]).items()}
        for path in (path for paths in files.values() for path in paths):
            if not path.is_file():
                raise ResultExpiredError(
                    f"The kept result {path.name} is gone: the folder of kept results is full",
                    money=STILL_RETRIEVABLE,
                    next_step="Queue the graph again, with a larger results_limit.",
                )
        alpha = [] if whole is None else split_batch(_element(whole, list_index))[1]
        images = merged(files, made[0], total[0], alpha)
        say_how(told[0])
        return io.NodeOutput(images)


class XaloraLocalVideo(io.ComfyNode):
    """A video made here, in the three outputs of a Xalora video node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="XaloraLocalVideo",
            display_name="Xalora Local Video",
            category=INTERNAL,
            description=PURPOSE,
            inputs=[
                io.Video.Input("video", tooltip="The video made on this machine."),
                io.Boolean.Input("decode_frames", default=True, optional=True, tooltip="Give its frames."),
                io.String.Input("told", default="", optional=True, tooltip="How it was made, as JSON."),
            ],
            outputs=[
                io.Video.Output("same", display_name="VIDEO", tooltip="The video."),
                io.Image.Output("frames", display_name="IMAGE", tooltip="Its frames."),
                io.Float.Output("frame_rate", display_name="fps", tooltip="Frames per second."),
            ],
        )

    @classmethod
    def execute(cls, video: Any, decode_frames: bool = True, told: str = "") -> io.NodeOutput:
        components = video.get_components()
        say_how(told)
        frames = components.images if decode_frames else ExecutionBlocker(FRAMES_OFF)
        return io.NodeOutput(video, frames, float(components.frame_rate))


def say_how(told: str) -> None:
    """The subgraph has ended: leave a line on the node that became it, what made what, in how long."""
    if not told:
        return
    story = json.loads(told)
    handed_on.done(story["prefix"])
    _note_who_did_it(story["instead_of"])
    line = summary([Made(**made) for made in story["made"]], time.time() - story["began"])
    compat.send_progress_text(line, story["node_id"])
    log.info("node %s: %s", story["node_id"], line)


def _note_who_did_it(job_ids: Sequence[str]) -> None:
    """Have the sidebar say of each task that came to nothing that this machine did its work."""
    journal = clients.journal
    if journal is None:
        return
    try:
        for job_id in job_ids:
            journal.fell_back(job_id, engine="comfyui", device=compat.device_name())
    except JournalError as error:
        log.warning("journal: %s - the tasks' work was done on this machine", error)
