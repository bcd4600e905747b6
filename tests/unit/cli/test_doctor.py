"""What the doctor makes of the answers of its probes."""

from __future__ import annotations

from typing import Any

import pytest

from xalora_client import errors
from xalora_client.cli.doctor.findings import (
    Finding,
    Handshake,
    Question,
    TaskProbe,
    Verdict,
    address_finding,
    answers_to_questions,
    cancel_finding,
    clock_finding,
    data_image_finding,
    folder_finding,
    job_id_finding,
    key_finding,
    miner_finding,
    preflight_finding,
    skeleton,
    task_findings,
    tls_finding,
)
from xalora_client.cli.doctor.report import document, markdown
from xalora_client.cli.exit_codes import ExitCode

MINER = {"miner_id": "7", "msg": "reserved"}
NO_MINER = errors.NoMinerError("The network has no miner for this workflow")
REFUSED = errors.RequestRefusedError("The network refused the request", status_code=400)
DOWN = errors.ServiceError("The network had an internal failure", status_code=500)


@pytest.mark.parametrize(
    ("key", "verdict", "words"),
    [
        (None, Verdict.PROBLEM, "No API key is set"),
        ("secretword", Verdict.PROBLEM, "does not have the form"),
        ("alice#secretword", Verdict.OK, "consumer alice"),
        ("alice#secret-word#more", Verdict.OK, "consumer alice"),
        ("alice-secretword", Verdict.OK, "before the first -"),
        ("alice-secret-word", Verdict.NOTE, "with each further -"),
    ],
)
def test_the_form_of_the_key_is_told_without_the_key(key: str | None, verdict: Verdict, words: str) -> None:
    finding = key_finding(key)
    assert finding.verdict is verdict and words in finding.text
    assert "secret" not in finding.text
    assert finding.code is (ExitCode.CONFIGURATION if verdict is Verdict.PROBLEM else ExitCode.DONE)


def test_the_way_to_the_network() -> None:
    assert address_finding("seq.example", ["192.0.2.1"], by_proxy=False).verdict is Verdict.OK
    assert address_finding("seq.example", [], by_proxy=True, reason="unknown").verdict is Verdict.NOTE
    gone = address_finding("seq.example", [], by_proxy=False, reason="unknown")
    assert (gone.verdict, gone.code) == (Verdict.PROBLEM, ExitCode.NO_NETWORK)

    fresh, old = Handshake("TLSv1.3", "ISRG", 60), Handshake("TLSv1.3", "ISRG", 3)
    assert tls_finding("https", fresh, may_have_key=True, by_proxy=False).verdict is Verdict.OK
    assert tls_finding("https", old, may_have_key=True, by_proxy=False).verdict is Verdict.NOTE
    assert tls_finding("https", None, may_have_key=True, by_proxy=True).verdict is Verdict.NOTE
    assert tls_finding("http", None, may_have_key=True, by_proxy=False).verdict is Verdict.NOTE
    open_way = tls_finding("http", None, may_have_key=False, by_proxy=False)
    assert (open_way.verdict, open_way.code) == (Verdict.PROBLEM, ExitCode.CONFIGURATION)
    untrusted = tls_finding("https", None, may_have_key=True, by_proxy=False, reason="self-signed")
    assert (untrusted.verdict, untrusted.text) == (Verdict.PROBLEM, "self-signed")

    assert [clock_finding(ahead).verdict for ahead in (None, 0.4, -59, 61, -3600)] == [
        Verdict.NOTE,
        Verdict.OK,
        Verdict.OK,
        Verdict.NOTE,
        Verdict.NOTE,
    ]
    assert "1 h 0 min behind" in clock_finding(-3600).text
    assert folder_finding("x", 10**12, None).verdict is Verdict.OK
    assert folder_finding("x", 10**6, None).verdict is Verdict.NOTE
    assert folder_finding("x", 0, errors.JournalError("full")).code is ExitCode.CONFIGURATION


def test_miners() -> None:
    assert miner_finding("upscaler", MINER).text == "yes; answer {miner_id: text, msg: text}"
    assert miner_finding("upscaler", NO_MINER).verdict is Verdict.NOTE
    assert miner_finding("upscaler", errors.AuthenticationError("no")).code is ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("known", "made_up", "answer"),
    [
        ([MINER], NO_MINER, "yes"),
        ([NO_MINER, MINER], REFUSED, "yes"),
        ([MINER], MINER, "no"),
        ([NO_MINER], MINER, "no"),
        ([NO_MINER], NO_MINER, None),
        ([MINER], DOWN, None),
    ],
)
def test_a_preflight_is_one_where_a_made_up_workflow_is_refused(
    known: list[Any], made_up: Any, answer: str | None
) -> None:
    told = answers_to_questions([preflight_finding(known, made_up)])[Question.PREFLIGHT]
    assert told is None if answer is None else told is not None and told.startswith(answer)


