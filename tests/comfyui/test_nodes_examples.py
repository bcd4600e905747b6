"""The example workflows: their two formats agree, and they run."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from harness import ComfyUI, SessionDevnet
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "example_workflows"
TWINS = FOLDER / "api"
NAMES = sorted(path.stem for path in TWINS.glob("*.json"))
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOT_SENT = {"MarkdownNote"}

Prompt = dict[str, dict[str, Any]]


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return workflow


def twin(name: str) -> Prompt:
    prompt: Prompt = json.loads((TWINS / f"{name}.json").read_text("utf-8"))
    return prompt


def as_prompt(workflow: dict[str, Any], infos: dict[str, Any]) -> Prompt:
    """What the frontend sends for a workflow: widget values by their order, links by their ids."""
    links = {link[0]: link for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOT_SENT:
            continue
        sections = infos[node["type"]]["input"]
        values = iter(node["widgets_values"])
        inputs: dict[str, Any] = {}
        specs = {**sections.get("required", {}), **sections.get("optional", {})}
        if any(str(spec[0]).startswith("COMFY_DYNAMIC") for spec in specs.values()):
            # Current ComfyUIs have a choice with inputs of its own in place of some widgets of 0.3.75.
            specs = {socket["name"]: ("COMBO",) for socket in node["inputs"] if "widget" in socket}
        for name, spec in specs.items():
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list) or spec[0] in WIDGETS:
                value = next(values, None)
                if value is None and name in sections.get("optional", {}):
                    continue  # a later ComfyUI's, which keeps its default
                inputs[name] = value
                if options.get("control_after_generate"):
                    assert next(values) in ("fixed", "randomize", "increment", "decrement")
        if node["type"] in ("LoadImage", "LoadVideo"):
            assert next(values) == "image"
        assert list(values) == [], node["type"]
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is not None:
                _, origin, output, target, target_slot, kind = links[socket["link"]]
                assert (target, target_slot) == (node["id"], slot)
                origin_node = next(one for one in workflow["nodes"] if one["id"] == origin)
                assert socket["link"] in origin_node["outputs"][output]["links"]
                assert origin_node["outputs"][output]["type"] == kind
                inputs[socket["name"]] = [str(origin), output]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def picture() -> bytes:
    """An example.png of 96x64: a gradient with an edge."""
    y, x = np.mgrid[0:64, 0:96]
    pixels = np.stack([x * 255 // 95, y * 255 // 63, (x + y) % 256], axis=2).astype(np.uint8)
    pixels[20:40, 30:60] = (250, 240, 30)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_comfyui_offers_the_examples_as_templates_and_nothing_else(comfyui: ComfyUI) -> None:
    """The twins lie in a folder of their own, or each example would be offered twice."""
    offered = comfyui.get("/workflow_templates").json()[comfyui.pack_dir.name]
    assert sorted(offered) == NAMES
    assert NAMES == [
        "Submit and collect later",
        "Text to image",
        "Text to video",
        "Upscale a batch",
        "Upscale a video",
        "Upscale an image",
        "Upscale between local steps",
    ]
    folder = f"/api/workflow_templates/{comfyui.pack_dir.name}"
    for name in NAMES:
        assert comfyui.get(f"{folder}/{quote(name)}.json").json() == read(name)
        picture = Image.open(BytesIO(comfyui.get(f"{folder}/{quote(name)}.jpg").content))
        assert picture.format == "JPEG"


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_made_of_current_nodes_and_framed_by_the_page(comfyui: ComfyUI, name: str) -> None:
    infos = comfyui.object_info()
    workflow = read(name)
    types = {node["type"] for node in workflow["nodes"]} - NOT_SENT
    assert [type for type in types if infos[type].get("deprecated") or infos[type].get("experimental")] == []
    # With a saved view, ComfyUI shows that in place of the whole graph.
    assert "ds" not in workflow["extra"]


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_say_the_same(comfyui: ComfyUI, name: str) -> None:
    workflow = read(name)
    prompt = as_prompt(workflow, comfyui.object_info())
    without_titles = {
        node_id: {key: value for key, value in node.items() if key != "_meta"}
        for node_id, node in twin(name).items()
    }
    assert prompt == without_titles
    assert workflow["last_node_id"] == max(node["id"] for node in workflow["nodes"])
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_reads_from_left_to_right_and_down(name: str) -> None:
    """A link that runs back in its own row hides behind what is there; rows keep an example readable."""
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, origin, _, target, _, _ in workflow["links"]:
        right, bottom = (nodes[origin]["pos"][axis] + nodes[origin]["size"][axis] for axis in (0, 1))
        left, top = nodes[target]["pos"]
        assert right < left or bottom < top, (nodes[origin]["type"], nodes[target]["type"])


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(comfyui: ComfyUI, devnet: SessionDevnet, name: str) -> None:
    comfyui.upload_image(picture(), "example.png")
    comfyui.clear_cache()
    record = comfyui.run(twin(name))
    assert record.status == "success", record.describe()
    files = comfyui.files(record)
    if name.endswith("video"):
        assert len(files) == 1 and files[0][4:8] == b"ftyp"
    else:
        sizes = [Image.open(BytesIO(data)).size for data in files]
        wanted = {
            "Upscale an image": [(192, 128)],
            "Upscale a batch": [(192, 128)] * 3,
            "Submit and collect later": [(96, 64), (192, 128)],
            "Upscale between local steps": [(512, 341), (1024, 682)],
            "Text to image": [(1024, 1024)] * 2,
        }
        assert sorted(sizes) == wanted[name]
    # Each example uses the network; a task of an earlier run of this test may answer.
    assert any("by xalora" in text.text or "kept result" in text.text for text in record.texts)


def test_the_video_example_runs_here_without_a_model(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = twin("Text to video")
    (node,) = [one for one in prompt.values() if one["class_type"] == "XaloraTextToVideo"]
    node["inputs"].update(workflow_id="gradient-video", fallback="local_only", width=128, height=64, length=9)
    record = comfyui.run(prompt)
    assert record.status == "success", record.describe()
    assert comfyui.files(record)[0][4:8] == b"ftyp"
    assert devnet.new_stats()["endpoints"]["task_create"] == 0
