"""Photographs as people have them through library and shell: what comes back is what was given, doubled."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from photographs import Photograph, make_photographs
from PIL import Image

from xalora_client import AsyncXalora, UpscalerTask
from xalora_client.devnet import DevnetThread

logger = logging.getLogger(__name__)

# In steps of 8 bits: rounding twice, and the steps of the press's table of colours.
EXACT, CONVERTED, PRINTED = (0, 0.0), (4, 0.5), (24, 0.8)
BOUNDS = {
    "demo-rocket.jpg": CONVERTED,  # in Adobe RGB
    "display-p3.jpg": CONVERTED,
    "adobe-rgb.png": CONVERTED,
    "cmyk.jpg": PRINTED,
}


@pytest.fixture(scope="module")
def devnet() -> Iterator[DevnetThread]:
    with DevnetThread(miners=2, api_key="alice#s3cret") as network:
        yield network


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Photograph]:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


def check(way: str, photograph: Photograph, made: npt.NDArray[np.uint8]) -> None:
    name = photograph.path.name
    assert made.shape == photograph.doubled.shape, name
    largest, mean = photograph.off_by(made)
    logger.info("%s, %s: %d at most, %.3f on average", way, name, largest, mean)
    bound = BOUNDS.get(name, EXACT)
    assert largest <= bound[0] and mean <= bound[1], (name, largest, mean)


async def test_they_go_through_the_library_unharmed(
    devnet: DevnetThread, photographs: list[Photograph]
) -> None:
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        outcomes = await client.run_many([UpscalerTask(image=each.path) for each in photographs])
    for photograph, outcome in zip(photographs, outcomes, strict=True):
        check("library", photograph, (outcome.unwrap().images[0] * 255).round().astype(np.uint8))


def test_they_go_through_the_shell_unharmed(
    devnet: DevnetThread, photographs: list[Photograph], tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "xalora_client",
            "upscale",
            *(each.path for each in photographs),
            "-o",
            "made/",
        ],
        cwd=tmp_path,
        env={**os.environ, "XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for photograph in photographs:
        with Image.open(tmp_path / "made" / f"{photograph.path.stem}.xalora.png") as image:
            assert not image.info.get("icc_profile")
            check("shell", photograph, np.asarray(image))
