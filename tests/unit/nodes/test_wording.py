"""The messages for the graph: three lines in the graph's own words, for every error that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TASK, JOB = "3f9c1e7a-77aa-4d1b", "sdk-workflow-0a1b2c3d4e"

# What a message must not contain: commands, Python, variables, ids.
CODE = re.compile(
    r"`|XALORA_|client\.|\(\)|--[a-z]|pip install|if_unknown|xalora (?:tasks|resume)" + f"|{TASK}|{JOB}",
)

# Sentences of the client, as its users read them; each stands for a kind.
ADVICE = [
    f"Take it up again by its id: client.task('{TASK}').result(), or `xalora resume {TASK}`.",
    "See what became of it with `xalora tasks`.",
    'Look for the job. Then choose: if_unknown="resend" sends it again (`--if-unknown resend`).',
    "Set XALORA_COMFYUI_URL to a ComfyUI server, or XALORA_UPSCALE_MODEL to a model file.",
    "In ComfyUI's Python, pip install ncnn brings one for any machine.",
    f"Look for job {JOB} in your account, and take its task up by its id.",
    "",
]
EVENTS = [
    f"The network reports task {TASK} as failed (out of memory)",
    f"Task {TASK} did not end within the 4 s of waiting (last status: running)",
    f"The answer to the create of job {JOB} was lost",
    f"image 3 (task {TASK}): it failed; images 4 and 5 (tasks {TASK} and b): they failed",
    "Setting XALORA_MAX_IN_FLIGHT (from /home/a/.env) is not a whole number",
    f"GET https://sequencer.example/files/{TASK}?key=1 gave 404",
    "steps is 200, and may be 1 to 100",
    "First line\nsecond line",
]


@pytest.fixture(scope="module")
def wording(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.wording", pack.__name__)


@pytest.fixture(scope="module")
def errors(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.errors", pack.__name__)


@pytest.fixture(scope="module")
def batch(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.batch_plan", pack.__name__)


def classes(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


def every_error(errors: ModuleType) -> Iterator[Any]:
    """Each class with each of the client's sentences about money, and all sentences that it may have."""
    money = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    money += ["", f"Ask with the task id {TASK}.", "Whether it was charged is not known here."]
    for kind in classes(errors.XaloraError):
        if kind.__name__ == "BatchError":
            continue
        for what in EVENTS:
            for advice in ADVICE:
                yield kind(what, money=money[0], next_step=advice, task_id=TASK, job_id=JOB)
        for sentence in money:
            yield kind(EVENTS[0], money=sentence, next_step=ADVICE[0], task_id=TASK, job_id=JOB)


def assert_is_for_the_graph(message: str) -> None:
    lines = message.split("\n")
    assert 1 <= len(lines) <= 3, message
    assert not CODE.search(message), message
    assert all(line and line[-1] in ".!?…" for line in lines), message
    assert all(len(line) <= 250 for line in lines), message


def test_every_error_is_told_in_three_lines_without_code_or_ids(
    wording: ModuleType, errors: ModuleType
) -> None:
    count = 0
    for error in every_error(errors):
        assert_is_for_the_graph(str(wording.words_for(error)))
        assert_is_for_the_graph(str(wording.words_for_dialog(error)))
        assert "\n" not in wording.failure_line(error) and not CODE.search(wording.failure_line(error))
        count += 1
    assert count > 1000


def test_every_error_of_the_client_has_words_of_its_own(wording: ModuleType, errors: ModuleType) -> None:
    of_client = {kind for kind in classes(errors.XaloraError) if kind.__module__ == errors.__name__}
    assert of_client <= wording._WORDS.keys()


