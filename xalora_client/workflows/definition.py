"""Workflow definitions: a graph and its parameters, and the binding of values to the graph."""

from __future__ import annotations

import copy
import difflib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidTaskError, WorkflowDefinitionError
from .endpoint import Endpoint, IndexEntry, OutputKind, load_yaml, parse_model
from .model_files import LORA_INPUT, lora_file
from .parameters import AUTO, Parameter, shown
from .prompt import Prompt, node_label, parse_prompt

if TYPE_CHECKING:
    from .task import DefinedWorkflowTask

LARGEST_FILE = 2**20

GRAPH = "comfyui-graph"
"""Task type and workflow id of tasks that carry their graph; own miners with a ComfyUI server run them."""


@dataclass(frozen=True)
class NodeInput:
    """An input of a node in a bound prompt, and the parameter that feeds it."""

    node_id: str
    name: str
    parameter: str


@dataclass(frozen=True)
class BoundWorkflow:
    """A definition with values written into its nodes: ready for ``POST /prompt`` or for node expansion.

    Attributes:
        name: The definition's name.
        title: The definition's title, for people.
        task_type: The network's name for this kind of task.
        prompt: API-format prompt, a copy that may be changed.
        output_node_id: The node whose files are the result.
        image_inputs: Inputs for given images, which still hold the author's file name.
        auto_inputs: Node inputs that hold "auto": one of the files installed there has to be chosen.
    """

    name: str
    title: str
    task_type: str
    prompt: Prompt
    output_node_id: str
    image_inputs: tuple[NodeInput, ...] = ()
    auto_inputs: tuple[NodeInput, ...] = ()

    def with_images(self, image_names: Mapping[str, str]) -> BoundWorkflow:
        """The same with image files named: ``{parameter: file name as the ComfyUI server knows it}``."""
        prompt = copy.deepcopy(self.prompt)
        for slot in self.image_inputs:
            if slot.parameter in image_names:
                prompt[slot.node_id]["inputs"][slot.name] = image_names[slot.parameter]
        return replace(self, prompt=prompt)

    def with_choices(self, choices: Mapping[NodeInput, str]) -> BoundWorkflow:
        """The same with a file chosen for inputs of :attr:`auto_inputs`."""
        prompt = copy.deepcopy(self.prompt)
        for slot, choice in choices.items():
            prompt[slot.node_id]["inputs"][slot.name] = choice
        left = tuple(slot for slot in self.auto_inputs if slot not in choices)
        return replace(self, prompt=prompt, auto_inputs=left)


