"""``xalora devnet | miner``: run a devnet, or miners for one, on this machine until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...config import load_settings
from ...devnet import DEFAULT_API_KEY, DEFAULT_MINERS, DEFAULT_POLL_SECONDS
from ...errors import ConfigurationError, EngineError
from ...text import counted, seconds_text
from ..command import command
from ..destinations import is_url
from ..exit_codes import ExitCode
from ..formats import printable
from ..options import AsJson
from ..screen import Screen

if TYPE_CHECKING:
    from ...devnet.engines import MinerTask
    from ...devnet.model_engine import Choice, ModelEngine

MinerPoll = Annotated[
    float,
    typer.Option(
        "--miner-poll", metavar="SECONDS", min=0.001, help="Seconds between two requests of an idle miner."
    ),
]
TaskSeconds = Annotated[
    float | None,
    typer.Option("--task-seconds", metavar="SECONDS", min=0, help="How long each task takes at least."),
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="FAULT",
        help="A fault to inject, endpoint:kind[:option=value]..., such as task_create:503:p=0.1. "
        'Repeat for several; the kinds and options: docs/shell.md, "Faults of the devnet".',
    ),
]
Lanczos = Annotated[bool, typer.Option("--lanczos", help="Upscale by LANCZOS: at once, and without a model.")]
ComfyUIServer = Annotated[
    str | None,
    typer.Option(
        "--comfyui", metavar="URL", help="A ComfyUI server that runs the workflows.", show_default=False
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the sequencer; 0 takes a free one.")]


@command
def devnet(
    port: Port = 0,
    miners: Annotated[int, typer.Option(min=0, max=256, help="How many miners.")] = DEFAULT_MINERS,
    api_key: Annotated[
        str, typer.Option(metavar="KEY", help="Key of the consumer, <consumer_id>#<api_key>.")
    ] = DEFAULT_API_KEY,
    task_seconds: TaskSeconds = None,
    miner_poll: MinerPoll = DEFAULT_POLL_SECONDS,
    fault: Faults = None,
    seed: Annotated[int, typer.Option(help="Seed of the random faults.")] = 0,
    lanczos: Lanczos = False,
    comfyui: ComfyUIServer = None,
    db: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="SQLite file for tasks and results. Default: they are deleted at the end."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    as_json: AsJson = False,
) -> ExitCode:
    """Run a whole network on this machine: sequencer, result store and miners, free of charge.

    The miners upscale by a model that suits the image's size, where xalora\\[ai] is installed, else by
    LANCZOS. They answer prompts with test cards. With --comfyui they run the workflows that this server can,
    yours and those that a task brings.
    """
    from ...devnet import Devnet, serve_forever

    screen = Screen(json=as_json)
    options, engine_name = _engine_options(screen, miners, lanczos, comfyui)

    def ready(network: Devnet) -> None:
        if as_json:
            screen.document({"url": network.url, "api_key": network.api_key})
        else:
            screen.show(_panel(network.url, network.api_key, miners, engine_name))

    try:
        serve_forever(
            ready,
            port=port,
            host=host,
            miners=miners,
            api_key=api_key,
            task_seconds=task_seconds,
            miner_poll=miner_poll,
            faults=fault or (),
            seed=seed,
            db=db,
            **options,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"The devnet can't keep its tasks in {db}: {error}",
            money="",
            next_step="Choose another --db, in an existing folder that can be written to.",
        ) from None
    except OSError as error:
        # asyncio's message repeats the address. The number of a gaierror is not an errno.
        is_numbered = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0).lower() if is_numbered else error.strerror or error
        raise ConfigurationError(
            f"The devnet can't listen on {host}:{port}: {reason}",
            money="",
            next_step="Choose another --port (0 takes a free one) or --host.",
        ) from None
    return ExitCode.DONE


@command
def miner(
    sequencer: Annotated[
        str, typer.Option(metavar="URL", help="The devnet to work for.", show_default=False)
    ],
    miners: Annotated[int, typer.Option(min=1, max=256, help="How many miners.")] = 1,
    comfyui: ComfyUIServer = None,
    miner_poll: MinerPoll = DEFAULT_POLL_SECONDS,
    task_seconds: TaskSeconds = None,
    fault: Faults = None,
    lanczos: Lanczos = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Run miners for a devnet: by a model, LANCZOS and test cards, or real workflows on a ComfyUI server."""
    from ...devnet import run_miners

    screen = Screen(json=as_json)
    if not _answers(sequencer):
        screen.warn(f"nothing answers at {sequencer} now; the miners keep trying")
    options, engine_name = _engine_options(screen, miners, lanczos, comfyui)
    # A sequencer's own affair.
    options.pop("usual_workflows", None)

    def ready() -> None:
        screen.say(
            ("✓ ", "green"), f"{counted(miners, 'miner')} for {sequencer}: {engine_name}. Ctrl-C ends it."
        )
        if as_json:
            screen.document({"sequencer": sequencer, "miners": miners, "comfyui": comfyui})

    try:
        run_miners(
            sequencer,
            miners=miners,
            on_ready=ready,
            poll=miner_poll,
            task_seconds=task_seconds,
            faults=fault or (),
            **options,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return ExitCode.DONE


def _answers(url: str) -> bool:
    """Whether a server listens at a URL.

    Raises:
        typer.BadParameter: This is not a URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if not host or not is_url(url):
        raise typer.BadParameter(f"{url} is not an http:// or https:// address", param_hint="--sequencer")
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def _engine_options(
    screen: Screen, miners: int, lanczos: bool, comfyui: str | None
) -> tuple[dict[str, Any], str]:
    """What runs the tasks, as arguments of a devnet and of its miners, and in words.

    Raises:
        EngineError: The ComfyUI server can't be reached, or can't run any workflow.
    """
    if comfyui is not None:
        options = _comfyui_options(comfyui)
        return options, f"{', '.join(options['workflow_ids'])} by the ComfyUI at {comfyui}"
    engine = None if lanczos else _model_engine(screen, miners)
    return _network_options(engine), _upscaling(engine, lanczos)


def _comfyui_options(url: str) -> dict[str, Any]:
    """The engine for a ComfyUI server, and the ids of the workflows that the server can run.

    Raises:
        EngineError: The server can't be reached, or can't run any workflow.
    """
    from ...devnet.comfyui_engine import ComfyUIMinerEngine
    from ...workflows.catalog import WorkflowCatalog

    folder = load_settings().settings.workflows_dir
    engine = ComfyUIMinerEngine(url, WorkflowCatalog.load(folder), folder)
    ids = engine.workflow_ids()
    if not ids:
        raise EngineError(
            f"The ComfyUI at {url} can't run any of the known workflows",
            next_step=f"For the reasons: xalora workflows check --comfyui {url}",
        )
    return {
        "engine": engine,
        "workflow_ids": ids,
        "changed_workflow_ids": engine.changed_workflow_ids,
    }


def _model_engine(screen: Screen, miners: int) -> ModelEngine | None:
    """The engine that upscales by a model and prints what it begins; None where no model is installed."""
    from ...devnet.model_engine import ModelEngine
    from ...engines.ncnn.models import DEFAULT, lacking

    def note(task: MinerTask, choice: Choice, done: int, total: int) -> None:
        del total
        if done == 0 and not screen.json:
            screen.note(
                f"task {task.task_id}: {choice.model} {choice.factor}x, about {seconds_text(choice.seconds)}"
            )

    return None if lacking(DEFAULT) else ModelEngine(miners=miners, on_progress=note)


def _network_options(engine: ModelEngine | None) -> dict[str, Any]:
    from ...devnet.model_engine import network_options

    return {} if engine is None else network_options(engine)


def _upscaling(engine: ModelEngine | None, lanczos: bool) -> str:
    """What upscales, and what answers prompts."""
    if engine is not None:
        return "Real-ESRGAN upscales (large images: a faster model), prompts give TEST CARDs."
    model = "" if lanczos else ' For a model: pip install "xalora[ai]".'
    return f"Upscaling is LANCZOS, prompts give TEST CARDs; no model runs.{model}"


def _panel(url: str, api_key: str, miners: int, upscaling: str) -> Panel:
    lines = Table.grid()
    lines.add_row(Text("In another terminal:", style="bold"))
    for variable, value in (("XALORA_WORKFLOW_URL", url), ("XALORA_API_KEY", api_key)):
        line = f"$env:{variable} = '{value}'" if os.name == "nt" else f"export {variable}='{value}'"
        lines.add_row(Text(printable(line), style="cyan", no_wrap=True))
    lines.add_row(Text("xalora upscale photo.jpg", style="cyan"))
    lines.add_row("")
    lines.add_row(Text(f"Statistics: {url}/devnet/stats", style="dim", no_wrap=True))
    lines.add_row(Text(upscaling, style="dim"))
    return Panel(
        lines,
        # Lines at the sides would be copied with the text.
        box=box.HORIZONTALS,
        title=f"Xalora devnet, {counted(miners, 'miner')}",
        subtitle="Ctrl-C ends it",
        border_style="green",
        expand=False,
        padding=(1, 0),
    )
