"""Workflows that ComfyUI exported: what is found in them, what is asked, and what they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xalora_client import AsyncXalora, InvalidTaskError, WorkflowDefinitionError, load_settings
from xalora_client.workflows import WorkflowCatalog, WorkflowDefinition
from xalora_client.workflows.catalog import SHIPPED_FOLDER
from xalora_client.workflows.exported import endpoint_of, endpoint_yaml, load_export
from xalora_client.workflows.prompt import parse_prompt

MINERS = Path(__file__).parent / "data" / "miner-workflows"


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def text_to_image(**changes: Any) -> dict[str, Any]:
    """ComfyUI's own first workflow."""
    return {
        "3": node(
            "KSampler",
            seed=2**60,
            steps=20,
            cfg=8.0,
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="watermark", clip=["4", 1]),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1.safetensors"),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="a", images=["8", 0]),
        **changes,
    }


def blur(**changes: Any) -> dict[str, Any]:
    return {
        "1": node("LoadImage", image="mine.png"),
        "2": node("ImageBlur", image=["1", 0], blur_radius=3, sigma=1.0),
        "3": node("SaveImage", filename_prefix="a", images=["2", 0]),
        **changes,
    }


def export(folder: Path, prompt: dict[str, Any], name: str = "my_api.json") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return path


def places(definition: WorkflowDefinition) -> dict[str, str]:
    return {
        each.name: f"{each.comfyui.node_id}.{each.comfyui.subfield}"
        for each in definition.parameters
        if each.comfyui is not None
    }


def test_a_text_to_image_is_understood(tmp_path: Path) -> None:
    definition = load_export(export(tmp_path, text_to_image()))
    assert places(definition) == {
        "prompt": "6.text",
        "negative_prompt": "7.text",
        "width": "5.width",
        "height": "5.height",
        "steps": "3.steps",
        "seed": "3.seed",
    }
    assert (definition.name, definition.task_type, definition.output_node_id) == ("my_api", "txt2img", "9")
    bound = definition.bind({"prompt": "a fox", "seed": 7})
    assert bound.prompt["6"]["inputs"]["text"] == "a fox"
    assert bound.prompt["3"]["inputs"]["seed"] == 7
    assert bound.prompt["5"]["inputs"]["height"] == 768
    assert definition.bind({}).prompt["3"]["inputs"]["seed"] == 2**60, "the author's own"
    assert not definition.task().repeatable and definition.task(seed=7).repeatable


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            SHIPPED_FOLDER / "flux-lora.json",
            {
                "prompt": "5.text",
                "width": "7.value",
                "height": "8.value",
                "steps": "12.steps",
                "seed": "13.noise_seed",
            },
        ),
        (SHIPPED_FOLDER / "lanczos-upscale.json", {"image": "1.image"}),
        (SHIPPED_FOLDER / "upscale.json", {"image": "1.image"}),
        (SHIPPED_FOLDER / "pan-video.json", {"length": "18.length", "fps": "19.fps", "image": "1.image"}),
        (
            SHIPPED_FOLDER / "mochi-fp8.json",
            {
                **{"prompt": "4.text", "negative_prompt": "5.text", "width": "6.width", "height": "6.height"},
                **{"length": "6.length", "fps": "9.fps", "steps": "7.steps", "seed": "7.seed"},
            },
        ),
        (
            MINERS / "hunyuan-fp8.json",
            {
                **{"prompt": "44.text", "width": "45.width", "height": "45.height", "length": "45.length"},
                **{"fps": "40.frame_rate", "steps": "17.steps", "seed": "25.noise_seed"},
            },
        ),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_workflows_as_people_have_them_are_understood(path: Path, expected: dict[str, str]) -> None:
    prompt = parse_prompt(path.read_text(encoding="utf-8"), path.name)
    document = endpoint_of(prompt, "a", {}, lambda role, found: pytest.fail(f"asked for {role}: {found}"))
    found = {
        p["name"]: f"{p['comfyui']['node_id']}.{p['comfyui']['subfield']}" for p in document["parameters"]
    }
    assert found == expected
    assert document["output"] == ("video" if "fps" in expected else "image")


def test_through_a_controlnet_each_side_finds_its_own_text(tmp_path: Path) -> None:
    control = node(
        "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["4", 0], image=["4", 0]
    )
    sampler = node(
        "KSampler", seed=1, steps=20, positive=["10", 0], negative=["10", 1], latent_image=["5", 0]
    )
    definition = load_export(export(tmp_path, text_to_image(**{"10": control, "3": sampler})))
    assert (places(definition)["prompt"], places(definition)["negative_prompt"]) == ("6.text", "7.text")


