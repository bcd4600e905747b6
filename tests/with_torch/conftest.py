"""``XALORA_TEST_CUDA=1 python -m pytest tests/with_torch`` runs the tests of CUDA, and no others."""

from __future__ import annotations

import os

import pytest

ONLY_CUDA = os.environ.get("XALORA_TEST_CUDA") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not ONLY_CUDA:
        return
    others = [item for item in items if item.get_closest_marker("cuda") is None]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item.get_closest_marker("cuda") is not None]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if ONLY_CUDA:
            pytest.fail("XALORA_TEST_CUDA is set, and there is no CUDA here")
        pytest.skip("there is no CUDA here")
