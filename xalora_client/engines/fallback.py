"""Tasks run on this machine: the choice of an engine, the task's workflow and images, and the result."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from ..config import Settings
from ..errors import (
    ConfigurationError,
    EngineError,
    InputImageError,
    JournalError,
    ResultError,
    XaloraError,
)
from ..events import Done, EventCallback, FallingBack, LocalProgress, without_exceptions
from ..journal import Event, Journal
from ..media.inputs import is_remote, prepare_image
from ..results import FilesInUse, RunResult, Timing
from ..tasks import WorkflowTask
from ..workflows import BoundWorkflow, WorkflowCatalog
from ..workflows.task import definition_of
from ..workflows.upscaling import UPSCALER, uses_model
from .base import EngineCanceledError, EngineProgress, EngineRun, LocalEngine
from .ncnn.models import is_ncnn_file, unknown_model

if TYPE_CHECKING:
    from .torch import TorchEngine

logger = logging.getLogger("xalora_client")

EngineName = Literal["comfyui", "torch", "ncnn", "pillow"]
ORDER: tuple[EngineName, ...] = ("comfyui", "torch", "ncnn", "pillow")
"""The engines, the best first."""

LANCZOS = "lanczos"
STOP_SECONDS = 5.0
LOCAL_FOLDER = "local"


async def run_locally(
    task: WorkflowTask,
    settings: Settings,
    *,
    reason: str,
    remote_error: XaloraError | None = None,
    on_event: EventCallback | None = None,
    engine: EngineName | None = None,
) -> RunResult:
    """Run a task with an engine of this machine.

    Args:
        reason: Why the task does not run on the network, for the log and the progress callback.
        remote_error: The network's error, kept as the cause if this machine fails too.
        engine: This engine only; default: a ComfyUI server if one is set, then torch with a model file, then
            ncnn, then LANCZOS where ``upscale_model`` is ``lanczos`` or the workflow itself has no model.

    Raises:
        ConfigurationError: The engine needs a model, and ``upscale_model`` names none.
        EngineError: No engine here can run it; the message says what each one lacks. After a failure of the
            network the error has that failure's class.
        InputImageError: An image can't be read.
    """
    emit = without_exceptions(on_event)
    unknown = unknown_model(settings.upscale_model)
    if unknown and engine in ("torch", "ncnn"):
        raise ConfigurationError(f"The setting {unknown}", next_step="Correct XALORA_UPSCALE_MODEL.")
    images = await _image_bytes(task, settings)
    refusals: dict[str, str] = {}
    failures: list[str] = []
    job_id = task.new_job_id()
    dest = settings.state_dir / LOCAL_FOLDER / job_id
    choices = await asyncio.to_thread(lambda: list(candidates(task, settings, engine, refusals)))
    for chosen, workflow in choices:
        name = chosen.name
        # An engine that the user named needs no warning.
        level = logging.WARNING if engine is None else logging.INFO
        cause = reason if remote_error is None else f"{reason}. {remote_error.money}".rstrip()
        logger.log(
            level,
            "%s Running on this machine with the %s engine.",
            f"{cause.rstrip('.')}.",
            name,
            extra={"fallback_of": task.describe()},
        )
        emit(FallingBack(job_id=job_id, engine=name, reason=reason, error=remote_error))
        try:
            _running.add(job_id)
            run = await _in_thread(chosen, workflow, images, dest, job_id, emit)
            result = _result(run, job_id, emit)
            _files_in_use[job_id] = result.in_use
        except EngineCanceledError:
            raise
        except (EngineError, ConfigurationError, OSError) as error:
            failures.append(f"{name}: {getattr(error, 'what', error)}")
            continue
        finally:
            _running.discard(job_id)
        protected = (*_running, *_files_in_use)
        await asyncio.to_thread(make_room, dest.parent, int(settings.results_limit), protected)
        return result
    raise _nothing_can(task, settings, refusals, failures, remote_error) from remote_error


def make_room(folder: Path, limit: int, protected: Collection[str]) -> None:
    """Remove the oldest local results until the folder is within ``limit`` bytes, except ``protected`` jobs'.

    Local results cost nothing and can be made again, so only their age counts.
    """
    files = []
    for path in folder.iterdir():
        # Another process may remove files at the same time.
        with suppress(OSError):
            if path.is_file():
                files.append((path.stat(), path))
    total = sum(stat.st_size for stat, _ in files)
    prefixes = tuple(protected)
    for stat, path in sorted(files, key=lambda record: record[0].st_mtime):
        if total <= limit:
            return
        if not path.name.startswith(prefixes):
            # On Windows, an open file can't be removed.
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= stat.st_size


_running: set[str] = set()
_files_in_use: WeakValueDictionary[str, FilesInUse] = WeakValueDictionary()
"""By job id, what the results that a caller still refers to hold: their files may yet be read."""


def candidates(
    task: WorkflowTask, settings: Settings, only: EngineName | None, refusals: dict[str, str]
) -> Iterator[tuple[LocalEngine, BoundWorkflow]]:
    """The engines that can run the task, the best first, each with the workflow that it would run.

    The reasons against others go to ``refusals``, by the engine's name.
    """
    catalog = WorkflowCatalog.load(settings.workflows_dir)
    definition, values = definition_of(task, catalog)
    if definition is None:
        refusals["workflows"] = f"there is no definition for {task.kind_of_task} tasks"
        return
    workflow = definition.bind(values)
    for name in (only,) if only else ORDER:
        try:
            local = _engine(name, settings)
        except ConfigurationError as error:
            refusals[name] = error.what
            continue
        if not local.can_run(workflow):
            refusals[name] = f"does not run {definition.title}"
        elif not (available := local.available()):
            refusals[name] = available.reason.rstrip(".")
        elif name == "pillow" and not only and uses_model(workflow) and settings.upscale_model != LANCZOS:
            refusals[name] = f"LANCZOS is no model; XALORA_UPSCALE_MODEL={LANCZOS} allows it"
        else:
            yield local, workflow


def _engine(name: str, settings: Settings) -> LocalEngine:
    model = settings.upscale_model
    if name == "comfyui":
        if settings.comfyui_url is None:
            raise ConfigurationError("XALORA_COMFYUI_URL is not set")
        from .comfyui import ComfyUIEngine

        return ComfyUIEngine(settings.comfyui_url)
    if name == "torch":
        from .torch import TorchEngine

        file = model if isinstance(model, Path) and not is_ncnn_file(model) else None
        return _torch_engines.setdefault(file, TorchEngine(file))
    if name == "ncnn":
        from .ncnn.engine import NcnnEngine

        if unknown := unknown_model(model):
            raise ConfigurationError(unknown)
        # A model file of torch's is none of ncnn's: the default model is the next best.
        is_other = isinstance(model, Path) and not is_ncnn_file(model)
        return NcnnEngine(None if is_other else model)
    from .pillow import PillowEngine

    return PillowEngine()


_torch_engines: dict[Path | None, TorchEngine] = {}
"""By model file: each keeps the model that it has loaded."""


def note_fallback(journal: Journal, job_id: str | None, engine: str, device: str | None) -> None:
    """Have the journal note that this machine made a job's result instead; never raises. Blocking."""
    try:
        record = None if job_id is None else journal.find(job_id=job_id)
    except JournalError as error:
        logger.warning("that this machine did the task of job %s is not noted: %s", job_id, error.what)
        return
    if record is not None:
        journal.note(record.id, Event.FELL_BACK, engine=engine, device=device)


