"""Bound workflows as subgraphs: ids, image links and results."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

PREFIX = "7.0.0."


@pytest.fixture(scope="module")
def expansion(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.subgraph", pack.__name__)


@pytest.fixture(scope="module")
def workflows(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.workflows", pack.__name__)


def bound(workflows: ModuleType, prompt: dict[str, Any], **slots: tuple[str, str]) -> Any:
    return workflows.BoundWorkflow(
        name="example",
        title="Example",
        task_type="img2img",
        prompt=prompt,
        output_node_id="9",
        image_inputs=tuple(workflows.NodeInput(node, field, name) for name, (node, field) in slots.items()),
    )


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}


def test_loaders_give_way_and_the_saving_node_is_left_out(
    expansion: ModuleType, workflows: ModuleType
) -> None:
    prompt = {
        "1": node("LoadImage", image="example.png"),
        "2": node("Blend", image=["1", 0], mask=["1", 1], amount=0.5, pair=[1, 2]),
        "9": node("SaveImage", images=["2", 0], filename_prefix="x"),
    }
    graph = expansion.subgraph(bound(workflows, prompt, image=("1", "image")), PREFIX, {"image": "take"})
    assert graph.nodes == {
        "7.0.0.2": {
            "class_type": "Blend",
            "inputs": {"image": ["take", 0], "mask": ["take", 1], "amount": 0.5, "pair": [1, 2]},
        }
    }
    assert expansion.image_result(graph, "example") == ["7.0.0.2", 0]
    # The definition is used again: its own graph stays as it was.
    assert prompt["2"]["inputs"]["image"] == ["1", 0]


def test_a_result_that_is_the_image_itself(expansion: ModuleType, workflows: ModuleType) -> None:
    prompt = {"1": node("LoadImage", image="x.png"), "9": node("SaveImage", images=["1", 0])}
    graph = expansion.subgraph(bound(workflows, prompt, image=("1", "image")), PREFIX, {"image": "4"})
    assert (graph.nodes, expansion.image_result(graph, "example")) == ({}, ["4", 0])


def test_another_loader_can_not_be_fed(
    expansion: ModuleType, workflows: ModuleType, pack: ModuleType
) -> None:
    errors = import_module(".xalora_client.errors", pack.__name__)
    prompt = {"1": node("LoadImageMask", image="x.png"), "9": node("SaveImage", images=["1", 0])}
    with pytest.raises(errors.WorkflowDefinitionError, match="image with a LoadImageMask node"):
        expansion.subgraph(bound(workflows, prompt, image=("1", "image")), PREFIX, {"image": "4"})


@pytest.mark.parametrize(
    ("saving", "fps"),
    [({"fps": 12}, 12.0), ({"frame_rate": 8}, 8.0), ({}, 24.0), ({"fps": ["2", 2]}, ["7.0.0.2", 2])],
)
def test_frames_that_were_to_be_saved_become_a_video(
    expansion: ModuleType, workflows: ModuleType, saving: dict[str, Any], fps: Any
) -> None:
    prompt = {"2": node("Frames"), "9": node("SaveAnimatedWEBP", images=["2", 0], **saving)}
    graph = expansion.subgraph(bound(workflows, prompt), PREFIX, {})
    assert expansion.video_result(graph, PREFIX, "example") == ["7.0.0.video", 0]
    assert graph.nodes["7.0.0.video"] == {
        "class_type": "CreateVideo",
        "inputs": {"images": ["7.0.0.2", 0], "fps": fps},
    }


def test_a_video_is_passed_on_as_it_is(expansion: ModuleType, workflows: ModuleType) -> None:
    prompt = {"2": node("CreateVideo"), "9": node("SaveVideo", video=["2", 0], format="mp4")}
    graph = expansion.subgraph(bound(workflows, prompt), PREFIX, {})
    assert expansion.video_result(graph, PREFIX, "example") == ["7.0.0.2", 0]
    assert set(graph.nodes) == {"7.0.0.2"}


@pytest.mark.parametrize("count", range(1, 10))
def test_images_are_joined_in_order(expansion: ModuleType, count: int) -> None:
    nodes: dict[str, Any] = {}
    link = expansion.batched([[f"n{index}", 0] for index in range(count)], nodes, PREFIX)

    def order(link: list[Any]) -> list[str]:
        if link[0] not in nodes:
            return [link[0]]
        inputs = nodes[link[0]]["inputs"]
        return order(inputs["image1"]) + order(inputs["image2"])

    assert order(link) == [f"n{index}" for index in range(count)]
    assert len(nodes) == count - 1
