"""The real weights of Real-ESRGAN, in torch and in ncnn: the same pictures, and tiles without seams."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed in this Python")
pytest.importorskip("spandrel", reason="spandrel is not installed in this Python")
pytest.importorskip("ncnn", reason="ncnn is not installed in this Python")

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ncnn_weights import write_pytorch  # noqa: E402
from PIL import Image  # noqa: E402

from xalora_client.cli.demo.photographs import FOLDER  # noqa: E402
from xalora_client.engines.ncnn.models import tried  # noqa: E402
from xalora_client.engines.ncnn.upscaler import NcnnUpscaler  # noqa: E402
from xalora_client.engines.torch import TorchUpscaler  # noqa: E402

ONE_STEP = 1 / 255
X4PLUS, ANIME = "realesrgan-x4plus", "realesr-animevideov3"


def photograph(name: str, side: int) -> np.ndarray:
    """The middle of one of the demo's photographs, float32 ``[side, side, 3]`` in 0..1."""
    with Image.open(FOLDER / f"{name}.png") as image:
        start = (128 - side) // 2
        return np.asarray(image, np.float32)[start : start + side, start : start + side] / 255


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """torch's threads spin while they wait for each other, which on a busy machine takes minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files for torch by the name of the model."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        name: write_pytorch(tried(name).param.with_suffix(""), folder / f"{name}.pth")
        for name in (X4PLUS, ANIME)
    }


@pytest.mark.parametrize(("name", "side"), [(X4PLUS, 32), (ANIME, 96)])
def test_torch_and_ncnn_make_the_same_picture(weights: dict[str, Path], name: str, side: int) -> None:
    image = photograph("chelsea", side)
    by_torch = np.clip(
        TorchUpscaler(weights[name], device="cpu", overlap=64, half=False).upscale(image), 0, 1
    )
    by_ncnn = NcnnUpscaler(tried(name)).upscale(image)
    assert float(np.abs(by_torch - by_ncnn).max()) <= 2 * ONE_STEP
    assert by_ncnn.std() > 0.05


def test_the_overlap_that_torch_measures_leaves_no_seams(weights: dict[str, Path]) -> None:
    """With the compact network: with x4plus the measurement alone takes a minute."""
    image = photograph("coffee", 96)
    whole = TorchUpscaler(weights[ANIME], device="cpu", tile=1000, half=False)
    tiled = TorchUpscaler(weights[ANIME], device="cpu", tile=40, overlap=whole.overlap, half=False)
    torn = TorchUpscaler(weights[ANIME], device="cpu", tile=40, overlap=0, half=False)
    expected = whole.upscale(image)
    assert float(np.abs(tiled.upscale(image) - expected).max()) <= ONE_STEP
    assert float(np.abs(torn.upscale(image) - expected).max()) > ONE_STEP


@pytest.mark.cuda
@pytest.mark.parametrize("name", [X4PLUS, ANIME])
def test_half_precision_on_cuda_is_close_to_ncnn(weights: dict[str, Path], name: str) -> None:
    image = photograph("chelsea", 64)
    by_torch = np.clip(TorchUpscaler(weights[name], overlap=64).upscale(image), 0, 1)
    by_ncnn = NcnnUpscaler(tried(name)).upscale(image)
    assert float(np.abs(by_torch - by_ncnn).mean()) <= ONE_STEP
