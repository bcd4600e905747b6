"""The batch plan: which tasks of a node are sent, sent again, left to this machine, or given up."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def batch(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.batch_plan", pack.__name__)


@pytest.fixture(scope="module")
def errors(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.errors", pack.__name__)


def drain(plan: Any) -> list[int]:
    indexes = []
    while (index := plan.next()) is not None:
        indexes.append(index)
    return indexes


def test_all_succeed(batch: ModuleType) -> None:
    plan = batch.BatchPlan(3, "when_unavailable")
    assert drain(plan) == [0, 1, 2]
    for index in range(3):
        plan.succeeded(index, f"t{index}")
    plan.check()
    assert plan.missing == ()


@pytest.mark.parametrize("name", ["TaskFailedError", "ResultExpiredError", "ResultFormatError"])
def test_what_another_miner_may_do_is_sent_twice_more(
    batch: ModuleType, errors: ModuleType, name: str
) -> None:
    plan = batch.BatchPlan(2, "never")
    assert drain(plan) == [0, 1]
    plan.succeeded(0, "t0")
    error = getattr(errors, name)("it failed", task_id="t1")
    assert plan.failed(1, error)
    assert drain(plan) == [1]
    assert plan.failed(1, error)
    assert drain(plan) == [1]
    assert not plan.failed(1, error)
    assert drain(plan) == []
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert (set(raised.value.errors), raised.value.finished) == ({1}, {0: "t0"})


def test_a_failure_that_every_miner_would_repeat_is_not_sent_again_and_ends_the_batch(
    batch: ModuleType, errors: ModuleType
) -> None:
    plan = batch.BatchPlan(3, "never")
    assert plan.next() == 0
    error = errors.TaskFailedError("the miner takes no images in the request", task_id="t0")
    error.repeats = True
    assert not plan.failed(0, error)
    assert drain(plan) == []


def test_a_result_broken_in_the_same_way_by_two_miners_is_not_tried_a_third_time(
    batch: ModuleType, errors: ModuleType
) -> None:
    plan = batch.BatchPlan(1, "never")
    assert drain(plan) == [0]
    broken = [
        errors.ResultFormatError(f"The result of task t{number} can't be used: {why}", task_id=f"t{number}")
        for number, why in enumerate(["it is cut off", "it holds no frames", "it holds no frames"])
    ]
    assert plan.failed(0, broken[0]) and drain(plan) == [0]
    assert plan.failed(0, broken[1]) and drain(plan) == [0]
    assert not plan.failed(0, broken[2]) and drain(plan) == []

    plan = batch.BatchPlan(1, "never")
    assert drain(plan) == [0]
    assert plan.failed(0, broken[1]) and drain(plan) == [0]
    assert not plan.failed(0, broken[2]) and drain(plan) == []
    with pytest.raises(errors.ResultFormatError, match="sent 2 times") as raised:
        plan.check()
    assert "Other miners failed too" in raised.value.next_step


def failure(errors: ModuleType, task_id: str, reason: str, miner: str | None) -> Any:
    error = errors.TaskFailedError(f"The network reports task {task_id} as failed", task_id=task_id)
    error.reason, error.miner = reason, miner
    return error


@pytest.mark.parametrize(
    ("reasons", "miners", "tries"),
    [
        (["no such LoRA", "no such LoRA"], ["a", "b"], 2),
        (["no such LoRA", "no such LoRA"], ["a", None], 2),
        (["no such LoRA", "no such LoRA"], [None, None], 2),
        (["task t0 at a: no such LoRA", "task t1 at b: no such LoRA"], ["a", "b"], 2),
        (["no such LoRA", "no such LoRA", "no such LoRA"], ["a", "a", "a"], 3),
        (["out of memory", "no such LoRA", "no such LoRA"], ["a", "b", "c"], 3),
        (["", "", ""], ["a", "b", "c"], 3),
    ],
)
def test_a_failure_of_the_same_words_at_two_miners_is_not_tried_a_third_time(
    batch: ModuleType, errors: ModuleType, reasons: list[str], miners: list[str | None], tries: int
) -> None:
    plan = batch.BatchPlan(2, "never")
    assert plan.next() == 0
    for number, (reason, miner) in enumerate(zip(reasons, miners, strict=True)):
        is_sent_again = plan.failed(0, failure(errors, f"t{number}", reason, miner))
        assert is_sent_again == (number + 1 < tries)
    # The others of the batch go on.
    assert set(drain(plan)) == {0, 1}


def test_a_result_broken_twice_by_one_miner_is_left_to_another(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(1, "never")
    assert drain(plan) == [0]
    for number in range(2):
        error = errors.ResultFormatError("it holds no frames", task_id=f"t{number}")
        error.miner = "a"
        assert plan.failed(0, error) and drain(plan) == [0]


def test_a_result_beyond_the_limits_is_not_sent_again(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(1, "never", max_resends=2)
    assert drain(plan) == [0]
    assert not plan.failed(0, errors.ResultTooLargeError("it is a bomb", task_id="t0")) and drain(plan) == []
    with pytest.raises(errors.ResultTooLargeError, match="it is a bomb"):
        plan.check()


def test_a_kept_result_that_is_no_use_is_not_paid_for_again(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "never")
    assert drain(plan) == [0, 1]
    plan.succeeded(1, "t1")
    error = errors.ResultFormatError("no image", next_step="Forget it.", task_id="t0")
    assert not plan.failed(0, error, is_kept=True)
    assert drain(plan) == []
    with pytest.raises(batch.BatchError, match=r"image 1: no image\. .* Forget it\.$"):
        plan.check()


@pytest.mark.parametrize(
    "name",
    [
        "AmbiguousCreateError",
        "TaskCanceledError",
        "TaskTimeoutError",
        "ResultDownloadError",
        "ResultLocationError",
        "RequestRefusedError",
        "InputImageError",
    ],
)
def test_nothing_else_is_sent_again_and_the_others_go_on(
    batch: ModuleType, errors: ModuleType, name: str
) -> None:
    plan = batch.BatchPlan(3, "never")
    assert plan.next() == 0
    assert not plan.failed(0, getattr(errors, name)("no"))
    assert drain(plan) == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "MissingKeyError",
        "AuthenticationError",
        "XaloraConnectionError",
        "NoMinerError",
        "RateLimitError",
        "ServiceError",
        "QueueLimitError",
        "StoreError",
        "JournalError",
        "ConfigurationError",
    ],
)
def test_what_the_next_would_meet_too_ends_the_sending(
    batch: ModuleType, errors: ModuleType, name: str
) -> None:
    plan = batch.BatchPlan(5, "never")
    assert plan.next() == 0
    assert not plan.failed(0, getattr(errors, name)("no"))
    assert drain(plan) == []
    with pytest.raises(batch.BatchError, match=r"^1 of 5 images .*image 1: no; 4 more were not sent"):
        plan.check()


def test_what_to_do_next_is_said_by_what_ended_the_sending(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(3, "never")
    plan.next()
    plan.failed(0, errors.MissingKeyError("No API key is set", next_step="Enter one."))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert str(raised.value) == (
        "1 of 3 images failed, image 1: No API key is set; 2 more were not sent for that reason. "
        "Nothing was sent, so nothing was charged. Enter one."
    )


def test_an_unavailable_network_hands_all_of_the_rest_over(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(5, "when_unavailable")
    assert [plan.next(), plan.next(), plan.next()] == [0, 1, 2]
    plan.succeeded(0, "t0")
    plan.failed(2, errors.XaloraConnectionError("nobody there"))
    plan.succeeded(1, "t1")
    plan.check()
    assert plan.missing == (2, 3, 4)
    assert [error.what for error in plan.reasons] == ["nobody there"]


def test_an_unknown_outcome_hands_over_only_itself(batch: ModuleType, errors: ModuleType) -> None:
    """And that with the policy for any failure alone: it is the user who decides about it."""
    careful = batch.BatchPlan(3, "when_unavailable")
    assert careful.next() == 0
    careful.failed(0, errors.AmbiguousCreateError("who knows"))
    assert (drain(careful), careful.missing) == ([1, 2], ())
    plan = batch.BatchPlan(3, "on_any_failure")
    assert plan.next() == 0
    assert not plan.failed(0, errors.AmbiguousCreateError("who knows"))
    assert drain(plan) == [1, 2]
    plan.succeeded(1, "t1")
    plan.succeeded(2, "t2")
    assert plan.missing == (0,)


def test_a_failed_task_is_tried_again_before_it_is_handed_over(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(1, "on_any_failure")
    error = errors.TaskFailedError("no", task_id="t")
    answers = []
    while plan.next() is not None:
        answers.append(plan.failed(0, error))
    assert answers == [True, True, False]
    assert plan.missing == (0,)


def test_one_error_for_good_outweighs_what_could_be_handed_over(
    batch: ModuleType, errors: ModuleType
) -> None:
    plan = batch.BatchPlan(2, "when_unavailable")
    drain(plan)
    plan.failed(0, errors.XaloraConnectionError("nobody there"))
    plan.failed(1, errors.InputImageError("not an image"))
    assert plan.missing == ()
    with pytest.raises(batch.BatchError, match="image 2: not an image"):
        plan.check()


def test_a_wrong_key_is_never_handed_over(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "on_any_failure")
    assert plan.next() == 0
    plan.failed(0, errors.AuthenticationError("wrong key"))
    assert plan.missing == ()


def test_once_all_is_canceled_nothing_is_sent_or_made_here(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(5, "on_any_failure")
    assert [plan.next(), plan.next(), plan.next()] == [0, 1, 2]
    plan.failed(0, errors.TaskTimeoutError("too long", task_id="t0"))
    plan.cancel()
    assert not plan.failed(1, errors.TaskFailedError("no", task_id="t1"))
    plan.succeeded(2, "t2")
    assert (drain(plan), plan.missing) == ([], ())
    with pytest.raises(batch.BatchError, match=r"^2 of 5 images .*; 2 more were not sent .* paid for \(t2\)"):
        plan.check()


def test_what_was_canceled_before_it_began_is_told(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "never")
    plan.next()
    plan.cancel()
    plan.succeeded(0, "t0")
    with pytest.raises(batch.OwnCancelError, match=r"^1 of 2 images were not sent: all tasks were canceled"):
        plan.check()


@pytest.mark.parametrize("policy", ["never", "when_unavailable", "on_any_failure"])
def test_the_users_own_cancel_is_no_failure(batch: ModuleType, errors: ModuleType, policy: str) -> None:
    """Nothing takes over what the user does not want; the others go on."""
    plan = batch.BatchPlan(3, policy)
    assert plan.next() == 0
    assert not plan.failed(0, batch.OwnCancelError("canceled", task_id="t0"))
    assert drain(plan) == [1, 2]
    plan.succeeded(1, "t1")
    plan.succeeded(2, "t2")
    assert plan.missing == ()
    with pytest.raises(batch.OwnCancelError):
        plan.check()


def test_a_failure_beside_the_users_own_cancel_is_told(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "never")
    drain(plan)
    plan.failed(0, batch.OwnCancelError("canceled", task_id="t0"))
    plan.failed(1, errors.InputImageError("not an image"))
    with pytest.raises(batch.BatchError, match="image 2: not an image"):
        plan.check()


def test_local_only_sends_nothing(batch: ModuleType) -> None:
    plan = batch.BatchPlan(3, "local_only")
    assert plan.next() is None
    assert (plan.missing, plan.reasons) == ((0, 1, 2), ())


def test_a_single_error_is_raised_as_it_is(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(1, "never")
    plan.next()
    error = errors.TaskTimeoutError("too long", task_id="t")
    plan.failed(0, error)
    with pytest.raises(errors.TaskTimeoutError) as raised:
        plan.check()
    assert raised.value is error


def test_the_message_names_the_first_and_why_and_what_is_paid_for(
    batch: ModuleType, errors: ModuleType
) -> None:
    """The log has each failure of its own."""
    plan = batch.BatchPlan(4, "never")
    drain(plan)
    plan.succeeded(3, "t3")
    plan.succeeded(0, "t0")
    plan.failed(2, errors.TaskTimeoutError("Task t2 took too long", task_id="t2"))
    plan.failed(1, errors.TaskCanceledError("It was canceled.", task_id="t1"))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert str(raised.value) == (
        "2 of 4 images failed, first image 2: It was canceled. "
        "2 finished and paid for (t0, t3). "
        "Queue the graph again for the missing ones; finished ones are not sent again."
    )


def test_of_many_finished_ones_the_first_are_named(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(8, "never")
    for index in drain(plan):
        if index:
            plan.succeeded(index, f"t{index}")
    plan.failed(0, errors.TaskTimeoutError("Task t0 took too long", money="Paid.", task_id="t0"))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert raised.value.money == "7 finished and paid for (t1, t2, t3, t4, t5 and 2 more). Paid."


def test_what_may_be_charged_is_said_once_beside_what_is(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(4, "never")
    drain(plan)
    plan.succeeded(0, "t0")
    plan.failed(1, errors.AmbiguousCreateError("No answer", money=errors.MAY_BE_CHARGED))
    plan.failed(2, errors.InputImageError("It has no pixels"))
    plan.failed(3, errors.AmbiguousCreateError("No answer", money=errors.MAY_BE_CHARGED))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert raised.value.money == f"1 finished and paid for (t0). {errors.MAY_BE_CHARGED}"


def test_of_errors_alone_those_that_cost_say_so(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "never")
    drain(plan)
    plan.failed(0, errors.InputImageError("It has no pixels"))
    plan.failed(1, errors.AmbiguousCreateError("No answer", money=errors.MAY_BE_CHARGED))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert raised.value.money == errors.MAY_BE_CHARGED


CHARGED = "Ask with the task id."


def sent_again(errors: ModuleType, task_id: str) -> Any:
    return errors.TaskFailedError(
        f"The network reports task {task_id} as failed",
        money=CHARGED,
        next_step="Try again; another miner may succeed.",
        task_id=task_id,
    )


def test_a_single_task_that_was_sent_again_says_so_with_all_its_ids(
    batch: ModuleType, errors: ModuleType
) -> None:
    plan = batch.BatchPlan(1, "never")
    for task_id in "abc":
        assert plan.next() == 0
        plan.failed(0, sent_again(errors, task_id))
    with pytest.raises(errors.TaskFailedError) as raised:
        plan.check()
    assert str(raised.value) == (
        "The network reports task c as failed; it was sent 3 times (task a, task b, task c). "
        f"{CHARGED} "
        "Other miners failed too: change the input or the parameters. "
        "Queued again unchanged, it is sent up to 3 times more."
    )


def test_a_last_try_that_ended_otherwise_keeps_its_own_words(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(1, "never")
    plan.next()
    plan.failed(0, sent_again(errors, "a"))
    plan.next()
    unknown = errors.AmbiguousCreateError(
        "No answer", money=errors.MAY_BE_CHARGED, next_step="Look.", job_id="j"
    )
    plan.failed(0, unknown)
    with pytest.raises(errors.AmbiguousCreateError) as raised:
        plan.check()
    assert raised.value.job_id == "j"
    assert str(raised.value) == (
        f"No answer; it was sent 2 times (task a, job j). {CHARGED} {errors.MAY_BE_CHARGED} Look."
    )


def test_a_batch_tells_all_that_was_sent_again(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(3, "never")
    drain(plan)
    plan.failed(0, sent_again(errors, "a"))
    plan.failed(1, sent_again(errors, "b"))
    plan.succeeded(2, "c")
    assert drain(plan) == [0, 1]
    plan.failed(0, sent_again(errors, "d"))
    plan.succeeded(1, "e")
    drain(plan)
    plan.failed(0, sent_again(errors, "f"))
    with pytest.raises(batch.BatchError) as raised:
        plan.check()
    assert str(raised.value) == (
        "1 of 3 images failed, image 1: The network reports task f as failed; it was sent 3 times "
        f"(task a, task d, task f). 2 finished and paid for (e, c). {CHARGED} "
        "Queue the graph again for the missing ones; finished ones are not sent again."
    )


@pytest.mark.parametrize("ends", ["cancel", "stop"])
def test_what_failed_and_is_sent_no_more_is_told_as_failed(
    batch: ModuleType, errors: ModuleType, ends: str
) -> None:
    plan = batch.BatchPlan(2, "never")
    drain(plan)
    plan.failed(0, sent_again(errors, "a"))
    if ends == "cancel":
        plan.succeeded(1, None)
        plan.cancel()
    else:
        plan.failed(1, errors.AuthenticationError("wrong key"))
    assert drain(plan) == []
    with pytest.raises(batch.BatchError, match=rf"image 1: .*task a.*{CHARGED}") as raised:
        plan.check()
    assert "not sent" not in raised.value.what


def test_this_machine_takes_over_with_all_tries_told(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(2, "when_unavailable")
    drain(plan)
    plan.failed(1, sent_again(errors, "a"))
    plan.failed(0, errors.XaloraConnectionError("nobody there"))
    assert plan.missing == (0, 1)
    assert [error.money for error in plan.reasons] == [errors.NOTHING_CHARGED, CHARGED]
    plan = batch.BatchPlan(1, "on_any_failure")
    for task_id in "abc":
        plan.next()
        plan.failed(0, sent_again(errors, task_id))
    (reason,) = plan.reasons
    assert reason.money == CHARGED


def test_a_lack_of_credit_stops_what_is_not_sent(batch: ModuleType, errors: ModuleType) -> None:
    for status, left in ((402, []), (400, [1, 2])):
        plan = batch.BatchPlan(3, "never")
        plan.next()
        plan.failed(0, errors.RequestRefusedError("refused", money=errors.NOT_ACCEPTED, status_code=status))
        assert drain(plan) == left


def test_equal_images_count_as_the_one_task_that_was_paid(batch: ModuleType, errors: ModuleType) -> None:
    plan = batch.BatchPlan(3, "never")
    drain(plan)
    plan.succeeded(0, "t0")
    plan.succeeded(1, "t0")
    plan.failed(2, errors.RequestRefusedError("refused", money=errors.NOT_ACCEPTED, status_code=400))
    with pytest.raises(batch.BatchError) as caught:
        plan.check()
    assert caught.value.money == "1 finished and paid for (t0)."
