"""Ids, sockets and widgets of published nodes, which saved graphs rely on, and the texts about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import ComfyUI
from harness.install import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

from generate_node_docs import generated_files

TASK = {
    "workflow_id": "STRING",
    "timeout_seconds": "INT",
    "consumer_id": "STRING",
    "job_id_prefix": "STRING",
}
WAIT = {"wait_timeout": "INT"}
BATCH = {"max_in_flight": "INT"}
MONEY = {"reuse": "BOOLEAN", "if_unknown": "COMBO"}
FALLBACK = {"fallback": "COMBO", "queue_limit": "INT"}
RUN = {**TASK, **WAIT, **MONEY, **FALLBACK}
SUBMIT = {**TASK, **MONEY}
VIDEO = {
    "width": "INT",
    "height": "INT",
    "length": "INT",
    "fps": "INT",
    "steps": "INT",
    "quality": "INT",
}
IMAGE = {
    "batch_size": "INT",
    "aspect_ratio": "COMBO",
    "width": "INT",
    "height": "INT",
    "steps": "INT",
    "guidance": "FLOAT",
    "strength_model": "FLOAT",
}
PROMPT = {"prompt": "STRING", "seed": "INT"}
LORA_PROMPT = {**PROMPT, "lora_name": "STRING"}

# Id -> (required inputs, optional inputs, outputs as (type, name) in order). Add to it; never change a line.
PUBLISHED: dict[str, tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]] = {
    "XaloraUpscaleImage": (
        {"image": "IMAGE"},
        {"local_model": "COMBO", **BATCH, **RUN, "tile": "COMBO", "max_tasks": "INT"},
        [("IMAGE", "IMAGE")],
    ),
    "XaloraUpscaleVideo": (
        {"video": "VIDEO"},
        {"max_tasks": "INT", "same_engine": "BOOLEAN", **BATCH, **RUN},
        [("VIDEO", "VIDEO")],
    ),
    "XaloraTextToVideo": (
        PROMPT,
        {"decode_frames": "BOOLEAN", **VIDEO, **RUN},
        [("VIDEO", "VIDEO"), ("IMAGE", "IMAGE"), ("FLOAT", "fps")],
    ),
    "XaloraTextToImage": (LORA_PROMPT, {**IMAGE, **BATCH, **RUN}, [("IMAGE", "IMAGE")]),
    "XaloraSubmitUpscale": ({"image": "IMAGE"}, {**BATCH, **SUBMIT}, [("XALORA_TASK", "XALORA_TASK")]),
    "XaloraSubmitTextToVideo": (PROMPT, {**VIDEO, **SUBMIT}, [("XALORA_TASK", "XALORA_TASK")]),
    "XaloraSubmitTextToImage": (
        LORA_PROMPT,
        {**IMAGE, **BATCH, **SUBMIT},
        [("XALORA_TASK", "XALORA_TASK")],
    ),
    "XaloraCollect": (
        {},
        {"task": "XALORA_TASK", "task_id": "STRING", **BATCH, **WAIT},
        [("IMAGE", "IMAGE"), ("VIDEO", "VIDEO")],
    ),
}
ADVANCED = {
    *RUN,
    *BATCH,
    "steps",
    "quality",
    "guidance",
    "strength_model",
    "decode_frames",
    "same_engine",
    "tile",
}
WORDS = {"xalora", "remote", "cloud", "gpu", "miner"}
INTERNAL = {"XaloraTakeImages", "XaloraNcnnUpscale", "XaloraMergeImages", "XaloraLocalVideo"}


def types(section: dict[str, Any]) -> dict[str, str]:
    return {name: spec[0] for name, spec in section.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_ids_and_sockets_stay(comfyui: ComfyUI, name: str) -> None:
    info = comfyui.object_info(name)
    required, optional, outputs = PUBLISHED[name]
    # A new required input would break saved graphs as surely as a vanished one.
    assert types(info["input"].get("required", {})) == required
    assert types(info["input"].get("optional", {})).items() >= optional.items()
    assert list(zip(info["output"], info["output_name"], strict=True)) == outputs
    assert info["category"] == "Xalora"
    assert info["output_node"] is name.startswith("XaloraSubmit")
    assert not info["api_node"]


def test_every_node_of_the_pack_is_in_the_table(comfyui: ComfyUI) -> None:
    ours = {
        name
        for name, info in comfyui.object_info().items()
        if "ComfyUI-Xalora" in info["python_module"] and not name.startswith("XaloraWorkflow_")
    }
    assert ours == PUBLISHED.keys() | INTERNAL


@pytest.mark.parametrize("name", PUBLISHED)
def test_widgets_follow_comfyuis_habits(comfyui: ComfyUI, name: str) -> None:
    info = comfyui.object_info(name)
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    for input_name, (input_type, options) in inputs.items():
        assert options.get("tooltip"), input_name
        of_custom_size = "aspect_ratio" in inputs and input_name in ("width", "height")
        # A video has many tasks always, an image rarely.
        of_rare_tiles = "tile" in inputs and input_name == "max_tasks"
        is_advanced = input_name in ADVANCED or of_custom_size or of_rare_tiles
        assert bool(options.get("advanced")) == is_advanced, input_name
        if input_type in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"], input_name
        if input_type == "COMBO":
            assert options["default"] in options["options"], input_name
        assert "key" not in input_name.lower() and "secret" not in input_name.lower()
    if "prompt" in inputs:
        assert inputs["prompt"][1]["multiline"] is True
        seed = inputs["seed"][1]
        assert (seed["control_after_generate"], seed["min"], seed["max"]) == (True, 0, 2**53 - 1)
    assert all(info["output_tooltips"])
    assert info["description"]


@pytest.mark.parametrize(
    ("name", "most"), [("XaloraUpscaleImage", 1), ("XaloraTextToImage", 8), ("XaloraTextToVideo", 7)]
)
def test_a_node_shows_few_widgets(comfyui: ComfyUI, name: str, most: int) -> None:
    info = comfyui.object_info(name)["input"]
    shown = {
        input_name: spec[1]
        for section in ("required", "optional")
        for input_name, spec in info.get(section, {}).items()
        if spec[0] != "IMAGE" and not spec[1].get("advanced")
    }
    # The seed has a second widget, for what happens to it after a run.
    assert len(shown) + ("seed" in shown) <= most
    # What a user sees is what the network makes; 0 would be a riddle.
    sizes = ("width", "height", "length", "fps", "batch_size")
    assert all(shown[one]["default"] > 0 for one in sizes if one in shown)


def test_the_defaults_are_the_hosted_workflows(comfyui: ComfyUI) -> None:
    video = comfyui.object_info("XaloraTextToVideo")["input"]["optional"]
    names = ("width", "height", "length", "fps", "steps", "quality")
    defaults = {"width": 848, "height": 480, "length": 73, "fps": 24, "steps": 30, "quality": 80}
    assert {name: video[name][1]["default"] for name in names} == defaults
    submitted = comfyui.object_info("XaloraSubmitTextToVideo")["input"]["optional"]
    assert {name: submitted[name][1]["default"] for name in names} == defaults
    image = comfyui.object_info("XaloraTextToImage")["input"]["optional"]
    assert image["aspect_ratio"][1]["default"] == "1:1 square 1024x1024"
    # Saved graphs hold 0, -1 and "workflow's own", which stay valid.
    assert [image[name][1]["min"] for name in ("width", "steps", "guidance")] == [0, 0, -1.0]
    assert "workflow's own" in image["aspect_ratio"][1]["options"]


def test_search_and_menus_know_our_nodes(comfyui: ComfyUI) -> None:
    infos = {name: info for name, info in comfyui.object_info().items() if name.startswith("Xalora")}
    if "search_aliases" not in infos["XaloraUpscaleImage"]:
        pytest.skip("this ComfyUI has no search aliases")
    for name in PUBLISHED:
        assert set(infos[name]["search_aliases"]) >= WORDS, name
        assert not infos[name]["dev_only"], name
    assert {"txt2img", "flux"} <= set(infos["XaloraTextToImage"]["search_aliases"])
    for name in INTERNAL:
        assert infos[name]["dev_only"] and not infos[name]["search_aliases"], name
    assert infos["XaloraUpscaleImage"]["essentials_category"] == "Image Tools"


def test_internal_nodes_stand_apart(comfyui: ComfyUI) -> None:
    assert {comfyui.object_info(name)["category"] for name in INTERNAL} == {"Xalora/internal"}


def test_texts_and_help_pages_are_those_of_the_schemas(comfyui: ComfyUI, repository: Path) -> None:
    for path, text in generated_files(comfyui.object_info()).items():
        assert (repository / path).read_text(encoding="utf-8") == text, f"{path}: run `make node-docs`"


def test_every_help_page_is_served_with_its_nodes_name(comfyui: ComfyUI) -> None:
    for name, info in comfyui.object_info().items():
        if "ComfyUI-Xalora" not in info["python_module"]:
            continue
        page = comfyui.get(f"/extensions/{comfyui.pack_dir.name}/docs/{name}.md").text
        assert page.startswith(f"# {info['display_name']}\n"), name
        # ComfyUI shows the page in a narrow panel, where a table's columns have no room for words.
        assert "|--" not in page, name
        # It asks for the page in the user's language first, and a missing one is an error in the console.
        for language in ("en", "zh-TW"):
            path = f"/extensions/{comfyui.pack_dir.name}/docs/{name}/{language}.md"
            assert comfyui.get(path).text == page, path


@pytest.mark.parametrize("path", ["XaloraNone/en.md", "..%2Fxalora/en.md", "..%2F..%2Fpyproject/en.md"])
def test_a_help_page_that_is_none_is_not_found(comfyui: ComfyUI, path: str) -> None:
    url = f"{comfyui.url}/extensions/{comfyui.pack_dir.name}/docs/{path}"
    assert requests.get(url, timeout=10).status_code == 404
