"""A clip over many miners: wall time against the miners' own, memory over time, and the output checked.

`VIDEO_CLIP` chooses one of three clips with AAC sound: `short` (240 frames of 1280x720), `sound` (1,000 of
960x540) and `long` (4,000 of 1280x720). Each frame is another part of a photograph. They become twice as
wide and high, over 8 devnet miners of 1 s a task on the same machine, in another process, 16 tasks in
flight. `short` goes once through `client.upscale_video`; beside it is ComfyUI's own way: a graph works on
all frames at once, so the frames are read by `VideoFromFile.get_components`; what upscaling them would take
comes on top. `sound` goes through the shell (`xalora upscale`), and through a real ComfyUI (Load Video,
Xalora Upscale Video, Save Video); `long` through the shell. In these two the miners repeat pixels and send
JPEG of quality 98, as the network's public miner does. Memory is the proportional set size of the process
and of all that it has started. "Miners" is the devnet's own time, from the first create to the last result
submitted. Of each output, times and sound are compared with the clip's, and every frame with what the
miners make of that frame: one pixel of each block of four. `VIDEO_CLIP=model` has one miner upscale 12
frames of 160x120 by Real-ESRGAN; nothing is compared, but the frames lie side by side in a picture.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _devnet import DevnetProcess
from _media import photographs
from _peers import as_comfyui, comfyui, comfyui_environment
from _report import RESULTS, Report
from _watched import Memory, Watch, watched

from xalora_client.text import counted

RATE, TASK_SECONDS, IN_FLIGHT = 24, 1.0, 16
LIMIT_MB = 1000.0
DRAWN = 300
"""Points of a line in the chart, and in the JSON file: of more the highest of each part is taken."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Plan:
    """A clip and the ways it goes.

    Args:
        name: Of the results.
        engine: Of the devnet; None for its own, LANCZOS to PNG.
    """

    name: str
    frames: int
    width: int
    height: int
    ways: tuple[str, ...]
    engine: str | None = None
    miners: int = 8
    every: float = 0.5


PLANS = {
    "short": Plan("video_upscale", 240, 1280, 720, ("library", "comfyui")),
    "sound": Plan("video_upscale_sound", 1000, 960, 540, ("shell", "node"), "jpeg", every=1.0),
    "long": Plan("video_upscale_long", 4000, 1280, 720, ("shell",), "jpeg", every=1.0),
    "model": Plan("video_upscale_model", 12, 160, 120, ("library",), "model", miners=1),
}

OURS = """
import json, sys
from xalora_client import Xalora
with Xalora(sys.argv[1], sys.argv[2], env_files=()) as client:
    made = client.upscale_video(sys.argv[3], sys.argv[4], max_in_flight=int(sys.argv[5]), fallback="never")
"""


@dataclass
class Measured:
    """What one way took; ``output`` is the clip that it made, None where there is none."""

    memory: Memory
    wall: float | None = None
    output: Path | None = None
    before: float = 0.0
    """MB that the process had before, where it is no process of its own."""
    busy: float = 0.0

    @property
    def peak(self) -> float:
        return max(mb for _, mb in self.memory)


# --- the clip -----------------------------------------------------------------------------------------------


def moving_photograph(plan: Plan) -> Iterator[Pixels]:
    """A window that moves over a photograph; every frame differs."""
    side = 2048
    source = (photographs(side)["with noise"] * 255).astype(np.uint8)
    width, height = plan.width, plan.height
    seen = set()
    for frame in range(plan.frames):
        # A rosette, whose lines cross in few places.
        turn = 2 * pi * frame / plan.frames
        radius = 0.35 + 0.15 * cos(7 * turn)
        x = round((side - width) * (0.5 + radius * cos(turn)))
        y = round((side - height) * (0.5 + radius * sin(turn)))
        while (x, y) in seen:
            x = (x + 1) % (side - width)
        seen.add((x, y))
        yield np.ascontiguousarray(source[y : y + height, x : x + width])


def zoomed_photograph(plan: Plan) -> Iterator[Pixels]:
    """A photograph in a camera's small format, moved and zoomed."""
    from PIL import Image
    from skimage import data

    source = Image.fromarray(data.chelsea())
    for frame in range(plan.frames):
        done = frame / max(1, plan.frames - 1)
        width = source.width * (0.72 - 0.14 * done)
        height = width * plan.height / plan.width
        x, y = source.width * (0.40 + 0.12 * done), source.height * (0.50 - 0.04 * sin(3 * done))
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield np.asarray(source.resize((plan.width, plan.height), Image.Resampling.LANCZOS, box=box))


