"""Runs bound workflows on a ComfyUI server, as its own page does: queue the prompt, listen, fetch the files.

The websocket is for progress only. Whether a prompt has ended, and how, is asked of the server's queue and
history, so that a lost message or a broken connection costs time, never the result; and a server that was
restarted meanwhile, which forgets all its prompts, is found out instead of being waited for.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..media.sniff import sniff, sniff_file
from ..workflows.check import check_bound, choose_installed, missing_files
from ..workflows.definition import BoundWorkflow
from .base import (
    LOCAL_MONEY,
    Availability,
    EngineCanceledError,
    EngineRun,
    ProgressCallback,
    missing_files_error,
    raise_if_canceled,
    result_path,
)
from .comfyui_events import Message, RunTracker, failure_of, refusal_of, result_entries
from .comfyui_server import ComfyUIServer, EventStream, RefusedError, SilentError, UnreachableError

logger = logging.getLogger("xalora_client.engines")

NAME = "comfyui"

INPUT_SUBFOLDER = "xalora"
"""Where uploaded images lie under the server's input folder."""

_TICK = 0.2  # seconds: how soon a cancel is seen
_ASK_EVERY = 5.0  # seconds between two looks at the history while messages say nothing of an end
_ASK_AGAIN = 1.0  # the same while the connection is in doubt
_CANCEL_PATIENCE = 3.0  # seconds for the server to let a canceled prompt go


