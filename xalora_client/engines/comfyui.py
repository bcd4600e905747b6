"""Engine on a ComfyUI server: queue the prompt, listen for progress, download the files.

The websocket is for progress only. The server's queue and history tell whether a prompt has ended, and how: a
lost message or a broken connection costs time but never the result, and a restarted server, which forgets its
prompts, is detected.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..files import draft_of
from ..media.media_types import sniff, sniff_file
from ..workflows.check import check_bound, check_definition, choose_installed, missing_files
from ..workflows.definition import BoundWorkflow, WorkflowDefinition
from ..workflows.prompt import node_title
from .base import (
    Availability,
    EngineCanceledError,
    EngineRun,
    ProgressCallback,
    local_error,
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

_TICK = 0.2  # seconds until a cancel is noticed
_ASK_EVERY = 5.0  # seconds between queries of the history while messages report no end
_ASK_AGAIN = 1.0  # the same after a problem with the connection
_CANCEL_PATIENCE = 3.0  # seconds for the server to remove a canceled prompt


class ComfyUIEngine:
    """A ComfyUI server, here or on another machine.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8188``.
        timeout: Seconds that one request may go without an answer.
        grace: Seconds that the server may refuse connections in the middle of a run before it counts as gone.
        patience: Seconds that it may accept connections without an answer before it counts as hung; a server
            that loads a large model may not answer for a while.

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
        """Any workflow; whether the server can run it is checked before it is queued."""
        del workflow
        return True

    def available(self) -> Availability:
        """Ask the server for its device."""
        try:
            return Availability(True, device=self._server.device())
        except (UnreachableError, RefusedError) as problem:
            return Availability(False, f"The ComfyUI server at {self.url} can't be used: {problem}")

    def object_info(self, classes: Iterable[str]) -> dict[str, Any]:
        """The server's description of node classes, for checking definitions.

        Raises:
            EngineError: It can't be reached.
        """
        with self._connection_errors():
            return self._server.object_info(classes)

    def lacking(self, definitions: Iterable[WorkflowDefinition]) -> dict[str, str]:
        """By name, why the server can't run definitions now; those that it can are left out.

        Raises:
            EngineError: It can't be reached.
        """
        each = tuple(definitions)
        info = self.object_info({node["class_type"] for one in each for node in one.prompt.values()})
        errors = {
            one.name: [found.message for found in check_definition(one, info) if found.severity == "error"]
            for one in each
        }
        return {name: "; ".join(found) for name, found in errors.items() if found}

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """See :meth:`.base.LocalEngine.run`. Any early end removes the prompt from the server.

        Raises:
            MissingFilesError: The server lacks model files that the workflow names.
            EngineCanceledError: ``cancel`` was set.
            EngineError: The server can't be reached, lacks node classes, refused the prompt, failed at a
                node, or was restarted or vanished in the middle.
        """
        started = time.monotonic()
        cancel = cancel or threading.Event()
        raise_if_canceled(cancel, NAME)
        with self._connection_errors():
            device = self._server.device()
            workflow, note = self._prepared(workflow)
            raise_if_canceled(cancel, NAME)
            workflow = workflow.with_images(self._upload(workflow, images))
        prompt_id, outputs = self._execute(_with_own_prefix(workflow), on_progress, cancel)
        entries = result_entries(outputs, workflow.output_node_id)
        if not entries:
            title = node_title(workflow.prompt, workflow.output_node_id)
            raise _failed(workflow, self.url, f'its output node "{title}" gave no file')
        with self._connection_errors():
            files = self._fetch(entries, dest, cancel)
        logger.debug("ComfyUI ran %s as prompt %s", workflow.name, prompt_id)
        return EngineRun(files, NAME, device, time.monotonic() - started, note)

    def _prepared(self, workflow: BoundWorkflow) -> tuple[BoundWorkflow, str]:
        """The workflow with installed files for "auto", after a check that the server has the rest."""
        info = self._server.object_info(node["class_type"] for node in workflow.prompt.values())
        autos = workflow.auto_inputs
        workflow = choose_installed(workflow, info)
        findings = check_bound(workflow, info)
        if unknown := [finding for finding in findings if finding.kind == "unknown class"]:
            raise local_error(
                f"Workflow {workflow.title} can't run on {self.url}: "
                + "; ".join(finding.message for finding in unknown),
                "Install the node packs there, or update that ComfyUI.",
            )
        if missing := missing_files(findings):
            raise missing_files_error(workflow.title, missing, f"the ComfyUI at {self.url}")
        chosen = [str(workflow.prompt[slot.node_id]["inputs"][slot.name]) for slot in autos]
        return workflow, f"Chosen automatically: {', '.join(chosen)}." if chosen else ""

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
        """Queue the prompt and wait for its end; gives its id and the outputs of its nodes."""
        prompt_id = str(uuid.uuid4())
        client_id = uuid.uuid4().hex
        with self._connection_errors():
            # Before the prompt is queued, so that no message is missed.
            events = self._server.listen(client_id)
        try:
            with self._connection_errors():
                answer = self._queue(workflow, prompt_id, client_id)
            # Some versions assign ids of their own.
            prompt_id = str(answer.get("prompt_id") or prompt_id)
            # A prompt of which only some outputs are valid is queued without the others.
            for node_id, problem in (answer.get("node_errors") or {}).items():
                if workflow.output_node_id in (node_id, *(problem.get("dependent_outputs") or ())):
                    raise self._refusal(workflow, answer)
            watch = _Watcher(self._server, workflow, prompt_id, self._grace, self._patience)
            return prompt_id, watch.wait(events, on_progress, cancel)
        except BaseException as error:
            gone = self._withdraw(prompt_id)
            if isinstance(error, EngineCanceledError) and not gone:
                error.next_step = f"The server at {self.url} has not yet removed the prompt {prompt_id}."
            raise
        finally:
            events.close()

    def _queue(self, workflow: BoundWorkflow, prompt_id: str, client_id: str) -> Mapping[str, Any]:
        body = {"prompt": workflow.prompt, "client_id": client_id, "prompt_id": prompt_id}
        try:
            answer: Mapping[str, Any] = self._server.post("/prompt", body)
        except RefusedError as refused:
            if refused.status != 400:
                raise
            raise self._refusal(workflow, refused.body) from None
        return answer

    def _refusal(self, workflow: BoundWorkflow, answer: Any) -> EngineError:
        return local_error(
            f"The ComfyUI at {self.url} refused workflow {workflow.title}: "
            + refusal_of(answer, workflow.prompt),
            "Correct the workflow or its parameters.",
        )

    def _withdraw(self, prompt_id: str) -> bool:
        """Remove a prompt from the queue, or interrupt it; False where the server still has it."""
        deadline = time.monotonic() + _CANCEL_PATIENCE
        try:
            self._server.post("/queue", {"delete": [prompt_id]})
            while True:
                running, waiting = self._server.queue_ids()
                if prompt_id not in running | waiting:
                    return True
                if time.monotonic() > deadline:
                    return False
                # Some versions ignore the id and interrupt whatever runs, so only while this prompt runs.
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
        try:
            for number, entry in enumerate(entries):
                with draft_of(dest) as draft:
                    self._server.download(entry, draft, cancel)
                    raise_if_canceled(cancel, NAME)
                    kind = sniff_file(draft)
                    suffix = kind.suffix if kind else Path(entry["filename"]).suffix
                    files.append(draft.replace(result_path(dest, number, suffix)))
        except BaseException:
            for path in files:
                path.unlink(missing_ok=True)
            raise
        return tuple(files)

    @contextmanager
    def _connection_errors(self) -> Iterator[None]:
        """Convert connection problems to EngineError."""
        try:
            yield
        except UnreachableError as problem:
            raise local_error(
                f"The ComfyUI server at {self.url} can't be reached: {problem}",
                "Start it, or correct the URL.",
            ) from problem
        except RefusedError as refused:
            raise local_error(
                f"The ComfyUI server at {self.url} answered HTTP {refused.status}: {str(refused.body)[:300]}",
                "Check that the URL is a ComfyUI server's, and see its log.",
            ) from refused


