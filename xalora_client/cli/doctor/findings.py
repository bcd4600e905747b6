"""What the doctor's probes mean: findings, and answers to what the protocol leaves open. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...config import Credentials, parse_api_key
from ...errors import (
    AuthenticationError,
    MissingKeyError,
    NoMinerError,
    RequestRefusedError,
    TaskFailedError,
    XaloraError,
)
from ...text import bytes_text, seconds_text
from ..exit_codes import ExitCode, exit_code_of

CLOCK_SECONDS = 60.0
"""A clock that is further off is told: signed addresses of files end by the clock."""

ROOM_BYTES = 1024**3
LONGEST_FORM = 600

NO_SUCH_WORKFLOW = "xalora-doctor-no-such-workflow"


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"
    NOT_ASKED = "not asked"


class Question(Enum):
    """A point that the protocol leaves open, which differs between networks."""

    PREFLIGHT = "Does resource_request tell whether a miner is there for a workflow?"
    JOB_ID = "Does a second task_create with the same job_id give the same task?"
    DATA_IMAGE = "Is an image inside the request, as a data: URI, accepted?"
    RESULT_FORM = "In which form does a result come?"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``settles`` and ``answer`` are set where it settles an open question."""

    check: str
    verdict: Verdict
    text: str
    code: ExitCode = ExitCode.DONE
    settles: Question | None = None
    answer: str = ""


def not_asked(check: str, why: str = "it needs your yes (--yes for scripts)") -> Finding:
    """A check that was left out."""
    return Finding(check, Verdict.NOT_ASKED, why)


def failed(check: str, error: XaloraError) -> Finding:
    """A check that ended with an error of its own."""
    return Finding(check, Verdict.PROBLEM, str(error), exit_code_of(error))


# --- this machine -----------------------------------------------------------------------------------------


def key_finding(key: str | None) -> Finding:
    """The form of the key; nothing of it is repeated but a consumer id that ``#`` marks."""
    try:
        if key is None:
            raise MissingKeyError("No API key is set", next_step="Enter it by `xalora login`.")
        credentials: Credentials = parse_api_key(key)
    except XaloraError as error:
        return failed("key", error)
    if "#" in key:
        return Finding("key", Verdict.OK, f"consumer {credentials.consumer_id}, then # and the key")
    text = "no #, so the consumer id is what stands before the first -"
    if key.strip().count("-") > 1:
        return Finding("key", Verdict.NOTE, f"{text}; the rest, with each further -, is the key")
    return Finding("key", Verdict.OK, text)


def proxy_finding(proxy: str | None) -> Finding:
    """The proxy on the way, its login left out."""
    return Finding("proxy", Verdict.OK, "none" if proxy is None else f"requests go by {proxy}")


def address_finding(host: str, addresses: Sequence[str], *, by_proxy: bool, reason: str = "") -> Finding:
    """Whether the sequencer's name has an address."""
    if addresses:
        return Finding("address", Verdict.OK, f"{host} is {', '.join(addresses[:3])}")
    if by_proxy:
        return Finding(
            "address", Verdict.NOTE, f"{host} has no address here ({reason}); the proxy looks it up"
        )
    return Finding("address", Verdict.PROBLEM, f"{host} has no address: {reason}", ExitCode.NO_NETWORK)


@dataclass(frozen=True)
class Handshake:
    """What TLS agreed on: its version, the certificate's issuer, and the days until it ends."""

    version: str
    issuer: str
    days_left: float


def tls_finding(
    scheme: str, handshake: Handshake | None, *, may_have_key: bool, by_proxy: bool, reason: str = ""
) -> Finding:
    """Whether the way to the sequencer is encrypted, or may be open."""
    if scheme != "https":
        if may_have_key:
            text = "none: the address is http://, which is allowed for this host"
            return Finding("TLS", Verdict.NOTE, text)
        return Finding(
            "TLS",
            Verdict.PROBLEM,
            "none: the address is http://, so the key is not sent; use https://, or XALORA_ALLOW_HTTP",
            ExitCode.CONFIGURATION,
        )
    if handshake is None and by_proxy:
        return Finding("TLS", Verdict.NOTE, "through the proxy; the certificate is checked with each request")
    if handshake is None:
        return Finding("TLS", Verdict.PROBLEM, reason, ExitCode.NO_NETWORK)
    text = f"{handshake.version}, certificate by {handshake.issuer}, {handshake.days_left:.0f} days left"
    return Finding("TLS", Verdict.NOTE if handshake.days_left < 7 else Verdict.OK, text)


