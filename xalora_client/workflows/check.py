"""Checks of a definition or a bound prompt against a ComfyUI server, before anything is queued.

An error is what the server surely refuses, by its own rules (``validate_inputs``); it has the last word on
the rest. Classes of node packs may have rules of their own, so most of what is found there is a warning.

``object_info`` is the server's answer to ``GET /object_info``: its node classes with their inputs, outputs
and, for loaders, its model files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from .definition import BoundWorkflow, NodeInput, WorkflowDefinition
from .model_files import is_model_file, model_folder, pick_installed
from .parameters import AUTO, Parameter, ParameterType
from .prompt import Link, Prompt, as_link, node_label

ObjectInfo = Mapping[str, Any]

# Inputs that stand for others, which depend on their values: ``format`` for ``format.codec``.
_DYNAMIC_TYPES = frozenset({"COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_DYNAMICSLOT_V3"})

# Types of core that no widget gives; others may have a widget, such as COLOR.
_LINKED_TYPES = frozenset(
    {
        *("IMAGE", "MASK", "LATENT", "VIDEO", "AUDIO", "MODEL", "CLIP", "VAE", "CONDITIONING", "CONTROL_NET"),
        *("CLIP_VISION", "CLIP_VISION_OUTPUT", "STYLE_MODEL", "GLIGEN", "UPSCALE_MODEL", "LORA_MODEL"),
        *("SAMPLER", "SIGMAS", "NOISE", "GUIDER", "HOOKS", "HOOK_KEYFRAMES"),
    }
)

_ANNOTATED = re.compile(r" ?\[(input|output|temp)\]$")

FindingKind = Literal[
    "unknown class",
    "missing file",
    "missing input",
    "unknown input",
    "bad link",
    "bad value",
    "no output",
    "endpoint",
]


@dataclass(frozen=True)
class MissingFile:
    """A model file that a graph names and the server does not have.

    ``folder`` is relative to ComfyUI's own (``models/vae``), None where the loader is not one of core's.
    """

    name: str
    folder: str | None
    node: str

    def __str__(self) -> str:
        what = "any model file" if self.name == AUTO else self.name
        return f"{what} (belongs into {self.folder})" if self.folder else f"{what} (for {self.node})"


@dataclass(frozen=True)
class Finding:
    """A problem; an ``error`` keeps the graph from running, a ``warning`` does not."""

    kind: FindingKind
    message: str
    severity: Literal["error", "warning"] = "error"
    node_id: str | None = None
    missing: MissingFile | None = None

    def __str__(self) -> str:
        return self.message


def check_prompt(
    prompt: Prompt, object_info: ObjectInfo, *, filled_later: Collection[tuple[str, str]] = ()
) -> list[Finding]:
    """The problems of a prompt on the server that ``object_info`` describes.

    Args:
        prompt: API-format prompt.
        object_info: The server's answer.
        filled_later: ``(node id, input)`` pairs whose value is still a placeholder.
    """
    findings = [
        finding
        for node_id in prompt
        for finding in _check_node(_Node(prompt, node_id), object_info, filled_later)
    ]
    if not any(object_info.get(node["class_type"], {}).get("output_node") for node in prompt.values()):
        findings.append(Finding("no output", "No node of the graph saves or shows anything"))
    return findings


def check_bound(
    bound: BoundWorkflow, object_info: ObjectInfo, *, filled_later: Collection[tuple[str, str]] = ()
) -> list[Finding]:
    """As :func:`check_prompt`, for a bound workflow: images may still be missing, and "auto" needs a file."""
    slots = {(slot.node_id, slot.name) for slot in (*bound.image_inputs, *bound.auto_inputs)}
    findings = check_prompt(bound.prompt, object_info, filled_later=slots.union(filled_later))
    for slot in bound.auto_inputs:
        if _choices_of(bound.prompt, slot, object_info) == []:
            findings.append(_Node(bound.prompt, slot.node_id).lacks(slot.name, AUTO))
    info = object_info.get(bound.prompt[bound.output_node_id]["class_type"])
    if info is not None and not info.get("output_node"):
        label = node_label(bound.prompt, bound.output_node_id)
        findings.append(Finding("no output", f"{label} is named as the output node, but it saves nothing"))
    return findings


def check_definition(definition: WorkflowDefinition, object_info: ObjectInfo | None = None) -> list[Finding]:
    """The problems of a definition; with ``object_info`` also those on that server.

    A loaded definition is consistent in itself, so without ``object_info`` there are only warnings.
    """
    findings = [
        Finding("endpoint", f"parameter {parameter.name}: the key {key} is not used", "warning")
        for parameter in definition.parameters
        for key in sorted(parameter.model_extra or ())
    ]
    if object_info is None:
        return findings
    values: dict[str, Any] = {}
    filled_later: set[tuple[str, str]] = set()
    for parameter in definition.parameters:
        if parameter.default is not None:
            values[parameter.name] = parameter.default
        elif parameter.is_image or parameter.required:
            values[parameter.name] = ""
            if parameter.comfyui is not None:
                filled_later.add((parameter.comfyui.node_id, parameter.comfyui.subfield))
    bound = definition.write(values)
    findings.extend(check_bound(bound, object_info, filled_later=filled_later))
    for parameter in definition.parameters:
        findings.extend(_check_parameter(definition, parameter, object_info))
    return findings


def missing_files(findings: Iterable[Finding]) -> list[MissingFile]:
    """The model files among the findings, each once."""
    return list(dict.fromkeys(finding.missing for finding in findings if finding.missing is not None))


def choose_installed(bound: BoundWorkflow, object_info: ObjectInfo) -> BoundWorkflow:
    """Name files as the server does: an installed one for "auto", and its own separator of folders.

    A graph that was saved on Windows writes ``sub\\file``, a server elsewhere ``sub/file``. Inputs for which
    nothing is installed stay "auto".
    """
    chosen: dict[NodeInput, str] = {}
    for node_id, node in bound.prompt.items():
        for name, spec in _input_specs(object_info.get(node["class_type"]) or {}).items():
            value = node["inputs"].get(name)
            if spec.choices and value not in spec.choices and (same := _same_file(value, spec.choices)):
                chosen[NodeInput(node_id, name, "")] = same
    for slot in bound.auto_inputs:
        choices = _choices_of(bound.prompt, slot, object_info)
        picked = pick_installed([str(choice) for choice in choices or ()])
        if picked is not None:
            chosen[slot] = picked
    return bound.with_choices(chosen)


@dataclass(frozen=True)
class _Node:
    """A node of a prompt, and what is found in it."""

    prompt: Prompt
    id: str

    @property
    def class_type(self) -> str:
        return str(self.prompt[self.id]["class_type"])

    @property
    def label(self) -> str:
        return node_label(self.prompt, self.id)

    def found(self, kind: FindingKind, text: str, severity: Literal["error", "warning"] = "error") -> Finding:
        return Finding(kind, self.label + text, severity, self.id)

    def lacks(self, name: str, file: str) -> Finding:
        """The finding that the model file in an input is not installed."""
        folder = model_folder(self.class_type, name)
        missing = MissingFile(file, f"models/{folder}" if folder else None, self.label)
        what = "any model file" if file == AUTO else f"the file {file}"
        where = f"; it belongs into models/{folder}" if folder else ""
        text = f" needs {what}, which the server does not have{where}"
        return replace(self.found("missing file", text), missing=missing)


def _check_node(
    node: _Node, object_info: ObjectInfo, filled_later: Collection[tuple[str, str]]
) -> Iterator[Finding]:
    info = object_info.get(node.class_type)
    if info is None:
        what = f"the server has no node class {node.class_type!r}; its node pack is not installed there"
        yield node.found("unknown class", f": {what}")
        return
    inputs, specs = node.prompt[node.id]["inputs"], _input_specs(info)
    for name in (info.get("input") or {}).get("required") or ():
        # A dynamic input stands for others, whose names depend on the values given.
        if name not in inputs and not _is_dynamic(specs, name):
            yield node.found("missing input", f": the required input {name} is missing")
    may_judge_itself = str(info.get("python_module", "")).startswith("custom_nodes")
    for name, value in inputs.items():
        spec, link = specs.get(name), as_link(value)
        found: Iterable[Finding] = ()
        if spec is None and not _is_dynamic(specs, name):
            # Core ignores them, and classes with dynamic inputs take any.
            yield node.found("unknown input", f": {node.class_type} has no input {name}", "warning")
        elif link is None and isinstance(value, list):
            what = "a link is a node's id as a text and the index of an output"
            yield node.found("bad link", f", input {name} is {value!r}; {what}")
        elif spec is not None and link is not None:
            found = _check_link(node, object_info, name, spec, link)
        elif spec is not None and (node.id, name) not in filled_later:
            found = _check_value(node, name, spec, value)
        for finding in found:
            is_sure = not may_judge_itself or finding.missing is not None
            yield finding if is_sure else replace(finding, severity="warning")


def _check_link(
    node: _Node, object_info: ObjectInfo, name: str, spec: _Spec, link: Link
) -> Iterator[Finding]:
    origin, index = _Node(node.prompt, link[0]), link[1]
    if origin.id not in node.prompt:
        yield node.found("bad link", f", input {name}: the graph has no node {origin.id}")
        return
    info = object_info.get(origin.class_type)
    if info is None:
        return
    outputs = info.get("output") or []
    if not 0 <= index < len(outputs):
        yield node.found("bad link", f", input {name}: {origin.label} has no output {index}")
        return
    given, wanted = outputs[index], spec.type
    if isinstance(given, str) and isinstance(wanted, str) and not _types_meet(given, wanted):
        yield node.found("bad link", f", input {name} takes {wanted}, but {origin.label} gives {given}")


def _types_meet(given: str, wanted: str) -> bool:
    # "COMFY_MATCHTYPE_V3" and its like depend on the other inputs.
    if "*" in (given, wanted) or "COMBO" in (given, wanted) or "COMFY_" in given + wanted:
        return True
    return bool({part.strip() for part in given.split(",")} & {part.strip() for part in wanted.split(",")})


def _check_value(node: _Node, name: str, spec: _Spec, value: Any) -> Iterator[Finding]:
    if isinstance(value, Mapping):
        # A list that is no link is wrapped so; other objects belong to widgets of their own.
        value = value.get("__value__", value)
        if not isinstance(value, str | int | float):
            return
    if spec.choices is not None:
        yield from _check_choice(node, name, spec, value)
    elif spec.type in ("INT", "FLOAT"):
        number = _converted(value, spec.type)
        low, high = spec.options.get("min"), spec.options.get("max")
        if number is None:
            what = "a whole number" if spec.type == "INT" else "a number"
            yield node.found("bad value", f", input {name} is {value!r}, not {what}")
        elif (low is not None and number < low) or (high is not None and number > high):
            yield node.found("bad value", f", input {name} is {value}; the server takes {low} to {high}")
    elif spec.type in _LINKED_TYPES and isinstance(value, str | int | float | bool):
        yield node.found("bad link", f", input {name} takes a link to {spec.type}, not {value!r}")


def _check_choice(node: _Node, name: str, spec: _Spec, value: Any) -> Iterator[Finding]:
    choices = spec.choices or []
    if value in choices or _same_file(value, choices):
        return
    if model_folder(node.class_type, name) or is_model_file(value):
        yield node.lacks(name, str(value))
        return
    # The list of an upload holds the input folder alone, and a server looks for what is not in it.
    is_elsewhere = isinstance(value, str) and (_ANNOTATED.search(value) or "/" in value or "\\" in value)
    if is_elsewhere and (spec.is_upload or _ANNOTATED.search(value)):
        return
    shown = ", ".join(repr(choice) for choice in choices[:12])
    shown += ", ..." if len(choices) > 12 else ""
    known = shown or "no choice at all"
    yield node.found("bad value", f", input {name} is {value!r}; the server knows {known}")


def _converted(value: Any, kind: str) -> float | None:
    """A value as the server converts it to a number, None where it can't."""
    try:
        return int(value) if kind == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _same_file(value: Any, choices: Sequence[Any]) -> str | None:
    """The choice that names the same file with the other separator of folders."""
    if not isinstance(value, str) or not ("/" in value or "\\" in value):
        return None
    wanted = value.replace("\\", "/")
    same = (each for each in choices if isinstance(each, str) and each.replace("\\", "/") == wanted)
    return next(same, None)