def test_where_two_fit_it_is_asked_or_named_or_titled(tmp_path: Path) -> None:
    second = node("KSampler", "Refiner", seed=5, steps=9, positive=["6", 0], negative=["7", 0])
    path = export(tmp_path, text_to_image(**{"12": second}))
    with pytest.raises(
        WorkflowDefinitionError,
        match=r"Several nodes fit steps: 3\.steps \(KSampler\), 12\.steps.*--param steps=3",
    ):
        load_export(path)
    params = {"seed": "12.seed", "steps": ""}
    assert places(load_export(path, params=params)).get("seed") == "12.seed"
    assert "steps" not in places(load_export(path, params=params))
    asked: list[str] = []
    load_export(path, choose=lambda role, found: asked.append(role))
    assert asked == ["steps", "seed"]
    titled = text_to_image(**{"12": {**second, "_meta": {"title": "Main seed and steps"}}})
    assert places(load_export(export(tmp_path, titled)))["seed"] == "12.seed"


def test_params_name_more_places_and_the_output(tmp_path: Path) -> None:
    path = export(tmp_path, blur(**{"9": node("SaveImage", "Small", images=["2", 0], filename_prefix="b")}))
    with pytest.raises(WorkflowDefinitionError, match="Several nodes fit output: 3 "):
        load_export(path)
    definition = load_export(path, params={"radius": "2.blur_radius", "output": "9"})
    assert places(definition) == {"image": "1.image", "radius": "2.blur_radius"}
    assert definition.output_node_id == "9"
    assert definition.bind({"radius": 9}).prompt["2"]["inputs"]["blur_radius"] == 9
    for params, message in (
        ({"output": "77"}, "77 names no node"),
        (
            {"output": "9", "radius": "2.blur"},
            r'2\.blur names no input of "ImageBlur" \(node 2\).*blur_radius',
        ),
        ({"output": "9", "radius": "2.image"}, "is linked to another node"),
    ):
        with pytest.raises(WorkflowDefinitionError, match=message):
            load_export(path, params=params)


def test_inputs_of_nodes_take_values_of_their_type(tmp_path: Path) -> None:
    path = export(tmp_path, blur())
    given = {"2.blur_radius": "9", "2.sigma": 2, "3.filename_prefix": "007"}
    prompt = load_export(path, inputs=given).prompt
    assert (prompt["2"]["inputs"]["blur_radius"], prompt["2"]["inputs"]["sigma"]) == (9, 2)
    assert prompt["3"]["inputs"]["filename_prefix"] == "007"
    for inputs, error, message in (
        (
            {"2.blur_radius": "wide"},
            InvalidTaskError,
            r"Input 2\.blur_radius takes a number, such as its 3",
        ),
        ({"2.blur_radius": float("inf")}, InvalidTaskError, "takes a number"),
        ({"2.image": "a"}, InvalidTaskError, "is linked to another node"),
        ({"2.radius": "9"}, InvalidTaskError, r"names no input of .*blur_radius, sigma"),
    ):
        with pytest.raises(error, match=message):
            load_export(path, inputs=inputs)


def test_an_export_tells_whole_numbers_by_their_names_alone(tmp_path: Path) -> None:
    """ComfyUI's page writes 1.0 as 1."""
    sampler = node("KSampler", seed=1, steps=20, cfg=8, denoise=1, positive=["6", 0], negative=["7", 0])
    path = export(tmp_path, text_to_image(**{"3": sampler}))
    prompt = load_export(path, inputs={"3.denoise": "0.5", "3.cfg": 7.5, "3.steps": 30.0}).prompt
    assert [prompt["3"]["inputs"][name] for name in ("denoise", "cfg", "steps")] == [0.5, 7.5, 30]
    assert load_export(path, params={"cfg": "3.cfg"}).bind({"cfg": 6.5}).prompt["3"]["inputs"]["cfg"] == 6.5
    with pytest.raises(InvalidTaskError, match="steps takes a whole number"):
        load_export(path, inputs={"3.steps": 20.5})