def answers_finding(status: int | None, reason: str = "") -> Finding:
    """Whether anything answers HTTP there."""
    if status is None:
        return Finding("answers", Verdict.PROBLEM, reason, ExitCode.NO_NETWORK)
    return Finding("answers", Verdict.OK, f"HTTP {status} for its root, which is no endpoint")


def clock_finding(ahead: float | None) -> Finding:
    """How far this machine's clock is ahead of the sequencer's, in seconds; None where that is not told."""
    if ahead is None:
        return Finding("clock", Verdict.NOTE, "the sequencer does not tell its time")
    if abs(ahead) <= CLOCK_SECONDS:
        return Finding("clock", Verdict.OK, f"{abs(ahead):.0f} s from the sequencer's")
    side = "ahead of" if ahead > 0 else "behind"
    text = f"{seconds_text(abs(ahead))} {side} the sequencer's; signed addresses of files may not work"
    return Finding("clock", Verdict.NOTE, text)


def folder_finding(folder: str, free: int, problem: XaloraError | None) -> Finding:
    """Whether tasks can be remembered and results kept."""
    if problem is not None:
        return failed("journal", problem)
    text = f"{folder} can be written, {bytes_text(free)} free"
    return Finding("journal", Verdict.OK if free >= ROOM_BYTES else Verdict.NOTE, text)


# --- the network ------------------------------------------------------------------------------------------


def miner_finding(workflow: str, answer: Mapping[str, Any] | XaloraError) -> Finding:
    """Whether there is a miner for a workflow, as the network says."""
    check = f"miner for {workflow}"
    if isinstance(answer, NoMinerError):
        return Finding(check, Verdict.NOTE, answer.what)
    if isinstance(answer, XaloraError):
        return failed(check, answer)
    return Finding(check, Verdict.OK, f"yes; answer {skeleton(answer)}")


def preflight_finding(
    known: Sequence[Mapping[str, Any] | XaloraError], made_up: Mapping[str, Any] | XaloraError
) -> Finding:
    """Whether the answer about a workflow that nobody has differs from that about one that somebody has."""
    check = f"miner for a workflow that does not exist ({NO_SUCH_WORKFLOW})"
    refused = isinstance(made_up, NoMinerError | RequestRefusedError)
    somebody = any(not isinstance(answer, XaloraError) for answer in known)
    if not isinstance(made_up, XaloraError):
        answer = "no: it names a miner for a workflow that does not exist as well"
        return Finding(check, Verdict.NOTE, "it names a miner", settles=Question.PREFLIGHT, answer=answer)
    if not refused:
        return Finding(check, Verdict.NOTE, made_up.what)
    if not somebody:
        return Finding(check, Verdict.OK, "no miner, as for all others")
    answer = "yes: it names a miner for a workflow that has one, and refuses one that does not exist"
    return Finding(check, Verdict.OK, "none", settles=Question.PREFLIGHT, answer=answer)


@dataclass(frozen=True)
class TaskProbe:
    """A smallest task that was run.

    Args:
        statuses: As they came, in order.
        answers: The last answer of each endpoint, by its name.
        files: The kinds of the files that came.
        error: What ended it, None where it gave files.
    """

    task_id: str | None
    statuses: Sequence[str] = ()
    answers: Mapping[str, Mapping[str, Any]] | None = None
    files: Sequence[str] = ()
    seconds: float = 0.0
    error: XaloraError | None = None

    @property
    def result(self) -> Any:
        return (self.answers or {}).get("task_result_query", {}).get("result")


def task_findings(probe: TaskProbe) -> list[Finding]:
    """What a smallest task, whose image was a ``data:`` URI, tells."""
    found = [_outcome(probe), data_image_finding(probe)]
    for endpoint, answer in (probe.answers or {}).items():
        found.append(Finding(f"answer of {endpoint}", Verdict.OK, skeleton(answer)))
    if probe.result is not None:
        form = skeleton(probe.result)
        where = f", which gave {', '.join(probe.files)}" if probe.files else ", which could not be fetched"
        found.append(
            Finding("form of the result", Verdict.OK, form, settles=Question.RESULT_FORM, answer=form + where)
        )
    return found


