"""Work that the network can't do, done on this machine: which engine, and how a task becomes its input."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from ..config import Settings
from ..errors import ConfigurationError, EngineError, InputImageError, ResultError, XaloraError
from ..events import Done, EventCallback, FallingBack, LocalProgress, guarded
from ..media.inputs import is_remote, prepare_image
from ..results import RunResult, Timing
from ..tasks import WorkflowTask
from ..workflows import BoundWorkflow, WorkflowDefinition
from ..workflows.task import DefinedWorkflowTask, catalog
from .base import EngineCanceledError, EngineProgress, EngineRun, LocalEngine

logger = logging.getLogger("xalora_client")

EngineName = Literal["comfyui", "torch", "pillow"]

UPSCALER = "upscaler"
LANCZOS_UPSCALE = "lanczos-upscale"
STOP_SECONDS = 5.0
LOCAL_FOLDER = "local"


@dataclass(frozen=True)
class _Candidate:
    """One way of doing the work here: an engine, and the workflow as it would run it."""

    engine: LocalEngine
    workflow: BoundWorkflow


async def run_locally(
    task: WorkflowTask,
    settings: Settings,
    *,
    reason: str,
    remote_error: XaloraError | None = None,
    on_event: EventCallback | None = None,
    engine: EngineName | None = None,
) -> RunResult:
    """Do a task with an engine of this machine.

    Args:
        reason: Why, for the log and the progress callback.
        remote_error: What the network said, kept as the cause should this machine fail as well.
        engine: This engine only; default: a ComfyUI server if one is set, then torch with a model file, then
            (for upscaling) LANCZOS.

    Raises:
        EngineError: No engine here can do it; the message says what each one lacks. After a failure of the
            network it is that failure's own class.
        InputImageError: An image can't be read.
    """
    tell = guarded(on_event)
    images = await _image_bytes(task)
    refusals: list[str] = []
    job_id = task.new_job_id()
    dest = settings.state_dir / LOCAL_FOLDER / job_id
    for candidate in await asyncio.to_thread(lambda: list(_candidates(task, settings, engine, refusals))):
        name = candidate.engine.name
        # Where the user named the engine, it is what was asked for and nothing to warn of.
        level = logging.WARNING if engine is None else logging.INFO
        said = reason if remote_error is None else f"{reason}. {remote_error.money}".rstrip()
        logger.log(level, "%s Running on this machine with the %s engine.", f"{said.rstrip('.')}.", name)
        tell(FallingBack(job_id=job_id, engine=name, reason=reason, error=remote_error))
        try:
            _being_made.add(job_id)
            run = await _in_thread(candidate, images, dest, job_id, tell)
            result = _in_hand[job_id] = _result(run, job_id, tell)
        except EngineCanceledError:
            raise
        except (EngineError, ConfigurationError) as error:
            refusals.append(f"{name}: {error.what}")
            continue
        except OSError as error:
            refusals.append(f"{name}: {error}")
            continue
        finally:
            _being_made.discard(job_id)
        wanted = (*_being_made, *_in_hand)
        await asyncio.to_thread(make_room, dest.parent, int(settings.results_limit), wanted)
        return result
    raise _nothing_can(task, refusals, remote_error) from remote_error


def make_room(folder: Path, limit: int, wanted: Collection[str]) -> None:
    """Remove the oldest local results until the folder is within ``limit`` bytes; none of ``wanted`` jobs.

    They cost nothing and can be made again, so nothing else than their age decides.
    """
    files = []
    for path in folder.iterdir():
        # Another process may be making room, too.
        with suppress(OSError):
            if path.is_file():
                files.append((path.stat(), path))
    total = sum(stat.st_size for stat, _ in files)
    prefixes = tuple(wanted)
    for stat, path in sorted(files, key=lambda record: record[0].st_mtime):
        if total <= limit:
            return
        if not path.name.startswith(prefixes):
            # On Windows, a file that somebody reads stays for now.
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= stat.st_size


_being_made: set[str] = set()
_in_hand: WeakValueDictionary[str, RunResult] = WeakValueDictionary()
"""Results by job id that somebody holds, and whose files may yet be read."""


def _candidates(
    task: WorkflowTask, settings: Settings, only: EngineName | None, refusals: list[str]
) -> Iterator[_Candidate]:
    """Every way that is open, the best first; why the others are not goes into ``refusals``."""
    definition, values = definition_of(task, settings)
    if definition is None:
        refusals.append(f"there is no workflow definition for {task.kind_of_task} tasks")
        return
    workflow = definition.bind(values)
    lanczos = catalog(*_folders(settings)).get(LANCZOS_UPSCALE)
    for name in (only,) if only else ("comfyui", "torch", "pillow"):
        try:
            local = _engine(name, settings)
        except ConfigurationError as error:
            refusals.append(f"{name}: {error.what}")
            continue
        if not local.can_run(workflow):
            refusals.append(f"{name}: not made for {task.kind_of_task} tasks")
            continue
        available = local.available()
        if not available:
            refusals.append(f"{name}: {available.reason}")
            continue
        yield _Candidate(local, workflow)
        if name == "comfyui" and task.kind_of_task == UPSCALER and definition.name != LANCZOS_UPSCALE:
            yield _Candidate(local, lanczos.bind({"image": values.get("image")}))


def definition_of(
    task: WorkflowTask, settings: Settings
) -> tuple[WorkflowDefinition | None, Mapping[str, object]]:
    """The workflow definition behind a task, and the task's parameters that it knows."""
    if isinstance(task, DefinedWorkflowTask):
        return task.definition, task.values
    definition = catalog(*_folders(settings)).find(task_type=task.task_type, workflow_id=task.workflow_id)
    if definition is None:
        return None, {}
    known = {parameter.name for parameter in definition.parameters}
    return definition, {name: value for name, value in task.parameters().items() if name in known}