def _check_parameter(
    definition: WorkflowDefinition, parameter: Parameter, object_info: ObjectInfo
) -> Iterator[Finding]:
    target = parameter.comfyui
    if target is None:
        return
    info = object_info.get(definition.prompt[target.node_id]["class_type"])
    if info is None:
        return
    label = node_label(definition.prompt, target.node_id)
    subject = f"parameter {parameter.name}"
    specs = _input_specs(info)
    spec = specs.get(target.subfield)
    if spec is None:
        if not _is_dynamic(specs, target.subfield):
            yield Finding("endpoint", f"{subject}: {label} has no input {target.subfield}")
        return
    low, high = parameter.minimum, parameter.maximum and parameter.user_maximum
    least, most = spec.options.get("min"), spec.options.get("max")
    if low is not None and least is not None and low < least:
        yield Finding("endpoint", f"{subject} allows {low}, which is below what {label} takes ({least})")
    if high is not None and most is not None and high > most:
        yield Finding("endpoint", f"{subject} allows {high}, which is above what {label} takes ({most})")
    if spec.choices is None:
        return
    for option in parameter.options or ():
        if option not in spec.choices and not _same_file(option, spec.choices):
            yield Finding("endpoint", f"{subject} offers {option!r}, which {label} does not know", "warning")
    if parameter.type not in (ParameterType.STRING, ParameterType.IMAGE):
        yield Finding("endpoint", f"{subject} is no text, but {label} takes a choice of texts")


