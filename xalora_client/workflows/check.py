"""What keeps a definition or a bound prompt from running, found before anything is queued.

``object_info`` is what a ComfyUI server answers to ``GET /object_info``: its node classes with their inputs,
outputs and, for loaders, the model files it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .definition import BoundWorkflow, NodeInput, WorkflowDefinition
from .model_files import is_model_file, model_folder, pick_installed
from .parameters import AUTO, Parameter, ParameterType
from .prompt import Link, Prompt, as_link, node_label

ObjectInfo = Mapping[str, Any]

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
    installed: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "any model file" if self.name == AUTO else self.name
        return f"{what} (belongs into {self.folder})" if self.folder else f"{what} (for {self.node})"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; an ``error`` keeps the graph from running, a ``warning`` does not."""

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
    """What keeps a prompt from running on the server that ``object_info`` describes.

    Args:
        prompt: API-format prompt.
        object_info: The server's answer.
        filled_later: ``(node id, input)`` pairs whose value is only a placeholder yet.
    """
    findings: list[Finding] = []
    for node_id, node in prompt.items():
        class_type = node["class_type"]
        info = object_info.get(class_type)
        if info is None:
            findings.append(
                Finding(
                    "unknown class",
                    f"{node_label(prompt, node_id)}: the server has no node class {class_type!r}; its "
                    "node pack is not installed there",
                    node_id=node_id,
                )
            )
            continue
        specs = _input_specs(info)
        required = _required(info)
        findings.extend(
            Finding(
                "missing input",
                f"{node_label(prompt, node_id)}: the required input {name} is missing",
                node_id=node_id,
            )
            for name in required
            if name not in node["inputs"]
        )
        for name, value in node["inputs"].items():
            spec = specs.get(name)
            if spec is None:
                # Core ignores them, and classes with inputs of their own making take any.
                findings.append(
                    Finding(
                        "unknown input",
                        f"{node_label(prompt, node_id)}: {class_type} has no input {name}",
                        "warning",
                        node_id,
                    )
                )
                continue
            link = as_link(value)
            if link is not None:
                findings.extend(_check_link(prompt, object_info, node_id, name, link))
            elif (node_id, name) not in filled_later:
                findings.extend(_check_value(prompt, node_id, name, spec, value))
    if not any(object_info.get(node["class_type"], {}).get("output_node") for node in prompt.values()):
        findings.append(Finding("no output", "No node of the graph saves or shows anything"))
    return findings


def check_bound(bound: BoundWorkflow, object_info: ObjectInfo) -> list[Finding]:
    """As :func:`check_prompt`, for a bound workflow: images may still be missing, and "auto" needs a file."""
    slots = [*bound.image_inputs, *bound.auto_inputs]
    findings = check_prompt(
        bound.prompt, object_info, filled_later={(slot.node_id, slot.name) for slot in slots}
    )
    findings.extend(_check_autos(bound.prompt, bound.auto_inputs, object_info))
    findings.extend(_check_output(bound.prompt, bound.output_node_id, object_info))
    return findings


def check_definition(definition: WorkflowDefinition, object_info: ObjectInfo | None = None) -> list[Finding]:
    """What is wrong with a definition; with ``object_info`` also whether that server can run it.

    A definition that could be loaded is consistent in itself, so that without ``object_info`` only warnings
    are left.
    """
    findings = [
        Finding("endpoint", f"parameter {parameter.name}: nobody reads the key {key}", "warning")
        for parameter in definition.parameters
        for key in parameter.unknown_keys
    ]
    if object_info is None:
        return findings
    prompt, placeholders, autos = _with_defaults(definition)
    findings.extend(check_prompt(prompt, object_info, filled_later=placeholders))
    findings.extend(_check_autos(prompt, autos, object_info))
    findings.extend(_check_output(prompt, definition.output_node_id, object_info))
    for parameter in definition.parameters:
        findings.extend(_check_parameter(definition, parameter, object_info))
    return findings


