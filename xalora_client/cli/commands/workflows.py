"""``xalora workflows``: list, show and check workflow definitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...config import load_settings
from ...text import counted
from ..command import command
from ..exit_codes import ExitCode
from ..formats import printable
from ..options import AsJson
from ..screen import Screen, attributes
from ..workflow_lookup import Name, catalog_of, complete_name, definition_of
from .workflows_add import add

if TYPE_CHECKING:
    from ...workflows import Finding, Parameter, WorkflowDefinition

workflows = typer.Typer(help="List, show, check and add the workflows that `xalora run` knows.")
workflows.command("add")(add)


@workflows.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_workflows()


@workflows.command("list")
@command
def list_workflows(as_json: AsJson = False) -> ExitCode:
    """List the workflows, and the reasons why others can't be used."""
    screen = Screen(json=as_json)
    catalog = catalog_of(load_settings().settings)
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
    definition = definition_of(catalog_of(load_settings().settings), name)
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
        typer.Argument(metavar="NAME", help="Default: all.", autocompletion=complete_name),
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
    catalog = catalog_of(settings)
    known = {*catalog.names, *(problem.name for problem in catalog.problems)}
    for name in names or ():
        if name not in known:
            definition_of(catalog, name)
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