async def _image_bytes(task: WorkflowTask, settings: Settings) -> dict[str, bytes]:
    images = {}
    for name, image in task.image_parameters().items():
        if is_remote(image):
            images[name] = await _remote_image(str(image), settings)
        else:
            images[name] = (await asyncio.to_thread(prepare_image, image)).data
    return images


async def _remote_image(url: str, settings: Settings) -> bytes:
    import tempfile

    from ..network.result_session import ResultSession, chosen_by_user
    from ..transfer.download import download

    with tempfile.TemporaryDirectory() as folder:
        allowed = chosen_by_user(url)
        async with ResultSession(allowed, proxy=settings.proxy, ca=settings.ca) as session:
            try:
                path = await download(session, url, Path(folder) / "input", task_id=None)
            except ResultError as error:
                # The error speaks of a result, which is paid for; this is an input.
                raise InputImageError(
                    error.what.replace("The result at", "The input image at"),
                    next_step="Check the URL, or give the image as a file.",
                ) from error
        return await asyncio.to_thread(path.read_bytes)


async def _in_thread(
    engine: LocalEngine,
    workflow: BoundWorkflow,
    images: Mapping[str, bytes],
    dest: Path,
    job_id: str,
    emit: EventCallback,
) -> EngineRun:
    """Run the engine in a thread; a cancelled caller stops it and waits until it has stopped."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def note(progress: EngineProgress) -> None:
        event = LocalProgress(
            job_id=job_id,
            engine=engine.name,
            done=round(progress.done),
            total=round(progress.total),
            label=progress.label,
            preview=progress.preview,
        )
        loop.call_soon_threadsafe(emit, event)

    working = loop.create_task(
        asyncio.to_thread(engine.run, workflow, images, dest, on_progress=note, cancel=stop)
    )
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({working}, timeout=STOP_SECONDS)
        if working.done() and not working.cancelled():
            working.exception()
        raise


def _result(run: EngineRun, job_id: str, emit: EventCallback) -> RunResult:
    logger.info(
        "finished on this machine in %.1f s by %s (%s) %s", run.seconds, run.engine, run.device, run.note
    )
    emit(Done(job_id=job_id, engine=run.engine, seconds=run.seconds, files=run.files))
    return RunResult(
        files=run.files,
        engine=run.engine,
        device=run.device,
        job_id=job_id,
        seconds=Timing(running=run.seconds, total=run.seconds),
        note=run.note,
    )


def _nothing_can(
    task: WorkflowTask,
    settings: Settings,
    refusals: Mapping[str, str],
    failures: list[str],
    remote_error: XaloraError | None,
) -> XaloraError:
    """The error where no engine made the result.

    Args:
        refusals: Why engines were not tried, by their names.
        failures: How those failed that were.
        remote_error: The network's error, where this machine was to take over.
    """
    reasons = {name: f"{name}: {reason}" for name, reason in refusals.items()}
    server = reasons.get("comfyui") if settings.comfyui_url else None
    set_up = "Set XALORA_COMFYUI_URL to a ComfyUI server."
    if task.kind_of_task == UPSCALER:
        unknown = unknown_model(settings.upscale_model)
        set_up = (
            f"The setting {unknown}."
            if unknown
            else 'For an upscale model on any machine: pip install "xalora[ai]".'
        )
    elif server:
        set_up = "Start that ComfyUI server, or correct XALORA_COMFYUI_URL."
    if remote_error is None:
        lacks = "; ".join([*failures, *reasons.values()]) or "there is no engine for it"
        return EngineError(
            f"This machine can't run {task.describe()!r} ({lacks})",
            next_step="Correct what the message names." if failures else set_up,
        )
    # Whoever waits for the network needs no list of engines.
    lacks = "; ".join(failures) or server or f"no engine is set up. {set_up.rstrip('.')}"
    return type(remote_error)(
        f"{remote_error.what.rstrip('.')}; and this machine can't take over ({lacks})",
        money=remote_error.money,
        next_step=remote_error.next_step,
        task_id=remote_error.task_id,
        job_id=remote_error.job_id,
        status_code=remote_error.status_code,
    )
