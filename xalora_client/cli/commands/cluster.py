"""``xalora cluster``: the user's own machines as a network. Its machines run Linux."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ...config import load_settings
from ...errors import ConfigurationError
from ...text import counted
from ..command import command
from ..exit_codes import ExitCode
from ..formats import printable
from ..options import AsJson
from ..screen import Screen

if TYPE_CHECKING:
    from ...cluster.machine import Machine

cluster = typer.Typer(
    help="Your own machines as a network: the same nodes, library and shell send their tasks there. "
    "Its machines run Linux; whoever uses it need not.",
    no_args_is_help=True,
)

PORT = 8100
RAY_PORT = 6399
LOOPBACK = "127.0.0.1"

Folder = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Its folder. Default: in XALORA_STATE_DIR.", show_default=False
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="This machine's name, unique in the cluster. Default: its host name.", show_default=False
    ),
]
Slots = Annotated[
    int,
    typer.Option(min=0, max=256, help="Workers of a machine without a GPU; else each GPU has one. 0: none."),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINE",
        help="comfyui, torch, ncnn or pillow (LANCZOS, without a model). Default: comfyui with --comfyui, "
        "torch with a model file in XALORA_UPSCALE_MODEL, else ncnn.",
        show_default=False,
    ),
]
ComfyUI = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of a ComfyUI, which each worker starts for itself.",
        show_default=False,
    ),
]
ComfyUIPython = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The Python that runs it. Default: of its .venv or venv.", show_default=False
    ),
]


@cluster.command()
@command
def up(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="This machine's address in your network: other machines can join, and others use it. "
            "Default: this machine alone.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the endpoints.")] = PORT,
    ray_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Ray's head.")] = RAY_PORT,
    name: Name = None,
    slots: Slots = 1,
    engine: Engine = None,
    comfyui: ComfyUI = None,
    comfyui_python: ComfyUIPython = None,
    keep_days: Annotated[
        float, typer.Option(min=0.01, metavar="DAYS", help="How long results are kept.")
    ] = 7.0,
    dir: Folder = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Run a cluster's head, which works as well, until Ctrl-C or xalora cluster down.

    Without --listen it serves this machine alone. It runs the workflows shipped and those of
    XALORA_WORKFLOWS_DIR on this machine.
    """
    _check_installed()
    from ...cluster import supervisor
    from ...cluster.serve import Head

    screen = Screen(json=as_json)
    folder = dir or _folder("cluster")
    host = listen or LOOPBACK
    if ":" in host:
        raise typer.BadParameter("give an IPv4 address or a name, without a port", param_hint="--listen")
    machine = _machine(folder, name, slots, engine, comfyui, comfyui_python) if slots else None
    workflows = load_settings().settings.workflows_dir
    head = Head(
        host=host,
        port=port,
        ray=f"{host}:{ray_port}",
        network=listen is not None,
        workflows=None if workflows is None else str(workflows),
        keep_days=keep_days,
    )
    token = supervisor.token_file(folder)

    def ready() -> None:
        if as_json:
            screen.document({"url": head.url, "ray": head.ray, "token_file": str(token)})
            return
        screen.say(("✓ ", "green"), f"The cluster answers at {head.url}. Ctrl-C ends it.")
        screen.say("A key for somebody who sends tasks: xalora cluster key NAME")
        if head.network:
            screen.say(
                f"On a further machine: xalora cluster join {head.ray} --token FILE, a copy of {token}"
            )
            screen.warn(
                "whoever holds this token can run code on every machine of the cluster, and Ray's traffic is "
                "unencrypted unless you set up TLS"
            )

    supervisor.up(folder, head=head, machine=machine, on_ready=ready, say=screen.note)
    return ExitCode.DONE


@cluster.command()
@command
def join(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="Ray's head, as host:port or host.")],
    token: Annotated[Path, typer.Option(metavar="FILE", help="A copy of the head's token file.")],
    name: Name = None,
    slots: Annotated[
        int, typer.Option(min=1, max=256, help="Workers of a machine without a GPU; else each GPU has one.")
    ] = 1,
    engine: Engine = None,
    comfyui: ComfyUI = None,
    comfyui_python: ComfyUIPython = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="This machine's address. Default: the one towards the head.",
            show_default=False,
        ),
    ] = None,
    dir: Folder = None,
) -> ExitCode:
    """Lend this machine to a cluster until Ctrl-C or xalora cluster down; joins again after an outage."""
    _check_installed()
    from ...cluster import supervisor

    screen = Screen()
    folder = dir or _folder("cluster-machine")
    host, _, port = head.rpartition(":") if ":" in head else (head, "", str(RAY_PORT))
    if not token.is_file() or not port.isdigit():
        raise typer.BadParameter(
            f"{token} is no file" if port.isdigit() else f"{head} is not host:port",
            param_hint="--token" if port.isdigit() else "HEAD",
        )
    if token.stat().st_mode & 0o077:
        screen.warn(f"other users of this machine can read {token}: chmod 600 it")
    supervisor.join(
        folder,
        head=f"{host}:{port}",
        address=address or _address_towards(host, int(port)),
        token=token.resolve(),
        machine=_machine(folder, name, slots, engine, comfyui, comfyui_python),
        say=screen.note,
    )
    return ExitCode.DONE


