"""The miners' engine that upscales by a model: its choice by size, and what it leaves to others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from xalora_client.devnet import model_engine
from xalora_client.devnet.engines import MinerTask
from xalora_client.devnet.model_engine import PATIENCE, Choice, ModelEngine, choose
from xalora_client.engines.base import EngineCanceledError
from xalora_client.engines.ncnn.upscaler import upscaler


def png(seed: int, width: int = 20, height: int = 14) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def task(data: bytes, workflow_id: str = "upscale", task_type: str = "upscaler") -> MinerTask:
    return MinerTask("t-1", task_type, workflow_id, {"prompt": "a fox", "lora_name": "x"}, data)


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, np.float32) / 255


def test_an_image_that_takes_too_long_gets_a_faster_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = 0.5e-3
    assert choose(128, 128, pace, 4) == Choice("realesrgan-x4plus", 4, 128 * 128 * pace)
    most = int((PATIENCE / pace) ** 0.5)
    assert choose(most, most, pace, 2).model == "realesrgan-x4plus"
    large = choose(most + 1, most + 1, pace, 4)
    assert (large.model, large.factor) == ("waifu2x-photo", 2)
    assert large.seconds < PATIENCE / 10
    monkeypatch.setattr(model_engine, "lacking", lambda model: model == "waifu2x-photo")
    assert choose(most + 1, most + 1, pace, 4).model == "realesr-animevideov3"


@pytest.mark.parametrize("factor", [2, 4])
def test_it_upscales_by_the_model_and_tells_its_steps(factor: int) -> None:
    seen: list[tuple[str, Choice, int, int]] = []
    engine = ModelEngine(
        miners=3,
        factor=factor,
        on_progress=lambda task, choice, done, total: seen.append((task.task_id, choice, done, total)),
    )
    data, suffix = engine.run(task(png(1)))
    assert suffix == ".png"
    made = pixels_of(data)
    assert made.shape == (14 * factor, 20 * factor, 3)
    if factor == 4:
        expected = upscaler("realesrgan-x4plus").upscale(pixels_of(png(1)))
        assert float(np.abs(made - expected).max()) <= 1 / 255
    assert [(done, total) for _, _, done, total in seen] == [(0, 1), *((done, 25) for done in range(1, 26))]
    assert {choice.model for _, choice, _, _ in seen} == {"realesrgan-x4plus"}


def test_a_workflow_of_lanczos_gets_lanczos_and_prompts_get_test_cards() -> None:
    engine = ModelEngine()
    data, _ = engine.run(task(png(2), workflow_id="lanczos-upscale"))
    with Image.open(io.BytesIO(png(2))) as given:
        doubled = given.resize((40, 28), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(np.rint(pixels_of(data) * 255), np.asarray(doubled))
    _, suffix = engine.run(task(b"", workflow_id="3", task_type="txt2img"))
    assert suffix == ".jpg"


def test_it_stops_when_the_result_is_no_longer_wanted() -> None:
    running = task(png(3))
    done_at_last = 0

    def stop_at_the_third(task: MinerTask, choice: Choice, done: int, total: int) -> None:
        nonlocal done_at_last
        done_at_last = done
        if done == 3:
            task.stopped.set()

    with pytest.raises(EngineCanceledError):
        ModelEngine(on_progress=stop_at_the_third).run(running)
    assert done_at_last == 3
