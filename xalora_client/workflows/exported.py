"""Definitions made from workflows that ComfyUI exports: parameters and output found by class and title.

One file, since it is one search through a graph, a small function for each parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from ..errors import InvalidTaskError, WorkflowDefinitionError
from ..tasks import MAX_SEED
from .definition import WorkflowDefinition, build_definition, load_definition, read_text
from .endpoint import NAME_PATTERN, Endpoint, IndexEntry, OutputKind, load_yaml, parse_model
from .prompt import Prompt, as_link, node_label, node_title, parse_prompt

OUTPUT = "output"
"""The role of the node whose files are the result, among those of parameters."""

_TEXT_INPUTS = ("text", "prompt", "t5xxl", "text_g", "clip_l", "text_l", "string", "value")
_NUMBER_INPUTS = ("value", "int", "float", "number", "seed", "noise_seed")
_NOT_CONDITIONING = frozenset({"clip", "model", "vae", "control_net", "image", "pixels", "latent", "mask"})
# Save Image Websocket leaves no file.
_SAVES = re.compile(r"^(Save(Image(?!Websocket)|Animated|Video|WEBM)|Image ?Save)|VideoCombine")
_SHOWS = re.compile(r"^Preview(Image|Animation)")
_VIDEO = re.compile(r"Video|Animated|WEBM")
_MAKES_SIZE = re.compile(r"Latent|ToVideo|SizeSelect")
_LOADS_IMAGE = re.compile(r"^LoadImage(Mask|Output)?$|^Load ?Image")
_TITLES = {
    "prompt": ("prompt", "positive"),
    "negative_prompt": ("negative",),
    "seed": ("seed",),
    "steps": ("steps",),
    "width": ("size", "width", "latent"),
    OUTPUT: ("output", "result", "final"),
}
_LABELS = {"fps": "Frames a Second", "length": "Frames"}
_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
# Of other inputs an export does not tell: ComfyUI's page writes 1.0 as 1.
_WHOLE_NUMBERS = re.compile(r"seed$|^(steps|width|height|length|batch_size|num_frames|frame_count)$")
_BOUNDS = {
    "width": (16, 8192),
    "height": (16, 8192),
    "steps": (1, 100),
    "length": (1, 10_000),
    "fps": (1, 120),
}


@dataclass(frozen=True)
class Place:
    """An input of a node, or a node, that may play a role; ``value`` is its author's."""

    node_id: str
    input: str
    value: Any
    label: str

    @property
    def name(self) -> str:
        """``12.noise_seed``, as ``--param`` takes it."""
        return f"{self.node_id}.{self.input}" if self.input else self.node_id


Choose = Callable[[str, Sequence[Place]], Place | None]
"""Chooses one of several places for a role; None leaves the role out."""


def first_of_all(role: str, places: Sequence[Place]) -> Place | None:
    """Leaves a parameter out that several places fit; of outputs it takes the last in the file."""
    return places[-1] if role == OUTPUT else None


def refuse(role: str, places: Sequence[Place]) -> Place | None:
    """Chooses nothing.

    Raises:
        WorkflowDefinitionError: Always; it lists the places.
    """
    listed = ", ".join(f"{place.name} ({place.label})" for place in places)
    raise WorkflowDefinitionError(
        f"Several nodes fit {role}: {listed}",
        next_step=f"Choose one: --param {role}={places[0].name}, in Python params={{'{role}': "
        f"'{places[0].name}'}}. An empty one leaves it out.",
    )


