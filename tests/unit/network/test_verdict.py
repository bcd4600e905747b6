"""The meaning of an HTTP status and of a task status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xalora_client.network.answers import status_answer
from xalora_client.network.status import is_terminal, meaning
from xalora_client.network.verdict import (
    Verdict,
    create_is_settled,
    judge,
    refusal_in,
    worth_repeating,
)
from xalora_client.results import WorkflowTaskResult

CHALLENGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"


def test_canceled_is_terminal_and_an_unknown_status_is_not() -> None:
    assert all(is_terminal(status) for status in ("finished", "failed", "canceled"))
    assert not any(is_terminal(status) for status in ("waiting", "running", "paused", ""))


@pytest.mark.parametrize(
    ("status", "retry_after", "settled"),
    [
        (400, None, True),
        (401, None, True),
        (404, None, True),
        (408, None, False),
        (425, 1.0, False),
        (499, None, False),
        (460, None, False),
        (303, None, False),
        (307, None, True),
        (407, None, True),
        (511, None, True),
        (409, None, True),
        (429, None, True),
        (307, None, True),
        (503, 2.0, True),
        (503, None, False),
        (500, None, False),
        (502, None, False),
        (504, None, False),
        (200, None, False),
    ],
)
def test_only_a_clear_refusal_settles_a_create(status: int, retry_after: float | None, settled: bool) -> None:
    verdict = judge(status, "", well_formed=status != 200)
    assert create_is_settled(verdict, status, retry_after) is settled


def test_a_conflict_on_a_later_attempt_may_be_about_the_task_of_an_earlier_one() -> None:
    verdict = judge(409, "", well_formed=False)
    assert create_is_settled(verdict, 409, None, attempt=1)
    assert not create_is_settled(verdict, 409, None, attempt=2)


def test_answers_are_sorted() -> None:
    assert judge(200, "", well_formed=True) is Verdict.OK
    assert judge(200, "<html>", well_formed=False) is Verdict.NOT_THE_PROTOCOL
    assert judge(403, "", well_formed=True) is Verdict.BAD_KEY
    assert judge(429, "no miner", well_formed=True) is Verdict.RATE_LIMITED
    assert judge(503, "No miner available", well_formed=True) is Verdict.NO_MINER
    assert judge(404, "unknown task", well_formed=True) is Verdict.NOT_FOUND
    assert judge(422, "bad width", well_formed=True) is Verdict.REFUSED
    assert judge(502, "", well_formed=False) is Verdict.SERVICE_FAILURE
    # "Not now" rather than "not so": worth asking again.
    assert judge(408, "", well_formed=True) is Verdict.SERVICE_FAILURE
    assert judge(425, "", well_formed=True) is Verdict.SERVICE_FAILURE


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (403, CHALLENGE, Verdict.FRONT),
        (401, "\n <html>Log in</html>", Verdict.FRONT),
        (403, "", Verdict.FRONT),
        (403, "error code: 1020", Verdict.FRONT),
        (403, "<Error><Message>No such key</Message></Error>", Verdict.FRONT),
        (404, CHALLENGE, Verdict.FRONT),
        (407, CHALLENGE, Verdict.FRONT),
        (404, "<html>no miner</html>", Verdict.FRONT),
        # A plain text is an answer of the protocol, too.
        (401, "Unauthorized", Verdict.BAD_KEY),
        (401, "", Verdict.BAD_KEY),
        (403, "Invalid API key", Verdict.BAD_KEY),
        (404, "unknown task", Verdict.NOT_FOUND),
        (404, "No miner available", Verdict.NO_MINER),
        (413, CHALLENGE, Verdict.REFUSED),
        (429, CHALLENGE, Verdict.RATE_LIMITED),
        (302, CHALLENGE, Verdict.FRONT),
        (302, "", Verdict.REFUSED),
        (511, "log in", Verdict.FRONT),
        (502, CHALLENGE, Verdict.SERVICE_FAILURE),
        (200, CHALLENGE, Verdict.NOT_THE_PROTOCOL),
    ],
)
def test_what_a_front_says_is_no_word_of_the_sequencer(status: int, body: str, verdict: Verdict) -> None:
    assert judge(status, body, well_formed=False, is_object=False) is verdict


def test_a_create_that_a_front_refused_made_no_task_and_may_be_sent_again() -> None:
    assert create_is_settled(Verdict.FRONT, 403, None)
    assert worth_repeating(Verdict.FRONT, 403)


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        ({"error": "insufficient balance"}, Verdict.REFUSED),
        ({"error": {"id": "E7", "message": "insufficient balance"}}, Verdict.REFUSED),
        ({"code": 421, "msg": "TASK_QUEUE_MAXED", "data": None}, Verdict.REFUSED),
        ({"code": "INSUFFICIENT_BALANCE"}, Verdict.REFUSED),
        ({"code": 1001, "msg": "x", "request_id": "r-1"}, Verdict.REFUSED),
        ({"code": 500, "msg": "x"}, Verdict.REFUSED),
        ({"success": False, "message": "not now"}, Verdict.REFUSED),
        ({"code": 401, "msg": "TOKEN_INVALID"}, Verdict.BAD_KEY),
        ({"code": 429, "msg": "slow down"}, Verdict.RATE_LIMITED),
        ({"error": "no miner available"}, Verdict.NO_MINER),
        # Not clear, or there may be a task.
        ({}, None),
        (None, None),
        ({"msg": "accepted"}, None),
        ({"code": 0, "msg": "success"}, None),
        ({"code": 200, "data": {}}, None),
        ({"code": 1, "data": {"taskId": "t-9"}}, None),
        ({"error": "partly", "id": 7}, None),
        ({"error": None, "success": True}, None),
        ({"status": "error", "message": "no credit"}, Verdict.REFUSED),
        ({"status": "Rejected"}, Verdict.REFUSED),
        ({"status": "waiting"}, None),
        ({"success": "false", "message": "no credit"}, Verdict.REFUSED),
        ({"errors": [{"message": "no credit"}]}, Verdict.REFUSED),
        ({"statusCode": 429, "message": "slow down"}, Verdict.RATE_LIMITED),
        ({"status": 402, "message": "no credit"}, Verdict.REFUSED),
        ({"status": 1, "message": "ok"}, None),
        ({"status": 202}, None),
        ({"errors": []}, None),
    ],
)
def test_a_clear_refusal_in_a_200_is_told_as_one(payload: Any, verdict: Verdict | None) -> None:
    assert refusal_in(payload, json.dumps(payload)) is verdict


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": "FINISHED"}, "finished"),
        ({"status": " Running "}, "running"),
        ({"status": "cancelled"}, "canceled"),
        ({"status": "CANCELLED"}, "canceled"),
        ({"status": "Queued"}, "waiting"),
        ({"status": "in-progress"}, "running"),
        ({"status": "IN PROGRESS"}, "running"),
        ({"status": "failure"}, "failed"),
        ({"status": "COMPLETED", "result": "a.png"}, "finished"),
        ({"status": "success", "task_id": "t-1", "result": "a.png"}, "finished"),
        ({"status": "error", "task_id": "t-1"}, "failed"),
        # Of the request, perhaps, and not of the task.
        ({"status": "success", "result": "a.png"}, "success"),
        ({"status": "error"}, "error"),
        ({"status": "completed", "task_id": "t-1"}, "completed"),
        ({"status": "rejected", "task_id": "t-1"}, "failed"),
        ({"status": "expired", "task_id": "t-1"}, "canceled"),
        ({"status": "expired"}, "expired"),
        ({"status": "Paused"}, "Paused"),
        ({"status": 7}, "7"),
    ],
)
def test_a_status_is_taken_for_what_it_means(answer: dict[str, Any], status: str) -> None:
    assert meaning(answer) == status


def test_all_that_an_answer_tells_is_read() -> None:
    told = {
        "status": "running",
        "queue_position": "3",
        "miner_id": "0xabc",
        "inference_latency": 12.5,
        "upload_latency": 1,
        "msg": "loading\nmodels",
    }
    assert status_answer("t-1", told, None) == WorkflowTaskResult(
        "t-1", "running", None, 3, "0xabc", 12.5, 1.0, "loading models"
    )


@pytest.mark.parametrize("said", [None, "", "soon", -1, True, [], {}, "nan", 1e999, "9" * 5000, 2**63, 1e300])
def test_what_has_no_known_form_is_left_out(said: Any) -> None:
    told = {"queue_position": said, "inference_latency": said, "upload_latency": said, "status": "waiting"}
    assert status_answer("t-1", told, None) == WorkflowTaskResult("t-1", "waiting")
    answer = status_answer("t-1", {"status": "waiting", "miner_id": said, "msg": said}, None)
    assert len(answer.miner or "") <= 100 and len(answer.message) <= 200
