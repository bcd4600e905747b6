"""API-format prompts: parsing, links, node titles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

from ..errors import WorkflowDefinitionError

Prompt: TypeAlias = dict[str, dict[str, Any]]
"""Node id -> ``{"class_type": str, "inputs": {name: value or link}, "_meta": {"title": str}}``."""

Link: TypeAlias = tuple[str, int]
"""A node id and the index of one of its outputs."""


def parse_prompt(text: str, source: str) -> Prompt:
    """Read an API-format workflow.

    Args:
        text: The JSON document.
        source: Name of the file, for messages.

    Raises:
        WorkflowDefinitionError: It is no JSON, not in ComfyUI's API format, links to a missing node, or its
            links form a cycle.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise _broken(source, "it is nested too deeply") from None
    except ValueError as error:
        raise _broken(source, f"it is not valid JSON: {error}") from None
    if not isinstance(document, dict) or not document:
        raise _broken(source, "it is not an object of nodes")
    if isinstance(document.get("nodes"), list):
        raise WorkflowDefinitionError(
            f"{source} is in the editor's format, not in the API format",
            next_step="In ComfyUI use Workflow > Export (API) and take that file.",
        )
    for node_id, node in document.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise _broken(source, f"node {node_id} has no class_type")
        if not isinstance(node.setdefault("inputs", {}), dict):
            raise _broken(source, f"the inputs of node {node_id} are not an object")
    prompt: Prompt = document
    order: TopologicalSorter[str] = TopologicalSorter()
    for node_id, name, (origin, _) in links(prompt):
        if origin not in prompt:
            raise _broken(
                source, f"{node_label(prompt, node_id)}, input {name}, links to the missing node {origin}"
            )
        order.add(node_id, origin)
    try:
        order.prepare()
    except CycleError as error:
        raise _broken(source, "its links form a cycle: " + " -> ".join(error.args[1])) from None
    return prompt


def as_link(value: Any) -> Link | None:
    """The value of an input as a link, None for a constant; the rule is ComfyUI's own."""
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
        and not isinstance(value[1], bool)
    ):
        return value[0], int(value[1])
    return None


def links(prompt: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Link]]:
    """Every link as ``(node id, input, (origin's id, output index))``."""
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if (link := as_link(value)) is not None:
                yield node_id, name, link


def node_title(prompt: Mapping[str, Mapping[str, Any]], node_id: str) -> str:
    """The node's title as its author sees it, or its class where it has none."""
    node = prompt.get(node_id, {})
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return str(title or node.get("class_type") or node_id)


def node_label(prompt: Mapping[str, Mapping[str, Any]], node_id: str) -> str:
    """The node for a message: ``"Load VAE" (node 10)``."""
    return f'"{node_title(prompt, node_id)}" (node {node_id})'


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _broken(source: str, reason: str) -> WorkflowDefinitionError:
    return WorkflowDefinitionError(
        f"{source} can't be used as a workflow: {reason}",
        next_step="Correct the file; ComfyUI writes it with Workflow > Export (API).",
    )
