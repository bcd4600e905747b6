"""Nodes of category "Xalora/internal", used in the subgraphs of :mod:`.execution.fallback_expansion` only."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..xalora_client.engines import EngineCanceledError
from ..xalora_client.engines.fallback import note_fallback
from ..xalora_client.engines.ncnn.engine import upscaled
from ..xalora_client.engines.ncnn.upscaler import NAME as NCNN
from ..xalora_client.engines.ncnn.upscaler import upscaler
from ..xalora_client.errors import XaloraError
from .base import CATEGORY
from .conversion.image_tensors import as_loaded, merged, split_batch
from .execution.fallback_expansion import ncnn_model_named
from .execution.node_progress import ResultSource, summary
from .execution.node_run import size_of
from .execution.open_subgraphs import open_subgraphs
from .execution.wording import RETRIEVABLE, GraphError, Words, graph_error
from .host import compat
from .host.clients import clients
from .host.compat import ExecutionBlocker, io, schema
from .text_to_video import FRAMES_OFF

log = logging.getLogger("xalora_client.nodes")

INTERNAL = f"{CATEGORY}/internal"
PURPOSE = (
    "Part of the subgraph that a Xalora node expands into when this machine takes over from the network."
)


def _schema(node_id: str, display_name: str, **fields: Any) -> io.Schema:
    return schema(
        node_id=node_id,
        display_name=display_name,
        category=INTERNAL,
        description=PURPOSE,
        is_dev_only=True,
        **fields,
    )


def _list_index_input() -> Any:
    return io.Int.Input("list_index", default=0, min=0, optional=True, tooltip="Index of the list element.")


def _report_input() -> Any:
    return io.String.Input("told", default="", optional=True, tooltip="Report for the parent node, as JSON.")


def _element(values: Sequence[Any], list_index: Sequence[int]) -> Any:
    """The parent's element of a list input: ComfyUI repeats the last element of a shorter list."""
    index = list_index[0]
    return values[index] if len(values) > index else values[-1]


class XaloraTakeImages(io.ComfyNode):
    """Some images of a batch, as LoadImage returns them: colour, and a mask of the transparent parts.

    An index past the end of the batch means its last image. What could not be sent is refused here too.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "XaloraTakeImages",
            "Xalora Take Images",
            # The node gets whole lists: a link can't name one element.
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="A batch."),
                io.String.Input("indexes", tooltip="Indexes of the images, from 0, separated by commas."),
                _list_index_input(),
            ],
            outputs=[
                io.Image.Output("images", display_name="IMAGE", tooltip="The chosen images."),
                io.Mask.Output("mask", display_name="MASK", tooltip="Their transparent parts."),
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
        try:
            return io.NodeOutput(*as_loaded(taken))
        except XaloraError as error:
            raise graph_error(error) from None


class XaloraNcnnUpscale(io.ComfyNode):
    """Images upscaled by a model with ncnn, which needs neither CUDA nor a file in ComfyUI's folders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "XaloraNcnnUpscale",
            "Xalora Upscale with ncnn",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("images", tooltip="A batch."),
                io.String.Input("model", tooltip="Name of a model that ncnn runs."),
                io.Int.Input("factor", default=2, min=1, max=4, tooltip="How many times wider and higher."),
            ],
            outputs=[io.Image.Output("upscaled", display_name="IMAGE", tooltip="The images, in order.")],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, model: Any, factor: int) -> io.NodeOutput:
        bar = compat.ProgressBar(len(images), str(cls.hidden.unique_id))
        cancel = threading.Event()
        made = []
        try:
            made_by = upscaler(ncnn_model_named(model))
            for index, image in enumerate(images):

                def on_step(done: int, total: int, index: int = index) -> None:
                    bar.update_absolute(index + done / total)
                    if compat.interrupted():
                        cancel.set()

                pixels = image.cpu().numpy()
                size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
                made.append(torch.from_numpy(upscaled(made_by, pixels, size, on_step=on_step, cancel=cancel)))
        except EngineCanceledError:
            raise compat.InterruptProcessingException from None
        except XaloraError as error:
            log.warning("node %s: %s", cls.hidden.unique_id, error)
            error.money = ""  # said of the network's tasks when this machine took over
            raise graph_error(error) from None
        return io.NodeOutput(torch.stack(made))


class XaloraMergeImages(io.ComfyNode):
    """Images of this machine and of the network in one batch, in order and at one size, with alpha."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "XaloraMergeImages",
            "Xalora Merge Images",
            is_input_list=True,
            inputs=[
                io.Image.Input("made", tooltip="The images made on this machine, in order."),
                io.Int.Input("total", default=1, min=1, tooltip="Number of images in all."),
                io.String.Input(
                    "kept",
                    default="{}",
                    optional=True,
                    tooltip="Files of the network's results, by index, as JSON.",
                ),
                io.Image.Input(
                    "whole", optional=True, tooltip="The batch whose alpha channel is added again."
                ),
                _list_index_input(),
                _report_input(),
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
                raise GraphError(
                    str(
                        Words(
                            "A finished image is gone from this machine, as the results folder was full.",
                            RETRIEVABLE,
                            "Raise the limit under Settings > Xalora > Tasks, then press Run.",
                        )
                    )
                )
        alpha = [] if whole is None else split_batch(_element(whole, list_index))[1]
        images = merged(files, made[0], total[0], alpha)
        show_report(told[0], size_of(images))
        return io.NodeOutput(images)


class XaloraLocalVideo(io.ComfyNode):
    """A video of this machine in the three outputs of a Xalora video node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "XaloraLocalVideo",
            "Xalora Local Video",
            inputs=[
                io.Video.Input("video", tooltip="The video made on this machine."),
                io.Boolean.Input(
                    "decode_frames", default=True, optional=True, tooltip="Return the frames too."
                ),
                _report_input(),
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
        show_report(told)
        frames = components.images if decode_frames else ExecutionBlocker(FRAMES_OFF)
        return io.NodeOutput(video, frames, float(components.frame_rate))


def show_report(report: str, size: str = "") -> None:
    """Show on the parent node what made its results and how long it took: its subgraph has ended.

    Args:
        size: Of its images.
    """
    if not report:
        return
    told = json.loads(report)
    open_subgraphs.ended(told["prefix"])
    journal, job_ids = clients.journal, told["replaced_jobs"]
    if journal is not None and job_ids:
        engine, device = _made_by(told["ncnn_model"])
        for job_id in job_ids:
            note_fallback(journal, job_id, engine, device)
    line = summary([ResultSource(**source) for source in told["sources"]], time.time() - told["began"])
    if size:
        line = f"{size}, {line}"
    compat.send_line(line, told["node_id"])
    log.info("node %s: %s", told["node_id"], line)


def _made_by(ncnn_model: str) -> tuple[str, str]:
    """The engine and device of a subgraph, for the sidebar."""
    if ncnn_model:
        return NCNN, upscaler(ncnn_model_named(ncnn_model)).device
    return "comfyui", compat.device_name()