@pytest.mark.parametrize(
    ("second", "status", "answer"),
    [
        ("task-1", 200, "yes"),
        ("task-2", 200, "no"),
        (errors.XaloraError("HTTP 409: exists"), 409, "it is refused"),
        (errors.XaloraError("HTTP 429: slow down"), 429, None),
        (errors.XaloraError("HTTP 503: later"), 503, None),
        (errors.AmbiguousCreateError("no answer"), None, None),
    ],
)
def test_a_repeated_create(second: Any, status: int | None, answer: str | None) -> None:
    told = answers_to_questions([job_id_finding("task-1", second, status)])[Question.JOB_ID]
    assert told is None if answer is None else told is not None and told.startswith(answer)


def test_cancels() -> None:
    done = {"task_id": "t", "msg": "ok"}
    assert cancel_finding("t", done, "canceled").verdict is Verdict.OK
    assert cancel_finding("t", done, "finished").verdict is Verdict.NOTE
    assert cancel_finding("t", REFUSED, "finished").verdict is Verdict.NOTE
    assert cancel_finding("t", done, "running").code is ExitCode.NETWORK
    assert cancel_finding("t", REFUSED, "running").verdict is Verdict.PROBLEM
    assert cancel_finding("t", done, None).verdict is Verdict.PROBLEM


def test_a_task_tells_the_form_of_the_result_and_whether_its_image_was_taken() -> None:
    answer = {"task_id": "t", "status": "finished", "result": {"url": "https://example.org/x?sig=secret"}}
    found = task_findings(TaskProbe("t", ["submitted"], {"task_result_query": answer}, ["png"], 2.0))
    told = answers_to_questions(found)
    assert told[Question.RESULT_FORM] == "{url: URL}, which gave png"
    assert told[Question.DATA_IMAGE] == "yes: a task with such an image finished"
    assert "secret" not in str(found)

    assert data_image_finding(TaskProbe(None, error=REFUSED)).answer.startswith("no")
    for open_ended in (
        TaskProbe("t", error=errors.TaskFailedError("it failed")),
        TaskProbe(None, error=DOWN),
        TaskProbe("t", error=errors.TaskTimeoutError("too long")),
    ):
        assert data_image_finding(open_ended).settles is None
        assert task_findings(open_ended)[0].verdict is Verdict.PROBLEM


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("https://example.org/a.png?key=1", "URL"),
        ("upscaled-image.png", "storage key (.png)"),
        ("test-video/hunyuan-fp8-7-t.mp4", "storage key (.mp4)"),
        ("data:image/png;base64,AAAA", "data: URI (image/png)"),
        ('{"url": "x"}', "JSON text"),
        ("All is well.", "text"),
        (["a.png", "b.png"], "[storage key (.png), ...]"),
        ([], "[]"),
        ({"n": 1, "b": True, "x": None, "l": [1.5]}, "{n: number, b: true, x: null, l: [number]}"),
    ],
)
def test_the_form_of_an_answer_has_none_of_its_contents(value: Any, form: str) -> None:
    assert skeleton(value) == form


def test_a_form_is_short_whatever_came() -> None:
    assert len(skeleton({f"key{n}": "x" for n in range(10_000)})) < 700
    deep: Any = "x"
    for _ in range(50):
        deep = {"a": [deep]}
    assert "..." in skeleton(deep)


def test_the_report_says_what_is_settled_and_what_is_not() -> None:
    findings = [
        Finding("key", Verdict.OK, "consumer alice | and more"),
        job_id_finding("task-1", "task-2", 200),
    ]
    told = markdown("https://seq.example", "2026-01-02", findings)
    assert "# First contact with https://seq.example" in told
    assert r"| key | ok | consumer alice \| and more |" in told
    assert f"| {Question.JOB_ID.value} | no: a second task, so a repeated create is charged twice |" in told
    assert f"| {Question.DATA_IMAGE.value} | not settled |" in told
    as_json = document("https://seq.example", findings, ExitCode.DONE)
    assert as_json["questions"]["job_id"]["answer"].startswith("no")
    assert as_json["questions"]["data_image"]["answer"] is None
