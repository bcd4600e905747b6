"""The user's definitions as a miner with a ComfyUI server reads them again; a server of the needed words."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from xalora_client.devnet.comfyui_engine import ComfyUIMinerEngine
from xalora_client.errors import EngineError
from xalora_client.workflows import WorkflowCatalog
from xalora_client.workflows.exported import endpoint_of, endpoint_yaml, refuse
from xalora_client.workflows.prompt import parse_prompt

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["1", 0]}},
}
NUMBER = ["INT", {"default": 1, "min": 0, "max": 10_000}]
CLASSES = {
    "EmptyImage": {
        "input": {"required": {name: NUMBER for name in ("width", "height", "batch_size", "color")}},
        "output": ["IMAGE"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "a"}]}},
        "output": [],
        "output_node": True,
    },
}


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            known = CLASSES if name == "object_info" else {name: CLASSES[name]} if name in CLASSES else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(known).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def add(folder: Path, name: str, graph: dict[str, object]) -> None:
    text = json.dumps(graph)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    document = endpoint_of(parse_prompt(text, name), name, {}, refuse)
    (folder / f"{name}.yaml").write_text(endpoint_yaml(document), encoding="utf-8")


def test_what_is_added_or_removed_is_read_again(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "workflows"
    engine = ComfyUIMinerEngine(server, WorkflowCatalog.load(folder), folder)
    assert engine.changed_workflow_ids() is None
    add(folder, "plain", GRAPH)
    ids = engine.changed_workflow_ids()
    assert ids is not None and "plain" in ids
    assert engine.changed_workflow_ids() is None
    unknown = {**GRAPH, "1": {"class_type": "NotInstalled", "inputs": {}}}
    add(folder, "other", unknown)
    ids = engine.changed_workflow_ids()
    assert ids is not None and "plain" in ids and "other" not in ids
    assert "can't run the new workflow other" in caplog.text
    os.utime(folder / "plain.json", ns=(0, 0))
    assert engine.changed_workflow_ids() is not None
    (folder / "plain.yaml").unlink()
    ids = engine.changed_workflow_ids()
    assert ids is not None and "plain" not in ids


def test_where_the_server_is_away_it_is_asked_again(tmp_path: Path, unused_tcp_port: int) -> None:
    engine = ComfyUIMinerEngine(f"http://127.0.0.1:{unused_tcp_port}", WorkflowCatalog(()), tmp_path)
    add(tmp_path, "plain", GRAPH)
    for _ in range(2):
        with pytest.raises(EngineError):
            engine.changed_workflow_ids()