def _folders(settings: Settings) -> tuple[Path, ...]:
    return (settings.workflows_dir,) if settings.workflows_dir is not None else ()


def _engine(name: str, settings: Settings) -> LocalEngine:
    if name == "comfyui":
        if settings.comfyui_url is None:
            raise ConfigurationError("XALORA_COMFYUI_URL is not set")
        from .comfyui import ComfyUIEngine

        return ComfyUIEngine(settings.comfyui_url)
    if name == "torch":
        if settings.upscale_model is None:
            raise ConfigurationError("XALORA_UPSCALE_MODEL names no model file")
        from .torch import TorchEngine

        return TorchEngine(settings.upscale_model)
    from .pillow import PillowEngine

    return PillowEngine()


async def _image_bytes(task: WorkflowTask) -> dict[str, bytes]:
    images = {}
    for name, image in task.image_parameters().items():
        if is_remote(image):
            images[name] = await _remote_image(str(image))
        else:
            images[name] = (await asyncio.to_thread(prepare_image, image)).data
    return images


async def _remote_image(url: str) -> bytes:
    import tempfile

    from ..network.sessions import shared_session
    from ..transfer.download import download

    with tempfile.TemporaryDirectory() as folder:
        async with shared_session() as session:
            try:
                path = await download(session, url, Path(folder) / "input", task_id=None)
            except ResultError as error:
                # Said of a result, which is paid for; this one is only an input.
                raise InputImageError(
                    error.what.replace("The result at", "The input image at"),
                    next_step="Check the URL, or give the image as a file.",
                ) from error
        return await asyncio.to_thread(path.read_bytes)


async def _in_thread(
    candidate: _Candidate,
    images: Mapping[str, bytes],
    dest: Path,
    job_id: str,
    tell: EventCallback,
) -> EngineRun:
    """Run the engine off the loop; a cancelled caller stops it and waits until it has stopped."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def note(progress: EngineProgress) -> None:
        event = LocalProgress(
            job_id=job_id,
            engine=candidate.engine.name,
            done=round(progress.done),
            total=round(progress.total),
            label=progress.label,
            preview=progress.preview,
        )
        loop.call_soon_threadsafe(tell, event)

    working = loop.create_task(
        asyncio.to_thread(
            candidate.engine.run, candidate.workflow, images, dest, on_progress=note, cancel=stop
        )
    )
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({working}, timeout=STOP_SECONDS)
        if working.done() and not working.cancelled():
            working.exception()
        raise


def _result(run: EngineRun, job_id: str, tell: EventCallback) -> RunResult:
    logger.info("done on this machine in %.1f s by %s (%s) %s", run.seconds, run.engine, run.device, run.note)
    tell(Done(job_id=job_id, engine=run.engine, seconds=run.seconds, files=run.files))
    return RunResult(
        files=run.files,
        engine=run.engine,
        device=run.device,
        job_id=job_id,
        seconds=Timing(running=run.seconds, total=run.seconds),
        note=run.note,
    )


def _nothing_can(task: WorkflowTask, refusals: list[str], remote_error: XaloraError | None) -> XaloraError:
    lacks = "; ".join(refusals) or "there is no engine for it"
    if remote_error is None:
        return EngineError(
            f"This machine can't do {task.describe()!r} ({lacks})",
            next_step="Set XALORA_COMFYUI_URL to a ComfyUI server, or XALORA_UPSCALE_MODEL to a model file.",
        )
    return type(remote_error)(
        f"{remote_error.what.rstrip('.')}; and this machine can't take over ({lacks})",
        money=remote_error.money,
        next_step=remote_error.next_step,
        task_id=remote_error.task_id,
        job_id=remote_error.job_id,
        status_code=remote_error.status_code,
        error_type=remote_error.error_type,
    )