class ComfyUIEngine:
    """A ComfyUI server, here or on another machine.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8188``.
        timeout: Seconds that one request may go without an answer.
        grace: Seconds that the server may refuse connections in the middle of a run before it counts as gone.
        patience: Seconds that it may take connections and yet say nothing before it counts as hung; loading a
            large model can keep a server from answering for a while.

    Raises:
        ConfigurationError: ``url`` is not an http or https URL.
    """

    name = NAME

    def __init__(
        self, url: str, *, timeout: float = 30.0, grace: float = 10.0, patience: float = 120.0
    ) -> None:
        self._server = ComfyUIServer(str(url), timeout=timeout)
        self._grace = grace
        self._patience = patience

    @property
    def url(self) -> str:
        return self._server.url

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Any workflow; whether the server has what it takes is found out before it is queued."""
        del workflow
        return True

    def available(self) -> Availability:
        """Ask the server what it computes on."""
        try:
            return Availability(True, device=self._server.device())
        except (UnreachableError, RefusedError) as problem:
            return Availability(False, f"The ComfyUI server at {self.url} can't be used: {problem}")

    def object_info(self, classes: Iterable[str]) -> dict[str, Any]:
        """The server's description of node classes, for checking definitions.

        Raises:
            EngineError: It can't be reached.
        """
        with self._talking():
            return self._server.object_info(classes)

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """See :meth:`.base.LocalEngine.run`. Whatever ends this early takes the prompt back off the server.

        Raises:
            MissingFilesError: The server lacks model files that the workflow names.
            EngineCanceledError: ``cancel`` was set.
            EngineError: The server can't be reached, lacks node classes, refused the prompt, failed at a
                node, or was restarted or vanished in the middle.
        """
        started = time.monotonic()
        cancel = cancel or threading.Event()
        raise_if_canceled(cancel, NAME)
        with self._talking():
            device = self._server.device()
            workflow, note = self._fitted(workflow)
            raise_if_canceled(cancel, NAME)
            workflow = workflow.with_images(self._upload(workflow, images))
        prompt_id, outputs = self._execute(_with_own_prefix(workflow), on_progress, cancel)
        entries = result_entries(outputs, workflow.output_node_id)
        if not entries:
            raise self._failed(workflow, f'its output node "{_output_title(workflow)}" gave no file')
        with self._talking():
            files = self._fetch(entries, dest, cancel)
        logger.debug("ComfyUI ran %s as prompt %s", workflow.name, prompt_id)
        return EngineRun(files, NAME, device, time.monotonic() - started, note)

    def _fitted(self, workflow: BoundWorkflow) -> tuple[BoundWorkflow, str]:
        """The workflow with "auto" replaced by installed files, once the server is known to have the rest."""
        info = self._server.object_info(node["class_type"] for node in workflow.prompt.values())
        autos = workflow.auto_inputs
        workflow = choose_installed(workflow, info)
        findings = check_bound(workflow, info)
        if unknown := [finding for finding in findings if finding.kind == "unknown class"]:
            raise EngineError(
                f"Workflow {workflow.title} can't run on {self.url}: "
                + "; ".join(finding.message for finding in unknown),
                money=LOCAL_MONEY,
                next_step="Install the node packs there, or update that ComfyUI.",
            )
        if missing := missing_files(findings):
            raise missing_files_error(workflow.title, missing, f"the ComfyUI at {self.url}")
        chosen = [str(workflow.prompt[slot.node_id]["inputs"][slot.name]) for slot in autos]
        return workflow, f"Chosen by itself: {', '.join(chosen)}." if chosen else ""

    def _upload(self, workflow: BoundWorkflow, images: Mapping[str, bytes]) -> dict[str, str]:
        names = {}
        for parameter in {slot.parameter for slot in workflow.image_inputs} & images.keys():
            data = images[parameter]
            kind = sniff(data)
            filename = hashlib.sha256(data).hexdigest()[:24] + (kind.suffix if kind else ".bin")
            names[parameter] = self._server.upload_image(data, filename, INPUT_SUBFOLDER)
        return names

    def _execute(
        self, workflow: BoundWorkflow, on_progress: ProgressCallback | None, cancel: threading.Event
    ) -> tuple[str, Mapping[str, Any]]:
        """Queue the prompt and wait for its end; gives its id and what its output nodes reported."""
        prompt_id = str(uuid.uuid4())
        client_id = uuid.uuid4().hex
        with self._talking():
            # Before the prompt is queued, so that no message is missed.
            line = _Line(self._server, client_id)
        try:
            with self._talking():
                prompt_id = self._queue(workflow, prompt_id, client_id)
            watch = _Watch(self._server, workflow, prompt_id, self._grace, self._patience)
            return prompt_id, watch.wait(line, on_progress, cancel)
        except EngineCanceledError as canceled:
            gone = self._withdraw(prompt_id)
            canceled.next_step = (
                "" if gone else f"The server at {self.url} has not let the prompt {prompt_id} go yet."
            )
            raise
        except BaseException:
            self._withdraw(prompt_id)
            raise
        finally:
            line.close()

    def _queue(self, workflow: BoundWorkflow, prompt_id: str, client_id: str) -> str:
        body = {"prompt": workflow.prompt, "client_id": client_id, "prompt_id": prompt_id}
        try:
            answer = self._server.post("/prompt", body)
        except RefusedError as refused:
            if refused.status != 400:
                raise
            raise EngineError(
                f"The ComfyUI at {self.url} refused workflow {workflow.title}: "
                + refusal_of(refused.body, workflow.prompt),
                money=LOCAL_MONEY,
                next_step="Correct the workflow or its parameters.",
            ) from None
        # Versions that make up ids of their own say which one they took.
        prompt_id = str(answer.get("prompt_id") or prompt_id)
        # A prompt of which only some outputs are valid is queued without the others.
        errors = answer.get("node_errors") or {}
        if any(
            workflow.output_node_id in (node_id, *(problem.get("dependent_outputs") or ()))
            for node_id, problem in errors.items()
        ):
            self._withdraw(prompt_id)
            raise EngineError(
                f"The ComfyUI at {self.url} refused workflow {workflow.title}: "
                + refusal_of(answer, workflow.prompt),
                money=LOCAL_MONEY,
                next_step="Correct the workflow or its parameters.",
            )
        return prompt_id

    def _withdraw(self, prompt_id: str) -> bool:
        """Take a prompt out of the queue, or interrupt it; whether the server let it go."""
        deadline = time.monotonic() + _CANCEL_PATIENCE
        try:
            self._server.post("/queue", {"delete": [prompt_id]})
            while True:
                running, waiting = self._server.queue_ids()
                if prompt_id not in running | waiting:
                    return True
                if time.monotonic() > deadline:
                    return False
                # Versions that don't look at the id interrupt whatever runs: only ever this prompt.
                if prompt_id in running:
                    self._server.post("/interrupt", {"prompt_id": prompt_id})
                time.sleep(_TICK)
        except (UnreachableError, RefusedError) as problem:
            logger.debug("prompt %s could not be taken back: %s", prompt_id, problem)
            return False

    def _fetch(
        self, entries: list[Mapping[str, str]], dest: Path, cancel: threading.Event
    ) -> tuple[Path, ...]:
        dest.parent.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        part = dest.with_name(dest.name + ".part")
        try:
            for number, entry in enumerate(entries):
                self._server.download(entry, part, cancel)
                raise_if_canceled(cancel, NAME)
                kind = sniff_file(part)
                path = result_path(dest, number, kind.suffix if kind else Path(entry["filename"]).suffix)
                part.replace(path)
                files.append(path)
        except BaseException:
            for path in (part, *files):
                path.unlink(missing_ok=True)
            raise
        return tuple(files)

    def _failed(self, workflow: BoundWorkflow, reason: str) -> EngineError:
        return EngineError(
            f"Workflow {workflow.title} failed on the ComfyUI at {self.url}: {reason}",
            money=LOCAL_MONEY,
            next_step="See that server's log for more.",
        )

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turns problems of the connection into EngineError."""
        try:
            yield
        except UnreachableError as problem:
            raise EngineError(
                f"The ComfyUI server at {self.url} can't be reached: {problem}",
                money=LOCAL_MONEY,
                next_step="Start it, or correct the URL.",
            ) from problem
        except RefusedError as refused:
            raise EngineError(
                f"The ComfyUI server at {self.url} answered HTTP {refused.status}: {str(refused.body)[:300]}",
                money=LOCAL_MONEY,
                next_step="Check that the URL is a ComfyUI server's, and see its log.",
            ) from refused