@dataclass
class _Watcher:
    """Waits for the end of one prompt."""

    server: ComfyUIServer
    workflow: BoundWorkflow
    prompt_id: str
    grace: float
    patience: float
    silent_since: float | None = None

    def wait(
        self, events: EventStream, on_progress: ProgressCallback | None, cancel: threading.Event
    ) -> Mapping[str, Any]:
        """The outputs of the nodes, once the prompt has ended. Raises EngineError or EngineCanceledError."""
        tracker = RunTracker(self.workflow.prompt, self.prompt_id)
        report: ProgressCallback = on_progress or (lambda _: None)
        report(tracker.waiting())
        ask_at = time.monotonic() + _ASK_EVERY
        while True:
            raise_if_canceled(cancel, NAME)
            was_open = events.is_open
            message = events.get(_TICK)
            self._feed(tracker, message, report)
            # A broken connection may mean that the server is gone.
            if not tracker.ended and events.is_open == was_open and time.monotonic() < ask_at:
                continue
            entry = self._ask()
            if entry is not None:
                # The last messages may still be on their way.
                while not tracker.ended and (message := events.get(_TICK)) is not None:
                    self._feed(tracker, message, report)
                return self._outputs(entry)
            if tracker.ended:
                # The history lags behind the last message.
                cancel.wait(_TICK)
            elif not events.is_open and self.silent_since is None:
                events.reopen()
            is_well = events.is_open and self.silent_since is None
            ask_at = time.monotonic() + (_ASK_EVERY if is_well else _ASK_AGAIN)

    @staticmethod
    def _feed(tracker: RunTracker, message: Message | None, report: ProgressCallback) -> None:
        progress = tracker.feed(message) if message is not None else None
        if progress is not None:
            report(progress)

    def _ask(self) -> Mapping[str, Any] | None:
        """The history entry of the ended prompt, else None. EngineError if the server lost the prompt."""
        try:
            entry = self.server.history(self.prompt_id)
            if entry is None:
                running, waiting = self.server.queue_ids()
                if self.prompt_id not in running | waiting:
                    # It may have ended between the two requests.
                    entry = self.server.history(self.prompt_id)
                    if entry is None:
                        raise self._lost_run("was restarted, or its history was cleared", "Run it again.")
        except RefusedError as refused:
            # A proxy in front of a dead server answers so.
            self._tolerate(UnreachableError(f"it answers HTTP {refused.status}"))
            return None
        except UnreachableError as problem:
            self._tolerate(problem)
            return None
        self.silent_since = None
        return entry

    def _tolerate(self, problem: UnreachableError) -> None:
        """Tolerate a server that can't be reached, for a while."""
        now = time.monotonic()
        if self.silent_since is None:
            self.silent_since = now
        limit = self.patience if isinstance(problem, SilentError) else self.grace
        if now - self.silent_since >= limit:
            raise self._lost_run(f"can no longer be reached ({problem})", "Start it and run the task again.")

    def _lost_run(self, reason: str, next_step: str) -> EngineError:
        return local_error(
            f"The ComfyUI server at {self.server.url} {reason} while workflow {self.workflow.title} ran, "
            f"and the run is lost (prompt {self.prompt_id})",
            next_step,
        )

    def _outputs(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        status = entry.get("status")
        reason = failure_of(status, self.workflow.prompt) if isinstance(status, Mapping) else None
        if reason is not None:
            raise _failed(self.workflow, self.server.url, reason)
        outputs = entry.get("outputs")
        return outputs if isinstance(outputs, Mapping) else {}


def _failed(workflow: BoundWorkflow, url: str, reason: str) -> EngineError:
    return local_error(
        f"Workflow {workflow.title} failed on the ComfyUI at {url}: {reason}",
        "See that server's log for more.",
    )


def _with_own_prefix(workflow: BoundWorkflow) -> BoundWorkflow:
    """The workflow with a file name prefix that no earlier run had.

    A server answers a known prompt from its cache, with the name of the file that it wrote then, and does not
    check that the file still exists. The nodes before the output node stay cached.
    """
    prompt = copy.deepcopy(workflow.prompt)
    inputs = prompt[workflow.output_node_id]["inputs"]
    if isinstance(inputs.get("filename_prefix"), str):
        inputs["filename_prefix"] += f"-{uuid.uuid4().hex[:8]}"
    return replace(workflow, prompt=prompt)
