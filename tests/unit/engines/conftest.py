"""Fixtures of the engines' tests."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage import data


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph of fur and an eye, float32 ``[48, 68, 3]`` in 0..1."""
    return reduced((100, 70, 304, 214), (68, 48))


@pytest.fixture(scope="session")
def strip() -> np.ndarray:
    """A photograph, float32 ``[16, 176, 3]`` in 0..1: wider than two overlaps of x4plus."""
    return reduced((60, 100, 412, 132), (176, 16))


def reduced(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    cat = Image.fromarray(data.chelsea()).crop(box).resize(size, Image.Resampling.BOX)
    return np.asarray(cat, np.float32) / 255
