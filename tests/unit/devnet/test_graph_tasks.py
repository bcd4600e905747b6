"""Tasks that carry their graph, as a miner with a ComfyUI server reads them; no server runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xalora_client.cli.commands.run import chosen
from xalora_client.devnet.comfyui_engine import ComfyUIMinerEngine
from xalora_client.devnet.engines import MinerTask
from xalora_client.errors import WorkflowDefinitionError
from xalora_client.workflows import WorkflowCatalog

BLUR = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
    "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 3, "sigma": 1.0}},
    "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["2", 0]}},
}


def task(**details: Any) -> MinerTask:
    kind = "comfyui-graph"
    return MinerTask("t-1", kind, kind, {"image": "data:"}, image=b"pixels", details=details)


def test_the_graph_of_a_task_is_what_its_miner_runs() -> None:
    engine = ComfyUIMinerEngine("http://127.0.0.1:9", WorkflowCatalog(()))
    definition = engine._definition_for(task(parameters={}, prompt=BLUR, output_node_id="3"))
    bound = definition.bind({"image": "data:"})
    assert [(slot.node_id, slot.name, slot.parameter) for slot in bound.image_inputs] == [
        ("1", "image", "image")
    ]
    assert (bound.prompt["2"]["inputs"]["blur_radius"], bound.output_node_id) == (3, "3")
    for details in ({"prompt": None}, {"prompt": {}}, {"prompt": BLUR, "output_node_id": "7"}, {}):
        with pytest.raises(WorkflowDefinitionError):
            engine._definition_for(task(**details))


def test_of_a_file_the_shell_sets_inputs_of_nodes_and_parameters(tmp_path: Path) -> None:
    path = tmp_path / "my_api.json"
    path.write_text(json.dumps(BLUR), encoding="utf-8")
    pairs = ["2.blur_radius=9", "1.image=photo.png", "steps=3"]
    definition, left = chosen(str(path), pairs, lambda: pytest.fail("it is no name"))
    assert definition.prompt["2"]["inputs"]["blur_radius"] == 9
    assert left == ["image=photo.png", "steps=3"]
