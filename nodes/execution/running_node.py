"""One execution of a node on the client's loop: shown while it runs, ended by the user's cancel."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...xalora_client.errors import TaskCanceledError
from ..host import compat
from ..host.bridge import bridge
from ..host.clients import clients
from .batch_plan import OwnCancelError
from .interrupts import Interrupt
from .reporter import Progress, Reporter
from .wording import CANCELED

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.config import Settings

ValueT = TypeVar("ValueT")

ENDED_ELSEWHERE = "stopped, as another node failed; what was sent goes on in the network"

canceled_by_user: dict[str, float] = {}
"""When the user canceled which task here, on the monotonic clock; only the client's loop uses it."""

_active: set[RunningNode[Any]] = set()
"""The executing nodes; only the client's loop uses it."""


class RunningNode(ABC, Generic[ValueT]):
    """One execution; create it where the node starts.

    Args:
        node_id: The node's `unique_id`.
        progress: What it shows.

    Attributes:
        settings: Those of the client: None before the start means the current ones.
    """

    def __init__(self, node_id: str, progress: Progress) -> None:
        self.settings: Settings | None = None
        self._interrupt = Interrupt()
        self._began = self._own_since = monotonic()
        self._reporter = Reporter(node_id, progress)

    @abstractmethod
    async def _perform(self, client: AsyncXalora) -> ValueT:
        """Do all that the node does, on the client's loop."""

    @abstractmethod
    def cancel(self, whole_id: str | None) -> list[asyncio.Task[None]]:
        """Send no more tasks, and withdraw those that the network has not accepted yet.

        Args:
            whole_id: Only if this makes this whole.

        Returns:
            An asyncio task for each withdrawal.
        """

    async def on_bridge(self) -> ValueT:
        """Execute on the client's loop; called in the prompt's loop, which may be blocked meanwhile.

        Raises:
            InterruptProcessingException: The user pressed cancel, or canceled tasks in the sidebar.
            XaloraError: A task failed, or was not accepted.
        """
        try:
            return await bridge.run(self._interrupt.run_until_requested(self._execute(), self._stop_showing))
        except asyncio.CancelledError:
            self._reporter.say_last(CANCELED if self._interrupt.requested else ENDED_ELSEWHERE)
            raise
        except (compat.InterruptProcessingException, TaskCanceledError) as error:
            if isinstance(error, TaskCanceledError) and not self.is_own_cancel(error):
                raise
            self._reporter.say_last(CANCELED)
            raise compat.InterruptProcessingException from None

    def is_own_cancel(self, error: TaskCanceledError) -> bool:
        """Whether the user has canceled the task here, for this run."""
        canceled_at = canceled_by_user.get(error.task_id or "", -math.inf)
        return isinstance(error, OwnCancelError) or canceled_at >= self._own_since

    def _stop_showing(self) -> None:
        """Show nothing while the run ends: the browser may be at another prompt by then."""
        if self._interrupt.requested:
            self._reporter.say("canceling")
        self._reporter.close()

    async def _execute(self) -> ValueT:
        showing = asyncio.get_running_loop().create_task(self._reporter.run())
        _active.add(self)
        try:
            async with clients.client(self.settings) as client:
                self.settings = client.settings
                return await self._perform(client)
        finally:
            _active.discard(self)
            showing.cancel()
            self._reporter.close()


def cancel_all(whole_id: str | None = None) -> list[asyncio.Task[None]]:
    """Stop the nodes from sending tasks, and withdraw the tasks that the network has not accepted yet.

    Called on the client's loop. Accepted tasks are left to the caller.

    Args:
        whole_id: Only the node that makes this whole, if one does.

    Returns:
        An asyncio task for each withdrawal.
    """
    return [withdrawal for run in _active for withdrawal in run.cancel(whole_id)]