@dataclass(frozen=True)
class WorkflowDefinition:
    """A pair of API-format JSON and endpoint YAML, with its line in the index.

    Attributes:
        name: Its name in the index; part of its node's id in ComfyUI.
        title: For people.
        description: A sentence or two, may be empty.
        task_type: The network's name for this kind of task.
        workflow_id: The hosted network's id, None where only own miners and this machine can run it.
        output_kind: ``image`` or ``video``.
        output_node_id: The node whose files are the result.
        parameters: In the order of the file.
        prompt: The graph with the values its author saved. Never changed: :meth:`bind` copies it.
        source: The folder it came from.
        sends_graph: The graph itself goes along with a task: miners do not know it by a name.
    """

    name: str
    title: str
    description: str
    task_type: str
    workflow_id: str | None
    output_kind: OutputKind
    output_node_id: str
    parameters: tuple[Parameter, ...]
    prompt: Prompt = field(repr=False)
    tip: str = ""
    source: Path | None = None
    sends_graph: bool = False

    def task(self, **values: Any) -> DefinedWorkflowTask:
        """A task that runs this workflow, see :class:`DefinedWorkflowTask`.

        Raises:
            InvalidTaskError: A parameter is unknown, missing, or does not fit.
        """
        from .task import DefinedWorkflowTask

        return DefinedWorkflowTask(self, **values)

    @property
    def network_id(self) -> str:
        """Its id for own miners: the hosted id, or its name where there is none."""
        return GRAPH if self.sends_graph else self.workflow_id or self.name

    @property
    def image_parameters(self) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter in self.parameters if parameter.is_image)

    @property
    def seed_parameter(self) -> Parameter | None:
        """The parameter that makes the result repeatable, None where nothing is random."""
        return next((parameter for parameter in self.parameters if parameter.is_seed), None)

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name.

        Raises:
            InvalidTaskError: There is none; the message lists those there are.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = [parameter.name for parameter in self.parameters]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise InvalidTaskError(
            f"Workflow {self.name} has no parameter {name}",
            next_step=f"{hint}It takes: {', '.join(known) or 'nothing'}"
            + (", and any input of a node as NODE.INPUT." if self.sends_graph else "."),
        )

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of parameters that it has. Like the public miner, a miner ignores the others."""
        names = {parameter.name for parameter in self.parameters}
        return {name: value for name, value in values.items() if name in names}

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The given values (None counts as not given), checked and converted to their types.

        Raises:
            InvalidTaskError: A value does not fit, or its name is unknown.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return {name: self.parameter(name).check(value) for name, value in given.items()}

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All values of a run: those given, and the defaults for the rest.

        A parameter neither given nor with a default is left out: the graph keeps its author's value. A preset
        (an aspect ratio) overrides the parameters it sets.

        Args:
            values: ``{parameter: value}``; None counts as not given.

        Raises:
            InvalidTaskError: A value does not fit, a required one is missing, or a name is unknown.
        """
        checked = self.check(values)
        complete: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in checked:
                complete[parameter.name] = checked[parameter.name]
            elif parameter.default is not None:
                complete[parameter.name] = parameter.default
            elif parameter.required:
                raise InvalidTaskError(
                    f"Parameter {parameter.name} of workflow {self.name} was not given, but is required: "
                    f"{parameter.allowed}",
                    next_step=f"Give {parameter.name}.",
                )
        for parameter in self.parameters:
            complete.update(parameter.presets.get(str(complete.get(parameter.name)), {}))
        return complete

    def network_parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters for ``task_create``: the given values, without those for this machine only.

        Defaults are left to the miner, whose own file may differ. Images stay as given; they become URLs when
        the client delivers them.

        Raises:
            InvalidTaskError: As for :meth:`validate`; or a value is possible on this machine only.
        """
        self.validate(values)
        checked = self.check(values)
        sent = {}
        for parameter in self.parameters:
            value = checked.get(parameter.name)
            if value is None:
                continue
            if parameter.scope == "fixed" and value != parameter.default:
                raise InvalidTaskError(
                    f"Parameter {parameter.name} was given {shown(value)}, but the network's workflow always "
                    f"uses {parameter.default}",
                    next_step=f"Leave {parameter.name} out, or run the workflow on this machine.",
                )
            if parameter.scope in ("both", "network"):
                sent[parameter.name] = value
        return sent

    def bind(self, values: Mapping[str, Any]) -> BoundWorkflow:
        """Write values into a copy of the graph; what is missing takes its default.

        Images are not written: they keep the author's placeholder, and ``image_inputs`` lists their inputs.

        Raises:
            InvalidTaskError: As for :meth:`validate`.
        """
        return self.write(self.validate(values))

    def write(self, complete: Mapping[str, Any]) -> BoundWorkflow:
        """As :meth:`bind`, with values that are complete and not checked."""
        prompt = copy.deepcopy(self.prompt)
        images: list[NodeInput] = []
        autos: list[NodeInput] = []
        for parameter in self.parameters:
            target = parameter.comfyui
            # Without an optional image, the graph stays as its author saved it.
            if target is None or parameter.name not in complete:
                continue
            slot = NodeInput(target.node_id, target.subfield, parameter.name)
            if parameter.is_image:
                images.append(slot)
                continue
            value = complete[parameter.name]
            is_lora = target.subfield == LORA_INPUT and isinstance(value, str) and value not in (AUTO, "None")
            prompt[target.node_id]["inputs"][target.subfield] = lora_file(value) if is_lora else value
            if parameter.installed and value == AUTO:
                autos.append(slot)
        return BoundWorkflow(
            name=self.name,
            title=self.title,
            task_type=self.task_type,
            prompt=prompt,
            output_node_id=self.output_node_id,
            image_inputs=tuple(images),
            auto_inputs=tuple(autos),
        )


def build_definition(
    name: str, entry: IndexEntry, prompt: Prompt, endpoint: Endpoint, *, source: Path | None = None
) -> WorkflowDefinition:
    """Combine a graph and its endpoint file.

    Raises:
        WorkflowDefinitionError: The endpoint names a node that the graph does not have.
    """
    if endpoint.comfyui_output_node_id not in prompt:
        raise _mismatch(name, f"the output node {endpoint.comfyui_output_node_id} is not in the graph")
    taken: dict[tuple[str, str], str] = {}
    for parameter in endpoint.parameters:
        target = parameter.comfyui
        if target is None:
            continue
        if target.node_id not in prompt:
            raise _mismatch(
                name, f"parameter {parameter.name} is for node {target.node_id}, not in the graph"
            )
        other = taken.setdefault((target.node_id, target.subfield), parameter.name)
        if other != parameter.name:
            place = f"{target.subfield} of {node_label(prompt, target.node_id)}"
            raise _mismatch(name, f"the parameters {other} and {parameter.name} both set {place}")
    return WorkflowDefinition(
        name=name,
        title=entry.label or endpoint.name or name,
        description=endpoint.description,
        task_type=entry.task_type,
        workflow_id=entry.workflow_id,
        output_kind=entry.output,
        output_node_id=endpoint.comfyui_output_node_id,
        parameters=endpoint.parameters,
        prompt=prompt,
        tip=endpoint.tip,
        source=source,
    )


def load_definition(name: str, entry: IndexEntry, folder: Path) -> WorkflowDefinition:
    """Read a pair of files from ``folder``.

    Raises:
        WorkflowDefinitionError: A file is missing, unreadable or broken, or the two do not fit each other.
    """
    workflow = folder / (entry.workflow or f"{name}.json")
    endpoint = folder / (entry.endpoint or f"{name}.yaml")
    return build_definition(
        name,
        entry,
        parse_prompt(read_text(workflow), workflow.name),
        parse_model(Endpoint, load_yaml(read_text(endpoint), endpoint.name), endpoint.name),
        source=folder,
    )


def read_text(path: Path) -> str:
    """A file's text, UTF-8 with or without a byte order mark.

    Raises:
        WorkflowDefinitionError: It can't be read.
    """
    try:
        about = path.stat()
        # A pipe or a device would be read for ever.
        if not stat.S_ISREG(about.st_mode):
            reason = "is not a regular file"
        elif about.st_size > LARGEST_FILE:
            reason = f"is larger than {LARGEST_FILE >> 20} MiB"
        else:
            return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        reason = "is missing"
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except ValueError:
        reason = "has a name that no file can have"
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
    raise WorkflowDefinitionError(f"The file {path} {reason}", next_step="Check the path.")


def _mismatch(name: str, reason: str) -> WorkflowDefinitionError:
    return WorkflowDefinitionError(
        f"The endpoint file of {name} does not fit its graph: {reason}",
        next_step="Correct the endpoint file or the graph.",
    )