def test_a_batch_is_told_by_its_first_error(
    wording: ModuleType, errors: ModuleType, batch: ModuleType
) -> None:
    failed = errors.TaskFailedError(EVENTS[0], money="Whether it is charged is theirs", task_id=TASK)
    lost = errors.AmbiguousCreateError(EVENTS[2], money=errors.MAY_BE_CHARGED, job_id=JOB)
    on_node = "Failed ones may be charged."
    for kinds, charged in (
        ([failed], on_node),
        ([failed, failed], on_node),
        ([failed, lost], wording.SOME_CHARGED),
        ([lost], wording.MAY_BE_CHARGED),
    ):
        for finished in ({}, {5: "t-5"}):
            error = batch.BatchError(
                EVENTS[3],
                money=f"1 finished and paid for: image 6 is task {TASK}",
                next_step="Xalora Collect gives a result by its task id.",
                errors=dict(enumerate(kinds)),
                finished=finished,
                noun="image",
                total=6,
            )
            message = str(wording.words_for(error))
            assert_is_for_the_graph(message)
            assert message.startswith("Not all images were made." if finished else "No image was made.")
            assert ("not paid again" in message) == bool(finished)
            assert ("failed ones are charged" in message) == (kinds == [failed, failed])
            line = wording.failure_line(error)
            # With those that were not sent.
            assert line.startswith(f"failed, {6 - len(finished)} of 6 images: ")
            # A current ComfyUI shows the message only to who asks for it, the line to everybody.
            assert line.endswith(charged)
            assert ("Finished ones are kept." in line) == bool(finished)
            # What three lines of a node have room for.
            assert len(line) <= 130


def test_a_batch_is_not_told_by_the_users_own_cancel(
    wording: ModuleType, errors: ModuleType, batch: ModuleType
) -> None:
    ends = {
        0: batch.OwnCancelError("canceled", task_id=TASK),
        1: errors.DailyLimitError("The limit is reached"),
    }
    error = batch.BatchError("2 failed", money="", next_step="", errors=ends, finished={})
    limit = wording.words_for(ends[1])
    assert limit.what in str(wording.words_for(error))
    assert limit.what.rstrip(".") in wording.failure_line(error)


def test_the_money_fits_on_the_node(wording: ModuleType, errors: ModuleType) -> None:
    lacks = ", ".join(f"model-{number}.safetensors (belongs into models/vae)" for number in range(9))
    error = errors.EngineError(
        f"The network can't be reached, and this machine can't take over: Flux needs {lacks}",
        money=errors.NOTHING_CHARGED,
    )
    assert wording.failure_line(error) == (
        "failed: The network can't be reached, and this machine can't take over. Nothing was charged."
    )
    for error in every_error(errors):
        assert len(wording.failure_line(error)) <= 130


def test_what_helps_is_kept(wording: ModuleType, errors: ModuleType) -> None:
    error = errors.InvalidTaskError(EVENTS[6], next_step="Set steps to a value between 1 and 100.")
    assert str(wording.words_for(error)).split("\n") == [
        "steps is 200, and may be 1 to 100.",
        "Nothing was charged.",
        "Set steps to a value between 1 and 100.",
    ]
    # The name of a node is no command of the shell.
    for advice, told in (
        ("Use Xalora Upscale Image.", "Use Xalora Upscale Image."),
        ("Use xalora upscale.", "Change the inputs, then press Run."),
    ):
        error = errors.InvalidTaskError("It is too large", next_step=advice)
        assert wording.words_for(error).press == told


def test_every_setting_of_the_dialog_is_named_in_words(
    wording: ModuleType, errors: ModuleType, repository: Path
) -> None:
    source = (repository / "nodes" / "host" / "comfyui_settings.py").read_text(encoding="utf-8")
    names = re.findall(r'ComfySetting\("Xalora\.\w+", "(\w+)"', source)
    assert len(names) > 5
    for name in [*names, "api_key", "workflow_url"]:
        told = wording.words_for(errors.ConfigurationError(f"XALORA_{name.upper()} is not a number"))
        assert told.what.endswith(" is not a number.") and "XALORA" not in told.what


@pytest.mark.parametrize("advice", ADVICE)
@pytest.mark.parametrize("event", EVENTS)
def test_what_the_journal_has_is_told_without_code_or_ids(
    wording: ModuleType, event: str, advice: str
) -> None:
    text = f"{event}. {advice} The file is damaged."
    told = wording.sentences_for_graph(text, {"task": TASK, "job": JOB})
    assert not CODE.search(told)
    assert told.endswith("The file is damaged.")


