"""Who made a node's results, for the metadata of files that ComfyUI saves. No I/O.

ComfyUI's saving nodes write each entry of a prompt's `extra_pnginfo` into their files. The entry `xalora`
holds, for each node of the pack that ran in the prompt, a list with the facts of each result. A node that was
served from ComfyUI's cache has not run, and a prompt that was queued over the API may carry no such entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult
    from ...xalora_client.tasks import WorkflowTask

ENTRY = "xalora"

Facts = dict[str, Any]


def facts_of(task: WorkflowTask | None, result: RunResult | None, engine: str = "") -> Facts:
    """The facts of one result: engine, miner, task_id, seconds, workflow, seed; without what is not known.

    Args:
        task: None where it was submitted elsewhere.
        result: The network's; None where this machine makes it.
        engine: What makes it here.
    """
    facts: Facts = {"engine": engine}
    if result is not None:
        facts = {"engine": result.engine, "miner": result.miner, "task_id": result.task_id}
        if result.seconds.total is not None:
            facts["seconds"] = round(result.seconds.total, 1)
    if task is not None:
        facts |= {"workflow": task.workflow_id or task.kind_of_task, "seed": _seed(task)}
    return {name: value for name, value in facts.items() if value is not None}


def note_facts(extra_pnginfo: Any, node_id: str, facts: Sequence[Mapping[str, Any]]) -> None:
    """Add a node's facts to those that the prompt's saving nodes write; nothing where they write none."""
    if isinstance(extra_pnginfo, dict):
        of_nodes = extra_pnginfo.setdefault(ENTRY, {})
        of_nodes[node_id] = [*of_nodes.get(node_id, ()), *facts]


def _seed(task: WorkflowTask) -> int | None:
    from ...xalora_client.workflows.task import DefinedWorkflowTask

    if isinstance(task, DefinedWorkflowTask):
        parameter = task.definition.seed_parameter
        return task.values.get(parameter.name) if parameter is not None else None
    return getattr(task, task.seed_field) if task.seed_field else None
