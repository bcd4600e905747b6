"""Loads and runs an ncnn model; as a program it tries one, since a broken model or driver may crash it.

``python net.py PARAM BIN SMALL LARGE`` prints one JSON object. SMALL and LARGE are the sides of the images
that show the model's factor, and how many pixels it takes from each side. The file imports nothing of this
package, which ComfyUI loads under another name.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CPU_TYPE = 3
"""ncnn's type of a Vulkan device that is the processor itself, such as llvmpipe."""

VULKAN_LIMIT = 2 / 255
"""The largest difference between a Vulkan device and the processor."""


_NO_MEMORY = -100


class ModelError(Exception):
    """ncnn can't load or run the model; the message says why."""


@cache
def imported() -> Any:
    """The package ncnn.

    Its OpenMP threads wait without work for the processor, unless the environment says otherwise: on a busy
    machine their spinning multiplies the time.
    """
    policy = "OMP_WAIT_POLICY"
    is_set = policy in os.environ
    os.environ.setdefault(policy, "passive")
    try:
        import ncnn
    finally:
        # OpenMP has read it; the user's other programs are not meant.
        if not is_set:
            del os.environ[policy]
    return ncnn


class Net:
    """A loaded model. Threads may share it.

    Args:
        param: The .param file.
        weights: The .bin file.
        threads: How many processor threads compute one image; None for ncnn's own choice.
        gpu: The Vulkan device; None for the processor.

    Raises:
        ModelError: The files are no model with one input and one output, or do not belong together.
    """

    def __init__(
        self, param: Path, weights: Path, *, threads: int | None = None, gpu: int | None = None
    ) -> None:
        self._net = net = imported().Net()
        # 16 bits make other results on each platform, bf16 by up to 8/255.
        for name in dir(net.opt):
            if name.startswith(("use_fp16", "use_bf16")):
                setattr(net.opt, name, False)
        if threads is not None:
            net.opt.num_threads = threads
        net.opt.use_vulkan_compute = gpu is not None
        if gpu is not None:
            net.set_vulkan_device(gpu)
        # By text and bytes: on Windows ncnn opens no path with letters outside ASCII.
        if net.load_param_mem(param.read_text(encoding="utf-8")) != 0:
            raise ModelError("its .param file can't be read")
        inputs, outputs = net.input_names(), net.output_names()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        self.input, self.output = inputs[0], outputs[0]
        reader = _reader(weights.read_bytes())
        if net.load_model(reader) != 0:
            raise ModelError(f"its .bin file of {len(reader.data)} bytes is too short or damaged")
        if reader.taken != len(reader.data):
            raise ModelError(f"its .bin file has {len(reader.data)} bytes where the model has {reader.taken}")

    def start(self, blob: str, pixels: Floats) -> Extraction:
        """Begin to compute from an array ``[C, H, W]`` in place of a blob.

        Raises:
            ModelError: The model has no such blob.
        """
        return Extraction(self._net, blob, pixels)

    def run(self, pixels: Floats) -> Floats:
        """The model's output ``[C, H, W]`` for an input ``[C, H, W]``.

        Raises:
            ModelError: It can't be computed.
        """
        return self.start(self.input, pixels).take(self.output)


class Extraction:
    """Computes blobs of a model one after another; each goes on from those before it."""

    def __init__(self, net: Any, blob: str, pixels: Floats) -> None:
        # ncnn.Mat does not keep its array alive, so this object does.
        self._pixels = np.ascontiguousarray(pixels, np.float32)
        self._extractor = net.create_extractor()
        if self._extractor.input(blob, imported().Mat(self._pixels)) != 0:
            raise ModelError(f"it does not take the input {blob}")

    def advance(self, blob: str) -> None:
        """Compute up to a blob, which stays in ncnn.

        Raises:
            ModelError: It can't be computed, for a lack of memory for example.
        """
        self._extract(blob)

    def take(self, blob: str) -> Floats:
        """Compute up to a blob and copy it.

        Raises:
            ModelError: It can't be computed, for a lack of memory for example.
        """
        return np.array(self._extract(blob))

    def _extract(self, blob: str) -> Any:
        code, mat = self._extractor.extract(blob)
        if code == _NO_MEMORY:
            raise ModelError("there is too little memory")
        if code != 0 or mat.empty():
            raise ModelError(f"it stops before {blob} (code {code})")
        return mat


def _reader(data: bytes) -> Any:
    """A reader of bytes that counts those taken: ncnn does not mind a file that is longer than the model."""

    class Reader(imported().DataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.data = data
            self.taken = 0

        def read(self, buffer: object, size: int) -> int:
            part = self.data[self.taken : self.taken + size]
            ctypes.memmove(_address(buffer), part, len(part))
            self.taken += len(part)
            return len(part)

    return Reader()


def _address(capsule: object) -> int:
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, name(capsule)))


# --- as a program ---


def trial(param: Path, weights: Path, small: int, large: int) -> dict[str, Any]:
    """What the model does with images of three channels: its ``scale``, its ``border`` and a working ``gpu``.

    Raises:
        ModelError: It makes no enlarged image of three channels.
    """
    pixels = np.random.default_rng(0).random((3, large, large), dtype=np.float32)
    net = Net(param, weights, threads=1)
    sides = []
    for side in (small, large):
        made = net.run(pixels[:, :side, :side])
        if made.ndim != 3 or made.shape[0] != 3 or made.shape[1] != made.shape[2]:
            raise ModelError(f"it makes an array of the shape {made.shape}, not a square image of 3 channels")
        sides.append(made.shape[1])
    scale, rest = divmod(sides[1] - sides[0], large - small)
    border, odd = divmod(scale * large - sides[1], 2 * max(scale, 1))
    if rest or odd or border < 0:
        raise ModelError(f"it makes {sides[0]} pixels of {small} and {sides[1]} of {large}: no whole factor")
    if not np.isfinite(made).all():
        raise ModelError("it makes numbers that are not finite")
    return {"scale": scale, "border": border, "gpu": _working_gpu(param, weights, pixels, made)}


def _working_gpu(param: Path, weights: Path, pixels: Floats, expected: Floats) -> dict[str, Any] | None:
    """The first Vulkan device that is not the processor: ``name``, and ``index`` if it computes the same."""
    ncnn = imported()
    for index in range(ncnn.get_gpu_count()):
        info = ncnn.get_gpu_info(index)
        if info.type() == CPU_TYPE:
            continue
        name = info.device_name()
        try:
            made = Net(param, weights, gpu=index).run(pixels)
        except ModelError as error:
            return {"name": name, "error": str(error)}
        if made.shape != expected.shape or not np.abs(made - expected).max() <= VULKAN_LIMIT:
            return {"name": name, "error": "its results differ from the processor's"}
        return {"name": name, "index": index}
    return None


def main(param: str, weights: str, small: str, large: str) -> None:
    """Print the outcome of a :func:`trial`, or ``error``."""
    # Some of ncnn's own messages go to stdout.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        outcome = trial(Path(param), Path(weights), int(small), int(large))
    except ModelError as error:
        outcome = {"error": str(error)}
    print(json.dumps(outcome), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
