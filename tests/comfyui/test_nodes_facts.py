"""Who made an image stands in the saved file's metadata, and on the node."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from graphs import fresh, fresh_seed, image, node
from harness import ComfyUI, RunRecord, SessionDevnet
from PIL import Image


def saved(comfyui: ComfyUI, record: RunRecord) -> dict[str, Any]:
    """The metadata of the one saved PNG."""
    assert record.status == "success"
    (data,) = comfyui.files(record)
    with Image.open(io.BytesIO(data)) as picture:
        return dict(picture.info)


def run(comfyui: ComfyUI, of: dict[str, Any], **extra: Any) -> RunRecord:
    """Node 2 with SaveImage behind it."""
    save = node("SaveImage", images=["2", 0], filename_prefix=fresh())
    return comfyui.run({"1": image(fresh_seed()), "2": of, "3": save}, **extra)


WITH_INFO = {"extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}


def test_what_the_network_made_says_so(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    of = node("XaloraTextToImage", prompt=fresh(), lora_name="any", seed=7)
    metadata = saved(comfyui, run(comfyui, of, **WITH_INFO))
    ((facts,),) = json.loads(metadata["xalora"]).values()
    (task_id,) = devnet.new_task_ids()
    assert facts["miner"] in devnet.miners and facts["seconds"] >= 0
    assert (facts["engine"], facts["task_id"], facts["seed"]) == ("xalora", task_id, 7)
    assert facts["workflow"] == "txt2img"
    text = json.dumps(metadata)
    assert devnet.api_key.partition("#")[2] not in text and devnet.url.partition("//")[2] not in text


def test_what_this_machine_made_says_so(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    of = node("XaloraUpscaleImage", image=["1", 0], fallback="local_only", local_model="auto")
    record = run(comfyui, of, **WITH_INFO)
    ((facts,),) = json.loads(saved(comfyui, record)["xalora"]).values()
    assert "on this machine" in facts["engine"] and "task_id" not in facts
    assert facts["engine"] in record.texts_of("2")[-1].text


def test_a_workflow_nodes_facts_have_its_seed(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    of = node("XaloraWorkflow_flux-lora", prompt=fresh(), lora_name="any", noise_seed=9)
    ((facts,),) = json.loads(saved(comfyui, run(comfyui, of, **WITH_INFO))["xalora"]).values()
    assert (facts["seed"], facts["engine"]) == (9, "xalora")


@pytest.mark.parametrize("extra", [{}, {"extra_data": {}}, {"extra_data": {"extra_pnginfo": None}}])
def test_a_prompt_that_carries_no_metadata_gets_none(
    comfyui: ComfyUI, devnet: SessionDevnet, extra: dict[str, Any]
) -> None:
    of = node("XaloraUpscaleImage", image=["1", 0])
    assert "xalora" not in saved(comfyui, run(comfyui, of, **extra))
