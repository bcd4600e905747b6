"""Tasks: what they send, and what they refuse before anything is sent."""

from __future__ import annotations

import re
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field

from xalora_client import (
    FluxLoraTask,
    InvalidTaskError,
    LocalImage,
    Text2VideoTask,
    UpscalerTask,
    WorkflowTask,
    parse_api_key,
)


def test_only_given_parameters_are_sent_and_never_null() -> None:
    task = Text2VideoTask(prompt="a fox", seed=7, workflow_id="2")
    assert task.task_type == "txt2vid"
    assert task.task_details == {"parameters": {"prompt": "a fox", "seed": 7}}
    flux = FluxLoraTask(prompt="a fox", lora_name="gecko.safetensors", width=512, noise_seed=0)
    assert flux.task_type == "txt2img"
    assert flux.task_details["parameters"] == {
        "prompt": "a fox",
        "lora_name": "gecko.safetensors",
        "width": 512,
        "noise_seed": 0,
    }


def test_an_upscaler_takes_the_sdks_name_for_its_image() -> None:
    url = "https://example.org/cat.png"
    assert UpscalerTask(image_url=url).task_details == {"parameters": {"image": url}}
    assert UpscalerTask(image=url).task_details == {"parameters": {"image": url}}
    with pytest.raises(InvalidTaskError, match="image"):
        UpscalerTask()
    with pytest.raises(InvalidTaskError, match="image"):
        UpscalerTask("a.png", image_url=url)


def test_a_local_image_has_no_details_before_it_is_delivered() -> None:
    with pytest.raises(InvalidTaskError, match="image of this machine"):
        _ = UpscalerTask(image="cat.png").task_details


def test_a_batch_becomes_one_task_an_image() -> None:
    batch = np.random.default_rng(1).random((3, 4, 5, 3), dtype=np.float32)
    tasks = UpscalerTask.for_batch(batch, timeout_seconds=9)
    assert [task.timeout_seconds for task in tasks] == [9, 9, 9]
    assert all(np.array_equal(task.image, image) for task, image in zip(tasks, batch, strict=True))
    with pytest.raises(InvalidTaskError, match=r"\[N,H,W,C\]"):
        UpscalerTask.for_batch(batch[0])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Text2VideoTask(prompt="  "), "prompt"),
        (lambda: Text2VideoTask(prompt="x", seed=2**53), "seed"),
        (lambda: Text2VideoTask(prompt="x", seed=-1), "seed"),
        (lambda: Text2VideoTask(prompt="x", frames=3), "frames"),
        (
            lambda: Text2VideoTask(prompt="x", width=640, workflow_id="1"),
            "width is 640; workflow 1 allows 848",
        ),
        (lambda: Text2VideoTask(prompt="x", width=260, workflow_id="2"), "multiple of 8"),
        (lambda: Text2VideoTask(prompt="x", length=129, workflow_id=2), "length is 129"),
        (lambda: FluxLoraTask(prompt="x", lora_name="l", width=500), "width"),
        (lambda: FluxLoraTask(prompt="x", lora_name="l", height=517), "height"),
        (lambda: FluxLoraTask(prompt="x", lora_name="l", aspect_ratio="2:1"), "aspect_ratio"),
        (lambda: FluxLoraTask(prompt="x"), "lora_name"),
        (lambda: UpscalerTask("a.png", timeout_seconds=-1), "timeout_seconds"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_sent(make: Any, named: str) -> None:
    with pytest.raises(InvalidTaskError, match=re.escape(named)) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert "nothing was charged" in str(caught.value)


def test_the_values_of_the_networks_own_documentation_are_taken() -> None:
    image = FluxLoraTask(prompt="x", lora_name="gecko", width=680, height=1024, steps=15, workflow_id="3")
    assert image.parameters()["width"] == 680
    assert Text2VideoTask(prompt="x", length=37, width=848, height=480, workflow_id="1").length == 37


def test_the_largest_seed_is_what_json_in_javascript_carries() -> None:
    assert Text2VideoTask(prompt="x", seed=2**53 - 1).seed == 2**53 - 1


def test_the_job_id_is_a_prefix_and_ten_hex_digits() -> None:
    assert re.fullmatch(r"sdk-workflow-[0-9a-f]{10}", UpscalerTask("a.png").new_job_id())
    task = UpscalerTask("a.png", job_id_prefix="mine")
    assert re.fullmatch(r"mine-[0-9a-f]{10}", task.new_job_id())
    assert task.new_job_id() != task.new_job_id()


def test_a_user_derives_a_workflow_of_his_own() -> None:
    class SketchTask(WorkflowTask):
        task_type = "sketch"
        seed_field = "seed"

        photo: Annotated[Any, LocalImage()]
        strength: float = Field(0.5, ge=0, le=1)
        style: str | None = Field(None, alias="style-name")
        seed: int | None = None

    url = "https://example.org/cat.png"
    task = SketchTask(photo=url, **{"style-name": "ink"})
    assert task.task_details == {"parameters": {"photo": url, "strength": 0.5, "style-name": "ink"}}
    assert task.image_parameters() == {"photo": url}
    assert not task.repeatable
    assert SketchTask(photo=url, seed=1).repeatable
    with pytest.raises(InvalidTaskError, match="strength"):
        SketchTask(photo=url, strength=2)


def test_a_tasks_own_key_wins_and_is_in_no_repr() -> None:
    client = parse_api_key("alice#main")
    assert UpscalerTask("a.png").own_credentials(client) == client
    combined = UpscalerTask("a.png", api_key="bob#0ther")
    assert combined.own_credentials(client) == parse_api_key("bob#0ther")
    bare = UpscalerTask("a.png", api_key="0ther", consumer_id="carol")
    assert bare.own_credentials(None) == parse_api_key("carol#0ther")
    assert UpscalerTask("a.png", consumer_id="dave").own_credentials(client) == parse_api_key("dave#main")
    assert "0ther" not in repr(combined) + str(bare) + repr(bare.parameters())


class Sketch(WorkflowTask):
    task_type = "sketch"
    text: str | None = None
    extra: Any = None
    image: Annotated[Any, LocalImage()] = None


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"text": "a \ud83d b"}, "text"),
        ({"extra": {"tags": ["a", "\ud83d"]}}, "extra"),
        ({"extra": {"\ud83d": 1}}, "extra"),
        ({"workflow_id": "\ud83d"}, "workflow_id"),
        ({"consumer_id": "\ud83d"}, "consumer_id"),
        ({"image": "https://h/\ud83d.png"}, "image"),
        ({"image": ""}, "image"),
        ({"image": " "}, "image"),
    ],
)
def test_half_of_a_character_and_an_empty_image_are_refused_by_name(values: Any, name: str) -> None:
    with pytest.raises(InvalidTaskError, match=f"Sketch: {name}: "):
        Sketch(**values)


def test_a_path_of_bytes_that_are_no_text_is_a_path() -> None:
    assert Sketch(image="photo-\udcff.png").image == "photo-\udcff.png"
