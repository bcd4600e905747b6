"""What saved graphs rely on: ids, sockets and widgets of published nodes. And that each is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import ComfyUI

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
        {"local_model": "COMBO", **BATCH, **RUN},
        [("IMAGE", "IMAGE")],
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
ADVANCED = {*RUN, *BATCH}
INTERNAL = {"XaloraTakeImages", "XaloraMergeImages", "XaloraLocalVideo"}


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
        assert bool(options.get("advanced")) == (input_name in ADVANCED | {"steps", "quality"}) or (
            input_name in ("guidance", "strength_model")
        ), input_name
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


def help_entries(page: str, heading: str) -> list[str]:
    """The list under a heading of a help page."""
    _, _, section = page.partition(f"\n## {heading}\n\n")
    return section.split("\n\n")[0].splitlines()


def help_entries_of(inputs: dict[str, Any], *, advanced: bool) -> list[str]:
    """What a help page lists of a node's inputs: name, default, and the tooltip as a sentence."""
    entries = []
    for name, (_, options) in inputs.items():
        if bool(options.get("advanced")) != advanced:
            continue
        default = options.get("default", "")
        shown = str(default).lower() if isinstance(default, bool) else default
        told = f" (default `{shown}`)" if shown != "" else ""
        entries.append(f"- **{name}**{told}: {options['tooltip'].removesuffix('.')}.")
    return entries


def test_every_node_has_a_help_page_and_english_texts(comfyui: ComfyUI, repository: Path) -> None:
    texts = json.loads((repository / "locales" / "en" / "nodeDefs.json").read_text())
    for name, info in comfyui.object_info().items():
        if "ComfyUI-Xalora" not in info["python_module"]:
            continue
        page = repository / "web" / "docs" / f"{name}.md"
        assert page.is_file(), name
        assert page.read_text().startswith(f"# {info['display_name']}\n"), name
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        told = page.read_text()
        assert help_entries(told, "Inputs") == help_entries_of(inputs, advanced=False), name
        assert help_entries(told, "Advanced inputs") == help_entries_of(inputs, advanced=True), name
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        assert help_entries(told, "Outputs") == [f"- **{output}**: {tip}" for output, tip in outputs], name
        # ComfyUI shows the page in a narrow panel, where a table's columns have no room for words.
        assert "|--" not in told, name
        assert texts[name]["display_name"] == info["display_name"]
        assert texts[name]["inputs"].keys() == inputs.keys(), name
        served = comfyui.get(f"/extensions/{comfyui.pack_dir.name}/docs/{name}.md")
        assert served.text == told
