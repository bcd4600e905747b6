"""``xalora run`` and ``xalora workflows``: run, list, show and check workflow definitions by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...config import Settings, load_settings
from ...errors import XaloraError
from ...text import counted
from ..command import command
from ..destinations import STREAM, plan_for_inputs, plan_for_names
from ..do_jobs import do_jobs
from ..exit_codes import ExitCode
from ..formats import printable
from ..image_arguments import existing_inputs, without_done
from ..job_runner import Job
from ..options import AsJson, PictureOptions, RunOptions
from ..screen import Screen, attributes
from ..standard_streams import read_image
from .exported import add, chosen

if TYPE_CHECKING:
    from ...workflows import Finding, Parameter, WorkflowCatalog, WorkflowDefinition
    from ..destinations import Destination

workflows = typer.Typer(help="List, show, check and add the workflows that `xalora run` knows.")
workflows.command("add")(add)


def _complete_name(incomplete: str) -> list[str]:
    return [name for name in _catalog(load_settings().settings).names if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="See `xalora workflows`.", autocompletion=_complete_name)
]


@command
def run(
    name: Name,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]",
            help="Images for the workflow's image parameter, each a task of its own; - is standard input.",
            show_default=False,
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="KEY=VALUE",
            help="A parameter of the workflow; repeat for several. For an image: a path or URL.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Take the pictures in folders, and in theirs.")
    ] = False,
    *,
    options: RunOptions,
    pictures: PictureOptions,
) -> ExitCode:
    """Run a workflow by name, shipped or in XALORA_WORKFLOWS_DIR, or one that ComfyUI exported (.json).

    Of an exported one, any input of a node can be set: -p 2.blur_radius=9.
    """
    settings = load_settings().settings
    definition, pairs = chosen(name, parameter or (), lambda: _definition(_catalog(settings), name))
    values = _values(definition, pairs)
    if images:
        return _run_on_images(settings, definition, values, images, recursive, options, pictures)
    data = None
    given = [values[each.name] for each in definition.image_parameters if each.name in values]
    output = pictures.output(options.output)
    if given:
        (place,) = plan_for_inputs(given[:1], output)
    else:
        (place,) = plan_for_names([str(values.get("prompt") or definition.name)], output)
    if STREAM in given:
        data = read_image()
        values = {key: data if value == STREAM else value for key, value in values.items()}
    job = _job(definition, values, options, place, given[0] if given else None, data)
    return do_jobs(options.screen([place]), settings, [job], options)


def _run_on_images(
    settings: Settings,
    definition: WorkflowDefinition,
    values: dict[str, Any],
    images: Sequence[str],
    recursive: bool,
    options: RunOptions,
    pictures: PictureOptions,
) -> ExitCode:
    """A task for each image, which is the value of the one image parameter that is not given."""
    free = [each.name for each in definition.image_parameters if each.name not in values]
    if len(free) != 1:
        have = f"takes {', '.join(free)}; give all but one by -p" if free else "takes no further image"
        raise typer.BadParameter(f"{definition.name} {have}", param_hint="IMAGES")
    inputs = existing_inputs(images, "IMAGES", recursive=recursive)
    places = plan_for_inputs(inputs.sources, pictures.output(options.output), below=inputs.below)
    planned = dict(zip(inputs.sources, places, strict=True))
    screen = options.screen(places)
    wanted = without_done(screen, inputs, planned, force=options.force)
    data = read_image() if STREAM in wanted else None
    jobs = [
        _job(
            definition,
            {**values, free[0]: data if source == STREAM else source},
            options,
            planned[source],
            source,
            data,
        )
        for source in wanted
    ]
    skipped = [source for source in (*inputs.sources, *inputs.folders) if source not in wanted]
    return do_jobs(screen, settings, jobs, options, skipped=skipped)


def _job(
    definition: WorkflowDefinition,
    values: dict[str, Any],
    options: RunOptions,
    place: Destination,
    source: str | None,
    data: bytes | None,
) -> Job:
    from ...workflows.task import DefinedWorkflowTask

    task = DefinedWorkflowTask(definition, timeout_seconds=options.network_timeout, **values)
    label = task.describe() if source is None else f"{definition.name} {Path(source).name}"
    return Job(label, options.call(task), place, source, data, task)


@workflows.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_workflows()


@workflows.command("list")
@command
def list_workflows(as_json: AsJson = False) -> ExitCode:
    """List the workflows, and the reasons why others can't be used."""
    screen = Screen(json=as_json)
    catalog = _catalog(load_settings().settings)
    if as_json:
        screen.document(
            {
                "workflows": [_summary(definition) for definition in catalog],
                "problems": [attributes(problem, "name", "reason") for problem in catalog.problems],
            }
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Name", "Title", "Output", "On the network"):
        table.add_column(column)
    for definition in catalog:
        hosted = definition.workflow_id is not None
        table.add_row(
            Text(definition.name, style="bold"),
            Text(printable(definition.title)),
            definition.output_kind,
            f"workflow {definition.workflow_id}" if hosted else Text("own miners only", style="dim"),
        )
    screen.show(table)
    screen.say(("xalora workflows show NAME lists the parameters.", "dim"))
    for told in (*catalog.problems, *catalog.notices):
        screen.warn(str(told))
    return ExitCode.DONE


@workflows.command("show")
@command
def show(name: Name, as_json: AsJson = False) -> ExitCode:
    """Show a workflow's parameters and how to run it."""
    screen = Screen(json=as_json)
    definition = _definition(_catalog(load_settings().settings), name)
    if as_json:
        screen.document(
            _summary(definition) | {"parameters": [_describe(each) for each in definition.parameters]}
        )
        return ExitCode.DONE
    screen.say((definition.title, "bold"), f"  ({definition.name}, {definition.task_type})")
    for text in (definition.description, definition.tip):
        if text:
            screen.say(text)
    if definition.workflow_id is None:
        screen.say(
            "The hosted network does not have this workflow: it runs on own miners and on this machine only."
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Parameter", "Allowed", "Default", "Meaning"):
        table.add_column(column, overflow="fold")
    for parameter in definition.parameters:
        scope = {"local": " (this machine only)", "fixed": " (fixed on the network)"}.get(parameter.scope, "")
        table.add_row(
            Text(parameter.name, style="bold" if parameter.required else ""),
            Text(printable(parameter.allowed)),
            Text("required" if parameter.required else _shown(parameter.default), style="dim"),
            Text(printable(parameter.description or parameter.title) + scope),
        )
    screen.show(table)
    given = " ".join(
        f"-p {each.name}={'photo.png' if each.is_image else '...'}"
        for each in definition.parameters
        if each.required
    )
    screen.say((f"xalora run {definition.name} {given}".rstrip(), "cyan"))
    return ExitCode.DONE


@workflows.command("check")
@command
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Default: all.", autocompletion=_complete_name),
    ] = None,
    comfyui: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Check against this ComfyUI server. Default: XALORA_COMFYUI_URL.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Check the files of definitions, and with a server their node classes, values and model files."""
    from ...workflows import check_definition

    screen = Screen(json=as_json)
    settings = load_settings().settings
    catalog = _catalog(settings)
    known = {*catalog.names, *(problem.name for problem in catalog.problems)}
    for name in names or ():
        if name not in known:
            _definition(catalog, name)
    definitions = [definition for definition in catalog if not names or definition.name in names]
    problems = [problem for problem in catalog.problems if not names or problem.name in names]
    url = comfyui or settings.comfyui_url
    info = _object_info(url, definitions) if url else None
    findings = {definition.name: check_definition(definition, info) for definition in definitions}
    broken = [
        *(problem.name for problem in problems),
        *(name for name, found in findings.items() if any(each.severity == "error" for each in found)),
    ]
    code = ExitCode.CONFIGURATION if broken else ExitCode.DONE
    if as_json:
        screen.document(
            {
                "comfyui": url,
                "workflows": {name: [_finding(each) for each in found] for name, found in findings.items()},
                "problems": [attributes(problem, "name", "reason") for problem in problems],
                "exit_code": int(code),
            }
        )
        return code
    for name, found in findings.items():
        errors = [each for each in found if each.severity == "error"]
        screen.say(("✗ ", "red") if errors else ("✓ ", "green"), (name, "bold"))
        for each in found:
            screen.say(f"    {each.severity}: {each.message}")
    for problem in problems:
        screen.say(("✗ ", "red"), (problem.name, "bold"))
        screen.say(f"    error: {problem.reason}")
    if not url:
        screen.say(("Only the files were checked; --comfyui URL checks against a server.", "dim"))
    if broken:
        screen.error(f"{counted(len(broken), 'workflow')} can't be used: {', '.join(broken)}.")
    return code


# --- definitions and values -------------------------------------------------------------------------------


def _catalog(settings: Settings) -> WorkflowCatalog:
    from ...workflows.catalog import WorkflowCatalog

    return WorkflowCatalog.load(settings.workflows_dir)


def _definition(catalog: WorkflowCatalog, name: str) -> WorkflowDefinition:
    """The definition of that name.

    Raises:
        typer.BadParameter: There is no such definition.
        WorkflowDefinitionError: The definition is broken.
    """
    try:
        return catalog.get(name)
    except XaloraError as error:
        if name in {problem.name for problem in catalog.problems}:
            raise
        raise typer.BadParameter(f"{error.what}. {error.next_step}", param_hint="NAME") from None


def _values(definition: WorkflowDefinition, pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found:
            raise typer.BadParameter(f"{pair} is not KEY=VALUE", param_hint="-p")
        if key in values:
            raise typer.BadParameter(f"{key} is given twice", param_hint="-p")
        values[key] = definition.parameter(key).parse(text)
    return values


def _object_info(url: str, definitions: Iterable[WorkflowDefinition]) -> dict[str, Any]:
    from ...engines.comfyui import ComfyUIEngine

    classes = {node["class_type"] for definition in definitions for node in definition.prompt.values()}
    return ComfyUIEngine(url).object_info(classes)


def _summary(definition: WorkflowDefinition) -> dict[str, Any]:
    return {
        **attributes(definition, "name", "title", "description", "task_type", "workflow_id"),
        "output": definition.output_kind,
        "source": str(definition.source) if definition.source is not None else None,
    }


def _describe(parameter: Parameter) -> dict[str, Any]:
    return {
        **attributes(parameter, "name", "title", "description", "required", "default", "step", "options"),
        **attributes(parameter, "scope", "allowed"),
        "type": parameter.type.value,
        "minimum": parameter.user_minimum,
        "maximum": parameter.user_maximum,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    missing = finding.missing and attributes(finding.missing, "name", "folder")
    return {**attributes(finding, "severity", "kind", "message", "node_id"), "missing": missing}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return printable(text) if text else "empty"
