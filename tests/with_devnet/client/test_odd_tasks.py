"""One odd task of a batch: its error is its own, and names the input; the others end as they would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from PIL import Image
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, status

from xalora_client import (
    AsyncXalora,
    DefinedWorkflowTask,
    FluxLoraTask,
    InputImageError,
    InvalidTaskError,
    LocalImage,
    UnexpectedError,
    UpscalerTask,
    WorkflowTask,
)
from xalora_client.errors import NOTHING_CHARGED
from xalora_client.media import inputs

HALF = "a \ud83d b"


def finished_at_once() -> ScriptedNetwork:
    network = ScriptedNetwork()

    def finish(task_id: str) -> None:
        network.finish(task_id)

    network.on_poll = finish
    return network


async def test_an_unforeseen_error_ends_one_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OddError(Exception):
        pass

    real = inputs.prepare_image

    def prepare(image: Any) -> Any:
        if image.shape[0] == 11:
            raise OddError("as nobody foresaw")
        return real(image)

    monkeypatch.setattr("xalora_client.jobs.preparation.prepare_image", prepare)
    network = finished_at_once()
    images = [np.full((10 + place, 10, 3), place, np.uint8) for place in range(3)]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        outcomes = await client.run_many([UpscalerTask(image=image) for image in images])
    assert [type(outcome.error) for outcome in outcomes] == [type(None), UnexpectedError, type(None)]
    error = outcomes[1].error
    assert isinstance(error, UnexpectedError) and isinstance(error.__cause__, OddError)
    assert "OddError" in str(error) and "as nobody foresaw" in str(error)
    assert "unforeseen" in caplog.text
    assert (network.created, network.cancels) == (2, [])


class TwoPictures(WorkflowTask):
    task_type = "two"
    picture: Annotated[Any, LocalImage()]
    mask: Annotated[Any, LocalImage()]
    words: Any = None


GOOD = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("task", "kind", "named"),
    [
        (lambda: UpscalerTask(image=f"http://127.0.0.1:1/{HALF}.png"), InvalidTaskError, "image"),
        (lambda: DefinedWorkflowTask("flux-lora", prompt=HALF, lora_name="l"), InvalidTaskError, "prompt"),
        (lambda: FluxLoraTask(prompt=HALF, lora_name="l"), InvalidTaskError, "prompt"),
        (lambda: TwoPictures(picture=GOOD, mask=GOOD, words={"a": [HALF]}), InvalidTaskError, "words"),
        (lambda: TwoPictures(picture=GOOD, mask=GOOD, words={HALF: 1}), InvalidTaskError, "words"),
        (lambda: UpscalerTask(image=GOOD, workflow_id=HALF), InvalidTaskError, "workflow_id"),
        (lambda: UpscalerTask(image=""), InvalidTaskError, "image: it is empty"),
        (lambda: UpscalerTask(image=b""), InputImageError, "input image.*is empty"),
        (lambda: UpscalerTask(image=[]), InputImageError, "input image is a list of 0"),
        (lambda: UpscalerTask(image=[GOOD, GOOD]), InputImageError, "input image is a list of 2"),
        (lambda: UpscalerTask(image=np.zeros((0, 8, 3))), InputImageError, r"\[0, 8, 3\] has no pixels"),
        (lambda: UpscalerTask(image=f"{HALF}.png"), InputImageError, "input image"),
        (lambda: TwoPictures(picture=GOOD, mask=[]), InputImageError, "Parameter mask.*a list of 0"),
        (lambda: TwoPictures(picture=b"", mask=GOOD), InputImageError, "Parameter picture.*is empty"),
        (lambda: TwoPictures(picture=GOOD, mask=""), InvalidTaskError, "mask: it is empty"),
        (lambda: TwoPictures(picture=GOOD, mask={"a": 1}), InputImageError, "Parameter mask.*type dict"),
    ],
)
async def test_an_input_that_can_not_be_sent_is_named(task: Any, kind: Any, named: str) -> None:
    network = finished_at_once()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(kind, match=named) as caught:
            await client.run(task())
    assert caught.value.money == NOTHING_CHARGED
    str(caught.value).encode()
    assert network.created == 0


async def test_a_file_name_that_is_no_text_is_a_file_like_others(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")  # noqa: PTH118  # bytes
    try:
        Image.fromarray(GOOD).save(os.fsdecode(path))
    except OSError:
        pytest.skip("this file system takes no such names")
    network = finished_at_once()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        result = await client.run(UpscalerTask(image=os.fsdecode(path)))
    assert result.images.shape == (1, 4, 4, 3)


async def test_the_odd_file_of_three_leaves_the_others_alone(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    network = ScriptedNetwork()
    polls = 0

    def finish_later(task_id: str) -> Any:
        nonlocal polls
        polls += 1
        if polls < 4:
            return status("running", task_id)
        network.finish(task_id)
        return None

    network.on_poll = finish_later
    images: list[Any] = [GOOD, GOOD + 1, odd, GOOD + 2]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        outcomes = await client.run_many([UpscalerTask(image=image) for image in images], max_in_flight=2)
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        type(None),
        InputImageError,
        type(None),
    ]
    assert (network.created, network.cancels) == (3, [])