def missing_files(findings: Iterable[Finding]) -> list[MissingFile]:
    """The model files among the findings, each once."""
    return list(dict.fromkeys(finding.missing for finding in findings if finding.missing is not None))


def choose_installed(bound: BoundWorkflow, object_info: ObjectInfo) -> BoundWorkflow:
    """Put an installed file wherever "auto" stands; inputs for which nothing is installed stay "auto"."""
    chosen: dict[NodeInput, str] = {}
    for slot in bound.auto_inputs:
        choices = _choices_of(bound.prompt, slot.node_id, slot.name, object_info)
        picked = pick_installed([str(choice) for choice in choices or ()])
        if picked is not None:
            chosen[slot] = picked
    return bound.with_choices(chosen)


def _with_defaults(
    definition: WorkflowDefinition,
) -> tuple[Prompt, set[tuple[str, str]], list[NodeInput]]:
    """The graph with nothing but defaults given, the inputs whose value is open, and those on "auto"."""
    prompt = {
        node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in definition.prompt.items()
    }
    open_inputs: set[tuple[str, str]] = set()
    autos: list[NodeInput] = []
    for parameter in definition.parameters:
        target = parameter.comfyui
        if target is None:
            continue
        inputs = prompt[target.node_id]["inputs"]
        if parameter.default is not None:
            inputs[target.subfield] = parameter.default
            if parameter.installed and parameter.default == AUTO:
                open_inputs.add((target.node_id, target.subfield))
                autos.append(NodeInput(target.node_id, target.subfield, parameter.name))
        elif parameter.is_image or parameter.required:
            inputs.setdefault(target.subfield, "")
            open_inputs.add((target.node_id, target.subfield))
    return prompt, open_inputs, autos


def _check_link(
    prompt: Prompt, object_info: ObjectInfo, node_id: str, name: str, link: Link
) -> Iterator[Finding]:
    origin, index = link
    info = object_info.get(prompt[origin]["class_type"])
    if info is None:
        return
    place = f"{node_label(prompt, node_id)}, input {name}"
    outputs = info.get("output") or []
    if not 0 <= index < len(outputs):
        message = f"{place}: {node_label(prompt, origin)} has no output {index}"
        yield Finding("bad link", message, node_id=node_id)
        return
    given = outputs[index]
    wanted = _input_specs(object_info[prompt[node_id]["class_type"]])[name][0]
    if isinstance(given, str) and isinstance(wanted, str) and not _types_meet(given, wanted):
        message = f"{place} takes {wanted}, but {node_label(prompt, origin)} gives {given}"
        yield Finding("bad link", message, node_id=node_id)


def _types_meet(given: str, wanted: str) -> bool:
    if "*" in (given, wanted) or wanted == "COMBO":
        return True
    return bool({part.strip() for part in given.split(",")} & {part.strip() for part in wanted.split(",")})


