"""The layers of an ncnn .param file, and what they tell about a model. No I/O, no ncnn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAGIC = "7767517"

# The low-resolution pixels that these layers after the trunk look at are covered by TAIL_OVERLAP.
_TAIL = {"Interp", "Convolution"}
TAIL_OVERLAP = 2

PAUSES = 32
_HEAVY = {"Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct", "Gemm", "MatMul"}
_ENLARGING = {"Interp", "PixelShuffle", "Deconvolution"}

_CHANNELS_KEPT = {
    "Split",
    "PReLU",
    "ReLU",
    "Interp",
    "BinaryOp",
    "Eltwise",
    "Clip",
    "Sigmoid",
    "UnaryOp",
    "Crop",
}


@dataclass(frozen=True)
class Layer:
    """One line of the file: its type, the blobs that it reads and writes, its parameters by number."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, str]

    def number(self, key: int, default: int = 0) -> int:
        """An integer parameter.

        Raises:
            ValueError: It is no integer.
        """
        return int(self.values.get(str(key), default))


@dataclass(frozen=True)
class Stages:
    """A model in parts that can be run one after another.

    Attributes:
        blocks: The blobs at the ends of the blocks of the trunk, in order.
        features: The blob between the trunk, which looks far, and the tail, which enlarges and looks
            :data:`TAIL_OVERLAP` pixels far.
        output: The blob at the end.
    """

    blocks: tuple[str, ...]
    features: str
    output: str


def read_layers(text: str) -> list[Layer]:
    """The layers of a .param file.

    Raises:
        ValueError: It is no such file; the message says why.
    """
    lines = text.split("\n")
    if lines[0].strip() != MAGIC:
        raise ValueError(f"its first line is not {MAGIC}")
    layers = [_layer(line.split()) for line in lines[2:] if line.strip()]
    if not layers:
        raise ValueError("it has no layers")
    return layers


def _layer(words: Sequence[str]) -> Layer:
    try:
        ins, outs = int(words[2]), int(words[3])
        blobs = words[4 : 4 + ins + outs]
        pairs = dict(word.split("=", 1) for word in words[4 + ins + outs :])
    except (IndexError, ValueError):
        raise ValueError(f"it has a line that is no layer: {' '.join(words)[:80]}") from None
    if len(blobs) != ins + outs:
        raise ValueError(f"it has a line that is no layer: {' '.join(words)[:80]}")
    return Layer(words[0], tuple(blobs[:ins]), tuple(blobs[ins:]), pairs)


def stages_of(layers: Sequence[Layer]) -> Stages | None:
    """The stages of a model of Real-ESRGAN's RRDBNet, None for another architecture.

    A block is three dense blocks, each with an Eltwise at its end, and one Eltwise over all three. The only
    BinaryOp adds the first features to the trunk's.
    """
    sums = [layer.outputs[0] for layer in layers if layer.kind == "Eltwise"]
    joins = [index for index, layer in enumerate(layers) if layer.kind == "BinaryOp"]
    if not sums or len(sums) % 4 or len(joins) != 1:
        return None
    tail = layers[joins[0] + 1 :]
    if not tail or any(layer.kind not in _TAIL for layer in tail):
        return None
    return Stages(tuple(sums[3::4]), layers[joins[0]].outputs[0], tail[-1].outputs[0])


def pauses_of(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Blobs, in order, before and after which a model of any architecture computes for about equally long.

    They are outputs of layers that compute much: some :data:`PAUSES` of them, and each one after the model
    has begun to enlarge, since those compute the most.
    """
    heavy = [index for index, layer in enumerate(layers) if layer.kind in _HEAVY][:-1]
    enlarging = next((index for index, layer in enumerate(layers) if layer.kind in _ENLARGING), len(layers))
    every = -(-len(heavy) // PAUSES)
    chosen = [index for n, index in enumerate(heavy, 1) if n % every == 0 or index >= enlarging]
    return tuple(layers[index].outputs[0] for index in chosen)


def input_channels(layers: Iterable[Layer]) -> int | None:
    """How many channels the first convolutions take, None where the layers before them hide it.

    ncnn itself does not check it: it reads on in memory that holds something else.

    Raises:
        ValueError: A convolution's parameters do not fit together.
    """
    # Blob -> how many of its channels are one of the input's.
    factor: dict[str, int] = {}
    for layer in layers:
        if layer.kind == "Input":
            factor.update(dict.fromkeys(layer.outputs, 1))
        if not layer.inputs or not all(blob in factor for blob in layer.inputs):
            continue
        if layer.kind in ("Convolution", "Deconvolution"):
            taken = _taken_channels(layer)
            if taken % factor[layer.inputs[0]]:
                raise ValueError(f"a convolution takes {taken} channels of an input in blocks")
            return taken // factor[layer.inputs[0]]
        if layer.kind == "Reorg":
            factor[layer.outputs[0]] = factor[layer.inputs[0]] * layer.number(0, 1) ** 2
        elif layer.kind in _CHANNELS_KEPT:
            factor.update(dict.fromkeys(layer.outputs, factor[layer.inputs[0]]))
    return None


def _taken_channels(layer: Layer) -> int:
    width = layer.number(1)
    area = width * layer.number(11, width) * layer.number(0)
    weights = layer.number(6)
    if area <= 0 or weights % area:
        raise ValueError(f"a convolution has {weights} weights for {layer.number(0)} channels")
    return weights // area