@cluster.command()
@command
def status(dir: Folder = None, as_json: AsJson = False) -> ExitCode:
    """Show the workers, what each can run, and how many tasks there are; on the head's machine."""
    _check_installed()
    from ...cluster.serve import TOKEN_FILE, Head

    screen = Screen(json=as_json)
    folder = dir or _folder("cluster")
    try:
        head = Head.read(folder)
        told = _asked(f"{head.url}/cluster/status", (folder / TOKEN_FILE).read_text(encoding="utf-8").strip())
    except (FileNotFoundError, urllib.error.URLError, ConnectionError):
        raise ConfigurationError(
            f"No cluster runs for {folder}", money="", next_step="Start one: xalora cluster up"
        ) from None
    if as_json:
        screen.document({"url": head.url, **told})
        return ExitCode.DONE
    table = Table("worker", "engine", "runs", "task", box=None)
    for worker in told["workers"]:
        runs = ", ".join(worker["workflows"]) or "nothing"
        table.add_row(*map(printable, (worker["miner_id"], worker["engine"], runs, worker["task_id"] or "")))
    screen.say(f"{head.url}: {counted(len(told['workers']), 'worker')}")
    screen.show(table)
    screen.say("tasks: " + (", ".join(f"{count} {name}" for name, count in told["tasks"].items()) or "none"))
    for problem in told["problems"]:
        screen.warn(problem)
    return ExitCode.DONE


@cluster.command()
@command
def key(
    name: Annotated[str, typer.Argument(help="Who sends tasks with it.")],
    revoke: Annotated[bool, typer.Option("--revoke", help="Have the key refused from now on.")] = False,
    dir: Folder = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Make a key for somebody who sends tasks, in place of an earlier one; it is shown once."""
    _check_installed()
    from ...cluster.keys import Keys
    from ...cluster.serve import KEYS_FILE, Head

    screen = Screen(json=as_json)
    folder = dir or _folder("cluster")
    keys = Keys(folder / KEYS_FILE)
    if revoke:
        if not keys.revoke(name):
            raise ConfigurationError(f"{name} has no key", money="", next_step="")
        screen.say(f"The key of {name} is refused from now on.")
        return ExitCode.DONE
    made = keys.add(name)
    try:
        url = Head.read(folder).url
    except FileNotFoundError:
        url = f"http://{LOOPBACK}:{PORT}"
    if as_json:
        screen.document({"url": url, "api_key": made})
        return ExitCode.DONE
    screen.say(f"export XALORA_WORKFLOW_URL='{url}'")
    screen.say(f"export XALORA_API_KEY='{made}'")
    if LOOPBACK not in url:
        screen.say(f"export XALORA_ALLOW_HTTP='{url.partition('//')[2]}'")
    return ExitCode.DONE


@cluster.command()
@command
def down(dir: Folder = None) -> ExitCode:
    """Stop the head, or this machine's part of a cluster, with all their processes."""
    _check_installed()
    from ...cluster import supervisor

    screen = Screen()
    folders = [dir] if dir else [_folder("cluster-machine"), _folder("cluster")]
    stopped = [folder for folder in folders if supervisor.down(folder)]
    screen.say(f"Stopped: {', '.join(map(str, stopped))}" if stopped else "Nothing runs here.")
    return ExitCode.DONE


def _check_installed() -> None:
    """Raises ``ConfigurationError`` where this is not Linux, or Ray is not installed."""
    from ...cluster.ray_node import check_installed

    check_installed()


def _folder(name: str) -> Path:
    return load_settings().settings.state_dir / name


def _machine(
    folder: Path,
    name: str | None,
    slots: int,
    engine: str | None,
    comfyui: Path | None,
    python: Path | None,
) -> Machine:
    """What this machine lends.

    Raises:
        ConfigurationError: It has no engine, or no ComfyUI in that folder.
    """
    from ...cluster import ray_node
    from ...cluster.machine import ENGINES, Machine, chosen_engine, python_of

    if engine is not None and engine not in ENGINES:
        raise typer.BadParameter(f"{engine} is none of {', '.join(ENGINES)}", param_hint="--engine")
    given = load_settings().settings.upscale_model
    model = None if given is None else str(given)
    comfyui = comfyui.resolve() if comfyui else None
    chosen = ENGINES[engine] if engine else chosen_engine(comfyui, model)
    if chosen == "comfyui":
        if comfyui is None:
            raise typer.BadParameter("the engine comfyui needs it", param_hint="--comfyui")
        python = python or python_of(comfyui)
    return Machine(
        name=_plain(name or socket.gethostname()),
        engine=chosen,
        slots=slots,
        folder=str(folder.resolve()),
        comfyui=None if comfyui is None else str(comfyui),
        # Not resolved: an environment's Python is a link.
        python=None if python is None else os.path.abspath(python),  # noqa: PTH100
        model=model,
        environment=ray_node.proxies(),
    )


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _address_towards(host: str, port: int) -> str:
    """This machine's address on the way to a host; no packet is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as problem:
        raise ConfigurationError(
            f"There is no way to {host}: {problem.strerror or problem}", money="", next_step="Check its name."
        ) from None


def _asked(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return json.load(answer)
