"""Workflow definitions: loaded, checked and bound, for the network, a ComfyUI server and node expansion."""

from __future__ import annotations

from .catalog import DefinitionProblem, WorkflowCatalog
from .check import (
    Finding,
    MissingFile,
    check_bound,
    check_definition,
    check_prompt,
    choose_installed,
    missing_files,
)
from .definition import BoundWorkflow, NodeInput, WorkflowDefinition
from .parameters import AUTO, Parameter, ParameterType

__all__ = [
    "AUTO",
    "BoundWorkflow",
    "DefinitionProblem",
    "Finding",
    "MissingFile",
    "NodeInput",
    "Parameter",
    "ParameterType",
    "WorkflowCatalog",
    "WorkflowDefinition",
    "check_bound",
    "check_definition",
    "check_prompt",
    "choose_installed",
    "missing_files",
]
