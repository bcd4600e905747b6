"""``xalora run``: run a workflow by its name, or a file that ComfyUI exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import Settings, load_settings
from ...errors import XaloraError
from ..command import command
from ..destinations import PICTURE_SUFFIXES, STREAM, VIDEO_SUFFIXES, plan_for_inputs, plan_for_names
from ..do_jobs import do_jobs
from ..exit_codes import ExitCode
from ..image_arguments import existing_inputs, without_done
from ..job_runner import Job
from ..options import PictureOptions, RunOptions
from ..standard_streams import read_image
from ..workflow_lookup import catalog_of, complete_name, definition_of

if TYPE_CHECKING:
    from ...workflows import WorkflowDefinition
    from ..destinations import Destination


@command
def run(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name that xalora workflows lists, or a .json file that ComfyUI exported.",
            autocompletion=complete_name,
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
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

    The result of an image goes beside it as IMAGE.NAME.xalora.png, whatever -p says.

    Of an exported one, any input of a node can be set: -p 2.blur_radius=9.
    """
    settings = load_settings().settings
    definition, pairs = chosen(name, parameter or (), lambda: definition_of(catalog_of(settings), name))
    values = _values(definition, pairs)
    if images:
        return _run_on_images(settings, definition, values, images, recursive, options, pictures)
    data = None
    given = [values[each.name] for each in definition.image_parameters if each.name in values]
    output = pictures.output(options.output, _suffixes(definition))
    if given:
        (place,) = plan_for_inputs(given[:1], output, workflow=definition.name)
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
    output = pictures.output(options.output, _suffixes(definition))
    places = plan_for_inputs(inputs.sources, output, below=inputs.below, workflow=definition.name)
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
            inputs.label(source),
            inputs.unreadable.get(source),
        )
        for source in wanted
    ]
    return do_jobs(screen, settings, jobs, options, skipped=inputs.skipped(wanted))


def _suffixes(definition: WorkflowDefinition) -> Sequence[str]:
    """What the name of its result's file may end in."""
    return VIDEO_SUFFIXES if definition.output_kind == "video" else PICTURE_SUFFIXES


def _job(
    definition: WorkflowDefinition,
    values: dict[str, Any],
    options: RunOptions,
    place: Destination,
    source: str | None,
    data: bytes | None,
    name: str = "",
    problem: XaloraError | None = None,
) -> Job:
    from ...workflows.task import DefinedWorkflowTask

    task = DefinedWorkflowTask(definition, timeout_seconds=options.network_timeout, **values)
    label = task.describe() if source is None else f"{definition.name} {name or Path(source).name}"
    return Job(label, options.call(task), place, source, data, task, problem=problem)


def chosen(
    name: str, pairs: Sequence[str], named: Callable[[], WorkflowDefinition]
) -> tuple[WorkflowDefinition, list[str]]:
    """The definition of a name or a ``.json`` file, and the KEY=VALUE pairs that are left for it.

    Pairs such as ``2.blur_radius=9`` set inputs of nodes; those of an image input are parameters.

    Args:
        named: Looks the name up.
    """
    if not name.endswith(".json"):
        return named(), list(pairs)
    from ...workflows.exported import first_of_all, load_export

    definition = load_export(Path(name).expanduser(), choose=first_of_all)
    images = {
        f"{each.comfyui.node_id}.{each.comfyui.subfield}": each.name
        for each in definition.image_parameters
        if each.comfyui is not None
    }
    left: list[str] = []
    inputs: dict[str, str] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if key in images:
            left.append(f"{images[key]}={text}")
        elif found and "." in key:
            if key in inputs:
                raise typer.BadParameter(f"{key} is given twice", param_hint="-p")
            inputs[key] = text
        else:
            left.append(pair)
    if inputs:
        definition = load_export(Path(name).expanduser(), inputs=inputs, choose=first_of_all)
    return definition, left


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
