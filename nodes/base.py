"""The base class of the pack's nodes: running tasks, caching, and expanding into a subgraph."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from ..xalora_client.errors import XaloraError
from ..xalora_client.workflows.prompt import as_link
from .execution.fallback_expansion import Expansion, ParentNode
from .execution.freshness import HOW, freshness, key_of
from .execution.list_elements import ListElements, running_elements
from .execution.node_run import FallbackRequest, ResultDecoder, RunTasks
from .execution.saved_facts import Facts, facts_of, note_facts
from .execution.task_loop import RunOptions
from .execution.task_origins import Origin
from .execution.wording import graph_error
from .host import compat
from .host.compat import io

if TYPE_CHECKING:
    from ..xalora_client.tasks import WorkflowTask
    from .execution.node_run import Check

ValueT = TypeVar("ValueT")
P = ParamSpec("P")

log = logging.getLogger("xalora_client.nodes")

CATEGORY = "Xalora"
EVERY_NODE = ("xalora", "remote", "cloud", "gpu", "miner", "network")


def worded(
    execute: Callable[P, Coroutine[Any, Any, io.NodeOutput]],
) -> Callable[P, Coroutine[Any, Any, io.NodeOutput]]:
    """Decorate a node's `execute`: errors reach the graph in its own words, and the log in the client's."""

    @functools.wraps(execute)
    async def execute_in_words(*args: P.args, **kwargs: P.kwargs) -> io.NodeOutput:
        cls: Any = args[0]
        elements = cls.elements()
        elements.begun += 1
        try:
            output = await execute(*args, **kwargs)
            elements.note_spent(some_paid=output.expand is None)
            return output
        except XaloraError as error:
            log.warning("node %s: %s", cls.node_id(), error)
            elements.note_failure(error)
            raise graph_error(error, cls.press_after, several_users=compat.is_multi_user()) from None
        except compat.InterruptProcessingException:
            elements.canceled = True
            raise
        except asyncio.CancelledError:
            elements.stopped = True
            raise
        finally:
            # Also at the end of an element that did not fail: its own line is not true of the whole node.
            if line := elements.last_line():
                compat.send_line(line, cls.node_id())

    return execute_in_words


class XaloraNode(io.ComfyNode):
    """A node whose cached outputs expire as :mod:`.execution.freshness` says."""

    NODE_ID: ClassVar[str]

    @classmethod
    def schema(
        cls, display_name: str, description: str, *, aliases: Sequence[str], **fields: Any
    ) -> io.Schema:
        """The node's schema; ``aliases`` are what users search for, ``fields`` those of ``io.Schema``."""
        return compat.schema(
            node_id=cls.NODE_ID,
            display_name=display_name,
            description=description,
            search_aliases=[*aliases, *EVERY_NODE],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt, io.Hidden.extra_pnginfo],
            **{"category": CATEGORY, **fields},
        )

    @classmethod
    def fingerprint_inputs(cls, **constants: Any) -> list[Any]:
        """Called by ComfyUI before each prompt, with None for each linked input."""
        return freshness.fingerprint(key_of(cls.NODE_ID, constants))

    @classmethod
    def node_id(cls) -> str:
        """The id of the executing node."""
        return str(cls.hidden.unique_id)

    @classmethod
    def origin(cls) -> Origin:
        """The executing node, its prompt and its workflow."""
        workflow_id = compat.workflow_id_of(cls.hidden.extra_pnginfo)
        return Origin(cls.node_id(), compat.executing_prompt_id(), cls.NODE_ID, workflow_id)

    @classmethod
    def press_after(cls, error: XaloraError) -> str:
        """What to press after this error of a task; empty where that is the same at any node."""
        return ""

    @classmethod
    def elements(cls) -> ListElements:
        """Those of the executing node, one of which executes."""
        return running_elements.of(compat.executing_prompt_id(), cls.node_id())

    @classmethod
    def cache_key(cls) -> str:
        """The key of the executing node in :data:`.freshness.freshness`."""
        return key_of(cls.NODE_ID, cls._constants())

    @classmethod
    def how(cls) -> dict[str, Any]:
        """The executing node's inputs that do not say what it makes."""
        return {name: value for name, value in cls._constants().items() if name in HOW}

    @classmethod
    def _constants(cls) -> dict[str, Any]:
        return {name: None if as_link(value) else value for name, value in cls._inputs().items()}

    @classmethod
    async def run_tasks(
        cls,
        tasks: Sequence[WorkflowTask],
        options: RunOptions,
        decoder: ResultDecoder[ValueT],
        expand: Callable[[ParentNode, FallbackRequest], Expansion],
        outputs: Callable[[ValueT], Sequence[Any]] = lambda value: [value],
        noun: str = "image",
        check: Check | None = None,
    ) -> io.NodeOutput:
        """Run tasks for the executing node.

        Args:
            tasks: The tasks, in the order of the results.
            options: How to run them.
            decoder: Decodes the results.
            expand: The subgraph that does on this machine what the network could not.
            outputs: The node's outputs from the decoded results.
            noun: What a task makes, for messages.
            check: Raises where none may be sent.

        Raises:
            InterruptProcessingException: The user pressed cancel. The remote tasks are canceled.
            XaloraError: A task failed, and this machine does not take over.
        """
        key = cls.cache_key()
        with freshness.attempt(key, cls.how()) as attempt:
            options = replace(options, reuse_among=attempt.earlier)
            run = RunTasks(
                cls.origin(),
                options,
                noun,
                len(tasks),
                tasks,
                attempt.note_task,
                decoder=decoder,
                check=check,
            )
            value: ValueT | FallbackRequest = await run.on_bridge()
            if not isinstance(value, FallbackRequest) or value.error is None:
                attempt.completed()
        if not isinstance(value, FallbackRequest):
            cls._note_facts(facts_of(tasks[index], run.outcomes[index]) for index in range(len(tasks)))
            return io.NodeOutput(*outputs(value))
        expansion = expand(cls._parent_node(), value)
        cls._note_facts(
            facts_of(task, value.results.get(index), expansion.engine) for index, task in enumerate(tasks)
        )
        cls.elements().note_spent(value.errors, some_paid=bool(value.results))
        if value.error is not None:
            # When the graph is queued again, the network is asked again.
            freshness.expire(key)
        elif not value.policy_of_node:
            freshness.computed_here(key)
        return io.NodeOutput(*expansion.links, expand=expansion.nodes)

    @classmethod
    def _note_facts(cls, facts: Iterable[Facts]) -> None:
        """Have who made the results saved with them."""
        note_facts(cls.hidden.extra_pnginfo, cls.node_id(), list(facts))

    @classmethod
    def _parent_node(cls) -> ParentNode:
        """The executing node, as the parent of a subgraph."""
        return ParentNode(
            node_id=cls.node_id(),
            list_index=compat.executing_list_index(),
            prompt_id=compat.executing_prompt_id(),
            inputs=cls._inputs(),
        )

    @classmethod
    def _inputs(cls) -> dict[str, Any]:
        inputs: dict[str, Any] = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        return inputs
