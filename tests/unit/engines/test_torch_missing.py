"""The torch engine where torch is not installed: this suite's own Python has none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from xalora_client.engines.tiles import Tile
from xalora_client.engines.torch import TorchEngine
from xalora_client.errors import ConfigurationError
from xalora_client.workflows import WorkflowCatalog

needs_no_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="torch is installed in this Python"
)


@needs_no_torch
def test_the_error_says_what_to_install(tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    model.write_bytes(b"weights")
    engine = TorchEngine(model)
    available = engine.available()
    assert not available
    assert 'pip install "xalora[local]"' in available.reason
    png = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
        b"\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
    )
    workflow = WorkflowCatalog.load().get("upscale").bind({"image": "given"})
    with pytest.raises(ConfigurationError, match=r'pip install "xalora\[local\]"'):
        engine.run(workflow, {"image": png}, tmp_path / "out")


def test_importing_the_engine_does_not_import_torch() -> None:
    code = (
        "import sys, xalora_client.engines.torch; print('torch' in sys.modules or 'spandrel' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (100, 37), (512, 513), (1000, 999)])
@pytest.mark.parametrize(("side", "align"), [(32, 1), (64, 4), (100, 8), (2000, 4)])
def test_tiles_cover_every_pixel_once(height: int, width: int, side: int, align: int) -> None:
    tiles = Tile(0, 0, height, width).cut(side, align)
    assert sum(tile.height * tile.width for tile in tiles) == height * width
    assert len({(tile.top, tile.left) for tile in tiles}) == len(tiles)
    for tile in tiles:
        assert 0 < tile.side <= side
        assert tile.top % align == tile.left % align == 0
        assert tile.bottom <= height
        assert tile.right <= width


def test_a_margin_stops_at_the_images_edges_and_starts_on_the_grid() -> None:
    assert Tile(0, 96, 64, 128).widened(10, 70, 200) == Tile(0, 86, 70, 138)
    assert Tile(0, 96, 64, 128).widened(10, 70, 130, 4) == Tile(0, 84, 70, 130)
