"""The workflow that a command names: its argument, and its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..config import Settings, load_settings
from ..errors import XaloraError

if TYPE_CHECKING:
    from ..workflows import WorkflowCatalog, WorkflowDefinition


def complete_name(incomplete: str) -> list[str]:
    """The workflows whose names begin so, for the shell's completion."""
    return [name for name in catalog_of(load_settings().settings).names if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="See `xalora workflows`.", autocompletion=complete_name)
]


def catalog_of(settings: Settings) -> WorkflowCatalog:
    """All workflows that can be named."""
    from ..workflows.catalog import WorkflowCatalog

    return WorkflowCatalog.load(settings.workflows_dir)


def definition_of(catalog: WorkflowCatalog, name: str) -> WorkflowDefinition:
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
