"""The nodes of workflow definitions: their widgets, runs in the network, and subgraphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import doubled, dump, fresh, fresh_seed, image, node, noise, sent_parameters
from harness import ComfyUI, ComfyUIFactory, SessionDevnet

from xalora_client.workflows.catalog import SHIPPED_FOLDER

SHIPPED = {
    "upscale": "image",
    "lanczos-upscale": "image",
    "sharpen": "image",
    "hunyuan-fp8": "video",
    "mochi-fp8": "video",
    "flux-lora": "image",
    "gradient-video": "video",
    "pan-video": "video",
}
HOSTED = {"hunyuan-fp8", "mochi-fp8", "flux-lora"}
OWN = {"XALORA_API_KEY": "", "XALORA_WORKFLOW_URL": "http://127.0.0.1:9"}


def inputs_of(comfyui: ComfyUI, name: str) -> dict[str, Any]:
    info = comfyui.object_info(f"XaloraWorkflow_{name}")["input"]
    return {**info.get("required", {}), **info.get("optional", {})}


@pytest.mark.parametrize("name", SHIPPED)
def test_each_definition_has_a_node(comfyui: ComfyUI, name: str) -> None:
    info = comfyui.object_info(f"XaloraWorkflow_{name}")
    assert info["output"] == ["IMAGE", "VIDEO"]
    hosted = name in HOSTED
    assert info["category"] == ("Xalora/workflows" if hosted else "Xalora/workflows/not hosted")
    assert info["display_name"].endswith("(not hosted)") is not hosted
    assert all(spec[1].get("tooltip") for spec in inputs_of(comfyui, name).values())


def test_widgets_have_the_files_ranges_and_choices(comfyui: ComfyUI) -> None:
    flux = inputs_of(comfyui, "flux-lora")
    assert flux["width"][0] == "INT"
    assert (flux["width"][1]["min"], flux["width"][1]["max"], flux["width"][1]["step"]) == (512, 2048, 64)
    assert flux["aspect_ratio"][0] == "COMBO"
    assert "1:1 square 1024x1024" in flux["aspect_ratio"][1]["options"]
    assert flux["noise_seed"][1]["control_after_generate"] is True
    assert flux["noise_seed"][1]["max"] == 2**53 - 1
    assert flux["prompt"][1]["multiline"] is True
    assert inputs_of(comfyui, "sharpen")["image"][0] == "IMAGE"
    assert inputs_of(comfyui, "upscale")["model_name"][1]["options"][0] == "auto"
    hunyuan = inputs_of(comfyui, "hunyuan-fp8")
    # No default anywhere, so one below the range stands for "not given".
    assert (hunyuan["quality"][1]["default"], hunyuan["quality"][1]["min"]) == (80, 1)
    assert all("key" not in name.lower() for name in flux)


def test_a_definition_runs_on_the_network(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed, batch=2),
            "2": node("XaloraWorkflow_lanczos-upscale", image=["1", 0]),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    expected = np.stack([doubled(one) for one in noise(seed, batch=2)])
    np.testing.assert_allclose(record.array("3"), expected, atol=1e-6)
    assert {devnet.task(task_id).workflow_id for task_id in devnet.new_task_ids()} == {"lanczos-upscale"}
    assert devnet.new_stats()["creates"] == 2


def test_a_video_definition_runs_on_the_network(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = fresh()
    record = comfyui.run(
        {
            "1": node("XaloraWorkflow_mochi-fp8", prompt=prompt, width=256, height=256, length=19, seed=5),
            "2": dump(["1", 0]),
            "3": node("SaveVideo", video=["1", 1], filename_prefix=fresh(), format="auto", codec="auto"),
        }
    )
    assert record.status == "success", record.describe()
    assert record.array("2").shape[1:] == (256, 256, 3)
    assert len(comfyui.files(record, "3")) == 1
    assert devnet.task(devnet.new_task_ids()[0]).workflow_id == "2"
    (sent,) = sent_parameters(comfyui, devnet)
    assert (sent["prompt"], sent["width"], sent["seed"]) == (prompt, 256, 5)


def test_a_definition_runs_here_image_by_image(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": image(fresh_seed(), batch=3),
            "2": node("XaloraWorkflow_sharpen", image=["1", 0], radius=3, alpha=0.1, fallback="local_only"),
            "3": dump(["2", 0]),
            "4": node("ImageSharpen", image=["1", 0], sharpen_radius=3, sigma=1.0, alpha=0.1),
            "5": dump(["4", 0]),
            "6": node("XaloraTestClock", value=["2", 1]),
        }
    )
    assert record.status == "success", record.describe()
    np.testing.assert_allclose(record.array("3"), record.array("5"), atol=1e-6)
    assert [blocked["node_id"] for blocked in record.blocked] == ["6"]
    assert record.texts_of("2")[-1].text.startswith("40 x 30, 3 in ")
    assert "Sharpen on this machine (cpu)" in record.texts_of("2")[-1].text
    assert devnet.new_stats()["endpoints"]["task_create"] == 0


def test_what_no_miner_takes_runs_here_and_is_not_sent(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": image(fresh_seed(), width=700, height=300),
            "2": node("XaloraWorkflow_pan-video", image=["1", 0], length=4),
            "3": dump(["2", 0]),
            "4": node("SaveVideo", video=["2", 1], filename_prefix=fresh(), format="auto", codec="auto"),
        }
    )
    assert record.status == "success", record.describe()
    assert record.array("3").shape == (4, 288, 512, 3)
    assert len(comfyui.files(record, "4")) == 1
    assert devnet.new_stats()["endpoints"]["task_create"] == 0


def write_definition(folder: Path, name: str, graph: dict[str, Any], endpoint: str, index: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(graph))
    (folder / f"{name}.yaml").write_text(endpoint)
    with (folder / "index.yaml").open("a") as file:
        file.write(index)


def test_a_users_own_definitions_become_nodes_and_a_bad_one_costs_only_itself(
    comfyui_factory: ComfyUIFactory,
) -> None:
    extra = comfyui_factory.prepared(env=OWN)
    folder = extra.user_dir / "xalora" / "workflows"
    graph = json.loads((SHIPPED_FOLDER / "sharpen.json").read_text())
    graph["2"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    endpoint = (
        "name: Invert\ncomfyui_output_node_id: 3\nparameters:\n"
        "  - {name: image, type: image, required: true, comfyui: {node_id: 1, subfield: image}}\n"
    )
    write_definition(folder, "invert", graph, endpoint, "invert: {task_type: img2img, output: image}\n")
    write_definition(folder, "broken", {}, endpoint, "broken: {task_type: img2img, output: image}\n")
    clash = endpoint.replace("name: image,", "name: result_images,")
    write_definition(folder, "clash", graph, clash, "clash: {task_type: img2img, output: image}\n")
    extra.boot()
    info = extra.object_info()
    assert "XaloraWorkflow_invert" in info
    assert "XaloraWorkflow_broken" not in info
    # Current ComfyUIs let an input and an output have the same id.
    clashes = extra.install.version < (0, 4)
    assert ("XaloraWorkflow_clash" in info) is not clashes
    assert "XaloraUpscaleImage" in info and "XaloraWorkflow_sharpen" in info
    log = extra.logs()
    assert "Workflow definition broken in" in log
    assert ("Workflow definition clash has no node" in log) is clashes
    seed = fresh_seed()
    record = extra.run(
        {
            "1": image(seed),
            "2": node("XaloraWorkflow_invert", image=["1", 0], fallback="local_only"),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success", record.describe()
    np.testing.assert_allclose(record.array("3"), 1 - noise(seed), atol=1e-6)