def _outcome(probe: TaskProbe) -> Finding:
    if probe.error is not None:
        return failed("smallest task", probe.error)
    steps = f" ({', '.join(probe.statuses)})" if probe.statuses else ""
    return Finding(
        "smallest task", Verdict.OK, f"task {probe.task_id} done in {seconds_text(probe.seconds)}{steps}"
    )


def data_image_finding(probe: TaskProbe) -> Finding:
    """Whether the network took an image inside the request."""
    check = "data: image"
    if probe.error is None:
        answer = "yes: a task with such an image finished"
        return Finding(check, Verdict.OK, "accepted", settles=Question.DATA_IMAGE, answer=answer)
    if isinstance(probe.error, RequestRefusedError) and probe.task_id is None:
        answer = f"no: the create was refused ({probe.error.what})"
        text = "refused; set XALORA_STORE_URL, so that images go by your store"
        return Finding(check, Verdict.PROBLEM, text, ExitCode.NETWORK, Question.DATA_IMAGE, answer)
    if isinstance(probe.error, TaskFailedError):
        text = "the create was accepted and the task failed, maybe because of it"
        return Finding(check, Verdict.NOTE, text)
    return Finding(check, Verdict.NOTE, "not known, since the task gave no result")


def cancel_finding(task_id: str, answer: Mapping[str, Any] | XaloraError, status: str | None) -> Finding:
    """Whether a cancel is carried out; ``status`` is the task's after it, None where it can't be read."""
    if isinstance(answer, XaloraError) and status == "finished":
        return Finding("cancel", Verdict.NOTE, f"refused, since task {task_id} had finished before")
    if isinstance(answer, XaloraError):
        return failed("cancel", answer)
    text = f"task {task_id} is {status or 'of unknown status'} after it; answer {skeleton(answer)}"
    if status == "canceled":
        return Finding("cancel", Verdict.OK, text)
    if status == "finished":
        return Finding("cancel", Verdict.NOTE, f"{text}; it had finished before")
    return Finding("cancel", Verdict.PROBLEM, text, ExitCode.NETWORK)


def job_id_finding(first: str, second: str | XaloraError, status_code: int | None = None) -> Finding:
    """What a second create under the same job id came to: the id of its task, or an error.

    Args:
        status_code: The HTTP status of a refusal.
    """
    check = "repeated job_id"
    if isinstance(second, AuthenticationError):
        return failed(check, second)
    if isinstance(second, XaloraError):
        if status_code is not None and 400 <= status_code < 500 and status_code != 429:
            answer = f"it is refused (HTTP {status_code}), so no second task is made"
            return Finding(check, Verdict.OK, answer, settles=Question.JOB_ID, answer=answer)
        return Finding(check, Verdict.NOTE, f"not known: {second.what}")
    if second == first:
        answer = "yes: the same task, so a repeated create is not charged twice"
        return Finding(check, Verdict.OK, "the same task", settles=Question.JOB_ID, answer=answer)
    answer = "no: a second task, so a repeated create is charged twice"
    return Finding(check, Verdict.NOTE, "a second task", settles=Question.JOB_ID, answer=answer)


def skeleton(value: Any) -> str:
    """The form of a JSON value without its contents: ``{task_id: text, result: {url: URL}}``."""
    form = _skeleton(value, 4)
    return form if len(form) <= LONGEST_FORM else f"{form[:LONGEST_FORM]}..."


def _skeleton(value: Any, depth: int) -> str:
    if isinstance(value, Mapping):
        if depth == 0:
            return "{...}"
        return "{" + ", ".join(f"{key}: {_skeleton(each, depth - 1)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = _skeleton(value[0], depth - 1) if value and depth else ""
        return f"[{inside}{', ...' if len(value) > 1 else ''}]"
    if isinstance(value, str):
        return _text_form(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "number"


def _text_form(text: str) -> str:
    lowered = text.lower()
    if lowered.startswith("data:"):
        return f"data: URI ({lowered[5:].partition(';')[0]})"
    if lowered.startswith(("http://", "https://")):
        return "URL"
    if text.lstrip().startswith(("{", "[")):
        return "JSON text"
    path, dot, suffix = text.rpartition(".")
    if dot and path and 2 <= len(suffix) <= 5 and suffix.isalnum() and " " not in text:
        return f"storage key (.{suffix.lower()})"
    return "text"


def answers_to_questions(findings: Sequence[Finding]) -> dict[Question, str | None]:
    """The answer to each open question, None where no finding settles it."""
    settled = {each.settles: each.answer for each in findings if each.settles is not None}
    return {question: settled.get(question) for question in Question}
