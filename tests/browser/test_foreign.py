"""Requests from pages of other websites in the same browser, which are all refused."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from workbench import Workbench

# Everything that a page may try: what it reads of an answer, or that it reads none.
TRY = """async ([url, method, headers, body]) => {
    try {
        const options = { method, headers }
        if (body !== null) options.body = body
        const response = await fetch(url, options)
        return `${response.status} ${await response.text()}`
    } catch (error) {
        return `blocked: ${error.name}`
    }
}"""

NO_CORS = """async ([url, type, body]) => {
    const options = { method: 'POST', mode: 'no-cors', headers: { 'Content-Type': type }, body }
    await fetch(url, options).catch(() => null)
}"""

FORM = """([url]) => {
    const form = document.body.appendChild(document.createElement('form'))
    Object.assign(form, { method: 'post', action: url, target: '_blank', enctype: 'text/plain' })
    form.submit()
}"""

SANDBOXED = """([url]) => new Promise((resolve) => {
    addEventListener('message', (event) => resolve(event.data), { once: true })
    const frame = document.createElement('iframe')
    frame.sandbox = 'allow-scripts'
    frame.srcdoc = `<script>
        const say = (what) => parent.postMessage(what, '*')
        const headers = { 'Content-Type': 'text/plain' }
        fetch(${JSON.stringify(url)}, { method: 'POST', mode: 'no-cors', headers, body: '{}' })
            .then((response) => say(response.type), (error) => say(error.name))
    <\\/script>`
    document.body.append(frame)
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another website: the same machine, another port."""
    folder: Path = tmp_path_factory.mktemp("elsewhere")
    (folder / "index.html").write_text("<!doctype html><title>Elsewhere</title><body></body>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def foreign(bench: Workbench, elsewhere: str) -> Iterator[Page]:
    page = bench.page.context.new_page()
    page.goto(elsewhere)
    yield page
    page.close()


def test_no_other_website_changes_anything(bench: Workbench, foreign: Page, elsewhere: str) -> None:
    key_url = f"{bench.comfyui.url}/xalora/key/remove"
    json_type = {"Content-Type": "application/json"}
    attempts: list[list[Any]] = [
        [key_url, "POST", {**json_type, "X-Xalora": "1"}, "{}"],
        [key_url, "POST", json_type, "{}"],
        [key_url, "POST", {"Content-Type": "text/plain"}, "{}"],
        [f"{bench.comfyui.url}/api/xalora/key/remove", "POST", {"Content-Type": "text/plain"}, "{}"],
        [key_url, "GET", {}, None],
    ]
    assert [foreign.evaluate(TRY, attempt) for attempt in attempts] == ["blocked: TypeError"] * len(attempts)
    with foreign.expect_response(key_url) as answer:
        foreign.evaluate(NO_CORS, [key_url, "text/plain", "{}"])
    assert answer.value.status == 403
    assert answer.value.request.all_headers()["origin"] == elsewhere.rstrip("/")
    with foreign.expect_popup() as popup:
        foreign.evaluate(FORM, [key_url])
    popup.value.wait_for_load_state()
    assert "403" in popup.value.content() or "another website" in popup.value.content()
    popup.value.close()
    # Its origin is `null`; it went out, and was answered with what the page may not read.
    assert foreign.evaluate(SANDBOXED, [key_url]) == "opaque"
    assert bench.comfyui.get("/xalora/status").json()["key"]["present"] is True


def test_no_other_website_sees_anything(bench: Workbench, foreign: Page) -> None:
    url = bench.comfyui.url
    assert foreign.evaluate(TRY, [f"{url}/xalora/tasks", "GET", {}, None]) == "blocked: TypeError"
    loaded = foreign.evaluate(
        """(url) => new Promise((resolve) => {
            const image = new Image()
            image.onload = () => resolve('loaded')
            image.onerror = () => resolve('refused')
            image.src = url
        })""",
        f"{url}/xalora/tasks/1/preview",
    )
    assert loaded == "refused"


def test_our_own_page_may(bench: Workbench) -> None:
    """The same requests from ComfyUI's page: they fail for being foreign, and for nothing else."""
    url = f"{bench.comfyui.url}/xalora/key/test"
    headers = {"Content-Type": "application/json", "X-Xalora": "1"}
    assert "accepted" in bench.page.evaluate(TRY, [url, "POST", headers, "{}"])
