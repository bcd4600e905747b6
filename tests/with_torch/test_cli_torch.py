"""`xalora upscale --engine torch` on a model file, as a shell runs it: no network, no key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_models import write_compact

pytest.importorskip("typer", reason="the command line needs typer, which this environment lacks")

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_model_file_upscales_from_the_shell(tmp_path: Path) -> None:
    model = write_compact(tmp_path / "compact_2x.safetensors")
    pixels = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "xalora_client", "upscale", "photo.png"),
            *("--engine", "torch", "-o", "out.png", "--json"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "XALORA_STATE_DIR": str(tmp_path / "state"),
            "XALORA_UPSCALE_MODEL": str(model),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (result,) = json.loads(ended.stdout)["results"]
    assert (result["engine"], result["task_id"], result["status"]) == ("torch", None, "done")
    assert result["device"]
    with Image.open(tmp_path / "out.png") as upscaled:
        assert upscaled.size == (112, 80)
        made = np.asarray(upscaled)
        # The model's own work, and not the LANCZOS of the last resort.
        lanczos = Image.fromarray(pixels).resize(upscaled.size, Image.Resampling.LANCZOS)
    assert np.abs(made.astype(int) - np.asarray(lanczos)).max() > 8
