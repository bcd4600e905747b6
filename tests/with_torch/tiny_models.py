"""Small upscale models with made-up weights, in files that spandrel and ComfyUI load like real ones.

Run as a program, it writes one for tests whose own Python has no torch::

    python tiny_models.py PATH [SCALE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

CONVOLUTIONS = 4
REACH = CONVOLUTIONS + 2
"""How many pixels around a pixel count for it in a compact model: one for each 3x3 convolution."""


def write_compact(path: Path, scale: int = 2, channels: int = 3) -> Path:
    """A compact model (SRVGG) whose result shows every pixel that it looks at."""
    torch.manual_seed(1)
    model = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=CONVOLUTIONS, upscale=scale)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            # Rather even weights of one sign, so that far pixels count instead of averaging out.
            if weights.ndim == 4:
                weights.copy_(weights.abs() * 0.9 + weights * 0.1)
                weights.div_(weights.sum(dim=(1, 2, 3), keepdim=True))
            elif name.endswith("bias"):
                weights.zero_()
        # The network adds its output to the enlarged input: less than zero, or all would be white.
        model.body[-1].weight.mul_(-0.6)
    save_file(model.state_dict(), path)
    return path


def write_esrgan(path: Path, *, in_blocks: bool) -> Path:
    """An ESRGAN of scale 4, or of scale 2 on blocks of 2x2 pixels as RealESRGAN_x2plus works."""
    torch.manual_seed(2)
    shuffle = {"in_nc": 12, "shuffle_factor": 2} if in_blocks else {"in_nc": 3}
    model = ESRGAN(out_nc=3, num_filters=8, num_blocks=1, scale=4, **shuffle)
    save_file({name: weights.contiguous() for name, weights in model.state_dict().items()}, path)
    return path


if __name__ == "__main__":
    write_compact(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