def write_clip(path: Path, plan: Plan) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "18"}
        tone: Any = container.add_stream("aac", rate=48000)
        for pixels in zoomed_photograph(plan) if plan.engine == "model" else moving_photograph(plan):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        for start in range(0, plan.frames * 48000 // RATE, 1024):
            # A tone that rises, so that no two seconds of it are alike.
            at = np.arange(start, start + 1024) / 48000
            wave = np.sin(2 * pi * (220 * at + 2 * at * at)).astype(np.float32)[None] * 0.3
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 48000, start
            container.mux(tone.encode(heard))
        container.mux(tone.encode(None))


# --- the output ---------------------------------------------------------------------------------------------


def packets(path: Path, kind: str) -> list[tuple[Any, bytes]]:
    """The packets of a track, in the order of time: seconds, and the bytes of those of the sound."""
    import av

    with av.open(str(path)) as container:
        stream: Any = next(each for each in container.streams if each.type == kind)
        found = [each for each in container.demux(stream) if each.size]
        return sorted((each.pts * each.time_base, bytes(each) if kind == "audio" else b"") for each in found)


def played(path: Path) -> Iterator[Pixels]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def compared(clip: Path, output: Path, engine: str | None) -> dict[str, Any]:
    """How the output agrees with the clip, frame by frame."""
    from PIL import Image

    worst, total, colour, count, misplaced = 1e9, 0.0, 0.0, 0, 0
    before: Pixels | None = None
    sources, made = played(clip), played(output)
    for source, frame in zip(sources, made, strict=True):
        expected = source
        if engine is None:
            size = (source.shape[1] * 2, source.shape[0] * 2)
            expected = np.asarray(Image.fromarray(source).resize(size, Image.Resampling.LANCZOS))[::2, ::2]
        assert frame.shape == (source.shape[0] * 2, source.shape[1] * 2, 3)
        shown = frame[::2, ::2]
        quality = psnr(shown, expected)
        worst, total = min(worst, quality), total + quality
        means = np.abs(shown.mean((0, 1)) - expected.mean((0, 1)))
        colour = max(colour, float(means.max()))
        misplaced += before is not None and psnr(shown, before) >= quality
        before, count = expected, count + 1
    return {
        "frames": count,
        "worst_psnr": worst,
        "mean_psnr": total / count,
        "colour": colour,
        "misplaced": misplaced,
        "times": packets(clip, "video") == packets(output, "video"),
        "sound": packets(clip, "audio") == packets(output, "audio"),
    }


def sheet(clip: Path, output: Path, path: Path) -> None:
    """Each frame of the clip, its pixels doubled, above that of the output; four in a row."""
    from PIL import Image

    pairs = [
        np.concatenate([small.repeat(2, 0).repeat(2, 1), large])
        for small, large in zip(played(clip), played(output), strict=True)
    ]
    rows = [np.concatenate(pairs[at : at + 4], axis=1) for at in range(0, len(pairs), 4)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=90)


def psnr(one: Pixels, other: Pixels) -> float:
    difference = np.subtract(one, other, dtype=np.float32)
    return float(10 * np.log10(255**2 / max(1e-9, float(np.mean(difference * difference)))))


# --- the ways -----------------------------------------------------------------------------------------------


def by_library(plan: Plan, net: DevnetProcess, clip: Path, folder: Path) -> Measured:
    output = folder / "library.mp4"
    command = [sys.executable, "-c", OURS, net.api_key, net.url, str(clip), str(output), str(IN_FLIGHT)]
    wall, memory, _ = watched(command, {"XALORA_STATE_DIR": str(folder / "library")}, plan.every)
    return Measured(memory, wall, output)


def by_shell(plan: Plan, net: DevnetProcess, clip: Path, folder: Path) -> Measured:
    output = folder / "shell.mp4"
    command = [sys.executable, "-m", "xalora_client", "upscale", str(clip), "-o", str(output)]
    command += ["--max-in-flight", str(IN_FLIGHT), "--fallback", "never", "--json"]
    env = {"XALORA_WORKFLOW_URL": net.url, "XALORA_API_KEY": net.api_key}
    wall, memory, _ = watched(command, {**env, "XALORA_STATE_DIR": str(folder / "shell")}, plan.every)
    return Measured(memory, wall, output)


def by_node(plan: Plan, net: DevnetProcess, clip: Path, folder: Path) -> Measured:
    install = comfyui()
    from harness import ComfyUI

    env = {"XALORA_WORKFLOW_URL": net.url, "XALORA_API_KEY": net.api_key}
    with ComfyUI(install, folder / "comfyui", env) as host:
        name = host.upload_image(clip)
        upscale = {"video": ["1", 0], "max_in_flight": IN_FLIGHT, "fallback": "never"}
        save = {"video": ["2", 0], "filename_prefix": "made", "format": "auto", "codec": "auto"}
        graph = {
            "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
            "2": {"class_type": "XaloraUpscaleVideo", "inputs": upscale},
            "3": {"class_type": "SaveVideo", "inputs": save},
        }
        began = time.perf_counter()
        with Watch(host.pid, plan.every) as watch:
            record = host.run(graph, timeout=7200)
        wall = time.perf_counter() - began
        assert record.status == "success", record.describe()
        (data,) = host.files(record, "3")
    output = folder / "node.mp4"
    output.write_bytes(data)
    return Measured(watch.memory, wall, output, before=watch.memory[0][1])


def by_comfyui(plan: Plan, net: DevnetProcess, clip: Path, folder: Path) -> Measured:
    peer = [str(comfyui().python), str(Path(__file__).resolve()), "--read-all", str(clip)]
    _, memory, _ = watched(peer, comfyui_environment(), plan.every)
    return Measured(memory)


WAYS = {
    "library": ("ours, client.upscale_video", by_library),
    "shell": ("ours, xalora upscale", by_shell),
    "node": ("ours, in ComfyUI", by_node),
    "comfyui": ("ComfyUI, frames only read", by_comfyui),
}


def read_all(path: str) -> None:
    """ComfyUI's own way, in its own Python: all frames as one IMAGE."""
    as_comfyui()
    from comfy_api.latest import InputImpl

    images = InputImpl.VideoFromFile(path).get_components().images
    print(json.dumps(list(images.shape)))


# --- the report ---------------------------------------------------------------------------------------------


def thinned(memory: Memory) -> Memory:
    """At most `DRAWN` points, of each part the highest."""
    step = -(-len(memory) // DRAWN)
    return [max(memory[at : at + step], key=lambda point: point[1]) for at in range(0, len(memory), step)]


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    chosen = os.environ.get("VIDEO_CLIP", "short")
    plan = PLANS[chosen]
    title = f"{plan.frames:,} frames of {plan.width}x{plan.height} over {counted(plan.miners, 'miner')}"
    report = Report(plan.name, title, method, f"VIDEO_CLIP={chosen} python benchmarks/video_upscale.py")
    measured: dict[str, Measured] = {}
    agreed: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, plan)
        for way in plan.ways:
            label, measure = WAYS[way]
            with DevnetProcess(miners=plan.miners, task_seconds=TASK_SECONDS, engine=plan.engine) as net:
                net.stats()
                try:
                    one = measure(plan, net, clip, folder)
                except LookupError as missing:
                    report.note(f"{label} is left out: {missing}")
                    continue
                stats = net.stats()
            measured[label], one.busy = one, stats["busy"]
            if one.output is not None:
                assert stats["creates"] == stats["tasks"]["finished"] == plan.frames, stats
                if plan.engine == "model":
                    sheet(clip, one.output, RESULTS / f"{plan.name}.jpg")
                    report.note(f"Each frame of the clip above its result: ![frames]({plan.name}.jpg)")
                else:
                    agreed[label] = compared(clip, one.output, plan.engine)
    best = plan.frames / plan.miners * TASK_SECONDS
    report.table(
        ["way", "wall, s", "miners, s", "best, s", "peak memory, MB", "of it before, MB"],
        [
            [
                label,
                f"{one.wall:.0f}",
                f"{one.busy:.0f}",
                f"{best:.0f}",
                f"{one.peak:.0f}",
                f"{one.before:.0f}",
            ]
            if one.wall is not None
            else [label, "-", "-", "-", f"{one.peak:.0f}", "-"]
            for label, one in measured.items()
        ],
    )
    columns = ["memory, MB, at a share of the wall time", *(f"{tenth}0 %" for tenth in range(11))]
    report.table(
        columns,
        [
            [label, *(f"{one.memory[(len(one.memory) - 1) * tenth // 10][1]:.0f}" for tenth in range(11))]
            for label, one in measured.items()
        ],
    )
    if agreed:
        report.table(*agreement(agreed))
    for label in agreed:
        one = measured[label]
        grown = " more than before" if one.before else ""
        report.target(f"peak memory{grown}, {label}", one.peak - one.before, LIMIT_MB, unit=" MB")
    report.panel(partial(draw, measured))
    report.raw(
        **{
            label: {
                "wall": one.wall,
                "busy": one.busy,
                "memory": thinned(one.memory),
                **agreed.get(label, {}),
            }
            for label, one in measured.items()
        }
    )
    report.finish()


def agreement(agreed: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of how outputs agree with the clip."""
    columns = ["output", "frames", "PSNR, least, dB", "PSNR, mean, dB", "mean colour off by, of 255, at most"]
    columns += ["frames more like the one before", "times", "sound"]
    words = {True: "equal", False: "DIFFER"}
    rows = [
        [
            label,
            str(found["frames"]),
            f"{found['worst_psnr']:.1f}",
            f"{found['mean_psnr']:.1f}",
            f"{found['colour']:.2f}",
            str(found["misplaced"]),
            words[found["times"]],
            words[found["sound"]],
        ]
        for label, found in agreed.items()
    ]
    return columns, rows


def draw(measured: dict[str, Measured], axes: Any) -> None:
    """Memory over time, without what the process had before."""
    for label, one in measured.items():
        seconds, mb = zip(*thinned(one.memory), strict=True)
        beyond = f", beyond the {one.before:.0f} MB before" if one.before else ""
        axes.plot(seconds, [max(0, each - one.before) for each in mb], label=f"{label}{beyond}", linewidth=1)
    axes.axhline(LIMIT_MB, color="#dc2626", linestyle="--", linewidth=1, label="limit")
    axes.set_ylim(bottom=0)
    axes.set_title("memory over time", fontsize=10)
    axes.set_xlabel("s", fontsize=8)
    axes.set_ylabel("MB", fontsize=8)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    if "--read-all" in sys.argv:
        read_all(sys.argv[-1])
    else:
        main()
