"""The base class of the pack's nodes: running tasks, caching, and expanding into a subgraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .execution import node_run
from .execution.fallback_expansion import Expansion, ParentNode
from .execution.freshness import freshness, key_of
from .execution.node_run import FallbackRequest, ResultDecoder
from .execution.task_loop import RunOptions
from .host import compat
from .host.compat import io

if TYPE_CHECKING:
    from ..xalora_client.tasks import WorkflowTask

ValueT = TypeVar("ValueT")

CATEGORY = "Xalora"


class XaloraNode(io.ComfyNode):
    """A node whose cached outputs expire as :mod:`.execution.freshness` says.

    A subclass asks for :data:`HIDDEN` in its schema.
    """

    NODE_ID: ClassVar[str]

    @classmethod
    def fingerprint_inputs(cls, **constants: Any) -> list[Any]:
        """Called by ComfyUI before each prompt, with None for each linked input."""
        return freshness.fingerprint(key_of(cls.NODE_ID, constants))

    @classmethod
    def node_id(cls) -> str:
        """The id of the executing node."""
        return str(cls.hidden.unique_id)

    @classmethod
    def cache_key(cls) -> str:
        """The key of the executing node in :data:`.freshness.freshness`."""
        inputs = cls._inputs()
        constants = {name: None if compat.is_link(value) else value for name, value in inputs.items()}
        return key_of(cls.NODE_ID, constants)

    @classmethod
    async def run_tasks(
        cls,
        tasks: Sequence[WorkflowTask],
        options: RunOptions,
        decoder: ResultDecoder[ValueT],
        noun: str = "image",
    ) -> ValueT | FallbackRequest:
        """Run tasks for the executing node; see :func:`.execution.node_run.run`."""
        with freshness.attempt(cls.cache_key()) as attempt:
            options = replace(options, reuse_among=attempt.earlier)
            value = await node_run.run(cls.node_id(), tasks, options, decoder, attempt.note_task, noun)
            if not isinstance(value, FallbackRequest) or value.error is None:
                attempt.completed()
        return value

    @classmethod
    def parent_node(cls) -> ParentNode:
        """The executing node, as the parent of a subgraph."""
        return ParentNode(
            node_id=cls.node_id(),
            list_index=compat.executing_list_index(),
            prompt_id=compat.executing_prompt_id(),
            inputs=cls._inputs(),
        )

    @classmethod
    def expanded(cls, expansion: Expansion, request: FallbackRequest) -> io.NodeOutput:
        """A subgraph as the node's output.

        The output expires, so that the network is asked again when the graph is queued again, unless the
        node's own policy is not to ask it.
        """
        if request.error is not None:
            freshness.expire(cls.cache_key())
        elif not request.policy_of_node:
            freshness.computed_here(cls.cache_key())
        return io.NodeOutput(*expansion.links, expand=expansion.nodes)

    @classmethod
    def _inputs(cls) -> dict[str, Any]:
        inputs: dict[str, Any] = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        return inputs


HIDDEN = (io.Hidden.unique_id, io.Hidden.dynprompt)
