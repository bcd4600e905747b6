"""Options of a call: what is mistyped is told before anything is sent, and a client's `reuse` counts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    InvalidTaskError,
    TaskTimeoutError,
    UpscalerTask,
    Xalora,
    load_settings,
)
from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.jobs import untaken


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 24), "teal").save(path)
    return path


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ({"on_timeout": "cancle"}, "Write cancel."),
        ({"if_unknown": "xx"}, "There are forget, resend, stop."),
        ({"fallback": "no"}, "never"),
        ({"reuse": "no"}, "True or False"),
        ({"again": 1}, "True or False"),
        ({"timeout": "5"}, "a number of seconds"),
        ({"timeout": float("nan")}, "a number of seconds"),
        ({"timeout": True}, "a number of seconds"),
        ({"queue_limit": -1}, "a number of seconds"),
    ],
)
async def test_a_mistyped_value_is_told_and_nothing_sent(
    photo: Path, option: dict[str, Any], advice: str
) -> None:
    task = UpscalerTask(image=photo)
    async with Devnet() as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        for call in (client.run(task, **option), client.run_many([task], **option)):
            with pytest.raises(ConfigurationError, match=advice):
                await call
        assert devnet.stats()["creates"] == 0


async def test_a_single_task_is_no_list(photo: Path) -> None:
    task: Any = UpscalerTask(image=photo)
    async with Devnet() as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        with pytest.raises(InvalidTaskError, match=r"Write \[task\]"):
            await client.run_many(task)
        with pytest.raises(InvalidTaskError, match="max_in_flight is '3'"):
            await client.run_many([task], max_in_flight="3")  # type: ignore[arg-type]
        assert devnet.stats()["creates"] == 0


def test_a_client_that_is_told_to_reuse_does(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = UpscalerTask(image=photo)
    with DevnetThread() as devnet:
        with Xalora(devnet.api_key, devnet.url) as plain:
            plain.run(task)
            assert not plain.run(task).reused
        with Xalora(devnet.api_key, devnet.url, reuse=True) as client:
            assert client.run(task).reused
            (outcome,) = client.run_many([task])
            assert outcome.unwrap().reused
            assert not client.run(task, reuse=False).reused
        monkeypatch.setenv("XALORA_REUSE", "true")
        settings = load_settings(api_key=devnet.api_key, workflow_url=devnet.url)
        with Xalora(settings=settings) as client:
            assert client.run(task).reused
        assert devnet.stats()["creates"] == 3


async def test_a_task_that_no_miner_takes_is_told_while_it_waits(
    photo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(untaken, "UNTAKEN_SECONDS", 0.5)
    monkeypatch.setattr(untaken, "_asked", {})
    caplog.set_level(logging.WARNING, "xalora_client")
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        await client.run(UpscalerTask(image=photo))
        for _ in range(2):
            with pytest.raises(TaskTimeoutError):
                await client.run(UpscalerTask(image=photo, workflow_id="77"), timeout=3, again=True)
    told = [record.getMessage() for record in caplog.records if "No miner takes" in record.getMessage()]
    assert told and all("workflow 77" in text and "cancel it" in text for text in told)
