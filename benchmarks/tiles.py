"""A large image in tiles over many miners: time against one tile's, and peak memory beside the untiled way.

Time: an image of eight tiles of 512 pixels through `client.upscale_image` over 8 devnet miners of 8 s a
task, against one such tile as a task of its own, in turn, five times; the ratio is the median over the
pairs. The client knows how long such tasks take, from one run before. Memory: an image of 8192x8192 pixels
(`TILES_SIDE` for another side), a PNG, becomes 16384x16384 over 2 miners that repeat its pixels, on the
same machine, each way in a process of its own. "In tiles" writes a PNG, and a TIFF. "Whole" does what one
task does here, without its request: it encodes the image, and decodes a result of that size, the PNG, to the
array that a graph works on. Memory is the proportional set size of the process and its workers together,
every half second.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _devnet import DevnetProcess
from _media import photographs
from _report import Report
from _watched import watched

SIDE = int(os.environ.get("TILES_SIDE", "8192"))
TILE, MINERS, TASK_SECONDS, ROUNDS = 512, 8, 8.0, 5
WIDTH, HEIGHT, TILES = 1792, 896, 8
LIMIT = 1.25

IN_TILES = """
import json, sys
from xalora_client import Xalora
with Xalora(sys.argv[1], sys.argv[2], env_files=()) as client:
    made = client.upscale_image(sys.argv[3], sys.argv[4], tile="always", fallback="never")
print(json.dumps({"tiles": made.tiles, "width": made.width}))
"""
WHOLE = """
import json, sys
from pathlib import Path
from xalora_client.media.images import decode_image
from xalora_client.media.inputs import prepare_image
from xalora_client.media.limits import PixelLimits, using
prepared = prepare_image(sys.argv[1])
with using(PixelLimits(2**31, 2**31)):
    width = decode_image(Path(sys.argv[2])).shape[1]
print(json.dumps({"tiles": 1, "width": width}))
"""


def picture(seed: int, width: int, height: int) -> np.ndarray[Any, Any]:
    """A photograph that no other seed gives."""
    base = (photographs(2048)["pieces"][:height, :width] * 255).astype(np.uint8)
    return np.roll(base, 37 * seed, axis=1)


def times(folder: Path) -> list[tuple[float, float, float]]:
    """Seconds for one tile, for eight, and of the miners for the eight; one and eight in turn."""
    from xalora_client import Xalora

    pairs = []
    with (
        DevnetProcess(miners=MINERS, task_seconds=TASK_SECONDS) as net,
        Xalora(net.api_key, net.url, env_files=(), state_dir=folder / "state") as client,
    ):

        def seconds(seed: int, width: int, height: int, tile: Any) -> float:
            image = picture(seed, width, height)
            began = time.perf_counter()
            made = client.upscale_image(image, folder / "made.png", tile=tile, fallback="never")
            assert made.tiles == (1 if tile == "never" else TILES)
            return time.perf_counter() - began

        seconds(1, TILE, TILE, "never")
        for number in range(ROUNDS):
            one = seconds(10 + 2 * number, TILE, TILE, "never")
            net.stats()
            eight = seconds(11 + 2 * number, WIDTH, HEIGHT, TILE)
            pairs.append((one, eight, net.stats()["busy"]))
    return pairs


def large(path: Path) -> None:
    """A photograph with a camera's noise, as PNG."""
    from xalora_client.media.png_encode import encode_png

    base = (photographs(2048)["pieces"] * 255).astype(np.int16)
    draw = np.random.default_rng(5)
    rows = []
    for _ in range(0, SIDE, 2048):
        row = np.concatenate([base] * -(-SIDE // 2048), axis=1)[:, :SIDE]
        noise = draw.integers(-3, 4, row.shape, dtype=np.int16)
        rows.append(np.clip(row + noise, 0, 255).astype(np.uint8))
    path.write_bytes(encode_png(np.concatenate(rows)[:SIDE]))


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("tiles", f"An image in tiles; a result of {2 * SIDE} pixels a side", method)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = times(folder)
        image = folder / "large.png"
        large(image)
        measured = {}

        def measure(way: str, program: str, *given: str) -> None:
            state = {"XALORA_STATE_DIR": str(folder / way)}
            wall, memory, printed = watched([sys.executable, "-c", program, *given], state)
            measured[way] = wall, memory, json.loads(printed)

        png, tif = str(folder / "tiles.png"), str(folder / "tiles.tif")
        with DevnetProcess(miners=2, engine="repeat") as net:
            for way, output in (("ours, in tiles, to PNG", png), ("ours, in tiles, to TIFF", tif)):
                measure(way, IN_TILES, net.api_key, net.url, str(image), output)
        measure("whole, as floats", WHOLE, str(image), png)
    one, eight, miners = (median(each) for each in zip(*pairs, strict=True))
    ratio = median(eight / one for one, eight, _ in pairs)
    rows = [
        ["one tile, one task", f"{one:.2f}"],
        [f"{TILES} tiles over {MINERS} miners", f"{eight:.2f}"],
        ["of that the miners, from the first create to the last result", f"{miners:.2f}"],
    ]
    report.table(["what", "s"], rows)
    report.target(f"{TILES} tiles over {MINERS} miners, against one tile", ratio, LIMIT, unit=" times")
    peaks = {way: max(mb for _, mb in memory) for way, (_, memory, _) in measured.items()}
    rows = [
        [way, str(made["tiles"]), f"{peaks[way]:.0f}", f"{wall:.0f}"]
        for way, (wall, _, made) in measured.items()
    ]
    report.table(["way", "tiles", "peak memory, MB", "wall, s"], rows)
    floats = (2 * SIDE) ** 2 * 3 * 4 / 1e6
    report.note(f"The result takes {floats:.0f} MB as floats, {floats / 4:.0f} MB in 8 bits.")
    report.bars("peak memory", peaks, "MB")
    report.raw(times=pairs, ratio=ratio, memory={way: memory for way, (_, memory, _) in measured.items()})
    report.finish()


if __name__ == "__main__":
    main()