def test_where_an_export_has_no_value_a_text_is_one(tmp_path: Path) -> None:
    custom = node("X", nothing=None, listed={"__value__": ["a"]})
    path = export(tmp_path, text_to_image(**{"10": custom}))
    for given, kept in (("abc", "abc"), ("7", 7)):
        assert load_export(path, inputs={"10.nothing": given}).prompt["10"]["inputs"]["nothing"] == kept
    with pytest.raises(InvalidTaskError, match="takes another kind of value"):
        load_export(path, inputs={"10.listed": "b"})


def test_a_prompt_that_nothing_holds_is_not_looked_for_in_the_negative_one(tmp_path: Path) -> None:
    joined = node("StringConcatenate", string_a="photo of ", string_b="a cat", delimiter="")
    graph = text_to_image(**{"6": node("CLIPTextEncode", text=["12", 0], clip=["4", 1]), "12": joined})
    found = places(load_export(export(tmp_path, graph)))
    assert "prompt" not in found
    assert found["negative_prompt"] == "7.text"


def test_of_an_encoder_of_two_texts_both_fit(tmp_path: Path) -> None:
    both = node("CLIPTextEncodeSDXL", clip=["4", 1], text_g="a cat", text_l="a cat")
    path = export(tmp_path, text_to_image(**{"6": both}))
    with pytest.raises(WorkflowDefinitionError, match=r"Several nodes fit prompt: 6\.text_g .*6\.text_l"):
        load_export(path)
    # An empty one was left so by the author.
    half = node("CLIPTextEncodeFlux", clip=["4", 1], clip_l="", t5xxl="a cat", guidance=3.5)
    path = export(tmp_path, text_to_image(**{"6": half}))
    assert places(load_export(path))["prompt"] == "6.t5xxl"


def test_a_node_that_leaves_no_file_is_no_output(tmp_path: Path) -> None:
    path = export(tmp_path, text_to_image(**{"10": node("SaveImageWebsocket", images=["8", 0])}))
    assert load_export(path).output_node_id == "9"


def test_a_graph_goes_along_where_miners_do_not_know_it(tmp_path: Path) -> None:
    task = load_export(export(tmp_path, blur()), inputs={"2.blur_radius": 9}).task(image="photo.png")
    details = task.details()
    assert details["parameters"] == {"image": "photo.png"}
    assert details["prompt"]["2"]["inputs"]["blur_radius"] == 9
    assert (task.kind_of_task, task.workflow_id, task.is_hosted) == ("comfyui-graph", "comfyui-graph", False)


def test_an_endpoint_file_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = export(
        tmp_path, text_to_image(**{"6": node("CLIPTextEncode", text="57:8 ähre, on", clip=["4", 1])})
    )
    document = endpoint_of(parse_prompt(path.read_text(), "a"), "my_api", {}, lambda role, found: None)
    path.with_suffix(".yaml").write_text(endpoint_yaml(document), encoding="utf-8")
    written = load_export(path)
    assert places(written)["seed"] == "3.seed"
    assert written.parameter("prompt").default == "57:8 ähre, on"
    # No index is needed for a folder of pairs.
    catalog = WorkflowCatalog.load(tmp_path)
    assert catalog.problems == ()
    found = catalog.get("my_api")
    assert (found.task_type, found.network_id, found.sends_graph) == ("txt2img", "my_api", False)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path / "own", text_to_image(), "alone.json")
    (tmp_path / "own" / "lone.yaml").write_text("comfyui_output_node_id: 1\n")
    (tmp_path / "own" / "index.yaml").write_text("named: {task_type: a, output: image}\n")
    reasons = {p.name: p.reason for p in WorkflowCatalog.load(tmp_path / "own").problems}
    assert "alone.yaml is missing beside alone.json; `xalora workflows add alone.json`" in reasons["alone"]
    assert "lone.json is missing beside lone.yaml" in reasons["lone"]
    assert "named.json is missing" in reasons["named"]
    with pytest.raises(WorkflowDefinitionError, match=r"absent\.json is missing"):
        AsyncXalora(journal="memory").workflow("absent.json")
    monkeypatch.chdir(tmp_path)
    catalog = WorkflowCatalog.load(
        tmp_path / "own", load_settings(workflows_dir="own").settings.workflows_dir
    )
    assert len(catalog.problems) == 3, "a folder that is named twice is read once"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"1": node("LoadImage", image="a.png")}, "has no node that saves an image or a video"),
        ({"nodes": [], "links": []}, r"editor's format.*Export \(API\)"),
        ({}, "not an object of nodes"),
    ],
)
def test_what_is_no_exported_workflow_says_so(tmp_path: Path, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match=message):
        load_export(export(tmp_path, prompt))
