"""One execution of the node that upscales a video: progress, cancel, and the file that it gives out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ...xalora_client.concurrency import run_in_thread
from ...xalora_client.engines.fallback import make_room
from ...xalora_client.errors import XaloraError
from ...xalora_client.prices import Sent, cost_of, cost_text
from ..conversion.video_inputs import video_file
from ..host import compat
from .batch_plan import BatchError
from .clip_progress import ClipProgress, summary
from .running_node import RunningNode
from .task_loop import RunOptions
from .task_origins import Origin

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.config import Settings
    from ...xalora_client.video.report import VideoProgress

log = logging.getLogger("xalora_client.nodes")

FOLDER = "upscaled-videos"
"""The folder in ``state_dir`` of the files that nodes give out; the oldest go beyond ``results_limit``."""

_in_use: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The videos that a graph still has, by the names of their files."""


@dataclass(eq=False, kw_only=True)
class ClipRun(RunningNode[Path]):
    """One execution, on the client's loop.

    Args:
        origin: The node and its prompt.
        video: ComfyUI's VIDEO.
        options: How to run the tasks.
        task_options: Options of every task.
        max_tasks: Above so many tasks nothing is sent.
        same_engine: All frames are made by what makes the first one.
    """

    origin: Origin
    video: Any
    options: RunOptions
    task_options: Mapping[str, Any]
    max_tasks: int | None
    same_engine: bool

    def __post_init__(self) -> None:
        self._progress = ClipProgress()
        self._whole_id: str | None = None
        super().__init__(self.origin.node_id, self._progress)

    async def video_on_bridge(self) -> Any:
        """See :meth:`.RunningNode.on_bridge`; a VIDEO on disk."""
        try:
            path = await self.on_bridge()
        except XaloraError as error:
            finished, total = self._progress.results()
            if not 0 < finished < total:
                raise
            # Which tells that the finished ones are kept.
            raise BatchError(
                error.what,
                money=error.money,
                next_step=error.next_step,
                errors={finished: error},
                finished=dict.fromkeys(range(finished), ""),
                noun="frame",
                total=total,
            ) from error
        video = compat.InputImpl.VideoFromFile(str(path))
        _in_use[path.name] = video
        return video

    def cancel(self, whole_id: str | None) -> list[asyncio.Task[None]]:
        if whole_id in (None, self._whole_id):
            self._interrupt.request()
        return []

    async def _perform(self, client: AsyncXalora) -> Path:
        from ...xalora_client.client import HostOptions
        from ...xalora_client.video.upscaling import clip_key, whole_id_of

        settings = client.settings
        source = await run_in_thread(
            lambda: video_file(self.video, compat.temp_directory() / "xalora-videos")
        )
        key = await run_in_thread(lambda: clip_key(settings, source, self.task_options))
        self._whole_id = whole_id_of(key)
        output = settings.state_dir / FOLDER / f"{key}.mp4"
        reuses = self.options.reuse and settings.reuse
        if reuses and await run_in_thread(output.exists):
            self._reporter.say_last("kept result, nothing sent")
            return output
        made = await client.upscale_video(
            source,
            output,
            max_in_flight=self.options.max_in_flight,
            max_tasks=self.max_tasks,
            same_engine=self.same_engine,
            task_options=self.task_options,  # type: ignore[arg-type]
            on_progress=lambda progress: self._note(progress, settings),
            reuse=reuses,
            if_unknown=self.options.if_unknown,
            fallback=self.options.fallback,
            timeout=self.options.wait_timeout,
            queue_limit=self.options.queue_limit,
            host=HostOptions(
                # A prompt that merely ended leaves its paid tasks running.
                cancels=lambda: self._interrupt.requested,
                run_id=self.origin.prompt_id or None,
                clip_key=key,
            ),
        )
        protected = (output.name, *_in_use)
        await run_in_thread(lambda: make_room(output.parent, int(settings.results_limit), protected))
        line = summary(made, monotonic() - self._began)
        self._reporter.say_last(line)
        log.info("node %s: %s", self.origin.node_id, line)
        return output

    def _note(self, progress: VideoProgress, settings: Settings) -> None:
        sends = (self.options.fallback or settings.fallback) != "local_only"
        workflow_id = self.task_options.get("workflow_id")
        cost = cost_of(settings.prices, [Sent("upscaler", workflow_id, progress.to_send)]) if sends else None
        is_first = progress.stage == "upscaling" and not progress.in_flight and not progress.made
        self._progress.note(progress, "" if cost is None else cost_text(cost))
        if is_first:
            # Before the first create, so that there is something to cancel.
            self._reporter.show()
