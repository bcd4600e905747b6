"""`xalora ... --engine comfyui` against the real server, as a shell runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness import ComfyUI
from PIL import Image


def ended(comfyui: ComfyUI, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xalora_client", *arguments, "--json"],
        cwd=folder,
        env={**os.environ, "XALORA_COMFYUI_URL": comfyui.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def xalora(comfyui: ComfyUI, folder: Path, *arguments: str) -> dict[str, Any]:
    done = ended(comfyui, folder, *arguments)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    return dict(result)


def test_a_server_without_models_upscales_by_lanczos_only_where_it_is_named(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    refused = ended(comfyui, tmp_path, "upscale", "photo.png", "--engine", "comfyui", "-o", "out.png")
    assert refused.returncode == 5
    assert "models/upscale_models" in refused.stdout
    named = ("run", "lanczos-upscale", "-p", "image=photo.png", "-o", "out.png")
    result = xalora(comfyui, tmp_path, *named, "--engine", "comfyui")
    assert (result["engine"], result["task_id"]) == ("comfyui", None)
    with Image.open(tmp_path / "out.png") as made:
        assert made.size == (80, 60)


def test_a_definition_runs_on_the_server(comfyui: ComfyUI, tmp_path: Path) -> None:
    result = xalora(
        comfyui,
        tmp_path,
        *("run", "gradient-video", "--engine", "comfyui"),
        *("-p", "prompt=a gradient", "-p", "width=64", "-p", "height=64", "-p", "length=8"),
    )
    assert result["engine"] == "comfyui"
    assert [Path(file).suffix for file in result["files"]] == [".mp4"]
