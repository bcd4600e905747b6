"""ncnn's packaged weights as a PyTorch file that spandrel and ComfyUI load.

Run as a program, for tests whose own Python has no torch::

    python ncnn_weights.py STEM PATH

STEM names a .param and a .bin file of Real-ESRGAN's RRDBNet or of its compact network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HALF = 0x01306B47  # ncnn's mark of 16-bit weights
ACTIVATION = "PReLU"


def write_pytorch(stem: Path, path: Path) -> Path:
    """Write the weights of ``stem``.param and ``stem``.bin."""
    layers = _read(stem)
    is_compact = any(kind == ACTIVATION for kind, _, _ in layers)
    names = [f"body.{n}" for n in range(len(layers))] if is_compact else _rrdb_names(len(layers))
    state = {}
    for name, (_, weights, bias) in zip(names, layers, strict=True):
        state[f"{name}.weight"] = torch.from_numpy(weights)
        if bias is not None:
            state[f"{name}.bias"] = torch.from_numpy(bias)
    torch.save(state, path)
    return path


def _read(stem: Path) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """The layers with weights, in the order of the file: kind, weights, bias."""
    data = stem.with_suffix(".bin").read_bytes()
    at = 0

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(data, kind, count, at)
        at += -(-values.nbytes // 4) * 4
        return values.astype(np.float32)

    layers: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    for line in stem.with_suffix(".param").read_text().splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        values = dict(word.split("=", 1) for word in rest[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            channels, side, count = int(values["0"]), int(values["1"]), int(values["6"])
            mark = int.from_bytes(data[at : at + 4], "little")
            at += 4
            weights = take(count, "<f2" if mark == HALF else "<f4").reshape(channels, -1, side, side)
            layers.append((kind, weights, take(channels, "<f4")))
        elif kind == ACTIVATION:
            layers.append((kind, take(int(values["0"]), "<f4"), None))
    assert at == len(data), f"{at} of {len(data)} bytes read"
    return layers


def _rrdb_names(count: int) -> list[str]:
    blocks = (count - 6) // 15
    dense = [
        f"body.{block}.rdb{part}.conv{number}"
        for block in range(blocks)
        for part in (1, 2, 3)
        for number in (1, 2, 3, 4, 5)
    ]
    return ["conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


if __name__ == "__main__":
    write_pytorch(Path(sys.argv[1]), Path(sys.argv[2]))
