"""A workflow that ComfyUI exported, run by its server and by an own network, without any other file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import ComfyUI
from PIL import Image

from xalora_client import Xalora
from xalora_client.devnet import DevnetThread
from xalora_client.devnet.comfyui_engine import ComfyUIMinerEngine
from xalora_client.workflows import WorkflowCatalog

SHARPEN = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}, "_meta": {"title": "Load Image"}},
    "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 1, "sigma": 1.0}},
    "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "own", "images": ["2", 0]}},
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "my_api.json").write_text(json.dumps(SHARPEN), encoding="utf-8")
    noise = np.random.default_rng(8).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path


def contrast(path: Path) -> float:
    with Image.open(path) as image:
        assert image.size == (48, 40)
        return float(np.asarray(image.convert("RGB"), float).std())


def test_the_shell_runs_an_exported_file_on_the_server(comfyui: ComfyUI, files: Path) -> None:
    for radius in ("1", "9"):
        given = ("-p", "image=photo.png", "-p", f"2.blur_radius={radius}", "-p", "2.sigma=5")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "xalora_client", "run", "my_api.json", *given),
                *("--engine", "comfyui", "-o", f"blur{radius}.png"),
            ],
            cwd=files,
            env={**os.environ, "XALORA_COMFYUI_URL": comfyui.url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert contrast(files / "blur9.png") < contrast(files / "blur1.png") < contrast(files / "photo.png")


def test_an_own_network_runs_an_exported_file(comfyui: ComfyUI, files: Path) -> None:
    engine = ComfyUIMinerEngine(comfyui.url, WorkflowCatalog.load())
    with (
        DevnetThread(miners=1, engine=engine, workflow_ids=engine.workflow_ids()) as devnet,
        Xalora(devnet.api_key, devnet.url, fallback="never") as client,
    ):
        blurred = [
            client.run(
                client.workflow(files / "my_api.json", inputs={"2.blur_radius": radius, "2.sigma": 5.0}).task(
                    image=files / "photo.png"
                )
            )
            for radius in (1, 9)
        ]
        assert [result.engine for result in blurred] == ["xalora", "xalora"]
        assert contrast(blurred[1].files[0]) < contrast(blurred[0].files[0]) < contrast(files / "photo.png")
        assert devnet.stats()["creates"] == 2


def test_the_lines_of_the_docs_run_it_by_a_name_and_on_an_own_network(comfyui: ComfyUI, files: Path) -> None:
    environment = {
        **os.environ,
        "XALORA_WORKFLOWS_DIR": str(files / "workflows"),
        "XALORA_STATE_DIR": str(files / "state"),
        "XALORA_FALLBACK": "never",
    }
    command = (sys.executable, "-m", "xalora_client")

    def xalora(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=files,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    devnet = subprocess.Popen(
        [*command, "devnet", "--comfyui", comfyui.url, "--miners", "1", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert devnet.stdout is not None
        address = json.loads(devnet.stdout.readline())
        # While the network runs.
        added = xalora("workflows", "add", "my_api.json", "--name", "soft", "--param", "radius=2.blur_radius")
        assert added.returncode == 0, added.stderr
        environment |= {"XALORA_WORKFLOW_URL": address["url"], "XALORA_API_KEY": address["api_key"]}
        for run in (
            ("soft", "-p", "image=photo.png", "-p", "radius=9", "-o", "named.png"),
            ("my_api.json", "-p", "image=photo.png", "-p", "2.blur_radius=9", "-o", "file.png"),
        ):
            done = xalora("run", *run)
            assert done.returncode == 0, done.stderr
            assert "the network (miner1)" in done.stdout
    finally:
        devnet.terminate()
        devnet.communicate(timeout=30)
    assert contrast(files / "named.png") == contrast(files / "file.png") < contrast(files / "photo.png")
