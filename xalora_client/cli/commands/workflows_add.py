"""``xalora workflows add``: make a workflow of a file that ComfyUI exported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import load_settings
from ...errors import ConfigurationError
from ...files import write_whole
from ..command import command
from ..exit_codes import ExitCode
from ..formats import printable, short_path
from ..options import Force
from ..screen import Screen

if TYPE_CHECKING:
    from ...workflows.exported import Place


@command
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file of ComfyUI's Workflow > Export (API).")
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="NAME=NODE.INPUT",
            help="Where a parameter goes: seed=12.noise_seed. output=9 names the node whose files are the "
            "result. Without a place, a parameter is left out.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Default: the file's.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Where to put it. Default: XALORA_WORKFLOWS_DIR, else the file's folder."
        ),
    ] = None,
    force: Force = False,
) -> ExitCode:
    """Make a workflow of a file that ComfyUI exported: write its endpoint file beside a copy of it.

    Prompt, negative prompt, size, steps, seed, input images and the output are found by the classes and
    titles of nodes. Where several fit you are asked, or give --param.
    """
    from ...workflows.definition import read_text
    from ...workflows.exported import endpoint_of, endpoint_yaml, name_of
    from ...workflows.prompt import parse_prompt

    screen = Screen()
    file = file.expanduser()
    text = read_text(file)
    prompt = parse_prompt(text, file.name)
    title = name or name_of(file)
    if name is not None and name_of(Path(f"{name}.json")) != name:
        raise typer.BadParameter("a name has up to 64 letters, digits, _ and -", param_hint="--name")
    document = endpoint_of(prompt, title, _places(param or ()), _ask if sys.stdin.isatty() else _refuse())
    target = folder or load_settings().settings.workflows_dir or file.absolute().parent
    target = target.expanduser()
    graph, endpoint = target / f"{title}.json", target / f"{title}.yaml"
    is_same = graph.exists() and graph.samefile(file)
    taken = [path for path in (graph, endpoint) if os.path.lexists(path) and not (path == graph and is_same)]
    if taken and not force:
        raise ConfigurationError(
            f"{short_path(taken[0])} exists",
            next_step="Use --force to replace it, or --name for another name.",
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not is_same:
            write_whole(graph, text)
        write_whole(endpoint, endpoint_yaml(document))
    except OSError as error:
        raise ConfigurationError(
            f"{short_path(endpoint)} can't be written: {error.strerror or error}",
            next_step="Use --folder to write elsewhere.",
        ) from None
    screen.say(("✓ ", "green"), f"{short_path(endpoint)}, with {_found(document)}")
    if load_settings().settings.workflows_dir != target.absolute():
        screen.say((f"Set XALORA_WORKFLOWS_DIR={target.absolute()} to run it by its name.", "dim"))
    screen.say((f"xalora run {title} ...  (see xalora workflows show {title})", "cyan"))
    return ExitCode.DONE


def _found(document: dict[str, object]) -> str:
    parameters = document["parameters"]
    assert isinstance(parameters, list)
    names = ", ".join(str(each["name"]) for each in parameters) or "no parameters"
    return f"{names}; the result is that of node {document['comfyui_output_node_id']}"


def _places(pairs: Sequence[str]) -> dict[str, str]:
    places: dict[str, str] = {}
    for pair in pairs:
        key, found, place = pair.partition("=")
        if not found or not key:
            raise typer.BadParameter(f"{pair} is not NAME=NODE.INPUT", param_hint="--param")
        places[key] = place
    return places


def _refuse() -> Callable[[str, Sequence[Place]], Place | None]:
    from ...workflows.exported import refuse

    return refuse


def _ask(role: str, places: Sequence[Place]) -> Place | None:
    typer.echo(f"Several nodes fit {role}:", err=True)
    for number, place in enumerate(places, 1):
        value = "" if place.value is None else f": {printable(str(place.value))}"
        typer.echo(f"  {number}  {place.name}  {printable(place.label)}{value}", err=True)
    typer.echo("  0  none of them", err=True)
    number = typer.prompt("Which one", type=int, err=True)
    while not 0 <= number <= len(places):
        number = typer.prompt(f"0 to {len(places)}", type=int, err=True)
    return places[number - 1] if number else None