class _Spec(NamedTuple):
    """A server's description of an input: its type, or the list of its choices; and its options."""

    type: Any
    options: Mapping[str, Any]

    @property
    def choices(self) -> list[Any] | None:
        """The choices of a combo input, in either of the two forms a server describes it; None for others."""
        if isinstance(self.type, list):
            return self.type
        options = self.options.get("options") if self.type == "COMBO" else None
        # The page fills a remote combo itself.
        return options if isinstance(options, list) and "remote" not in self.options else None

    @property
    def is_upload(self) -> bool:
        """Whether the choices are files of the server's input folder."""
        return any(name.endswith("_upload") and flag for name, flag in self.options.items())


def _input_specs(info: Mapping[str, Any]) -> dict[str, _Spec]:
    inputs = info.get("input") or {}
    return {
        name: _Spec(spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {})
        for section in ("required", "optional")
        for name, spec in (inputs.get(section) or {}).items()
        if isinstance(spec, Sequence) and spec
    }


def _is_dynamic(specs: Mapping[str, _Spec], name: str) -> bool:
    """Whether an input is dynamic, or stands behind a dynamic one."""
    spec = specs.get(name.partition(".")[0])
    return spec is not None and isinstance(spec.type, str) and spec.type in _DYNAMIC_TYPES


def _choices_of(prompt: Prompt, slot: NodeInput, object_info: ObjectInfo) -> list[Any] | None:
    info = object_info.get(prompt[slot.node_id]["class_type"])
    spec = _input_specs(info).get(slot.name) if info else None
    return spec.choices if spec else None
