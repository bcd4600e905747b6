"""The progress bar in notebooks, shown by a real kernel and heard as a notebook's page hears it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from xalora_client.devnet import DevnetThread

PATIENCE = 60
SETUP = """
from xalora_client import AsyncXalora, Text2VideoTask, UpscalerTask, Xalora
def clip(seed):
    return Text2VideoTask(prompt="<a fox>", seed=seed, workflow_id="2", length=16)

client, waiting = Xalora(fallback="never"), AsyncXalora(fallback="never")
"""


class Notebook:
    """A kernel that runs cells and gives what each of them shows."""

    def __init__(self, folder: Path, devnet: DevnetThread) -> None:
        self._manager = KernelManager()
        self._manager.start_kernel(
            cwd=str(folder),
            env={
                **os.environ,
                "XALORA_WORKFLOW_URL": devnet.url,
                "XALORA_API_KEY": devnet.api_key,
                "XALORA_STATE_DIR": str(folder),
                "IPYTHONDIR": str(folder / "ipython"),
            },
        )
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)

    def run(self, cell: str) -> list[tuple[str, dict[str, Any]]]:
        """The messages of a cell, each with its type."""
        heard = []
        asked = self._client.execute(cell)
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return heard
            heard.append((message["msg_type"], message["content"]))

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def bars(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What a cell's bar showed, in order; it is one display, updated in place."""
    shown = [(kind, content) for kind, content in heard if "<progress" in str(content.get("data"))]
    assert not [content for kind, content in heard if kind == "error"]
    kinds = [kind for kind, _ in shown]
    assert kinds == ["display_data"] * bool(shown) + ["update_display_data"] * (len(shown) - 1)
    assert len({content["transient"]["display_id"] for _, content in shown}) <= 1
    return [content["data"]["text/html"] for _, content in shown]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with DevnetThread(miners=2, task_seconds=2.0) as devnet:
        running = Notebook(tmp_path_factory.mktemp("notebook"), devnet)
        try:
            assert not bars(running.run(SETUP))
            yield running
        finally:
            running.close()


@pytest.mark.parametrize(
    "call", ["client.run(clip(1))", "await waiting.run(clip(2))"], ids=["blocking", "asyncio"]
)
def test_a_call_shows_a_bar_that_ends_as_done(notebook: Notebook, call: str) -> None:
    heard = notebook.run(f"result = {call}; result")
    pages = bars([message for message in heard if message[0] != "execute_result"])
    assert any(re.search(r"&lt;a fox&gt;: (waiting in queue|running)", page) for page in pages)
    assert pages[-1] == '<div><progress max="1" value="1.000"></progress> &lt;a fox&gt;: done</div>'
    (result,) = [content for kind, content in heard if kind == "execute_result"]
    assert "data:image/webp" in result["data"]["text/html"]


@pytest.mark.parametrize(
    "call", ["client.run_many({})", "await waiting.run_many({})"], ids=["blocking", "asyncio"]
)
def test_a_batch_shows_what_is_done_and_what_is_at_work(notebook: Notebook, call: str) -> None:
    first = 10 if call.startswith("client") else 20
    tasks = f"[clip({first}), clip({first + 1}), clip({first + 2}), UpscalerTask('none.png')]"
    pages = bars(notebook.run(f"outcomes = {call.format(tasks)}"))
    assert any(page.count("<progress") > 1 for page in pages)
    assert pages[-1].endswith("3 of 4 tasks done, 1 failed</div>")


def test_what_is_kept_and_what_has_a_callback_shows_no_bar(notebook: Notebook) -> None:
    notebook.run("client.run(clip(30))")
    assert not bars(notebook.run("client.run(clip(30), reuse=True)"))
    assert not bars(notebook.run("client.run(clip(31), on_event=lambda event: None)"))
    assert not bars(notebook.run("for event in client.stream(clip(32)): pass"))


def test_an_error_leaves_the_bar_as_failed(notebook: Notebook) -> None:
    heard = notebook.run("client.run(clip(40), timeout=1, on_timeout='cancel')")
    assert [content["ename"] for kind, content in heard if kind == "error"] == ["TaskTimeoutError"]
    pages = bars([message for message in heard if message[0] != "error"])
    assert pages[-1].endswith("&lt;a fox&gt;: failed</div>")