def test_an_address_is_told_by_its_host(wording: ModuleType) -> None:
    for text, told in {
        "The sequencer at http://127.0.0.1:80/v1 can't be reached: no answer.": (
            "The sequencer at 127.0.0.1:80 can't be reached: no answer."
        ),
        "GET https://store.example/a.png?X-Signature=5f8c0536bd47: 404.": "GET store.example: 404.",
        "It is not at https://store.example/a.png.": "It is not at store.example.",
    }.items():
        assert wording.sentences_for_graph(text, {}) == told


def test_a_result_that_there_is_not_is_no_result_that_can_still_be_had(
    wording: ModuleType, errors: ModuleType
) -> None:
    """The next run is a new task, and whether the first is charged is the network's decision."""
    error = errors.ResultMissingError(
        f"Task {TASK} finished without a result",
        money="Whether such a task is charged is the network's decision; ask with the task id.",
        next_step="Run it again; that is a new task.",
        task_id=TASK,
    )
    told = wording.words_for(error)
    assert told.money == wording.NETWORK_DECIDES
    assert "new task" in told.press


def test_a_journal_that_was_removed_asks_for_a_restart(wording: ModuleType, pack: ModuleType) -> None:
    database = import_module(".xalora_client.journal.database", pack.__name__)
    lost = database.LostJournalError("The journal was removed", next_step="Restart this program.")
    assert "Restart ComfyUI" in wording.words_for(lost).press


def test_no_key_is_an_error_of_its_own(wording: ModuleType, errors: ModuleType) -> None:
    assert type(wording.graph_error(errors.MissingKeyError("No API key is set"))).__name__ == "NoKeyError"
    assert type(wording.graph_error(errors.AuthenticationError("401"))).__name__ == "GraphError"


def test_with_several_users_nobody_is_sent_to_what_is_closed_to_them(
    wording: ModuleType, errors: ModuleType
) -> None:
    for error in every_error(errors):
        told = wording.graph_error(error, several_users=True)
        assert "Xalora tab" not in str(told) and "Xalora >" not in str(told)
    for kind in (errors.MissingKeyError, errors.AuthenticationError, errors.DailyLimitError):
        told = wording.graph_error(kind("No"), several_users=True)
        # No dialog opens.
        assert type(told) is wording.GraphError
        assert str(told).endswith("Ask whoever runs this ComfyUI, whose key, settings and tasks these are.")
    assert "Press Run" in str(wording.graph_error(errors.RateLimitError("429"), several_users=True))


def test_the_reason_on_a_node_is_never_a_name_alone(wording: ModuleType, errors: ModuleType) -> None:
    error = errors.InputImageError(
        "Parameter image: the input array [8, 10, 3] holds no numbers in all values, which are infinite or "
        "NaN and would turn out black or white"
    )
    line = wording.failure_line(error)
    assert line.startswith("failed: Parameter image: the input array [8, 10, 3] holds no numbers")
    assert len(line) < 150


def test_a_lack_of_credit_is_not_told_as_a_fault_of_the_inputs(
    wording: ModuleType, errors: ModuleType
) -> None:
    lacks = errors.RequestRefusedError("HTTP 402", money=errors.NOT_ACCEPTED, status_code=402)
    assert str(wording.words_for(lacks)).split("\n") == [
        "The network wants a payment first.",
        "Nothing was charged.",
        "Look at your account's credit, then press Run.",
    ]
    refused = errors.RequestRefusedError("HTTP 400", money=errors.NOT_ACCEPTED, status_code=400)
    assert "refuses these inputs" in str(wording.words_for(refused))


def test_a_task_that_the_network_has_forgotten_is_no_lost_answer(
    wording: ModuleType, errors: ModuleType
) -> None:
    lost = wording.words_for(errors.AmbiguousCreateError("lost", job_id="j"))
    forgotten = wording.words_for(errors.AmbiguousCreateError("forgotten", job_id="j", task_id="t"))
    assert lost.what == "The network's answer was lost." and "take it up" in lost.press
    assert forgotten.what == "The network does not know this task any more."
    assert "send it again" in forgotten.press and "take it up" not in forgotten.press
