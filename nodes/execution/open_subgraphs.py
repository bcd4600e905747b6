"""Subgraphs that have begun on this machine and not ended: results that they read, the node's last line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..host import compat
from ..host.bridge import BridgeError, bridge
from .interrupts import Interrupt
from .list_elements import ListElements, running_elements
from .wording import CANCELED

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult

LOOK_SECONDS = 0.5
STOPPED = "stopped before this machine had made it"


@dataclass(frozen=True)
class _Subgraph:
    """A subgraph that has begun; its results keep their files while it is here."""

    prompt_id: str
    node_id: str
    results: Sequence[RunResult]
    money: str
    interrupt: Interrupt
    viewer: compat.Viewer
    elements: ListElements


class OpenSubgraphs:
    """Subgraphs by the prefix of their ids. Thread-safe.

    ComfyUI tells no node that a later one has failed or was interrupted, so each is watched.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Subgraph] = {}

    def begun(
        self, prefix: str, prompt_id: str, node_id: str, results: Sequence[RunResult], money: str
    ) -> None:
        """Note that a running prompt is to execute this subgraph.

        Args:
            prefix: The prefix of the subgraph's ids.
            results: The network's results, whose files it reads.
            money: What is said of the money on its node where it stops before its end; may be empty.
        """
        elements = running_elements.of(prompt_id, node_id)
        subgraph = _Subgraph(prompt_id, node_id, results, money, Interrupt(), compat.viewer(), elements)
        self._open[prefix] = subgraph
        with contextlib.suppress(BridgeError):  # ComfyUI is shutting down
            bridge.submit(self._watch(prefix, subgraph))

    def ended(self, prefix: str) -> None:
        """Note that the subgraph has made its node's outputs."""
        self._open.pop(prefix, None)

    async def _watch(self, prefix: str, subgraph: _Subgraph) -> None:
        while self._open.get(prefix) is subgraph:
            if subgraph.prompt_id not in compat.running_prompt_ids():
                del self._open[prefix]
                is_canceled = subgraph.interrupt.requested
                if subgraph.elements.failed and not is_canceled:
                    return  # its node says so, with what this one has spent
                line = CANCELED if is_canceled else ". ".join(filter(None, (STOPPED, subgraph.money)))
                compat.send_line(line, subgraph.node_id, subgraph.viewer)
                return
            await asyncio.sleep(LOOK_SECONDS)


open_subgraphs = OpenSubgraphs()
