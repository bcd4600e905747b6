"""A devnet, and the command line in the test's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import KEY, Cli, draw

from xalora_client.devnet import DevnetThread


@pytest.fixture
def devnet() -> Iterator[DevnetThread]:
    with DevnetThread(miners=2, api_key=KEY) as network:
        yield network


@pytest.fixture(scope="module")
def idle_devnet() -> Iterator[DevnetThread]:
    """For commands that must not send anything."""
    with DevnetThread(miners=0, api_key=KEY) as network:
        yield network


@pytest.fixture
def cli(tmp_path: Path, devnet: DevnetThread) -> Cli:
    return Cli(tmp_path, devnet)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", 1)
