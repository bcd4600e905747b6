"""Upscaling by a model file, on CUDA where there is one and on the CPU elsewhere.

Needs torch and spandrel: run it with a Python that has them, such as ComfyUI's.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed in this Python")
pytest.importorskip("spandrel", reason="spandrel is not installed in this Python")

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tiny_models import REACH, write_compact, write_esrgan  # noqa: E402

from xalora_client import UpscalerTask  # noqa: E402
from xalora_client.config import Settings  # noqa: E402
from xalora_client.engines import EngineCanceledError, EngineProgress  # noqa: E402
from xalora_client.engines.fallback import candidates  # noqa: E402
from xalora_client.engines.pixels import lanczos_resize  # noqa: E402
from xalora_client.engines.torch import SMALLEST_TILE, TorchEngine, TorchUpscaler  # noqa: E402
from xalora_client.errors import ConfigurationError, EngineError  # noqa: E402
from xalora_client.workflows import WorkflowCatalog  # noqa: E402

ONE_STEP = 1 / 255
WHOLE = 10_000  # a tile larger than any image here


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_compact(tmp_path_factory.mktemp("models") / "compact_2x.safetensors")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """float32 [203, 261, 3]: odd sizes, edges and noise."""
    pixels = np.random.default_rng(5).random((203, 261, 3), dtype=np.float32)
    pixels[:, 100:160] = 0.9
    pixels[80:90] *= 0.2
    return pixels


def limit_pixels(upscaler: TorchUpscaler, most: int) -> list[int]:
    """Let the model run out of memory above ``most`` pixels; returns the sizes that were tried."""
    tried: list[int] = []

    def check(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        tried.append(inputs[0].shape[-1] * inputs[0].shape[-2])
        if tried[-1] > most:
            raise torch.OutOfMemoryError(f"Tried to allocate for {tried[-1]} pixels")

    upscaler.descriptor.model.register_forward_pre_hook(check)
    return tried


def test_tiles_leave_no_seams_and_without_overlap_they_would(compact: Path, image: np.ndarray) -> None:
    whole = TorchUpscaler(compact, tile=WHOLE, half=False).upscale(image)
    assert whole.shape == (406, 522, 3)

    def difference(overlap: int | None) -> float:
        tiled = TorchUpscaler(compact, tile=64, overlap=overlap, half=False).upscale(image)
        return float(np.abs(tiled - whole).max())

    assert difference(None) <= ONE_STEP
    assert difference(REACH) <= 1e-5, "an overlap as wide as the model looks leaves rounding errors only"
    assert difference(0) > ONE_STEP
    assert difference(REACH - 2) > difference(REACH)


def test_the_measured_overlap_covers_what_the_model_looks_at(compact: Path) -> None:
    # The smallest that there is to choose from, and already wider than this model looks.
    assert REACH <= TorchUpscaler(compact).overlap == 8


@pytest.mark.parametrize("in_blocks", [False, True], ids=["esrgan 4x", "esrgan 2x in blocks of pixels"])
def test_other_architectures_tile_as_well(tmp_path: Path, image: np.ndarray, in_blocks: bool) -> None:
    path = write_esrgan(tmp_path / "esrgan.safetensors", in_blocks=in_blocks)
    small = image[:61, :91]
    whole = TorchUpscaler(path, tile=WHOLE, half=False).upscale(small)
    scale = 2 if in_blocks else 4
    assert whole.shape == (61 * scale, 91 * scale, 3)
    assert whole.std() > 0
    tiled = TorchUpscaler(path, tile=33, half=False).upscale(small)
    assert float(np.abs(tiled - whole).max()) <= ONE_STEP


def test_tiles_are_halved_until_they_fit_the_memory(compact: Path, image: np.ndarray) -> None:
    whole = TorchUpscaler(compact, tile=WHOLE, half=False).upscale(image)
    upscaler = TorchUpscaler(compact, tile=512, overlap=REACH, half=False)
    tried = limit_pixels(upscaler, 90 * 90)
    totals: list[tuple[int, int]] = []
    halved = upscaler.upscale(image, on_tile=lambda done, total: totals.append((done, total)))
    assert float(np.abs(halved - whole).max()) <= ONE_STEP
    assert tried[0] == 203 * 261, "the whole image was tried first"
    assert upscaler.tile == 51
    assert [size for size in tried if size > 90 * 90] == tried[:2], "no size failed twice"
    assert totals[-1] == (len(tried) - 2, len(tried) - 2)

    tried.clear()
    upscaler.upscale(image)
    assert max(tried) <= 90 * 90, "the size that fits is remembered"


def test_only_tiles_that_failed_are_done_again(compact: Path, image: np.ndarray) -> None:
    upscaler = TorchUpscaler(compact, tile=128, overlap=REACH, half=False)
    runs = 0

    def fail_once(_module: object, _inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise torch.OutOfMemoryError("another program took the memory")

    upscaler.descriptor.model.register_forward_pre_hook(fail_once)
    totals: list[tuple[int, int]] = []
    result = upscaler.upscale(image, on_tile=lambda done, total: totals.append((done, total)))
    whole = TorchUpscaler(compact, tile=WHOLE, half=False).upscale(image)
    assert float(np.abs(result - whole).max()) <= ONE_STEP
    assert totals[1] == (2, 6)
    assert totals[-1][0] == totals[-1][1] == runs - 1 == 2 + 4 * 4


def test_a_memory_too_small_for_any_tile_is_an_error_and_no_endless_loop(
    compact: Path, image: np.ndarray
) -> None:
    upscaler = TorchUpscaler(compact, tile=256, half=False)
    tried = limit_pixels(upscaler, 10)
    with pytest.raises(EngineError, match=r"does not suffice for a tile of \d+ px .*Tried to allocate"):
        upscaler.upscale(image)
    assert len(tried) == 3
    assert SMALLEST_TILE <= upscaler.tile < 2 * SMALLEST_TILE


def test_other_failures_of_the_model_are_not_taken_for_a_lack_of_memory(
    compact: Path, image: np.ndarray
) -> None:
    upscaler = TorchUpscaler(compact, half=False)

    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    upscaler.descriptor.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        upscaler.upscale(image)


def test_alpha_and_any_factor(compact: Path, image: np.ndarray) -> None:
    upscaler = TorchUpscaler(compact, half=False)
    alpha = np.linspace(0, 1, image.shape[1], dtype=np.float32)[None, :, None].repeat(image.shape[0], 0)
    result = upscaler.upscale(np.concatenate([image, alpha], axis=2))
    assert result.shape == (406, 522, 4)
    np.testing.assert_array_equal(result[..., :3], upscaler.upscale(image))
    np.testing.assert_array_equal(result[..., 3:], lanczos_resize(alpha, 522, 406))
    assert upscaler.upscale(image, factor=1.5).shape == (304, 392, 3)


def test_a_gray_model_takes_the_channels_one_by_one(tmp_path: Path, image: np.ndarray) -> None:
    upscaler = TorchUpscaler(write_compact(tmp_path / "gray.safetensors", channels=1), half=False)
    result = upscaler.upscale(image)
    red = upscaler.upscale(image[..., :1].repeat(3, axis=2))
    np.testing.assert_allclose(result[..., 0], red[..., 1], atol=1e-6)


@pytest.mark.cuda
def test_half_precision_on_cuda_is_as_good_as_single(compact: Path, image: np.ndarray) -> None:
    upscaler = TorchUpscaler(compact)
    assert upscaler.descriptor.dtype == torch.float16
    assert upscaler.device_name.startswith("cuda:0 ")
    single = TorchUpscaler(compact, half=False).upscale(image)
    assert float(np.abs(upscaler.upscale(image) - single).max()) <= 2 * ONE_STEP


def test_a_model_that_overflows_16_bits_goes_on_in_32(compact: Path, image: np.ndarray) -> None:
    upscaler = TorchUpscaler(compact, device="cpu", half=True)
    assert upscaler.descriptor.dtype == torch.float16

    def overflow(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * torch.nan if output.dtype == torch.float16 else output

    upscaler.descriptor.model.register_forward_hook(overflow)
    result = upscaler.upscale(image[:40, :40])
    assert upscaler.descriptor.dtype == torch.float32
    assert np.isfinite(result).all()


# The engine around it.


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def run(tmp_path: Path, image: np.ndarray) -> Callable[..., object]:
    workflow = WorkflowCatalog.load().get("upscale").bind({"image": "given"})

    def run_engine(engine: TorchEngine, **options: object) -> object:
        return engine.run(workflow, {"image": png(image)}, tmp_path / "result", **options)

    return run_engine


@pytest.mark.parametrize("scale", [2, 4])
def test_the_engine_gives_a_png_of_exactly_twice_the_size(
    tmp_path: Path, image: np.ndarray, run: Callable[..., object], scale: int
) -> None:
    path = write_compact(tmp_path / f"model_{scale}x.safetensors", scale)
    engine = TorchEngine(path, tile=100, half=False)
    assert engine.available()
    seen: list[EngineProgress] = []
    done = run(engine, on_progress=seen.append)
    assert done.files == (tmp_path / "result.png",)
    assert done.engine == "torch"
    assert done.device == engine.available().device != ""
    assert path.name in done.note
    assert ("LANCZOS" in done.note) == (scale == 4)
    assert [progress.done for progress in seen] == list(range(1, len(seen) + 1))
    with Image.open(done.files[0]) as result:
        pixels = np.asarray(result, dtype=np.float32) / 255
    rounded = np.rint(image * 255) / 255
    expected = TorchUpscaler(path, half=False).upscale(rounded.astype(np.float32), factor=2)
    assert pixels.shape == (406, 522, 3)
    assert float(np.abs(pixels - expected).max()) <= 1.5 * ONE_STEP


def test_a_canceled_run_stops_at_the_next_tile(
    compact: Path, tmp_path: Path, run: Callable[..., object]
) -> None:
    cancel = threading.Event()
    engine = TorchEngine(compact, tile=64)
    seen: list[EngineProgress] = []

    def stop_at_the_second(progress: EngineProgress) -> None:
        seen.append(progress)
        if progress.done == 2:
            cancel.set()

    with pytest.raises(EngineCanceledError):
        run(engine, on_progress=stop_at_the_second, cancel=cancel)
    assert len(seen) == 2
    assert not list(tmp_path.glob("result*"))


def test_a_cancel_does_not_wait_for_the_tile(compact: Path, image: np.ndarray) -> None:
    """On a processor without GPU one takes minutes."""
    upscaler = TorchUpscaler(compact, tile=WHOLE)
    cancel = threading.Event()
    layers = list(upscaler.descriptor.model.modules())
    begun: list[object] = []

    def cancel_at_the_third(module: object, _inputs: object) -> None:
        begun.append(module)
        if len(begun) == 3:
            cancel.set()

    hooks = [layer.register_forward_pre_hook(cancel_at_the_third) for layer in layers]
    with pytest.raises(EngineCanceledError):
        upscaler.upscale(image, cancel=cancel)
    assert len(begun) == 3 < len(layers) - 1
    for hook in hooks:
        hook.remove()
    assert upscaler.upscale(image[:8, :8]).shape == (16, 16, 3), "the next image is not stopped"
    with pytest.raises(EngineCanceledError):
        TorchUpscaler(compact, cancel=cancel)


def test_tasks_of_one_model_share_its_engine(compact: Path, tmp_path: Path) -> None:
    """The model is loaded once for all images of a batch."""
    settings = Settings(upscale_model=compact, state_dir=tmp_path)

    def chosen(image: np.ndarray) -> TorchEngine:
        ((engine, _),) = candidates(UpscalerTask(image), settings, "torch", [])
        assert isinstance(engine, TorchEngine)
        return engine

    first = np.zeros((8, 8, 3), np.uint8)
    assert chosen(first) is chosen(first + 1)


def test_files_that_are_no_upscale_model_are_named(tmp_path: Path, run: Callable[..., object]) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match=r"broken\.safetensors can't be used as an upscale model"):
        run(TorchEngine(broken))
    with pytest.raises(ConfigurationError, match="without enlarging"):
        run(TorchEngine(write_compact(tmp_path / "denoise.safetensors", 1)))
    absent = TorchEngine(tmp_path / "absent.pth")
    assert "absent.pth is missing" in absent.available().reason
    with pytest.raises(ConfigurationError, match=r"absent\.pth is missing"):
        run(absent)
    assert "XALORA_UPSCALE_MODEL" in TorchEngine(None).available().reason
