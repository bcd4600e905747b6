"""XaloraUpscaleImage in a real ComfyUI, against the devnet."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from harness import ComfyUI, SessionDevnet
from PIL import Image


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def fresh() -> str:
    return uuid.uuid4().hex


def fresh_seed() -> int:
    return uuid.uuid4().int % 2**31


def test_one_image_comes_back_at_the_networks_size(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": node("XaloraTestImage", width=40, height=30, seed=seed),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": node("XaloraTestDump", image=["2", 0], name=fresh()),
        }
    )
    assert record.status == "success"
    sent = np.random.default_rng(seed).random((1, 30, 40, 3), dtype=np.float32)
    expected = Image.fromarray((sent[0] * 255 + 0.5).astype(np.uint8)).resize(
        (80, 60), Image.Resampling.LANCZOS
    )
    np.testing.assert_allclose(record.array("3")[0], np.asarray(expected) / 255, atol=1e-6)
    assert devnet.new_stats()["tasks"] == {"finished": 1}
