"""Which workers a machine gets, by what Ray says of it."""

from __future__ import annotations

from typing import Any

import pytest

from xalora_client.cluster.store import Store
from xalora_client.cluster.workforce import Workforce
from xalora_client.workflows.catalog import WorkflowCatalog

pytest.importorskip("ray", reason="ray is not installed for this Python")


def slots(**resources: float) -> list[tuple[str, bool]]:
    from xalora_client.cluster.dispatcher import _slots_of

    return [(slot.name, slot.has_gpu) for slot in _slots_of(resources)]


def test_each_gpu_is_a_slot() -> None:
    assert slots(xalora_machine_box=1.0, GPU=2.0, CPU=1.0) == [("box/0", True), ("box/1", True)]


def test_without_a_gpu_the_machine_says_how_many() -> None:
    assert slots(xalora_machine_box=1.0, CPU=3.0) == [("box/0", False), ("box/1", False), ("box/2", False)]


def test_a_node_that_lends_nothing_has_none() -> None:
    assert slots(CPU=8.0, GPU=1.0) == []


async def test_two_machines_of_one_name_are_told(tmp_path: Any) -> None:
    from xalora_client.cluster.dispatcher import Dispatcher

    store, workforce = Store(tmp_path), Workforce()
    dispatcher = Dispatcher(store, workforce, WorkflowCatalog.load)
    node = {"Alive": True, "Resources": {"xalora_machine_box": 1.0}}
    dispatcher._note([node, node, {"Alive": False, "Resources": {"xalora_machine_other": 1.0}}])
    assert workforce.problems == ["2 machines are called box: give each another --name"]
    dispatcher._note([node])
    assert workforce.problems == []
    store.close()
