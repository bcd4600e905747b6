"""Models of the user's own, whole and broken, and packaged files that are not the known ones."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xalora_client.engines.ncnn import models
from xalora_client.engines.ncnn.engine import note
from xalora_client.engines.ncnn.models import PACKAGED, lacking, packaged, tried
from xalora_client.engines.ncnn.param import input_channels, read_layers, stages_of
from xalora_client.engines.ncnn.upscaler import NcnnUpscaler, upscaler
from xalora_client.errors import ConfigurationError, XaloraError


def packaged_pair(name: str) -> tuple[Path, Path]:
    model = packaged(name)
    assert model is not None
    spec = importlib.util.find_spec(model.package)
    assert spec is not None and spec.submodule_search_locations
    stem = Path(spec.submodule_search_locations[0]) / "models" / model.stem
    return stem.with_suffix(".param"), stem.with_suffix(".bin")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's copy of a small model, in a folder whose name is not ASCII: its .param file."""
    folder = tmp_path / "Größe ☃"
    folder.mkdir()
    for path in packaged_pair("realesr-animevideov3"):
        shutil.copy(path, folder / f"own{path.suffix}")
    return folder / "own.param"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    tried.cache_clear()


def test_a_model_of_the_users_is_found_out_and_used(own: Path, photo: np.ndarray) -> None:
    model = tried(own)
    assert (model.scale, model.border, model.overlap, model.is_packaged) == (4, 0, 64, False)
    made_by = NcnnUpscaler(model)
    np.testing.assert_array_equal(made_by.upscale(photo), upscaler("realesr-animevideov3").upscale(photo))
    assert note(made_by, 100, 400) == "Upscaled with own.param (4x), in tiles that overlap by 64 pixels."
    assert tried(own.with_suffix(".bin")).param == own, "either file names the pair"


def test_a_model_that_takes_pixels_from_each_side_is_found_out(tmp_path: Path) -> None:
    for path in packaged_pair("waifu2x-photo"):
        shutil.copy(path, tmp_path / f"waifu{path.suffix}")
    model = tried(tmp_path / "waifu.param")
    assert (model.scale, model.border) == (2, 7)


def refused(param: Path, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        tried(param)
    assert str(param) in caught.value.what
    assert "XALORA_UPSCALE_MODEL" in caught.value.next_step


@pytest.mark.parametrize("kept", [0, 3, 1000, -5])
def test_a_truncated_bin_is_a_typed_error(own: Path, kept: int) -> None:
    weights = own.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:kept])
    refused(own, r"too short or damaged")


def test_a_bin_that_is_longer_than_the_model_is_refused(own: Path) -> None:
    with own.with_suffix(".bin").open("ab") as file:
        file.write(bytes(64))
    refused(own, r"has 1247432 bytes where the model has 1247368")


def test_the_larger_bin_of_another_model_is_refused(own: Path) -> None:
    shutil.copy(packaged_pair("realesrgan-x4plus")[1], own.with_suffix(".bin"))
    refused(own, r"33424520 bytes where the model has|damaged|not finite|stops")


def test_a_model_for_gray_images_is_refused(own: Path) -> None:
    text = own.read_text()
    first = next(line for line in text.splitlines() if line.startswith("Convolution"))
    own.write_text(text.replace(first, first.replace("6=1728", "6=576")))
    refused(own, "takes images of 1 channels")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("7767517", "7767516", "first line"),
        ("PixelShuffle", "NoSuchLayer", "can't be read|crashed|stops"),
        ("0=4\n", "0=3\n", "no image|shape|factor|stops|crashed"),
        ("data", "", "no layer"),
    ],
)
def test_a_broken_param_is_a_typed_error(own: Path, old: str, new: str, match: str) -> None:
    text = own.read_text()
    assert old in text
    own.write_text(text.replace(old, new))
    refused(own, match)


def test_random_bytes_are_typed_errors(own: Path) -> None:
    generator = np.random.default_rng(7)
    for _ in range(4):
        own.write_bytes(generator.bytes(500))
        with pytest.raises(XaloraError):
            tried(own)


@pytest.mark.skipif(os.name != "posix", reason="a stand-in for Python is a shell script here")
def test_a_crash_of_the_trial_is_a_typed_error(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho 'driver says no' >&2\nkill -SEGV $$\n")
    crashing.chmod(crashing.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(models.sys, "executable", str(crashing))
    refused(own, r"crashed with exit status -11 \(driver says no\)")


def test_missing_files_are_named(own: Path, tmp_path: Path) -> None:
    own.with_suffix(".bin").unlink()
    assert "own.bin is missing" in lacking(own)
    with pytest.raises(ConfigurationError, match=r"own\.bin is missing"):
        tried(own)
    assert "absent.param is missing" in lacking(tmp_path / "absent.param")


def test_other_files_in_the_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = PACKAGED[0]
    other = models.PackagedModel(**{**vars(known), "digests": (known.digests[0], "0" * 64)})
    monkeypatch.setattr(models, "PACKAGED", (other,))
    with pytest.raises(ConfigurationError, match=r"UP4X\.bin is not the one of realesrgan-x4plus"):
        tried("realesrgan-x4plus")


def test_the_stages_are_found_in_the_layers_alone() -> None:
    stages = {
        model.name: stages_of(read_layers(packaged_pair(model.name)[0].read_text())) for model in PACKAGED
    }
    assert stages["realesr-animevideov3"] is stages["waifu2x-photo"] is None
    x4plus = stages["realesrgan-x4plus"]
    assert x4plus is not None
    assert (len(x4plus.blocks), x4plus.features, x4plus.output) == (23, "1878", "output")


def test_channels_are_followed_to_the_first_convolution() -> None:
    head = "7767517\n3 3\nInput in 0 1 a\n"
    assert input_channels(read_layers(head + "Convolution c 1 1 a b 0=8 1=3 6=216\n")) == 3
    blocks = head + "Reorg r 1 1 a b 0=2\nConvolution c 1 1 b d 0=8 1=3 6=864\n"
    assert input_channels(read_layers(blocks)) == 3
    assert input_channels(read_layers(head + "Permute p 1 1 a b 0=1\n")) is None
    with pytest.raises(ValueError, match="100 weights"):
        input_channels(read_layers(head + "Convolution c 1 1 a b 0=8 1=3 6=100\n"))


def test_nothing_of_ncnn_is_imported_before_a_run() -> None:
    code = "import sys, xalora_client.engines.ncnn.engine; print('ncnn' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
