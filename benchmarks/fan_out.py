"""A batch over many miners: what this machine adds to the miners' own time.

64 photographs of 512x512, float tensor in, float tensor of 64x1024x1024 out, over 16 devnet miners of 2 s a
task on the same machine, in another process: 8 s at best. Once through the library (decoded as they come),
once through `XaloraUpscaleImage` in a real ComfyUI, from the node's start to its end. A first round, which
teaches the client how long such tasks take, is told apart. "Miners" is the devnet's own time, from the
first create to the last result submitted; it shares this machine's cores with the client. Memory is touched
before, since a virtual machine's is slow at first use.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from _devnet import DevnetProcess
from _media import photographs
from _peers import comfyui
from _report import Report
from _worker import memory_for_later
from PIL import Image

from xalora_client import AsyncXalora, ImageBatch, UpscalerTask

IMAGES, SIZE, MINERS, TASK_SECONDS = 64, 512, 16, 2.0
BEST = IMAGES / MINERS * TASK_SECONDS
ROUNDS = 5
# Twice the bytes of all results, and when the first of them are about to be decoded.
FOR_RESULTS = (2 * IMAGES * (2 * SIZE) ** 2 * 3 * 4, 2.5 * TASK_SECONDS)

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Round:
    """Seconds from tensor to tensor, and how many of them the miners were at it."""

    wall: float
    miners: float


def draw_batch(round_number: int) -> Batch:
    """Other pieces of a photograph each round, so that no kept result answers."""
    source = photographs(2048)["with noise"]
    places = np.random.default_rng(round_number).integers(0, 2048 - SIZE, (IMAGES, 2))
    return np.stack([source[y : y + SIZE, x : x + SIZE] for y, x in places])


# --- the library ---


async def upscaled(client: AsyncXalora, images: Batch) -> Batch:
    """The batch at twice the size, each result decoded while the others are still on their way."""
    batch = ImageBatch(IMAGES)
    with ThreadPoolExecutor(2) as decoders:
        decoding: list[Future[Any]] = []
        outcomes = await client.run_many(
            UpscalerTask.for_batch(images),
            max_in_flight=IMAGES,
            on_done=lambda outcome: decoding.append(
                decoders.submit(batch.add, outcome.index, outcome.unwrap())
            ),
        )
        for one in decoding:
            await asyncio.wrap_future(one)
    return batch.finish([outcome.unwrap() for outcome in outcomes])


async def through_the_library(net: DevnetProcess) -> tuple[list[Round], float]:
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncXalora(net.api_key, net.url, state_dir=folder, env_files=()) as client:
            before = net.stats()["endpoints"]["task_result_query"]
            for number in range(1 + ROUNDS):
                batch = draw_batch(number)
                with memory_for_later(*FOR_RESULTS):
                    began = time.perf_counter()
                    out = await upscaled(client, batch)
                    wall = time.perf_counter() - began
                rounds.append(Round(wall, net.stats()["busy"]))
                print(f"library: {rounds[-1]}", file=sys.stderr, flush=True)
                _check(batch, out)
            polls = net.stats()["endpoints"]["task_result_query"] - before
    return rounds, polls / len(rounds) / IMAGES


def _check(batch: Batch, out: Batch) -> None:
    """Every image is its own, in its place: at half the size it is nearly what was sent."""
    halved = out.reshape(IMAGES, SIZE, 2, SIZE, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - batch).mean(axis=(1, 2, 3)).max() < 0.02


# --- a real ComfyUI ---


def through_comfyui(net: DevnetProcess) -> tuple[list[Round], str]:
    install = comfyui()
    from harness import ComfyUI

    env = {"XALORA_WORKFLOW_URL": net.url, "XALORA_API_KEY": net.api_key}
    rounds = []
    with tempfile.TemporaryDirectory() as root, ComfyUI(install, Path(root), env) as host:
        for number in range(1 + ROUNDS):
            # LoadImage makes a batch of an animation's frames.
            name = host.upload_image(_animation(draw_batch(100 + number)), f"batch-{number}.png")
            graph = {
                "image": {"class_type": "LoadImage", "inputs": {"image": name}},
                "loaded": {"class_type": "XaloraTestClock", "inputs": {"value": ["image", 0]}},
                "upscale": {
                    "class_type": "XaloraUpscaleImage",
                    "inputs": {"image": ["loaded", 0], "max_in_flight": IMAGES},
                },
                "seen": {"class_type": "XaloraTestClock", "inputs": {"value": ["upscale", 0]}},
            }
            with memory_for_later(*FOR_RESULTS):
                record = host.run(graph, timeout=180)
            assert record.status == "success", record.describe()
            # Times taken in ComfyUI: it collects garbage after a prompt, and its messages arrive only then.
            began, ended = (record.outputs[clock]["at"][0] for clock in ("loaded", "seen"))
            wall = ended - began
            rounds.append(Round(wall, net.stats()["busy"]))
            print(f"ComfyUI: {rounds[-1]}", file=sys.stderr, flush=True)
    return rounds, ".".join(map(str, install.version))


def _animation(batch: Batch) -> bytes:
    import io

    first, *others = (Image.fromarray((image * 255 + 0.5).astype(np.uint8)) for image in batch)
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=others, compress_level=1)
    return file.getvalue()


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("fan_out", "64 images over 16 miners", method)
    with DevnetProcess(miners=MINERS, task_seconds=TASK_SECONDS) as net:
        library, polls = asyncio.run(through_the_library(net))
        node, version = through_comfyui(net)
        assert net.stats()["tasks"]["finished"] == 2 * (1 + ROUNDS) * IMAGES
    ways = {"ours, library": library, f"ours, in ComfyUI {version}": node}
    medians = {name: median(one.wall for one in rounds[1:]) for name, rounds in ways.items()}
    miners = {name: median(one.miners for one in rounds[1:]) for name, rounds in ways.items()}
    report.table(
        [
            "way",
            "first round, s",
            "later rounds, s",
            "median, s",
            f"median / {BEST:g} s",
            "miners, s",
            "added, s",
        ],
        [
            [
                name,
                f"{rounds[0].wall:.2f}",
                ", ".join(f"{one.wall:.2f}" for one in rounds[1:]),
                f"{medians[name]:.2f}",
                f"{medians[name] / BEST:.3f}",
                f"{miners[name]:.2f}",
                f"{median(one.wall - one.miners for one in rounds[1:]):.2f}",
            ]
            for name, rounds in ways.items()
        ],
    )
    for name, wall in medians.items():
        report.target(f"{name}: wall over {BEST:g} s", wall / BEST, 1.08, unit="x")
    report.note(f"{polls:.1f} status requests an image through the library.")
    shown = {
        name: wall
        for way, wall in medians.items()
        for name, wall in ((way, wall), (f"miners ({way[6:]})", miners[way]))
    }
    report.bars("wall", shown, "s", limit=BEST)
    report.raw(
        rounds={name: [vars(one) for one in rounds] for name, rounds in ways.items()}, polls_an_image=polls
    )
    report.finish()


if __name__ == "__main__":
    main()
