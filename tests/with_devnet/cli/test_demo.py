"""``xalora demo``, with settings of the user that it must not use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xalora_client.cli.demo.command import _photographs
from xalora_client.cli.demo.photographs import SHIPPED

CEILING = 120

# With these the demo would cost money or upload pictures.
OWN_SETTINGS = {
    "XALORA_API_KEY": "alice#very-secret",
    "XALORA_WORKFLOW_URL": "http://127.0.0.1:9",
    "XALORA_STORE_URL": "s3://alices-bucket/inputs",
    "XALORA_INLINE_LIMIT": "1",
    "XALORA_FALLBACK": "local_only",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "",
    "no_proxy": "",
}


def demo(
    folder: Path, *arguments: object, timeout: float = CEILING, env: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xalora_client", "demo", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **OWN_SETTINGS, "COLUMNS": "120", "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "holiday.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 36, 3), np.uint8)).save(path)
    return path


def test_the_users_own_pictures_come_back_with_test_cards_and_a_sheet(tmp_path: Path, photo: Path) -> None:
    done = demo(tmp_path, photo)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "demo-output").iterdir()}
    assert made == {"holiday.xalora.png", "test-card-video.mp4", "test-card-image.jpg", "contact-sheet.png"}
    with Image.open(tmp_path / "demo-output" / "holiday.xalora.png") as image:
        assert image.size == (144, 96)
    for word in ("Task", "Engine", "Miner", "Queued", "Run", "Transfer", "Total"):
        assert word in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("holiday", "test-card"))]
    assert len(rows) == 3
    assert all(any(cell.startswith("miner") for cell in row) for row in rows)
    assert "realesrgan-x4plus 4x: about" in done.stdout


def test_nothing_of_the_users_own_is_touched(tmp_path: Path, photo: Path) -> None:
    assert demo(tmp_path, photo).returncode == 0
    assert not Path(os.environ["XALORA_STATE_DIR"]).exists()


def test_again_replaces_its_own_folder_and_no_other(tmp_path: Path, photo: Path) -> None:
    assert demo(tmp_path, photo).returncode == 0
    assert demo(tmp_path, photo).returncode == 0
    guest = tmp_path / "album"
    guest.mkdir()
    (guest / "contact-sheet.png").write_bytes(b"mine")
    refused = demo(tmp_path, photo, "-o", "album")
    assert refused.returncode == 2
    assert "would be overwritten" in refused.stderr
    assert (guest / "contact-sheet.png").read_bytes() == b"mine"


def test_an_unreadable_picture_fails_alone(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = demo(tmp_path, photo, "broken.png", "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert [result["status"] for result in document["results"]] == ["done", "failed", "done", "done"]
    assert (tmp_path / document["contact_sheet"]).exists()


@pytest.mark.timeout(300)
def test_a_shipped_photograph_gains_by_the_model(tmp_path: Path) -> None:
    """One of the five: each takes four seconds of a processor, and minutes of a busy one."""
    assert _photographs(None) == list(SHIPPED)
    done = demo(tmp_path, SHIPPED[2].path, timeout=280)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "demo-output" / "coffee.xalora.png") as image:
        assert image.size == (512, 512)
        made_by_model = np.asarray(image.convert("L"), np.float32)
    with Image.open(SHIPPED[2].path) as image:
        lanczos = np.asarray(image.convert("L").resize((512, 512), Image.Resampling.LANCZOS), np.float32)
    assert 1 < float(np.abs(made_by_model - lanczos).mean()) < 20


def test_a_large_picture_gets_a_faster_model(tmp_path: Path) -> None:
    Image.new("RGB", (900, 700), "teal").save(tmp_path / "large.png")
    done = demo(tmp_path, "large.png", "--json")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "demo-output" / "large.xalora.png") as image:
        assert image.size == (1800, 1400)


def test_without_ncnn_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ncnn'] = None\n")
    done = demo(tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert 'pip install "xalora[demo]"' in done.stderr
