"""Definitions: the real miner files, binding, and broken files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from xalora_client.errors import InvalidTaskError, WorkflowDefinitionError
from xalora_client.workflows import NodeInput, WorkflowCatalog, WorkflowDefinition
from xalora_client.workflows.definition import build_definition, load_definition
from xalora_client.workflows.endpoint import Endpoint, IndexEntry, load_yaml, parse_model
from xalora_client.workflows.prompt import as_link, node_title, parse_prompt

MINER_FILES = Path(__file__).parent / "data" / "miner-workflows"

IMAGE_ENTRY = IndexEntry(task_type="txt2img", output="image")

GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Load"}},
    "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "by": 2.0, "model": "a.pth"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
}

ENDPOINT = """
name: Scale
comfyui_output_node_id: 3
parameters:
  - {name: image, type: image, required: true, comfyui: {node_id: 1, field: inputs, subfield: image}}
  - {name: by, type: number, minimum: 1, maximum: 4, comfyui: {node_id: 2, field: inputs, subfield: by}}
  - {name: model, type: string, default: auto, installed: true, scope: local,
     comfyui: {node_id: "2", field: inputs, subfield: model}}
"""


def define(graph: Any = GRAPH, endpoint: str = ENDPOINT) -> WorkflowDefinition:
    return build_definition(
        "scale",
        IMAGE_ENTRY,
        parse_prompt(json.dumps(graph), "scale.json"),
        parse_model(Endpoint, load_yaml(endpoint, "scale.yaml"), "scale.yaml"),
    )


def miner_definition(name: str, task_type: str, output: str) -> WorkflowDefinition:
    entry = parse_model(IndexEntry, {"task_type": task_type, "output": output}, "index.yaml")
    return load_definition(name, entry, MINER_FILES)


def test_a_public_miners_flux_files_load_and_bind_unchanged() -> None:
    definition = miner_definition("flux-lora", "txt2img", "image")
    assert definition.title == "Advanced Flux Text to Image with LoRA"
    assert definition.output_node_id == "12"
    bound = definition.bind({"prompt": "a gecko"})
    expected = json.loads((MINER_FILES / "flux-lora.json").read_text(encoding="utf-8"))
    expected["67"]["inputs"]["t5xxl"] = "a gecko"
    # The file's own defaults, among them a width off its step grid.
    expected["24"]["inputs"].update(aspect_ratio="custom", width=680, height=1024)
    expected["20"]["inputs"]["noise_seed"] = 966993914913986
    assert bound.prompt == expected


def test_the_off_grid_default_stands_but_other_off_grid_values_are_refused() -> None:
    definition = miner_definition("flux-lora", "txt2img", "image")
    assert definition.validate({"prompt": "x"})["width"] == 680
    assert definition.validate({"prompt": "x", "width": 680})["width"] == 680
    with pytest.raises(InvalidTaskError, match=r"width was given 681.*nearest is 640 or 704"):
        definition.validate({"prompt": "x", "width": 681})
    with pytest.raises(InvalidTaskError, match="noise_seed"):
        definition.validate({"prompt": "x", "noise_seed": 2**53})


def test_a_public_miners_video_files_load_and_bind_unchanged() -> None:
    definition = miner_definition("hunyuan-fp8", "txt2vid", "video")
    bound = definition.bind({"prompt": "rain"})
    expected = json.loads((MINER_FILES / "hunyuan-fp8.json").read_text(encoding="utf-8"))
    expected["44"]["inputs"]["text"] = "rain"
    assert bound.prompt == expected
    assert bound.output_node_id == "40"
    assert node_title(bound.prompt, "40") == "Video Combine 🎥🅥🅗🅢"


def test_binding_copies_the_graph_and_lists_inputs_to_fill() -> None:
    definition = define()
    before = copy.deepcopy(definition.prompt)
    bound = definition.bind({"image": "cat.png", "by": 3})
    bound.prompt["2"]["inputs"]["image"][0] = "changed"
    assert definition.prompt == before
    assert bound.prompt["2"]["inputs"]["by"] == 3.0
    assert definition.bind({"image": "cat.png"}).prompt["2"]["inputs"]["by"] == 2.0, "the author's value"
    assert bound.image_inputs == (NodeInput("1", "image", "image"),)
    assert bound.auto_inputs == (NodeInput("2", "model", "model"),)
    named = bound.with_images({"image": "cat (1).png"})
    assert named.prompt["1"]["inputs"]["image"] == "cat (1).png"
    assert bound.prompt["1"]["inputs"]["image"] == "example.png"
    chosen = named.with_choices({bound.auto_inputs[0]: "b.pth"})
    assert chosen.prompt["2"]["inputs"]["model"] == "b.pth"
    assert chosen.auto_inputs == ()


def test_missing_and_unknown_parameters_are_named() -> None:
    definition = define()
    with pytest.raises(InvalidTaskError, match="Parameter image of workflow scale was not given"):
        definition.bind({"by": 2})
    with pytest.raises(InvalidTaskError, match=r"no parameter modle.*Did you mean model.*image, by, model"):
        definition.bind({"image": "a", "modle": "x"})
    assert "image" not in definition.check({"image": None})


def test_the_network_gets_what_was_given_and_nothing_meant_for_this_machine() -> None:
    definition = define()
    assert definition.network_parameters({"image": "u", "by": 2, "model": "b.pth"}) == {
        "image": "u",
        "by": 2.0,
    }
    assert definition.network_parameters({"image": "u", "by": None}) == {"image": "u"}
    with pytest.raises(InvalidTaskError):
        definition.network_parameters({"by": 2})


def test_what_the_networks_workflow_has_built_in_is_not_sent_and_can_change_on_this_machine_only() -> None:
    definition = WorkflowCatalog.load().get("hunyuan-fp8")
    assert definition.network_parameters({"prompt": "x", "width": 848, "seed": 5}) == {
        "prompt": "x",
        "seed": 5,
    }
    bound = definition.bind({"prompt": "x", "width": 640, "length": 25})
    assert bound.prompt["11"]["inputs"]["width"] == 640
    with pytest.raises(
        InvalidTaskError, match="width was given 640, but the network's workflow always uses 848"
    ):
        definition.network_parameters({"prompt": "x", "width": 640})


def test_a_preset_sets_the_parameters_it_stands_for() -> None:
    definition = WorkflowCatalog.load().get("flux-lora")
    values = {"prompt": "x", "lora_name": "a.safetensors"}
    bound = definition.bind({**values, "width": 512, "aspect_ratio": "21:9 landscape 1536x640"})
    assert bound.prompt["7"]["inputs"]["value"] == 1536
    assert bound.prompt["8"]["inputs"]["value"] == 640
    assert definition.bind({**values, "width": 512}).prompt["7"]["inputs"]["value"] == 512
    sent = definition.network_parameters({**values, "aspect_ratio": "21:9 landscape 1536x640"})
    assert sent == {**values, "aspect_ratio": "21:9 landscape 1536x640"}


def test_an_optional_image_that_nobody_gave_is_no_input_to_fill() -> None:
    optional = define(endpoint=ENDPOINT.replace("required: true, ", ""))
    assert optional.bind({}).image_inputs == ()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (
            ENDPOINT.replace("comfyui_output_node_id: 3", "comfyui_output_node_id: 9"),
            "output node 9 is not in",
        ),
        (ENDPOINT.replace("node_id: 1,", "node_id: 7,"), "parameter image is for node 7, not in the graph"),
        (ENDPOINT.replace("name: by,", "name: image,"), "the parameter image is given twice"),
        (ENDPOINT.replace("subfield: by", "subfield: model"), "by and model both set model of"),
        (ENDPOINT.replace("minimum: 1", "minimum: 5"), "parameter by: minimum 5 is above maximum 4"),
        (ENDPOINT.replace("minimum: 1", "minimum: one"), "parameter by, minimum"),
        (ENDPOINT.replace("type: number", "type: matrix"), "parameter by, type: Input should be 'string'"),
        (ENDPOINT.replace("subfield: by", "subfeld: by"), "parameter by, comfyui, subfield: Field required"),
        (
            ENDPOINT.replace("maximum: 4", "default: 9, maximum: 4"),
            "parameter by: default 9 is outside 1 to 4",
        ),
        (ENDPOINT.replace("default: auto", "default: 5"), "default 5 is not a text (put it in quotes)"),
        (
            ENDPOINT.replace("default: auto, installed: true", "options: [true, 7]"),
            "options True is not a text",
        ),
        (ENDPOINT.replace("name: by", "name: by me"), "parameter by me, name"),
        (ENDPOINT.replace("name: Scale", "name: Scale\nname: Again"), "the key 'name' is given twice"),
        (ENDPOINT.replace("comfyui_output_node_id: 3", ""), "comfyui_output_node_id: Field required"),
        ("name: [", "scale.yaml: it is not valid YAML"),
        ("just text", "scale.yaml: it is not a mapping"),
        ("a: " + "[" * 5000, "scale.yaml: it is"),
    ],
)
def test_a_broken_endpoint_file_is_refused_with_the_reason(endpoint: str, message: str) -> None:
    with pytest.raises(WorkflowDefinitionError) as caught:
        define(endpoint=endpoint)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("57:8", "57:8"),
            ("16:9", "16:9"),
            ("1:30:00", "1:30:00"),
            ("on", "on"),
            ("No", "No"),
            ("yes", "yes"),
        ),
        *(("2025-02-01", "2025-02-01"), ("1_000", "1_000"), ("0b11", "0b11"), ("=", "="), ("=1", "=1")),
        *(("1e-4", 1e-4), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("-.5e2", -50.0), (".inf", float("inf"))),
        *(("010", 10), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7)),
        *(("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("nul", "nul")),
        *(("1e", "1e"), (".", "."), ("-", [None]), ("'57'", "57"), ("v1.5", "v1.5")),
    ],
)
def test_plain_values_are_what_they_look_like(text: str, value: Any) -> None:
    got = load_yaml(f"a: {text}" if text != "-" else "a:\n  -", "x.yaml")["a"]
    assert (got, type(got)) == (value, type(value))


def test_aliases_are_refused_and_stars_in_texts_are_not() -> None:
    with pytest.raises(WorkflowDefinitionError, match="aliases"):
        load_yaml("base: &b {type: int}\nother: {<<: *b, label: 16:9}", "x.yaml")
    text = "a: '*b'\nb: 2 * 3  # *c\nc: &c {type: int, default: 57:8}"
    assert load_yaml(text, "x.yaml") == {"a": "*b", "b": "2 * 3", "c": {"type": "int", "default": "57:8"}}


def test_a_parameter_without_a_node_is_sent_and_changes_nothing_here() -> None:
    definition = define(endpoint=ENDPOINT + "  - {name: quality, type: int, default: 80}\n")
    bound = definition.bind({"image": "x.png"})
    assert definition.validate({"image": "x.png"})["quality"] == 80
    assert bound.prompt == define().bind({"image": "x.png"}).prompt
    assert definition.network_parameters({"image": "x.png", "quality": 90})["quality"] == 90


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("off", False), ("True", True)])
def test_a_switch_may_have_the_words_of_older_files(word: str, value: bool) -> None:
    parameter = f"  - {{name: tiled, type: bool, default: {word}, required: no}}\n"
    (found,) = (p for p in define(endpoint=ENDPOINT + parameter).parameters if p.name == "tiled")
    assert (found.default, found.required) == (value, False)


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("gecko", "gecko.safetensors"),
        ("v1.5", "v1.5.safetensors"),
        ("style/gecko", "style/gecko.safetensors"),
        ("gecko.safetensors", "gecko.safetensors"),
        ("gecko.PT", "gecko.PT"),
    ],
)
def test_a_lora_gets_its_suffix_on_this_machine_and_is_sent_as_given(given: str, file: str) -> None:
    definition = WorkflowCatalog.load().get("flux-lora")
    values = {"prompt": "a", "lora_name": given}
    node = definition.parameter("lora_name").comfyui
    assert node is not None
    assert definition.bind(values).prompt[node.node_id]["inputs"]["lora_name"] == file
    assert definition.network_parameters(values)["lora_name"] == given


@pytest.mark.parametrize("text", ["a \ud83d b", "\udc00"])
def test_half_of_a_character_is_refused_with_the_parameter(text: str) -> None:
    definition = WorkflowCatalog.load().get("flux-lora")
    with pytest.raises(InvalidTaskError, match="Parameter prompt holds half of a character"):
        definition.validate({"prompt": text, "lora_name": "a"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an object of nodes"),
        ("{}", "not an object of nodes"),
        ('{"nodes": [], "links": []}', "Export (API)"),
        ('{"1": {"inputs": {}}}', "node 1 has no class_type"),
        ('{"1": {"class_type": "A", "inputs": []}}', "the inputs of node 1 are not an object"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}}', "input x, links to the missing node 2"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN is not a JSON number"),
        ('{"1": {"class_type": "A"}, "1": {"class_type": "B"}}', "the key '1' is given twice"),
        (
            '{"1": {"class_type": "A", "inputs": {"x": ["2", 0]}},'
            ' "2": {"class_type": "A", "inputs": {"x": ["1", 0]}}}',
            "its links form a cycle: 1 -> 2 -> 1",
        ),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_graph_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(WorkflowDefinitionError) as caught:
        parse_prompt(text, "graph.json")
    assert "graph.json" in str(caught.value)
    assert message in str(caught.value)


def test_a_deep_graph_is_no_circle() -> None:
    graph = {str(i): {"class_type": "A", "inputs": {"x": [str(i - 1), 0]} if i else {}} for i in range(5000)}
    assert len(parse_prompt(json.dumps(graph), "deep.json")) == 5000


def test_only_pairs_of_text_and_number_are_links() -> None:
    assert as_link(["1", 0]) == ("1", 0)
    for constant in ([1, 0], ["1"], ["1", "0"], ["1", True], "1", None, ["a", 1, 2]):
        assert as_link(constant) is None
