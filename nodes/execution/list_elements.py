"""The elements of a list that one node is executed for: several executions, and one last line. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...xalora_client.errors import XaloraError
from .batch_plan import BatchError
from .wording import CANCELED, failed_elements_line, failure_line, words_for


@dataclass
class ListElements:
    """What came of a node's elements so far; of a node without a list, of the only one.

    It holds no errors, whose frames would keep images.

    Attributes:
        begun: How many ComfyUI has begun.
        failed: How many have failed.
        stopped: Some were stopped because another failed; what they sent goes on.
        canceled: The user has canceled some, which ends the prompt.
    """

    begun: int = 0
    failed: int = 0
    stopped: bool = False
    canceled: bool = False
    _line: str = ""
    _what: str = ""
    _money: list[str] = field(default_factory=list)
    _some_paid: bool = False

    def note_failure(self, error: XaloraError) -> None:
        """Note that an element has failed."""
        self.failed += 1
        if isinstance(error, BatchError):
            self.note_spent(error.errors.values(), some_paid=bool(error.finished))
        else:
            self.note_spent([error])
        if self.failed == 1:
            self._line = failure_line(error)
            self._what = words_for(error.first if isinstance(error, BatchError) else error).what

    def note_spent(self, errors: Iterable[XaloraError] = (), *, some_paid: bool = False) -> None:
        """Note tasks of an element: how those ended that gave no result, and whether others are paid for."""
        self._money += [words_for(error).money for error in errors]
        self._some_paid |= some_paid

    def last_line(self) -> str:
        """The line that is true of all while one ends; empty where the element's own is."""
        if self.canceled:
            return CANCELED
        if self.failed == 0 or self.begun == 1:
            return self._line
        which = f"{self.failed} of {self.begun} list elements"
        return failed_elements_line(
            which, self._what, self._money, some_paid=self._some_paid, some_go_on=self.stopped
        )


class RunningElements:
    """The elements of the running prompt's nodes; only the prompt's thread uses it."""

    def __init__(self) -> None:
        self._prompt_id = ""
        self._of_nodes: dict[str, ListElements] = {}

    def of(self, prompt_id: str, node_id: str) -> ListElements:
        """Those of a node of the running prompt."""
        if prompt_id != self._prompt_id:
            self._prompt_id = prompt_id
            self._of_nodes.clear()
        return self._of_nodes.setdefault(node_id, ListElements())


running_elements = RunningElements()
