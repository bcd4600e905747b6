"""The last line on a node that is executed for each element of a list."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def elements(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.list_elements", pack.__name__)


@pytest.fixture(scope="module")
def errors(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.errors", pack.__name__)


@pytest.fixture(scope="module")
def batch(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.batch_plan", pack.__name__)


def test_a_node_without_a_list_has_its_own_line(elements: ModuleType, errors: ModuleType) -> None:
    one = elements.ListElements(begun=1)
    one.note_spent(some_paid=True)
    assert one.last_line() == ""
    one.note_failure(errors.MissingKeyError("no key"))
    assert one.last_line() == "failed: No API key is set. Nothing was charged."


def test_a_failure_stays_with_what_all_elements_mean_for_the_money(
    elements: ModuleType, errors: ModuleType, batch: ModuleType
) -> None:
    many = elements.ListElements(begun=4)
    many.note_failure(errors.RequestRefusedError("refused", status_code=422))
    line = "failed, 1 of 4 list elements: The network refuses these inputs."
    assert many.last_line() == f"{line} Nothing was charged."
    many.note_spent(some_paid=True)
    assert many.last_line() == f"{line} Finished ones are kept."
    failed = errors.TaskFailedError("failed", money="Whether that is charged is the network's decision.")
    many.note_failure(
        batch.BatchError("2 failed", money="", next_step="", errors={0: failed, 1: failed}, finished={2: "t"})
    )
    assert many.last_line() == (
        "failed, 2 of 4 list elements: The network refuses these inputs. "
        "Finished ones are kept. Failed ones may be charged."
    )


def test_stopped_elements_may_have_sent_something(elements: ModuleType, errors: ModuleType) -> None:
    many = elements.ListElements(begun=2)
    many.note_failure(errors.InvalidTaskError("The prompt is empty"))
    many.stopped = True
    assert many.last_line() == (
        "failed, 1 of 2 list elements: The prompt is empty. What was sent goes on in the network."
    )


def test_a_cancel_is_true_of_all(elements: ModuleType, errors: ModuleType) -> None:
    many = elements.ListElements(begun=2)
    many.note_failure(errors.InvalidTaskError("The prompt is empty"))
    many.canceled = True
    assert many.last_line() == "canceled"


def test_another_prompt_begins_anew(elements: ModuleType) -> None:
    running = elements.RunningElements()
    first = running.of("prompt 1", "2")
    assert running.of("prompt 1", "2") is first
    assert running.of("prompt 1", "3") is not first
    assert running.of("prompt 2", "2") is not first
