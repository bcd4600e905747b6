"""What all of the pack's nodes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .execution import node_run
from .execution.fallback import Expansion, Place
from .execution.freshness import freshness, key_of
from .execution.node_run import HandedOver, RunOptions, Sink
from .host import compat
from .host.compat import io

if TYPE_CHECKING:
    from ..xalora_client.tasks import WorkflowTask

ValueT = TypeVar("ValueT")

CATEGORY = "Xalora"


class XaloraNode(io.ComfyNode):
    """A node whose cached outputs go stale as :mod:`.running.freshness` says.

    A subclass asks for :data:`HIDDEN` in its schema.
    """

    NODE_ID: ClassVar[str]

    @classmethod
    def fingerprint_inputs(cls, **constants: Any) -> list[Any]:
        """Asked by ComfyUI before each prompt, with the linked inputs as None."""
        return freshness.fingerprint(key_of(cls.NODE_ID, constants))

    @classmethod
    def node_id(cls) -> str:
        """The id of the node that executes."""
        return str(cls.hidden.unique_id)

    @classmethod
    def cache_key(cls) -> str:
        """The key of the executing node in :data:`.freshness.freshness`."""
        inputs = cls._inputs()
        constants = {name: None if compat.is_link(value) else value for name, value in inputs.items()}
        return key_of(cls.NODE_ID, constants)

    @classmethod
    async def run_tasks(
        cls, tasks: Sequence[WorkflowTask], options: RunOptions, sink: Sink[ValueT], noun: str = "image"
    ) -> ValueT | HandedOver:
        """The executing node's :func:`.running.runner.run`."""
        with freshness.attempt(cls.cache_key()) as attempt:
            options = replace(options, reuse_among=attempt.earlier)
            made = await node_run.run(cls.node_id(), tasks, options, sink, attempt.learned, noun)
            if not isinstance(made, HandedOver) or made.error is None:
                attempt.completed()
        return made

    @classmethod
    def place(cls) -> Place:
        """The executing node in its prompt."""
        return Place(
            node_id=cls.node_id(),
            list_index=compat.executing_list_index(),
            prompt_id=compat.executing_prompt_id(),
            inputs=cls._inputs(),
        )

    @classmethod
    def expanded(cls, expansion: Expansion, handed: HandedOver) -> io.NodeOutput:
        """A subgraph as the node's output. Queued again, the network is asked again, unless by policy not."""
        if handed.error is not None:
            freshness.stale(cls.cache_key())
        elif not handed.policy_of_node:
            freshness.made_here(cls.cache_key())
        return io.NodeOutput(*expansion.links, expand=expansion.nodes)

    @classmethod
    def _inputs(cls) -> dict[str, Any]:
        inputs: dict[str, Any] = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        return inputs


HIDDEN = (io.Hidden.unique_id, io.Hidden.dynprompt)
