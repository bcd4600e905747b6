"""The ComfyUI engine with a real ComfyUI: successful runs, refusals, cancels, and a server that ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import ComfyUI
from PIL import Image

from xalora_client.engines import EngineCanceledError, EngineProgress, EngineRun, MissingFilesError
from xalora_client.engines.comfyui import ComfyUIEngine
from xalora_client.engines.pillow import PillowEngine
from xalora_client.errors import ConfigurationError, EngineError
from xalora_client.workflows import BoundWorkflow, WorkflowCatalog

CEILING = 60.0  # seconds; nothing here takes a tenth of it unless it hangs


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def workflow(prompt: dict[str, Any], output: str = "out") -> BoundWorkflow:
    return BoundWorkflow("test", "Test graph", "txt2img", prompt, output)


def saving(**before: dict[str, Any]) -> BoundWorkflow:
    """A graph whose SaveImage takes what the last of these nodes gives."""
    save = node("SaveImage", "Save", images=[list(before)[-1], 0], filename_prefix="engine-test")
    return workflow({**before, "out": save})


def blocking(nonce: str, seconds: float = 600.0) -> BoundWorkflow:
    """A graph that waits in the middle, in a node that no interrupt reaches before its end."""
    return saving(
        image=node("XaloraTestImage"),
        wait=node("XaloraTestBlock", "Long Wait", seconds=seconds, value=["image", 0], nonce=nonce),
    )


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def engine(comfyui: ComfyUI) -> ComfyUIEngine:
    return ComfyUIEngine(comfyui.url)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, (45, 67, 3), dtype=np.uint8)


class Background:
    """A run in a thread, as the client has it; `running` is set once the node of that title has begun."""

    def __init__(
        self, engine: ComfyUIEngine, bound: BoundWorkflow, dest: Path, until: str = "Long Wait"
    ) -> None:
        self.cancel = threading.Event()
        self.running = threading.Event()
        self.waiting = threading.Event()
        self.labels: list[str] = []
        self._until = until
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[EngineRun] = self._pool.submit(
            engine.run, bound, {}, dest, on_progress=self._note, cancel=self.cancel
        )

    def _note(self, progress: EngineProgress) -> None:
        self.labels.append(progress.label)
        self.waiting.set()
        if progress.label == self._until:
            self.running.set()

    def wait_until_running(self) -> None:
        while not self.running.wait(0.1):
            if self._future.done():
                self._future.result()
                raise AssertionError(f"it ended before {self._until!r} began: {self.labels}")

    def result(self) -> EngineRun:
        try:
            return self._future.result(CEILING)
        finally:
            self._pool.shutdown(wait=False)


# Good runs.


def test_lanczos_on_the_server_gives_the_pixels_of_the_pillow_engine(
    engine: ComfyUIEngine, photo: np.ndarray, tmp_path: Path
) -> None:
    bound = WorkflowCatalog.load().get("lanczos-upscale").bind({"image": "given"})
    run = engine.run(bound, {"image": png(photo)}, tmp_path / "server")
    assert run.files == (tmp_path / "server.png",)
    assert (run.engine, run.device) == ("comfyui", "cpu")
    assert run.seconds > 0
    expected = PillowEngine().run(bound, {"image": png(photo)}, tmp_path / "pillow")
    with Image.open(run.files[0]) as one, Image.open(expected.files[0]) as other:
        np.testing.assert_allclose(np.asarray(one, int), np.asarray(other, int), atol=1)


def test_the_same_image_is_uploaded_once_and_others_are_left_alone(
    comfyui: ComfyUI, engine: ComfyUIEngine, photo: np.ndarray, tmp_path: Path
) -> None:
    bound = WorkflowCatalog.load().get("lanczos-upscale").bind({"image": "given"})
    folder = comfyui.input_dir / "xalora"
    before = set(folder.iterdir()) if folder.exists() else set()
    for number in range(2):
        engine.run(bound, {"image": png(255 - photo)}, tmp_path / str(number))
    (uploaded,) = set(folder.iterdir()) - before
    assert uploaded.read_bytes() == png(255 - photo)


def test_a_batch_gives_its_files_in_order(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = saving(image=node("XaloraTestImage", batch=3, width=8, height=8, seed=5))
    run = engine.run(bound, {}, tmp_path / "batch")
    assert [path.name for path in run.files] == ["batch.png", "batch-2.png", "batch-3.png"]
    assert len({path.read_bytes() for path in run.files}) == 3
    assert len(list(tmp_path.glob("batch*"))) == 3


def test_progress_and_previews_reach_the_callback(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = saving(image=node("XaloraTestImage", width=8, height=8))
    bound.prompt["bar"] = node("XaloraTestProgress", "Bar", steps=4, nonce=str(tmp_path))
    seen: list[EngineProgress] = []
    engine.run(bound, {}, tmp_path / "out", on_progress=seen.append)
    assert seen[0].label == "waiting in the server's queue"
    assert {"Bar 1/4", "Bar 4/4", "step 2 of 4"} <= {progress.label for progress in seen}
    assert any(0 < progress.done % 1 < 1 for progress in seen), "fractions of a node are counted"
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert {progress.total for progress in seen} == {3}
    previews = [progress.preview for progress in seen if progress.preview is not None]
    assert previews
    with Image.open(io.BytesIO(previews[-1])) as picture:
        assert picture.size == (32, 16)


def test_a_result_whose_file_was_deleted_on_the_server_is_made_again(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    bound = saving(image=node("XaloraTestImage", width=8, height=8, seed=77))
    first = engine.run(bound, {}, tmp_path / "first")
    for path in comfyui.output_dir.glob("engine-test*"):
        path.unlink()
    second = engine.run(bound, {}, tmp_path / "second")
    assert first.files[0].read_bytes() != b""
    with Image.open(first.files[0]) as one, Image.open(second.files[0]) as other:
        assert one.tobytes() == other.tobytes()


def test_it_says_whether_it_is_there(engine: ComfyUIEngine) -> None:
    available = engine.available()
    assert available
    assert available.device == "cpu"
    assert engine.can_run(saving(image=node("XaloraTestImage")))


# Refusals and failures.


def test_missing_model_files_are_named_with_their_folders_before_anything_is_queued(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    before = comfyui.get("/history").json().keys()
    bound = WorkflowCatalog.load().get("hunyuan-fp8").bind({"prompt": "rain"})
    with pytest.raises(MissingFilesError) as caught:
        engine.run(bound, {}, tmp_path / "out")
    assert {(file.name, file.folder) for file in caught.value.missing} == {
        ("hunyuan_video_t2v_720p_bf16.safetensors", "models/diffusion_models"),
        ("clip_l.safetensors", "models/text_encoders"),
        ("llava_llama3_fp8_scaled.safetensors", "models/text_encoders"),
        ("hunyuan_video_vae_bf16.safetensors", "models/vae"),
    }
    for file in caught.value.missing:
        assert file.name in str(caught.value)
        assert str(file.folder) in str(caught.value)
    assert comfyui.get("/history").json().keys() == before


def test_auto_without_any_model_file_is_a_missing_file(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = WorkflowCatalog.load().get("upscale").bind({"image": "given"})
    with pytest.raises(MissingFilesError, match=r"any model file .belongs into models/upscale_models"):
        engine.run(bound, {"image": png(np.zeros((4, 4, 3), np.uint8))}, tmp_path / "out")


def test_missing_node_classes_are_named_before_anything_is_queued(
    engine: ComfyUIEngine, tmp_path: Path
) -> None:
    bound = saving(combine=node("VHS_VideoCombine", "Video Combine"), image=node("XaloraTestImage"))
    with pytest.raises(EngineError, match=r"Video Combine.*no node class 'VHS_VideoCombine'"):
        engine.run(bound, {}, tmp_path / "out")


def test_a_refused_prompt_names_the_node_by_its_title(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = saving(
        image=node("XaloraTestImage"),
        wide=node(
            "ImageScale",
            "Far Too Wide",
            image=["image", 0],
            upscale_method="lanczos",
            width=99_999,
            height=8,
            crop="disabled",
        ),
    )
    with pytest.raises(
        EngineError, match=r'refused workflow Test graph: "Far Too Wide" \(node wide\): .*16384'
    ):
        engine.run(bound, {}, tmp_path / "out")


def test_a_prompt_of_which_only_another_output_is_valid_is_refused_as_well(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    bound = saving(image=node("XaloraTestImage", "Too Small", width=0))
    bound.prompt["clock"] = node("XaloraTestClock", nonce=str(tmp_path))
    with pytest.raises(EngineError, match=r'"Too Small" \(node image\)'):
        engine.run(bound, {}, tmp_path / "out")
    assert comfyui.queue_state() == ([], [])


def test_a_failing_node_is_named_by_its_title(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = saving(
        image=node("XaloraTestImage"),
        bad=node("XaloraTestFail", "Broken Node", message="out of paint", value=["image", 0]),
    )
    with pytest.raises(
        EngineError, match=r'"Broken Node" .node bad. failed with .*RuntimeError: out of paint'
    ):
        engine.run(bound, {}, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_output_node_that_gives_no_file_is_an_error(engine: ComfyUIEngine, tmp_path: Path) -> None:
    bound = workflow({"out": node("XaloraTestClock", "Clock", nonce=str(tmp_path))})
    with pytest.raises(EngineError, match='its output node "Clock" gave no file'):
        engine.run(bound, {}, tmp_path / "out")


def test_no_server_and_no_comfyui_server_are_told_apart(tmp_path: Path) -> None:
    bound = saving(image=node("XaloraTestImage"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = ComfyUIEngine(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "can't be used" in closed.available().reason
        with pytest.raises(EngineError, match="can't be reached"):
            closed.run(bound, {}, tmp_path / "out")
    with other_server() as url, pytest.raises(EngineError, match="answered HTTP 404"):
        ComfyUIEngine(url).run(bound, {}, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="not the URL of a ComfyUI server"):
        ComfyUIEngine("localhost:8188")


# Cancels.


def test_a_canceled_run_is_interrupted_and_leaves_no_file(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    run = Background(engine, blocking("cancel", seconds=2.0), tmp_path / "out")
    run.wait_until_running()
    run.cancel.set()
    with pytest.raises(EngineCanceledError):
        run.result()
    comfyui.settle()
    (ended,) = [
        entry
        for entry in comfyui.get("/history").json().values()
        if entry["prompt"][2].get("wait", {}).get("inputs", {}).get("nonce") == "cancel"
    ]
    assert "execution_interrupted" in {kind for kind, _ in ended["status"]["messages"]}
    assert not list(tmp_path.glob("out*"))


def test_canceling_a_waiting_run_leaves_the_running_one_alone(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    others = comfyui.start(blocking("others", seconds=3.0).prompt)
    run = Background(engine, blocking("never started"), tmp_path / "out")
    assert run.waiting.wait(CEILING)
    deadline = time.monotonic() + CEILING
    while not comfyui.queue_state()[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.cancel.set()
    with pytest.raises(EngineCanceledError):
        run.result()
    assert comfyui.queue_state()[1] == []
    assert others.wait(CEILING).status == "success"


def test_an_interrupt_by_somebody_else_is_an_error_that_says_so(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    run = Background(engine, blocking("interrupted", seconds=1.0), tmp_path / "out")
    run.wait_until_running()
    comfyui.interrupt()
    with pytest.raises(EngineError, match="it was interrupted on the server"):
        run.result()


def test_a_callback_that_fails_takes_the_prompt_back(
    comfyui: ComfyUI, engine: ComfyUIEngine, tmp_path: Path
) -> None:
    def fail(progress: EngineProgress) -> None:
        if progress.label == "Long Wait":
            raise LookupError("the caller's own bug")

    with pytest.raises(LookupError, match="own bug"):
        engine.run(blocking("callback", seconds=1.0), {}, tmp_path / "out", on_progress=fail)
    assert comfyui.queue_state()[1] == []


# A server that goes away.


def test_a_server_that_dies_is_an_error_within_the_grace(comfyui: ComfyUI, tmp_path: Path) -> None:
    run = Background(ComfyUIEngine(comfyui.url, grace=2.0), blocking("killed"), tmp_path / "out")
    run.wait_until_running()
    comfyui.kill()
    died = time.monotonic()
    with pytest.raises(EngineError, match=r"can no longer be reached .* and the run is lost"):
        run.result()
    assert time.monotonic() - died < 20


def test_a_server_that_is_restarted_has_lost_the_run(comfyui: ComfyUI, tmp_path: Path) -> None:
    run = Background(ComfyUIEngine(comfyui.url, grace=240.0), blocking("restarted"), tmp_path / "out")
    run.wait_until_running()
    comfyui.kill()
    comfyui.restart()
    with pytest.raises(EngineError, match=r"was restarted, or its history was cleared .*Run it again"):
        run.result()


def test_a_server_that_hangs_is_an_error_after_its_patience(comfyui: ComfyUI, tmp_path: Path) -> None:
    engine = ComfyUIEngine(comfyui.url, timeout=1.0, patience=2.0)
    run = Background(engine, blocking("hung"), tmp_path / "out")
    run.wait_until_running()
    os.kill(comfyui.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError, match=r"can no longer be reached .*timed out"):
            run.result()
    finally:
        os.kill(comfyui.pid, signal.SIGCONT)
        # Its node sleeps on; the next test needs a free server.
        comfyui.kill()


def test_a_broken_websocket_costs_progress_and_not_the_result(comfyui: ComfyUI, tmp_path: Path) -> None:
    with Relay(comfyui.port) as relay:
        run = Background(
            ComfyUIEngine(relay.url), blocking("relayed", seconds=10.0), tmp_path / "out", until="Long Wait"
        )
        run.wait_until_running()
        relay.drop_all()
        assert run.result().files[0].is_file()
    assert run.labels[-1] == "Save", "it listened again and saw the end"


class Relay:
    """A TCP relay to a port of this machine that can cut all its connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()

    def drop_all(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def other_server() -> Iterator[str]:
    """An HTTP server that is no ComfyUI."""
    import http.server

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
