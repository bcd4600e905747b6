"""Clusters of real processes: a head, machines that join it, and consumers that are plain HTTP clients.

Each machine is simulated: a folder and a name of its own on this one. Without Ray the tests are left out.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

START_SECONDS = 240


def _reason_without_ray() -> str | None:
    if sys.platform != "linux":
        return "a cluster's machines run Linux"
    if importlib.util.find_spec("ray") is None:
        return f"ray is not installed for Python {sys.version_info.major}.{sys.version_info.minor}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _reason_without_ray()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        if not item.get_closest_marker("timeout"):
            # The first test that asks for a cluster pays for its start.
            item.add_marker(pytest.mark.timeout(START_SECONDS))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:  # noqa: F821
    """A head without workers and two machines, ``fast`` and ``slow``; shared by a module's tests."""
    from simulated import Cluster

    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.join("fast")
        cluster.join("slow")
        cluster.wait_for_workers("fast/cpu0", "slow/cpu0")
        yield cluster
