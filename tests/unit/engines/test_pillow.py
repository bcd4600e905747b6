"""The LANCZOS engine."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xalora_client.engines import EngineCanceledError, EngineProgress
from xalora_client.engines.pillow import PillowEngine
from xalora_client.engines.pixels import lanczos_resize, lanczos_upscale
from xalora_client.errors import EngineError, InputImageError
from xalora_client.workflows import BoundWorkflow, WorkflowCatalog


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def workflow() -> BoundWorkflow:
    return WorkflowCatalog.load().get("upscale").bind({"image": "given"})


def test_the_result_is_pillows_own_lanczos_of_twice_the_size(
    workflow: BoundWorkflow, picture: Image.Image, tmp_path: Path
) -> None:
    seen: list[EngineProgress] = []
    run = PillowEngine().run(
        workflow, {"image": encoded(picture)}, tmp_path / "out" / "cat.v2", on_progress=seen.append
    )
    assert run.files == (tmp_path / "out" / "cat.v2.png",)
    with Image.open(run.files[0]) as result:
        expected = picture.resize((106, 74), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))
    assert (run.engine, run.device) == ("pillow", "CPU (LANCZOS)")
    assert "LANCZOS" in run.note
    assert seen[-1].done == seen[-1].total
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cat.v2.png"]


def test_transparency_is_kept(workflow: BoundWorkflow, tmp_path: Path) -> None:
    image = Image.new("RGBA", (10, 6), (200, 100, 50, 0))
    image.paste((10, 20, 30, 255), (0, 0, 5, 6))
    run = PillowEngine().run(workflow, {"image": encoded(image)}, tmp_path / "a")
    with Image.open(run.files[0]) as result:
        assert result.mode == "RGBA"
        alpha = np.asarray(result)[..., 3]
    assert alpha[:, 2].min() == 255
    assert alpha[:, -2].max() == 0


def test_only_upscaling_of_one_image_is_its_work(workflow: BoundWorkflow, tmp_path: Path) -> None:
    engine = PillowEngine()
    assert engine.available()
    assert engine.can_run(workflow)
    video = WorkflowCatalog.load().get("gradient-video").bind({"prompt": "x"})
    assert not engine.can_run(video)
    with pytest.raises(EngineError, match="was given 0"):
        engine.run(workflow, {}, tmp_path / "a")


def test_a_canceled_run_leaves_no_file(workflow: BoundWorkflow, picture: Image.Image, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(EngineCanceledError):
        PillowEngine().run(workflow, {"image": encoded(picture)}, tmp_path / "a", cancel=cancel)
    assert not list(tmp_path.glob("a*"))


def test_half_an_image_is_no_result(workflow: BoundWorkflow, picture: Image.Image, tmp_path: Path) -> None:
    data = encoded(picture)
    with pytest.raises(InputImageError):
        PillowEngine().run(workflow, {"image": data[: len(data) // 2]}, tmp_path / "a")
    assert not list(tmp_path.glob("a*"))


def test_floats_are_rounded_and_clipped() -> None:
    image = np.full((4, 4, 3), 100.6 / 255, np.float32)
    image[0, 0] = 7.0
    result = lanczos_upscale(image)
    assert result.dtype == np.uint8
    assert result.shape == (8, 8, 3)
    assert result[-1, -1].tolist() == [101, 101, 101]


def test_resizing_in_float_keeps_what_8_bits_would_lose() -> None:
    ramp = np.repeat(np.linspace(0.5, 0.501, 64, dtype=np.float32)[None, :, None], 8, axis=0).repeat(
        3, axis=2
    )
    smaller = lanczos_resize(ramp, 32, 4)
    assert smaller.shape == (4, 32, 3)
    assert np.all(np.diff(smaller[0, 3:-3, 0]) > 0), "neighbours a fraction of 1/255 apart stay apart"
    assert lanczos_resize(np.full((2, 2, 4), 2.0, np.float32), 4, 4).max() == 1.0
