"""ComfyUI's own upscaling nodes on the real weights of Real-ESRGAN give the pictures of the ncnn engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from graphs import dump, fresh_seed, image, node, noise
from harness import ComfyUI

from xalora_client.engines.ncnn.models import tried
from xalora_client.engines.ncnn.upscaler import NcnnUpscaler

CONVERTER = Path(__file__).resolve().parents[1] / "with_torch" / "ncnn_weights.py"


@pytest.mark.parametrize("name", ["realesrgan-x4plus", "realesr-animevideov3"])
def test_comfyuis_nodes_and_ncnn_make_the_same_picture(comfyui: ComfyUI, name: str) -> None:
    """Below 512 pixels, which ComfyUI's node takes as one tile."""
    model = tried(name)
    weights = comfyui.root / "models" / "upscale_models" / f"{name}.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    convert = [comfyui.install.python, CONVERTER, model.param.with_suffix(""), weights]
    subprocess.run(convert, check=True, timeout=240)
    try:
        seed = fresh_seed()
        record = comfyui.run(
            {
                "1": image(seed),
                "2": node("UpscaleModelLoader", model_name=weights.name),
                "3": node("ImageUpscaleWithModel", upscale_model=["2", 0], image=["1", 0]),
                "4": dump(["3", 0]),
            },
            timeout=240,
        )
    finally:
        weights.unlink()
    assert record.status == "success", record.describe()
    expected = NcnnUpscaler(model).upscale(noise(seed)[0])
    assert float(np.abs(record.array("4")[0] - expected).max()) <= 2 / 255