def load_export(
    path: Path,
    *,
    params: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    choose: Choose = refuse,
) -> WorkflowDefinition:
    """A definition of an exported workflow; the file's own endpoint YAML is taken where it lies beside it.

    Args:
        path: The file that ComfyUI wrote by *Workflow > Export (API)*.
        params: Places for parameters by name: ``{"seed": "12.noise_seed"}``; an empty one leaves a parameter
            out, further names add parameters. ``output`` names the node whose files are the result.
        inputs: Values for inputs of nodes: ``{"2.blur_radius": 9}``.
        choose: Decides where several places fit.

    Raises:
        WorkflowDefinitionError: A file can't be read, is no workflow in the API format, has no node that
            saves an image or a video, or does not have a place that is named by ``params``.
        InvalidTaskError: There is no such input, or a value does not fit it.
    """
    prompt = parse_prompt(read_text(path), path.name)
    name = name_of(path)
    endpoint = path.with_suffix(".yaml")
    if not params and endpoint.is_file():
        entry = entry_of(load_yaml(read_text(endpoint), endpoint.name), prompt)
        entry = entry.model_copy(update={"workflow": path.name, "endpoint": endpoint.name})
        definition = load_definition(name, entry, path.parent)
    else:
        document = endpoint_of(prompt, name, params or {}, choose)
        entry = entry_of(document, prompt)
        definition = build_definition(
            name, entry, prompt, parse_model(Endpoint, document, path.name), source=path.parent
        )
        # Without an endpoint file no miner knows it by its name, and its images may lie on the server.
        own = tuple(each.model_copy(update={"required": False}) for each in definition.parameters)
        definition = replace(definition, parameters=own, sends_graph=True)
    if not inputs:
        return definition
    return replace(definition, prompt=with_inputs(definition, inputs), sends_graph=True)


def definition_of_graph(prompt: Prompt, output_node_id: str) -> WorkflowDefinition:
    """A definition of a graph as it came with a task: its images are its only parameters.

    Raises:
        WorkflowDefinitionError: There is no such node.
    """
    document = endpoint_of(prompt, "graph", {OUTPUT: output_node_id}, lambda role, places: None)
    document["parameters"] = [each for each in document["parameters"] if each["type"] == "image"]
    for each in document["parameters"]:
        each["required"] = False
    endpoint = parse_model(Endpoint, document, "graph")
    return build_definition("graph", entry_of(document, prompt), prompt, endpoint)


