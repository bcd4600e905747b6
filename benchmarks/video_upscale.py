"""A clip over many miners: wall time against the miners' own, and memory over time.

240 frames of 1280x720 (`VIDEO_FRAMES` for another number) with sound become 2560x1440, over 8 devnet
miners of 1 s a task on the same machine, in another process, 16 tasks in flight. Once through
`client.upscale_video`, in a process of its own. Memory is the proportional set size of that process and
its workers together, every half second. Beside it, ComfyUI's own way in the same run: a graph works on all
frames at once, so the frames are read by `VideoFromFile.get_components`, in a process of its own too; what
upscaling them would take comes on top. "Miners" is the devnet's own time, from the first create to the
last result submitted.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _devnet import DevnetProcess
from _media import photographs
from _peers import as_comfyui, comfyui, comfyui_environment
from _report import Report
from _watched import watched

FRAMES = int(os.environ.get("VIDEO_FRAMES", "240"))
WIDTH, HEIGHT, RATE, MINERS, TASK_SECONDS, IN_FLIGHT = 1280, 720, 24, 8, 1.0, 16
BEST = FRAMES / MINERS * TASK_SECONDS
LIMIT_MB = 1000.0

OURS = """
import json, sys
from xalora_client import Xalora
with Xalora(sys.argv[1], sys.argv[2], env_files=()) as client:
    made = client.upscale_video(sys.argv[3], sys.argv[4], max_in_flight=int(sys.argv[5]), fallback="never")
print(json.dumps({"frames": made.frames, "tasks": made.tasks, "sent": made.sent}))
"""


def moving_photograph(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """A window that moves over a photograph; every frame differs."""
    side = 2048
    source = (photographs(side)["with noise"] * 255).astype(np.uint8)
    for frame in range(count):
        x = round((side - WIDTH) * frame / max(1, count - 1))
        y = round((side - HEIGHT) * frame / max(1, count - 1))
        yield np.ascontiguousarray(source[y : y + HEIGHT, x : x + WIDTH])


def write_clip(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "18"}
        tone: Any = container.add_stream("aac", rate=48000)
        for pixels in moving_photograph(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        for start in range(0, FRAMES * 48000 // RATE, 1024):
            wave = np.sin(np.arange(start, start + 1024) * 0.05).astype(np.float32)[None] * 0.3
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 48000, start
            container.mux(tone.encode(heard))
        container.mux(tone.encode(None))


def read_all(path: str) -> None:
    """ComfyUI's own way, in its own Python: all frames as one IMAGE."""
    as_comfyui()
    from comfy_api.latest import InputImpl

    images = InputImpl.VideoFromFile(path).get_components().images
    print(json.dumps(list(images.shape)))


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("video_upscale", f"{FRAMES} frames of 720p over {MINERS} miners", method)
    with (
        tempfile.TemporaryDirectory() as folder,
        DevnetProcess(miners=MINERS, task_seconds=TASK_SECONDS) as net,
    ):
        clip, output = Path(folder, "clip.mp4"), Path(folder, "out.mp4")
        write_clip(clip)
        net.stats()
        command = [sys.executable, "-c", OURS, net.api_key, net.url, str(clip), str(output), str(IN_FLIGHT)]
        wall, memory, printed = watched(command, {"XALORA_STATE_DIR": str(Path(folder, "state"))})
        stats = net.stats()
        made = json.loads(printed)
        assert (made["frames"], stats["tasks"]["finished"]) == (FRAMES, made["tasks"])
        try:
            install = comfyui()
        except LookupError as missing:
            report.note(f"ComfyUI's own way is left out: {missing}")
            theirs: list[tuple[float, float]] = []
        else:
            peer = [str(install.python), str(Path(__file__).resolve()), "--read-all", str(clip)]
            _, theirs, _ = watched(peer, comfyui_environment())
    peak = max(mb for _, mb in memory)
    rows = [
        ["ours, upscaled", f"{wall:.1f}", f"{stats['busy']:.1f}", f"{BEST:.1f}", f"{peak:.0f}"],
    ]
    if theirs:
        rows.append(["ComfyUI, frames only read", "-", "-", "-", f"{max(mb for _, mb in theirs):.0f}"])
    report.table(["way", "wall, s", "miners, s", "best, s", "peak memory, MB"], rows)
    shares = [memory[len(memory) * part // 10] for part in range(10)] + [memory[-1]]
    report.table(["s", *(f"{at:.0f}" for at, _ in shares)], [["MB", *(f"{mb:.0f}" for _, mb in shares)]])
    report.target("peak memory", peak, LIMIT_MB, unit=" MB")
    report.note(f"{made['tasks']} frames differ, {made['sent']} tasks were sent.")

    def draw(axes: Any) -> None:
        axes.plot(*zip(*memory, strict=True), label="ours")
        if theirs:
            axes.plot(*zip(*theirs, strict=True), label="ComfyUI, frames only read")
        axes.set_title("memory over time", fontsize=10)
        axes.set_xlabel("s", fontsize=8)
        axes.set_ylabel("MB", fontsize=8)
        axes.legend(fontsize=8)

    report.panel(draw)
    report.raw(wall=wall, busy=stats["busy"], memory=memory, comfyui=theirs, **made)
    report.finish()


if __name__ == "__main__":
    if "--read-all" in sys.argv:
        read_all(sys.argv[-1])
    else:
        main()
