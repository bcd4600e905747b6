"""Machines of a cluster, simulated on this one by their folders; inputs that arrive when a test says so."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from xalora_client.cluster.processes import Record, members

XALORA = [sys.executable, "-m", "xalora_client"]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LANCZOS = "lanczos-upscale"


def until(condition: Callable[[], Any], seconds: float = 90.0, what: str = "") -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return value


def free_ports(number: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def name_of(pid: int) -> str:
    """A process as `ps` shows it; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


class Inputs:
    """An HTTP server of one image; a name that begins with ``held`` is answered once it is released."""

    def __init__(self, image: bytes) -> None:
        self.asked: Counter[str] = Counter()
        self._released = threading.Condition()
        self._free: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                with outer._released:
                    outer.asked[name] += 1
                    outer._released.notify_all()
                    outer._released.wait_for(lambda: not name.startswith("held") or name in outer._free)
                with suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(image)))
                    self.end_headers()
                    self.wfile.write(image)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def release(self, name: str) -> None:
        with self._released:
            self._free.add(name)
            self._released.notify_all()

    def wait_for(self, name: str, times: int = 1, seconds: float = 90.0) -> None:
        """Wait until workers have asked for it so often."""
        with self._released:
            assert self._released.wait_for(lambda: self.asked[name] >= times, seconds), self.asked

    def close(self) -> None:
        with self._released:
            self._free.update(self.asked)
            self._released.notify_all()
        self._server.shutdown()
        self._server.server_close()