def name_of(path: Path) -> str:
    """A definition's name after its file's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:64]
    return name if re.match(NAME_PATTERN, name) else "workflow"


def with_inputs(definition: WorkflowDefinition, inputs: Mapping[str, Any]) -> Prompt:
    """The graph with values of node inputs replaced: ``{"2.blur_radius": 9}``; texts are read as their type.

    Raises:
        InvalidTaskError: There is no such input, or the value is of another type.
    """
    prompt: Prompt = json.loads(json.dumps(definition.prompt))
    for name, value in inputs.items():
        try:
            place = _named_place(prompt, name)
        except WorkflowDefinitionError as error:
            raise InvalidTaskError(error.what, next_step=error.next_step) from None
        if as_link(place.value) is not None:
            raise InvalidTaskError(
                f"Input {name} is linked to another node, so it takes no value",
                next_step="Set the input of the node that it comes from.",
            )
        prompt[place.node_id]["inputs"][place.input] = _as_type_of(place, value)
    return prompt


def _as_type_of(place: Place, value: Any) -> Any:
    old = place.value
    if isinstance(value, str) and not isinstance(old, str):
        # Where the export has no value, a text that is no JSON stands for itself.
        with suppress(ValueError):
            value = json.loads(value.lower() if isinstance(old, bool) else value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    is_whole = _is_whole(old, place.input)
    fits = {
        bool: isinstance(value, bool),
        int: is_number and (float(value).is_integer() or not is_whole),
        float: is_number,
        str: isinstance(value, str),
        type(None): True,
    }.get(type(old), isinstance(value, type(old)))
    if not fits:
        kind = "a whole number" if is_whole else _KINDS.get(type(old), "another kind of value")
        raise InvalidTaskError(
            f"Input {place.name} takes {kind}, such as its {old!r}",
            next_step="Correct the value and try again.",
        )
    return int(value) if type(old) is int and float(value).is_integer() else value


def _is_whole(value: Any, name: str) -> bool:
    return type(value) is int and _WHOLE_NUMBERS.search(name) is not None


def endpoint_of(prompt: Prompt, title: str, params: Mapping[str, str], choose: Choose) -> dict[str, Any]:
    """The endpoint file of a graph, as a document that YAML can hold.

    Raises:
        WorkflowDefinitionError: There is no node that saves, or no place that is named.
    """
    output = _chosen(OUTPUT, _outputs(prompt), params, choose, prompt)
    if output is None:
        raise WorkflowDefinitionError(
            f"{title} has no node that saves an image or a video",
            next_step="Add one, such as Save Image, and export it again; or name a node by output.",
        )
    chosen: dict[str, Place] = {}
    for role, places in _roles(prompt, _kind(prompt, output)).items():
        place = _chosen(role, places, params, choose, prompt)
        if place is not None and place.name not in {each.name for each in chosen.values()}:
            chosen[role] = place
            if role == "width" and "height" not in params:
                chosen["height"] = _constant(prompt, place.node_id, "height") or _size_beside(prompt, place)
    images = list(_images(prompt))
    for number, place in enumerate(images, 1):
        name = "image" if len(images) == 1 or number == 1 else f"image_{number}"
        if params.get(name) != "":
            chosen[name] = _named_place(prompt, params[name]) if name in params else place
    for name, place_name in params.items():
        if name not in chosen and name != OUTPUT and place_name:
            chosen[name] = _named_place(prompt, place_name)
    image_ids = {place.name for place in images}
    return {
        "name": title,
        "task_type": _task_type(prompt, output, chosen),
        "output": _kind(prompt, output),
        "comfyui_output_node_id": output.node_id,
        "parameters": [_parameter(name, place, place.name in image_ids) for name, place in chosen.items()],
    }


def entry_of(document: Mapping[str, Any], prompt: Prompt) -> IndexEntry:
    """What an index says of a workflow, from its endpoint file, or else from the graph.

    Raises:
        WorkflowDefinitionError: A key is invalid.
    """
    node_id = str(document.get("comfyui_output_node_id", ""))
    output = Place(node_id, "", None, "")
    names = {
        str(each.get("name")): output for each in document.get("parameters") or () if hasattr(each, "get")
    }
    found: dict[str, Any] = {"task_type": "comfyui", "output": "image"}
    if node_id in prompt:
        found = {"task_type": _task_type(prompt, output, names), "output": _kind(prompt, output)}
    given = {key: document[key] for key in ("task_type", "output", "workflow_id") if key in document}
    return parse_model(IndexEntry, {**found, **given}, str(document.get("name", "endpoint file")))


def endpoint_yaml(document: Mapping[str, Any]) -> str:
    """An endpoint file's text."""
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110))


# --- roles ------------------------------------------------------------------------------------------------


def _roles(prompt: Prompt, kind: OutputKind) -> dict[str, list[Place]]:
    """The places that fit each parameter, in the order of parameters."""
    prompts, negatives = _texts(prompt)
    is_video = kind == "video"
    return {
        "prompt": prompts,
        "negative_prompt": negatives,
        "width": _sizes(prompt),
        "length": _inputs(prompt, ("length", "num_frames", "frame_count")) if is_video else [],
        "fps": _inputs(prompt, ("fps", "frame_rate")) if is_video else [],
        "steps": _inputs(prompt, ("steps",)),
        "seed": _inputs(prompt, ("noise_seed", "seed")),
    }


def _chosen(
    role: str, places: list[Place], params: Mapping[str, str], choose: Choose, prompt: Prompt
) -> Place | None:
    if role in params:
        return _named_place(prompt, params[role], is_node=role == OUTPUT) if params[role] else None
    if len(places) > 1:
        titled = [p for p in places if any(word in p.label.lower() for word in _TITLES.get(role, (role,)))]
        places = titled if len(titled) == 1 else places
    return (places[0] if len(places) == 1 else choose(role, places)) if places else None


