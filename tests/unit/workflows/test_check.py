"""Checks against a server's description of itself; its two forms for choices are both real ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from xalora_client.workflows import (
    WorkflowCatalog,
    WorkflowDefinition,
    check_bound,
    check_definition,
    check_prompt,
    choose_installed,
    missing_files,
)
from xalora_client.workflows.model_files import pick_installed

OBJECT_INFO: dict[str, Any] = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {}]}}, "output": ["IMAGE", "MASK"]},
    "UpscaleModelLoader": {
        "input": {"required": {"model_name": ["COMBO", {"options": ["RealESRGAN_x4.pth", "clean_2x.pth"]}]}},
        "output": ["UPSCALE_MODEL"],
    },
    "ImageUpscaleWithModel": {
        "input": {"required": {"upscale_model": ["UPSCALE_MODEL", {}], "image": ["IMAGE", {}]}},
        "output": ["IMAGE"],
    },
    "ImageFromBatch": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "batch_index": ["INT", {"min": 0, "max": 4095}],
                "length": ["INT", {"min": 1, "max": 4096}],
            }
        },
        "output": ["IMAGE"],
    },
    "ImageScaleBy": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "upscale_method": [["nearest-exact", "lanczos"]],
                "scale_by": ["FLOAT", {"min": 0.01, "max": 8.0}],
            }
        },
        "output": ["IMAGE"],
    },
    "GetImageSize": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["INT", "INT", "INT"]},
    "ImageScale": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "upscale_method": [["nearest-exact", "lanczos"]],
                "width": ["INT", {"min": 0, "max": 16384}],
                "height": ["INT", {"min": 0, "max": 16384}],
                "crop": [["disabled", "center"]],
            }
        },
        "output": ["IMAGE"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
}


@pytest.fixture
def upscale() -> WorkflowDefinition:
    return WorkflowCatalog.load().get("upscale")


@pytest.fixture
def info() -> dict[str, Any]:
    return copy.deepcopy(OBJECT_INFO)


def test_a_server_that_has_everything_leaves_nothing_to_say(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    assert check_definition(upscale) == []
    assert check_definition(upscale, info) == []
    assert check_bound(upscale.bind({"image": "x.png"}), info) == []


def test_auto_takes_an_installed_file_and_needs_one(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    bound = upscale.bind({"image": "x.png"})
    chosen = choose_installed(bound, info)
    assert chosen.prompt["2"]["inputs"]["model_name"] == "clean_2x.pth"
    assert check_bound(chosen, info) == []
    info["UpscaleModelLoader"]["input"]["required"]["model_name"][1]["options"] = []
    assert choose_installed(bound, info).auto_inputs == bound.auto_inputs
    (missing,) = missing_files(check_bound(bound, info))
    assert str(missing) == "any model file (belongs into models/upscale_models)"
    assert missing_files(check_definition(upscale, info)) == [missing]


def test_a_missing_model_is_named_with_its_folder(upscale: WorkflowDefinition, info: dict[str, Any]) -> None:
    findings = check_bound(upscale.bind({"image": "x", "model_name": "other.pth"}), info)
    (missing,) = missing_files(findings)
    assert (missing.name, missing.folder) == ("other.pth", "models/upscale_models")
    assert findings[0].severity == "error"
    assert '"Load Upscale Model" (node 2) needs the file other.pth' in findings[0].message


@pytest.mark.parametrize(
    ("node_id", "inputs", "kind", "message"),
    [
        (
            "7",
            {"upscale_method": "cubic"},
            "bad value",
            "is 'cubic'; the server knows 'nearest-exact', 'lanczos'",
        ),
        ("5", {"scale_by": 9.0}, "bad value", "is 9.0; the server takes 0.01 to 8.0"),
        ("5", {"scale_by": "two"}, "bad value", "is 'two', not a number"),
        ("5", {"scale_by": None}, "bad value", "is None, not a number"),
        ("7", {"width": "6.5"}, "bad value", "is '6.5', not a whole number"),
        ("7", {"width": "99999"}, "bad value", "is 99999; the server takes 0 to 16384"),
        ("7", {"image": [6, 0]}, "bad link", "input image is [6, 0]; a link is a node's id as a text"),
        ("7", {"image": ["5"]}, "bad link", "input image is ['5']; a link"),
        ("7", {"width": [512, 512]}, "bad link", "input width is [512, 512]; a link"),
        ("7", {"image": ["99", 0]}, "bad link", "the graph has no node 99"),
        ("7", {"image": ["6", 0]}, "bad link", 'takes IMAGE, but "Get Twice the Size" (node 6) gives INT'),
        ("7", {"image": ["6", 5]}, "bad link", "has no output 5"),
        ("7", {"image": "text"}, "bad link", "takes a link to IMAGE, not 'text'"),
        ("1", {"image": "gone.png"}, "bad value", "is 'gone.png'; the server knows 'a.png'"),
    ],
)
def test_what_the_server_would_refuse_is_found_first(
    upscale: WorkflowDefinition,
    info: dict[str, Any],
    node_id: str,
    inputs: dict[str, Any],
    kind: str,
    message: str,
) -> None:
    prompt = upscale.bind({"image": "x", "model_name": "clean_2x.pth"}).with_images({"image": "a.png"}).prompt
    assert check_prompt(prompt, info) == []
    prompt[node_id]["inputs"].update(inputs)
    (finding,) = check_prompt(prompt, info)
    assert finding.kind == kind
    assert message in finding.message
    assert finding.node_id == node_id


@pytest.mark.parametrize(
    ("node_id", "inputs"),
    [
        ("7", {"width": "64", "height": " 48 "}),
        ("7", {"width": 64.0, "height": True}),
        ("7", {"width": {"__value__": 64}}),
        ("5", {"scale_by": "1e-1"}),
        ("1", {"image": "a.png [input]"}),
        ("1", {"image": "clipspace/a.png [input]"}),
        ("1", {"image": "made.png [output]"}),
        ("1", {"image": "sub/a.png"}),
        ("1", {"image": "sub\\a.png"}),
        ("2", {"model_name": "sub\\tiny.pth"}),
        ("2", {"model_name": "win/huge.pth"}),
        ("7", {"tint": "#ff8800"}),
        ("7", {"format": "mp4", "format.codec": "h264", "format.codec.crf": 23}),
        ("7", {"images.image0": ["5", 0], "images.image1": ["5", 0]}),
        ("7", {"any": ["6", 0]}),
        ("7", {"curve": {"points": [[0, 0], [1, 1]]}}),
    ],
)
def test_what_the_server_may_take_is_no_error(
    upscale: WorkflowDefinition, info: dict[str, Any], node_id: str, inputs: dict[str, Any]
) -> None:
    info["LoadImage"]["input"]["required"]["image"] = [["a.png"], {"image_upload": True}]
    models = info["UpscaleModelLoader"]["input"]["required"]["model_name"][1]["options"]
    models += ["sub/tiny.pth", "win\\huge.pth"]
    option = {"key": "mp4", "inputs": {"required": {"codec": ["COMBO", {"options": ["h264"]}]}}}
    template = {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 10}
    info["ImageScale"]["input"]["required"] |= {
        "format": ["COMFY_DYNAMICCOMBO_V3", {"options": [option]}],
        "images": ["COMFY_AUTOGROW_V3", {"template": template}],
    }
    info["ImageScale"]["input"]["optional"] = {
        "tint": ["COLOR", {}],
        "any": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "*"}}],
        "curve": ["CURVE", {}],
    }
    prompt = upscale.bind({"image": "x", "model_name": "clean_2x.pth"}).with_images({"image": "a.png"}).prompt
    prompt[node_id]["inputs"].update(inputs)
    assert check_prompt(prompt, info) == []


def test_a_links_shape_is_checked_in_dynamic_inputs_too(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    info["ImageScale"]["input"]["required"]["images"] = ["COMFY_AUTOGROW_V3", {"template": {}}]
    prompt = upscale.bind({"image": "x", "model_name": "clean_2x.pth"}).with_images({"image": "a.png"}).prompt
    prompt["7"]["inputs"]["images.image0"] = [5, 0]
    (finding,) = check_prompt(prompt, info)
    assert (finding.kind, finding.severity) == ("bad link", "error")


def test_a_class_of_a_node_pack_may_judge_its_values_itself(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    for name in ("ImageScale", "UpscaleModelLoader"):
        info[name]["python_module"] = "custom_nodes.some-pack"
    prompt = upscale.bind({"image": "x", "model_name": "other.pth"}).with_images({"image": "a.png"}).prompt
    prompt["7"]["inputs"] |= {"crop": "mine", "width": -3}
    found = {(finding.kind, finding.severity) for finding in check_prompt(prompt, info)}
    assert found == {("bad value", "warning"), ("missing file", "error")}


@pytest.mark.parametrize(
    ("given", "installed"), [("sub\\tiny.pth", "sub/tiny.pth"), ("sub/tiny.pth", "sub\\tiny.pth")]
)
def test_a_file_is_named_with_the_servers_own_separator(
    upscale: WorkflowDefinition, info: dict[str, Any], given: str, installed: str
) -> None:
    info["UpscaleModelLoader"]["input"]["required"]["model_name"][1]["options"] = [installed]
    bound = choose_installed(upscale.bind({"image": "x", "model_name": given}), info)
    assert bound.prompt["2"]["inputs"]["model_name"] == installed


def test_unknown_classes_missing_inputs_and_absent_outputs_are_found(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    del info["ImageScale"]
    info["SaveImage"]["output_node"] = False
    info["GetImageSize"]["input"]["required"]["unit"] = ["STRING", {}]
    found = {finding.kind: finding.message for finding in check_bound(upscale.bind({"image": "x"}), info)}
    assert "no node class 'ImageScale'" in found["unknown class"]
    assert "the required input unit is missing" in found["missing input"]
    assert "saves nothing" in found["no output"]


def test_parameters_that_promise_more_than_the_node_takes_are_found(
    upscale: WorkflowDefinition, info: dict[str, Any]
) -> None:
    sharpen = WorkflowCatalog.load().get("sharpen")
    info["ImageSharpen"] = {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "sharpen_radius": ["INT", {"min": 2, "max": 16}],
                "sigma": ["FLOAT", {"min": 0.1, "max": 10.0}],
            }
        },
        "output": ["IMAGE"],
    }
    messages = [finding.message for finding in check_definition(sharpen, info)]
    assert any("parameter radius allows 1, which is below what" in message for message in messages)
    assert any("parameter radius allows 31, which is above what" in message for message in messages)
    assert any('parameter alpha: "Sharpen" (node 2) has no input alpha' in message for message in messages)


def test_keys_that_nobody_reads_are_a_warning(upscale: WorkflowDefinition) -> None:
    parameter = upscale.parameters[0].model_validate(
        {"name": "image", "type": "image", "minimun": 3, "comfyui": {"node_id": 1, "subfield": "image"}}
    )
    (finding,) = check_definition(
        type(upscale)(**{**upscale.__dict__, "parameters": (parameter, *upscale.parameters[1:])})
    )
    assert (finding.severity, finding.message) == ("warning", "parameter image: the key minimun is not used")


def test_a_doubling_model_is_picked_before_a_larger_one_and_then_by_name() -> None:
    assert pick_installed(["4x_b.pth", "RealESRGAN_x2plus.pth", "a.pth"]) == "RealESRGAN_x2plus.pth"
    assert pick_installed(["b_x4.pth", "a_4x.pth", "0.pth"]) == "a_4x.pth"
    assert pick_installed(["b.pth", "12x4x.pth"]) == "12x4x.pth"
    assert pick_installed([]) is None
