"""Small graphs in API format, as the tests of the nodes write them."""

from __future__ import annotations

import re
import uuid
from typing import Any

import numpy as np
import requests
from harness import ComfyUI, RunRecord, SessionDevnet
from PIL import Image

from xalora_client.journal import Journal

Node = dict[str, Any]

# Code, the shell, variables, ids.
NOT_FOR_THE_GRAPH = re.compile(r"`|XALORA_|client\.|--[a-z]|if_unknown|Traceback|File \"|\b[0-9a-f]{8}\b")


def node(class_type: str, **inputs: Any) -> Node:
    """A node; a link is ``["id", output index]``."""
    return {"class_type": class_type, "inputs": inputs}


def fresh() -> str:
    """A text that no other test has used."""
    return uuid.uuid4().hex


def fresh_seed() -> int:
    """A seed that no other test has used, so that neither a cache nor the journal knows the work."""
    return uuid.uuid4().int % 2**48


def image(seed: int, **options: Any) -> Node:
    """An XaloraTestImage of 40x30 noise."""
    return node("XaloraTestImage", **{"width": 40, "height": 30, "seed": seed, **options})


def dump(source: list[Any]) -> Node:
    return node("XaloraTestDump", image=source, name=fresh())


def noise(seed: int, batch: int = 1, channels: int = 3, width: int = 40, height: int = 30) -> np.ndarray:
    """The pixels of :func:`image`."""
    pixels = np.random.default_rng(seed).random((batch, height, width, channels), dtype=np.float32)
    if channels == 4:
        pixels[..., 3] = np.linspace(0, 1, width, dtype=np.float32)
    return pixels


def doubled(pixels: np.ndarray) -> np.ndarray:
    """What a devnet miner makes of ``[H, W, 3]``: LANCZOS of the 8-bit picture, in 0..1."""
    picture = Image.fromarray((pixels * 255 + 0.5).astype(np.uint8))
    size = (picture.width * 2, picture.height * 2)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) / 255


def told(comfyui: ComfyUI, record: RunRecord, node: str = "2") -> str:
    """The client's message about a failed node, from the log; what stands on the node is for the graph."""
    assert record.status == "error"
    assert record.error["node_id"] == node
    message: str = record.error["exception_message"].strip()
    assert 1 <= len(message.split("\n")) <= 3, message
    assert not NOT_FOR_THE_GRAPH.search(message), message
    assert record.texts_of(node)[-1].text.startswith("failed"), record.texts_of(node)[-1]
    (*_, last) = re.findall(rf"\bnode {node}: (?!image \d+ is sent again)(.*)", comfyui.unread_log())
    return str(last)


def sent_parameters(comfyui: ComfyUI, devnet: SessionDevnet) -> list[dict[str, Any]]:
    """The parameters of the tasks created in this test, images left out, as ComfyUI's journal has them."""
    state = comfyui.root / "xalora-state"
    with Journal.open(state / "journal.sqlite3", state / "results") as journal:
        entries = [journal.find(task_id=task_id) for task_id in devnet.new_task_ids()]
    return [dict(entry.work.details) for entry in entries if entry is not None]


def create_elsewhere(devnet: SessionDevnet, task_type: str, parameters: dict[str, Any]) -> str:
    """A task that ComfyUI knows nothing of; returns its id."""
    consumer_id, _, api_key = devnet.api_key.partition("#")
    body = {
        "consumer_id": consumer_id,
        "api_key": api_key,
        "job_id": f"elsewhere-{fresh()}",
        "task_type": task_type,
        "task_details": {"parameters": parameters},
    }
    answer = requests.post(f"{devnet.url}/task_create", json=body, timeout=10)
    answer.raise_for_status()
    task_id: str = answer.json()["task_id"]
    return task_id