def _named_place(prompt: Prompt, name: str, *, is_node: bool = False) -> Place:
    """The place that ``12.noise_seed``, or ``12`` for a node, names.

    Raises:
        WorkflowDefinitionError: There is none.
    """
    node_id, _, input_name = (name, "", "") if is_node else name.partition(".")
    if node_id not in prompt:
        raise WorkflowDefinitionError(
            f"{name} names no node", next_step=f"The nodes are {', '.join(_shown_nodes(prompt))}."
        )
    inputs = prompt[node_id]["inputs"]
    if not is_node and input_name not in inputs:
        raise WorkflowDefinitionError(
            f"{name} names no input of {node_label(prompt, node_id)}",
            next_step=f"Its inputs are {', '.join(inputs) or 'none'}.",
        )
    return Place(node_id, input_name, inputs.get(input_name), node_title(prompt, node_id))


def _shown_nodes(prompt: Prompt) -> list[str]:
    shown = [f"{node_id} ({node_title(prompt, node_id)})" for node_id in prompt]
    return shown if len(shown) <= 12 else [*shown[:12], "..."]


def _texts(prompt: Prompt) -> tuple[list[Place], list[Place]]:
    """The texts that lead to a sampler's or guider's positive, and to its negative, conditioning."""
    found: dict[str, dict[str, Place]] = {"positive": {}, "negative": {}}
    ends = [
        node_id
        for node_id, node in prompt.items()
        if "positive" in node["inputs"] or "uider" in node["class_type"]
    ]
    sides = (("positive", ("positive", "conditioning", "cond1")), ("negative", ("negative",)))
    for node_id, (side, starts) in product(ends, sides):
        for name in starts:
            for place in _upstream_texts(prompt, node_id, name, side):
                found[side][place.name] = place
    prompts, negatives = found["positive"], found["negative"]
    for name in prompts:
        negatives.pop(name, None)
    if not ends:
        for place in _inputs(prompt, ("text", "prompt", "positive_prompt"), of=str):
            chosen = negatives if "negative" in place.label.lower() else prompts
            chosen.setdefault(place.name, place)
    return list(prompts.values()), list(negatives.values())


def _upstream_texts(prompt: Prompt, node_id: str, name: str, side: str) -> Iterator[Place]:
    """The nearest text inputs on the way up from an input."""
    pending, seen = [(node_id, name)], set[tuple[str, str]]()
    while pending:
        place = pending.pop()
        link = as_link(prompt[place[0]]["inputs"].get(place[1]))
        if link is None or place in seen:
            continue
        seen.add(place)
        origin = prompt[link[0]]["inputs"]
        texts = [t for each in _TEXT_INPUTS if (t := _constant(prompt, link[0], each, str))]
        if texts:
            # An encoder with two texts uses both.
            yield from [each for each in texts if each.value] or texts[:1]
        elif {"positive", "negative"} <= origin.keys():
            pending.append((link[0], side))
        else:
            pending += [(link[0], each) for each in origin if each not in _NOT_CONDITIONING]


def _constant(prompt: Prompt, node_id: str, name: str, of: Any = (int, float)) -> Place | None:
    """The place of an input's value: its own, or that of the node that only holds a value for it."""
    inputs = prompt[node_id]["inputs"]
    value = inputs.get(name)
    link = as_link(value)
    if link is not None:
        holder = prompt[link[0]]["inputs"]
        names = _TEXT_INPUTS if of is str else _NUMBER_INPUTS
        holds = [
            each for each in names if isinstance(holder.get(each), of) and not _is_bool(holder.get(each))
        ]
        is_plain = not any(as_link(each) for each in holder.values())
        if holds and is_plain:
            return Place(link[0], holds[0], holder[holds[0]], node_title(prompt, link[0]))
        return None
    if not isinstance(value, of) or _is_bool(value):
        return None
    return Place(node_id, name, value, node_title(prompt, node_id))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _inputs(prompt: Prompt, names: Sequence[str], of: Any = (int, float)) -> list[Place]:
    found: dict[str, Place] = {}
    for node_id in prompt:
        for name in names:
            place = _constant(prompt, node_id, name, of)
            if place is not None:
                found.setdefault(place.name, place)
    return list(found.values())