def _check_value(
    prompt: Prompt, node_id: str, name: str, spec: Sequence[Any], value: Any
) -> Iterator[Finding]:
    place = f"{node_label(prompt, node_id)}, input {name}"
    choices = _choices(spec)
    if choices is not None:
        if value in choices:
            return
        class_type = prompt[node_id]["class_type"]
        folder = model_folder(class_type, name)
        if folder is not None or is_model_file(value):
            yield _missing(prompt, node_id, name, str(value), choices)
        else:
            shown = ", ".join(repr(choice) for choice in choices[:12]) + (
                ", ..." if len(choices) > 12 else ""
            )
            message = f"{place} is {value!r}; the server knows {shown or 'no choice at all'}"
            yield Finding("bad value", message, node_id=node_id)
        return
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    if spec[0] in ("INT", "FLOAT"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield Finding("bad value", f"{place} is {value!r}, not a number", node_id=node_id)
            return
        low, high = options.get("min"), options.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            message = f"{place} is {value}; the server takes {low} to {high}"
            yield Finding("bad value", message, node_id=node_id)
    elif spec[0] not in ("STRING", "BOOLEAN", "*") and isinstance(value, str | int | float | bool):
        yield Finding("bad link", f"{place} takes a link to {spec[0]}, not {value!r}", node_id=node_id)


def _check_autos(prompt: Prompt, autos: Iterable[NodeInput], object_info: ObjectInfo) -> Iterator[Finding]:
    for slot in autos:
        choices = _choices_of(prompt, slot.node_id, slot.name, object_info)
        if choices is not None and not choices:
            yield _missing(prompt, slot.node_id, slot.name, AUTO, choices)


def _check_output(prompt: Prompt, output_node_id: str, object_info: ObjectInfo) -> Iterator[Finding]:
    info = object_info.get(prompt[output_node_id]["class_type"])
    if info is not None and not info.get("output_node"):
        label = node_label(prompt, output_node_id)
        yield Finding("no output", f"{label} is named as the output node, but it saves nothing")


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
    spec = _input_specs(info).get(target.subfield)
    if spec is None:
        yield Finding("endpoint", f"parameter {parameter.name}: {label} has no input {target.subfield}")
        return
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    for bound, limit, beyond in (
        (parameter.minimum, options.get("min"), "below"),
        (parameter.maximum and parameter.user_maximum, options.get("max"), "above"),
    ):
        if bound is None or limit is None:
            continue
        if (bound < limit) if beyond == "below" else (bound > limit):
            yield Finding(
                "endpoint",
                f"parameter {parameter.name} allows {bound}, which is {beyond} what {label} takes ({limit})",
            )
    choices = _choices(spec)
    if choices is not None and parameter.options is not None:
        for option in parameter.options:
            if option not in choices:
                yield Finding(
                    "endpoint",
                    f"parameter {parameter.name} offers {option!r}, which {label} does not know",
                    "warning",
                )
    if choices is not None and parameter.type not in (ParameterType.STRING, ParameterType.IMAGE):
        yield Finding(
            "endpoint", f"parameter {parameter.name} is no text, but {label} takes a choice of texts"
        )


def _missing(prompt: Prompt, node_id: str, name: str, value: str, choices: Sequence[Any]) -> Finding:
    folder = model_folder(prompt[node_id]["class_type"], name)
    missing = MissingFile(
        value,
        f"models/{folder}" if folder else None,
        node_label(prompt, node_id),
        tuple(str(choice) for choice in choices),
    )
    what = "any model file" if value == AUTO else f"the file {value}"
    message = f"{node_label(prompt, node_id)} needs {what}, which the server does not have"
    if folder:
        message += f"; it belongs into models/{folder}"
    return Finding("missing file", message, node_id=node_id, missing=missing)


def _input_specs(info: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    inputs = info.get("input") or {}
    return {
        name: spec
        for section in ("required", "optional")
        for name, spec in (inputs.get(section) or {}).items()
        if isinstance(spec, Sequence) and spec
    }


def _required(info: Mapping[str, Any]) -> list[str]:
    return list((info.get("input") or {}).get("required") or ())


def _choices_of(prompt: Prompt, node_id: str, name: str, object_info: ObjectInfo) -> list[Any] | None:
    info = object_info.get(prompt[node_id]["class_type"])
    spec = _input_specs(info).get(name) if info else None
    return _choices(spec) if spec else None


def _choices(spec: Sequence[Any]) -> list[Any] | None:
    """The choices of a combo input, in either of the two forms a server describes it; None for others."""
    if isinstance(spec[0], list):
        return list(spec[0])
    if spec[0] == "COMBO" and len(spec) > 1 and isinstance(spec[1], Mapping):
        options = spec[1].get("options")
        # A combo that its page fills from elsewhere lists nothing here.
        return list(options) if isinstance(options, list) and "remote" not in spec[1] else None
    return None