class Process:
    """A command of ``xalora cluster`` that runs until it is stopped; ``within`` is a command that runs it."""

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._output = folder.with_suffix(".out")
        self._command = [*within, *XALORA, "cluster", *map(str, arguments), "--dir", str(folder)]
        self._environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._environment
            )

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8", "replace")

    @property
    def logs(self) -> str:
        texts = [path.read_text("utf-8", "replace")[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return "\n".join([self.output, *texts])

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def says(self, text: str, seconds: float = 90.0) -> None:
        """Wait until it has printed this."""

        def said() -> bool:
            assert text in self.output or self.returncode is None, self.logs
            return text in self.output

        until(said, seconds, f"{text!r} in {self.logs}")

    def pids(self, name: str = "") -> list[int]:
        """Its processes whose command line has this, but for its own."""
        record = Record.read(self.folder)
        found = [pid for leader in record.sessions for pid in members(leader)] if record else []
        return [pid for pid in found if name in name_of(pid)]

    def signal(self, number: signal.Signals, name: str = "") -> list[int]:
        """Send a signal to all of :meth:`pids`; returns them."""
        pids = self.pids(name)
        assert pids, self.logs
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    @contextmanager
    def no_more_memory(self, name: str, spare: int) -> Iterator[int]:
        """One of :meth:`pids` can have so many bytes more than it has; gives its id."""
        (pid,) = self.pids(name)
        limit = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize() + spare
        before = resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            yield pid
        finally:
            if name_of(pid):
                resource.prlimit(pid, resource.RLIMIT_AS, before)

    def stop(self, number: signal.Signals) -> int:
        """As Ctrl-C or a service manager stops it; gives its exit status."""
        self._process.send_signal(number)
        return self._process.wait(60)

    def kill_supervisor(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """As a user stops it; whatever it leaves is killed."""
        command = [*XALORA, "cluster", "down", "--dir", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._process.wait(30)


class Cluster:
    """A head, its machines, and a consumer with a key.

    Args:
        root: For the folders.
        head: Options of ``up``; by default it listens for machines and does not work itself.
        environment, within: Of the head, see :class:`Process`.
    """

    def __init__(
        self,
        root: Path,
        *head: object,
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.port, self.ray_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = head or ("--listen", "127.0.0.1", "--slots", 0)
        self._environment, self._within = environment, within
        self.machines: dict[str, Process] = {}

    def __enter__(self) -> Cluster:
        ports = ("--port", self.port, "--ray-port", self.ray_port)
        self.head = Process(
            *(self.root / "head", "up", *ports, *self._options),
            environment=self._environment,
            within=self._within,
        )
        try:
            self.head.says("answers at")
            self.api_key = self.key("tests")
            self.inputs = Inputs(small_png())
        except BaseException:
            self.head.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.inputs.close()
        for each in (*self.machines.values(), self.head):
            each.end()

    def key(self, name: str) -> str:
        command = [*XALORA, "cluster", "key", name, "--json", "--dir", str(self.head.folder)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        return str(json.loads(done.stdout)["api_key"])

    @property
    def token(self) -> Path:
        return self.head.folder / "token"

    def join(self, name: str, *options: object, environment: dict[str, str] | None = None) -> Process:
        """Start a machine; LANCZOS without a model, if no options say otherwise."""
        self.machines[name] = Process(
            self.root / name,
            *("join", f"127.0.0.1:{self.ray_port}", "--token", self.token, "--name", name),
            *(options or ("--engine", "pillow")),
            environment=environment,
        )
        return self.machines[name]

    # The owner

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers that are there, by ``miner_id``."""
        headers = {"Authorization": f"Bearer {self.token.read_text()}"}
        try:
            with DIRECT.open(urllib.request.Request(f"{self.url}/cluster/status", headers=headers)) as answer:
                return {worker["miner_id"]: worker for worker in json.load(answer)["workers"]}
        except (urllib.error.URLError, ConnectionError):
            return {}

    def wait_for_workers(self, *names: str) -> None:
        """Wait until exactly these are there."""
        logs = [self.head, *self.machines.values()]
        deadline = time.monotonic() + 120
        while sorted(self.workers()) != sorted(names):
            assert time.monotonic() < deadline, (self.workers(), *(each.logs for each in logs))
            time.sleep(0.2)

    # A consumer

    def ask(self, endpoint: str, api_key: str | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
        consumer_id, _, key = (api_key or self.api_key).partition("#")
        sent = {"consumer_id": consumer_id, "api_key": key, **body}
        request = urllib.request.Request(f"{self.url}/{endpoint}", json.dumps(sent).encode())
        try:
            with DIRECT.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, json.load(answer)

    def create(self, image: str = "free", **more: Any) -> str:
        """A task whose input is an image of :attr:`inputs`; its job id is the image's name."""
        body = {
            "task_type": "upscaler",
            "workflow_id": LANCZOS,
            "task_details": {"parameters": {"image": self.inputs.url(image)}},
            "job_id": image,
        }
        status, answer = self.ask("task_create", **body | more)
        assert status == 200, answer
        return str(answer["task_id"])

    def task(self, task_id: str) -> dict[str, Any]:
        status, answer = self.ask("task_result_query", task_id=task_id)
        assert status == 200, answer
        return answer

    def end_of(self, task_id: str, seconds: float = 90.0) -> dict[str, Any]:
        """The task, once it has ended."""
        ends = ("finished", "failed", "canceled")
        return dict(
            until(lambda: (task := self.task(task_id))["status"] in ends and task, seconds, self.head.logs)
        )

    def file(self, task: dict[str, Any]) -> bytes:
        with DIRECT.open(task["result"], timeout=30) as answer:
            return bytes(answer.read())

    @contextmanager
    def running(self, image: str, **more: Any) -> Iterator[tuple[str, Process]]:
        """A held task that runs, with the machine that has it; released at the end."""
        task_id = self.create(image, **more)
        self.inputs.wait_for(image)
        name = until(lambda: self.task(task_id).get("miner_id"), what="a miner")
        try:
            yield task_id, self.machines.get(name.partition("/")[0], self.head)
        finally:
            self.inputs.release(image)


def small_png() -> bytes:
    """A PNG of 8x8 pixels."""
    import numpy as np

    from xalora_client.media.png_encode import encode_png

    return encode_png(np.zeros((8, 8, 3), np.uint8))