def _sizes(prompt: Prompt) -> list[Place]:
    """The widths of nodes that make something of a width and height; else that of the only node with both."""
    both = [
        (node["class_type"], place)
        for node_id, node in prompt.items()
        if (place := _constant(prompt, node_id, "width")) and _constant(prompt, node_id, "height")
    ]
    made = [place for kind, place in both if _MAKES_SIZE.search(kind)]
    # Of several nodes that resize, none is the size of the result.
    chosen = made or ([both[0][1]] if len(both) == 1 else [])
    return list({place.name: place for place in chosen}.values())


def _size_beside(prompt: Prompt, width: Place) -> Place:
    """The height of the node whose width a place feeds."""
    for node_id in prompt:
        of_node = _constant(prompt, node_id, "width")
        height = _constant(prompt, node_id, "height")
        if of_node is not None and height is not None and of_node.name == width.name:
            return height
    raise WorkflowDefinitionError(
        f"There is no height beside {width.name}", next_step="Name it by --param height=NODE.INPUT."
    )


def _images(prompt: Prompt) -> Iterator[Place]:
    for node_id, node in prompt.items():
        value = node["inputs"].get("image")
        if _LOADS_IMAGE.search(node["class_type"]) and isinstance(value, str):
            yield Place(node_id, "image", value, node_title(prompt, node_id))


def _outputs(prompt: Prompt) -> list[Place]:
    for pattern in (_SAVES, _SHOWS):
        found = [
            Place(node_id, "", None, node_title(prompt, node_id))
            for node_id, node in prompt.items()
            if pattern.search(node["class_type"])
        ]
        if found:
            return found
    return []


# --- what an endpoint file says ---------------------------------------------------------------------------


def _kind(prompt: Prompt, output: Place) -> OutputKind:
    return "video" if _VIDEO.search(prompt[output.node_id]["class_type"]) else "image"


def _task_type(prompt: Prompt, output: Place, chosen: Mapping[str, Place]) -> str:
    made = "vid" if _kind(prompt, output) == "video" else "img"
    has_image = any(name == "image" or name.startswith("image_") for name in chosen)
    return f"{'img' if has_image else 'txt'}2{made}"


def _parameter(name: str, place: Place, is_image: bool) -> dict[str, Any]:
    label = _LABELS.get(name, name.replace("_", " ").capitalize())
    target = {"node_id": place.node_id, "field": "inputs", "subfield": place.input}
    found: dict[str, Any] = {"name": name, "label": label, "description": f"{place.input} of {place.label}"}
    if is_image:
        return {**found, "type": "image", "required": True, "comfyui": target}
    value = place.value
    if isinstance(value, str):
        found["type"] = "string"
    elif _is_bool(value):
        found["type"] = "bool"
    elif isinstance(value, int | float):
        found["type"] = "int" if _is_whole(value, name if name in _BOUNDS else place.input) else "number"
    else:
        raise WorkflowDefinitionError(
            f"{place.name} is linked to another node, so it is no parameter",
            next_step="Name the input of the node that it comes from.",
        )
    if found["type"] == "int" and place.input.endswith("seed"):
        # Another run draws another seed in ComfyUI, too: the author's is no default.
        return {**found, "minimum": 0, "maximum": MAX_SEED, "comfyui": target}
    found["default"] = value
    if name in _BOUNDS and found["type"] in ("int", "number"):
        low, high = _BOUNDS[name]
        found |= {"minimum": min(low, value), "maximum": max(high, value)}
    if name in ("prompt", "negative_prompt"):
        found["multiline"] = True
    return {**found, "comfyui": target}