class _Line:
    """The websocket of one run, opened again when it breaks. Raises UnreachableError when first opened."""

    def __init__(self, server: ComfyUIServer, client_id: str) -> None:
        self._server = server
        self._client_id = client_id
        self._events: EventStream | None = server.listen(client_id)

    def get(self, timeout: float) -> Message | None:
        """The next message, None after ``timeout`` seconds without one."""
        if self._events is None:
            time.sleep(timeout)
            return None
        try:
            return self._events.get(timeout)
        except UnreachableError:
            self.close()
            return None

    @property
    def is_open(self) -> bool:
        return self._events is not None

    def reopen(self) -> None:
        """Try to listen again; progress is not worth more than the try."""
        try:
            self._events = self._server.listen(self._client_id)
        except UnreachableError as problem:
            logger.debug("no websocket to %s: %s", self._server.url, problem)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


class _Watch:
    """Waits for the end of one prompt."""

    def __init__(
        self,
        server: ComfyUIServer,
        workflow: BoundWorkflow,
        prompt_id: str,
        grace: float,
        patience: float,
    ) -> None:
        self._server = server
        self._workflow = workflow
        self._prompt_id = prompt_id
        self._grace = grace
        self._patience = patience
        self._silent_since: float | None = None

    def wait(
        self, line: _Line, on_progress: ProgressCallback | None, cancel: threading.Event
    ) -> Mapping[str, Any]:
        """What the output nodes reported. Raises EngineError or EngineCanceledError."""
        tracker = RunTracker(self._workflow.prompt, self._prompt_id)
        report: ProgressCallback = on_progress or (lambda _: None)
        report(tracker.waiting())
        ask_at = time.monotonic() + _ASK_EVERY
        while True:
            raise_if_canceled(cancel, NAME)
            was_open = line.is_open
            message = line.get(_TICK)
            progress = tracker.feed(message) if message is not None else None
            if progress is not None:
                report(progress)
            # A line that breaks may mean that the server is gone.
            if not tracker.ended and line.is_open == was_open and time.monotonic() < ask_at:
                continue
            entry = self._ask()
            if entry is not None:
                return self._outputs(entry)
            if tracker.ended:
                # The last message came, and the history lags behind it.
                cancel.wait(_TICK)
            elif not line.is_open and self._silent_since is None:
                line.reopen()
            is_well = line.is_open and self._silent_since is None
            ask_at = time.monotonic() + (_ASK_EVERY if is_well else _ASK_AGAIN)

    def _ask(self) -> Mapping[str, Any] | None:
        """The prompt's record if it has ended, None if it has not. EngineError when the server lost it."""
        try:
            entry = self._server.history(self._prompt_id)
            if entry is None:
                running, waiting = self._server.queue_ids()
                if self._prompt_id not in running | waiting:
                    # It may have ended between the two questions.
                    entry = self._server.history(self._prompt_id)
                    if entry is None:
                        raise self._lost("was restarted, or its history was cleared", "Run it again.")
        except RefusedError as refused:
            # What a proxy in front of a dead server says.
            self._bear(UnreachableError(f"it answers HTTP {refused.status}"))
            return None
        except UnreachableError as problem:
            self._bear(problem)
            return None
        self._silent_since = None
        return entry

    def _bear(self, problem: UnreachableError) -> None:
        """Put up with a server that can't be reached, for a while."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        limit = self._patience if isinstance(problem, SilentError) else self._grace
        if now - self._silent_since >= limit:
            raise self._lost(f"can no longer be reached ({problem})", "Start it and run the work again.")

    def _lost(self, how: str, next_step: str) -> EngineError:
        return EngineError(
            f"The ComfyUI server at {self._server.url} {how} while workflow {self._workflow.title} ran, "
            f"and the run is lost (prompt {self._prompt_id})",
            money=LOCAL_MONEY,
            next_step=next_step,
        )

    def _outputs(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        status = entry.get("status")
        reason = failure_of(status, self._workflow.prompt) if isinstance(status, Mapping) else None
        if reason is not None:
            raise EngineError(
                f"Workflow {self._workflow.title} failed on the ComfyUI at {self._server.url}: {reason}",
                money=LOCAL_MONEY,
                next_step="See that server's log for more.",
            )
        outputs = entry.get("outputs")
        return outputs if isinstance(outputs, Mapping) else {}


def _with_own_prefix(workflow: BoundWorkflow) -> BoundWorkflow:
    """The workflow with a file name prefix that no earlier run had.

    A server answers a prompt that it knows already from its cache, with the name of the file that it wrote
    then, and never looks whether that file still exists. What comes before the output node stays cached.
    """
    prompt = copy.deepcopy(workflow.prompt)
    inputs = prompt[workflow.output_node_id]["inputs"]
    if isinstance(inputs.get("filename_prefix"), str):
        inputs["filename_prefix"] += f"-{uuid.uuid4().hex[:8]}"
    return workflow.with_prompt(prompt)


def _output_title(workflow: BoundWorkflow) -> str:
    return workflow.node_title(workflow.output_node_id)
