"""Messages for the graph: what happened, what it means for the money, what to press. No ComfyUI, no I/O.

The client's own messages are for programmers: they name task ids, variables, and calls in Python and in the
shell. A node's message has three short lines instead; the client's goes to the log, which ComfyUI's report
contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeVar

from ...xalora_client import errors
from ...xalora_client.errors import XaloraError
from ...xalora_client.journal.database import LostJournalError
from .batch_plan import BatchError

T = TypeVar("T")

NOTHING_CHARGED = "Nothing was charged."
RUNS_ON = "It is paid for and goes on in the network."
RETRIEVABLE = "It is paid for, and its result can still be had."
MAY_BE_CHARGED = "It may have been charged, so it was not sent again."
NETWORK_DECIDES = "The network decides whether it is charged."
NOT_KNOWN = "Whether it was charged is not known."
CANCELED = "canceled"
LONGEST = 240
"""Characters of a line."""

LONGEST_ON_NODE = 120
"""Characters of a node's last line, for which it has room: the reason is cut, since the money follows it."""

SHORTEST_ON_NODE = 30
"""The fewest characters that tell a reason."""

MADE_HERE = "It was made on this machine, so nothing was charged."
SOME_PAID = "Finished ones are kept and not paid again."
SOME_CHARGED = "Some of the others may be charged."
WENT_ON = "What was sent goes on in the network."
NETWORK_DECIDES_ON_FAILED = "The network decides whether failed ones are charged."

# On a node, where the whole sentences about a batch would be cut off at the end.
_BATCH_ON_NODE = {
    SOME_PAID: "Finished ones are kept.",
    NETWORK_DECIDES: "Failed ones may be charged.",
    NETWORK_DECIDES_ON_FAILED: "Failed ones may be charged.",
}

_TASK_VIEW = "Open the task in the Xalora tab: take it up from your account, or send it again."
_SEND_AGAIN = "To pay for a new one, open the task in the Xalora tab and send it again."
_RUN = "Press Run to try again."
_RUN_LATER = "Press Run later."
_SETTINGS = "The Xalora tab tells which one; change it, then press Run."
_STORE = "Check the store under Settings > Xalora > Input images, then press Run."
_ASK_THE_HOST = "Ask whoever runs this ComfyUI, whose key, settings and tasks these are."


@dataclass(frozen=True)
class Words:
    """The three lines; ``money`` and ``press`` may be empty."""

    what: str
    money: str
    press: str

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.money, self.press) if line)


class GraphError(Exception):
    """A node's error with the message for the graph."""


class NoKeyError(GraphError):
    """No key is set: the page opens the dialog for it."""


class LimitReachedError(GraphError):
    """The user's limit of a day is reached: the page asks whether to send more."""


# What happened, where the client's own sentence is not told; and what to press, where its advice is not.
_WORDS: dict[type[XaloraError], tuple[str | None, str | None]] = {
    XaloraError: (None, None),
    errors.ConfigurationError: (None, None),
    errors.MissingKeyError: ("No API key is set.", "Enter your key in the Xalora tab, then press Run."),
    errors.DailyLimitError: (
        None,
        "Allow more for today, or change the limit under Settings > Xalora > Cost.",
    ),
    errors.ClientClosedError: ("ComfyUI or its settings ended the connection to the network.", _RUN),
    errors.InvalidTaskError: (None, None),
    errors.InputImageError: (None, None),
    errors.InputTooLargeError: (
        "The image is too large to be sent.",
        "Make it smaller, or set a store under Settings > Xalora > Input images.",
    ),
    errors.WorkflowDefinitionError: (None, None),
    errors.StoreError: ("Your store did not take the input image.", _STORE),
    errors.NetworkError: ("The network did not take this.", _RUN_LATER),
    errors.XaloraConnectionError: ("The network can't be reached.", "Press Run when you are online again."),
    errors.AuthenticationError: (
        "The network refuses the API key.",
        "Enter the key anew in the Xalora tab, then press Run.",
    ),
    errors.RateLimitError: ("The network takes no more tasks at the moment.", "Press Run in a minute."),
    errors.NoMinerError: ("No miner takes this at the moment.", _RUN_LATER),
    errors.RequestRefusedError: (
        "The network refuses these inputs.",
        "Change the node's inputs, then press Run.",
    ),
    errors.ServiceError: ("The network gave no valid answer.", _RUN_LATER),
    errors.AmbiguousCreateError: ("The network's answer was lost.", _TASK_VIEW),
    errors.TaskError: ("The network gave no result.", _RUN),
    errors.TaskFailedError: ("The network could not make this.", _RUN),
    errors.TaskNotKnownError: ("The network does not know this task any more.", _SEND_AGAIN),
    errors.TaskCanceledError: ("The task was canceled.", "Press Run to have it made after all."),
    errors.TaskTimeoutError: (
        "The task took longer than this node waits.",
        "Press Run to go on waiting for the same task.",
    ),
    errors.QueueLimitError: ("No miner took the task within your queue limit.", _RUN_LATER),
    errors.ResultError: ("The result can't be had.", _RUN),
    errors.ResultLocationError: ("The network does not say where the result is.", _RUN),
    errors.ResultDownloadError: ("The result could not be downloaded.", "Press Run to download it again."),
    errors.ResultMissingError: (
        "The network has no result for this task.",
        "Press Run to have it made anew; that is a new task.",
    ),
    errors.ResultExpiredError: ("The network no longer has the result.", "Press Run to have it made anew."),
    errors.ResultFormatError: ("The result is damaged, or of a kind that is not read here.", _RUN),
    errors.ResultTooLargeError: (
        "This computer can't decode the result within its limits.",
        "Press Run to fetch it again, or ask for a smaller one.",
    ),
    errors.ResultSaveError: (
        "The result could not be written.",
        "Make room on the disk, then press Run.",
    ),
    errors.UnexpectedError: ("Something went wrong that was not foreseen.", "Report it with ComfyUI's log."),
    errors.JournalError: (
        "The list of your tasks can't be read or written.",
        "Make room on the disk or close other programs that use it, then press Run.",
    ),
    LostJournalError: (
        "The list of your tasks was damaged, removed or replaced.",
        "Restart ComfyUI, then press Run.",
    ),
    errors.EngineError: (None, None),
}

_MONEY = {
    errors.NOTHING_CHARGED: NOTHING_CHARGED,
    errors.NOT_ACCEPTED: NOTHING_CHARGED,
    errors.STILL_RETRIEVABLE: RETRIEVABLE,
    errors.RUNS_ON: RUNS_ON,
    errors.MAY_BE_CHARGED: MAY_BE_CHARGED,
    errors.MADE_HERE: MADE_HERE,
    errors.FIRST_MAY_BE_CHARGED: MAY_BE_CHARGED,
    errors.FIRST_PROBABLY_CHARGED: MAY_BE_CHARGED,
    errors.CANCELED_THERE: NETWORK_DECIDES,
    errors.NOT_CONFIRMED: errors.NOT_CONFIRMED,
}

# What the money sentence means where it is none of the above, by the most special class.
_MONEY_OF: dict[type[XaloraError], str] = {
    errors.AmbiguousCreateError: MAY_BE_CHARGED,
    errors.TaskNotKnownError: NOT_KNOWN,
    errors.TaskFailedError: NETWORK_DECIDES,
    errors.TaskCanceledError: NETWORK_DECIDES,
    errors.QueueLimitError: NETWORK_DECIDES,
    errors.ResultError: RETRIEVABLE,
    errors.ResultMissingError: NETWORK_DECIDES,
    XaloraError: NOT_KNOWN,
}

# Nothing of this is for the graph: code, the shell, variables, ids.
_NOT_FOR_THE_GRAPH = re.compile(
    r"`|\bXALORA_[A-Z]|\bclient\.|\w\(\)|--\w"
    # The shell's commands, and not nodes: Xalora Upscale Image.
    r"|(?-i:\bxalora (?:tasks|resume|upscale|generate|config|workflows|devnet)\b)"
    r"|\bpip install\b|\bif_unknown\b|\bsdk-workflow-|\b[0-9a-f]{8,}\b|https?://\w",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?://([\w.-]+(?::\d+)?)(?:[/?][^\s,;)]*?(?=[:.]?(?:[\s,;)]|$)))?", re.IGNORECASE)
_IDS_IN_BRACKETS = re.compile(r"\s*\((?:task|job)s? [^()]*\)")


# Variables that have a place in the sidebar or in ComfyUI's settings.
_SETTINGS_OF = {
    "API_KEY": "the API key",
    "WORKFLOW_URL": "the endpoint",
    "FALLBACK": "the setting for the fallback",
    "QUEUE_LIMIT": "the setting for the time in the queue",
    "MAX_IN_FLIGHT": "the setting for tasks at a time",
    "REUSE": "the setting for reuse",
    "INLINE_LIMIT": "the setting for the size of sent images",
    "RESULTS_LIMIT": "the setting for the size of the results folder",
    "PRICES": "the setting for prices",
    "DAILY_TASKS": "the setting for tasks a day",
    "DAILY_COST": "the setting for the cost of a day",
    "STORE_URL": "the setting for the store",
    "STORE_ENDPOINT": "the setting for the store's endpoint",
    "STORE_REGION": "the setting for the store's region",
}
_VARIABLES = re.compile(rf"\bXALORA_({'|'.join(_SETTINGS_OF)})\b")


def words_for(error: XaloraError) -> Words:
    """The error's message for the graph.

    What it says of inputs, settings and files is kept, as far as it is for the graph.
    """
    if isinstance(error, BatchError):
        return _words_for_batch(error)
    what, press = _of_class(error, _WORDS)
    if isinstance(error, errors.TaskNotKnownError) and error.status_code is not None:
        what, press = "The network does not know this task.", "Check its id, then press Run."
    if isinstance(error, errors.AmbiguousCreateError) and error.task_id is not None:
        what, press = _of_class(errors.TaskNotKnownError(""), _WORDS)
    if isinstance(error, errors.RequestRefusedError) and error.status_code == HTTPStatus.PAYMENT_REQUIRED:
        what, press = "The network wants a payment first.", "Look at your account's credit, then press Run."
    if what is None:
        what = plain(error, error.what) or _DEFAULT_WHAT.get(type(error), "This did not work.")
    if press is None:
        press = plain(error, error.next_step) or (
            _DEFAULT_PRESS.get(type(error), "Change the inputs, then press Run.")
        )
    return Words(sentence(_cut(what)), _money(error), sentence(_cut(press)))


_DEFAULT_PRESS: dict[type[XaloraError], str] = {
    errors.ConfigurationError: _SETTINGS,
    errors.EngineError: "Press Run when the network is back.",
}

_DEFAULT_WHAT: dict[type[XaloraError], str] = {
    errors.ConfigurationError: "A setting of Xalora is invalid.",
    errors.DailyLimitError: "Your limit for today is reached.",
    errors.InvalidTaskError: "An input of this node is invalid.",
    errors.InputImageError: "The input image can't be read.",
    errors.WorkflowDefinitionError: "This workflow's definition is invalid.",
    errors.EngineError: "This machine can't make it.",
}


def _words_for_batch(error: BatchError) -> Words:
    """The first error's message, which is the others' most of the time, with what it means for the batch."""
    first = words_for(error.first)
    money = money_of([*error.errors.values()], some_finished=bool(error.finished))
    return Words(f"{_made(error)} {first.what}", money, first.press)


def money_of(failed: Sequence[XaloraError], *, some_finished: bool) -> str:
    """What several tasks mean for the money, by the errors of those that failed."""
    return _summed_money([_money(error) for error in failed], some_finished=some_finished)


def _summed_money(told: Sequence[str], *, some_finished: bool) -> str:
    money = [SOME_PAID] if some_finished else []
    charges = dict.fromkeys(one for one in told if one not in ("", NOTHING_CHARGED))
    if len(charges) == 1:
        (charge,) = charges
        several = charge == NETWORK_DECIDES and len(told) > 1
        money.append(NETWORK_DECIDES_ON_FAILED if several else charge)
    elif charges:
        money.append(SOME_CHARGED)
    return " ".join(money) or NOTHING_CHARGED


def _made(error: BatchError) -> str:
    return f"Not all {error.noun}s were made." if error.finished else f"No {error.noun} was made."


def sentences_for_graph(text: str, ids: Mapping[str, str | None]) -> str:
    """Those sentences of a client's text that are for the graph, without ids, and with hosts for addresses.

    Args:
        ids: ``{"task": ..., "job": ...}``.
    """
    text = _ADDRESS.sub(r"\1", text.strip())
    kept = (_plain(sentence, ids) for sentence in re.split(r"(?<=[.!?])\s+", text))
    return " ".join(sentence for sentence in kept if sentence)


def failure_line(error: XaloraError) -> str:
    """The last line on a node that failed: ``failed, 2 of 4 images: <what>. <money>.``.

    With the money, since a current ComfyUI shows a node's message only to who asks for it.
    """
    words = words_for(error)
    if not isinstance(error, BatchError):
        return _fitted("failed", words.what, words.money)
    # With those that were not sent for the same reason.
    count = f"{error.total - len(error.finished)} of {error.total} {error.noun}s"
    return _fitted(f"failed, {count}", words_for(error.first).what, _brief_money(words.money))


def failed_elements_line(
    which: str, what: str, money: Sequence[str], *, some_paid: bool, some_go_on: bool
) -> str:
    """The same of a node that is executed for each element of a list: ``failed, 1 of 4 list elements: ...``.

    Args:
        which: How many failed of how many.
        what: Why the first failed.
        money: The sentence about the money of each task without a result.
        some_paid: Tasks finished, and are paid for.
        some_go_on: Elements were stopped, and their tasks go on in the network.
    """
    told = _brief_money(_summed_money(money, some_finished=some_paid))
    if some_go_on:
        told = WENT_ON if told == NOTHING_CHARGED else f"{told} {WENT_ON}"
    return _fitted(f"failed, {which}", what, told)


def _fitted(failed: str, what: str, money: str) -> str:
    room = LONGEST_ON_NODE - len(f"{failed}:  {money}")
    return f"{failed}: {_brief(what, max(room, SHORTEST_ON_NODE))} {money}".rstrip()


def _brief_money(money: str) -> str:
    for whole, brief in _BATCH_ON_NODE.items():
        money = money.replace(whole, brief)
    return money


def _brief(what: str, longest: int) -> str:
    """A sentence for the node: the details after a colon are in ComfyUI's own message."""
    if len(what) <= longest:
        return what
    beginning = what.partition(": ")[0]
    # A single name, as in "Parameter image: the input array holds no numbers", says nothing alone.
    return sentence(_cut(beginning if len(beginning) >= SHORTEST_ON_NODE else what, longest))


def graph_error(
    error: XaloraError,
    press_after: Callable[[XaloraError], str] = lambda error: "",
    *,
    several_users: bool = False,
) -> GraphError:
    """The exception for ComfyUI, whose text is the message.

    Args:
        press_after: What to press after the error at this node; empty where that is the same at any.
        several_users: Sidebar and settings are closed to whoever reads it.
    """
    kinds: dict[type[XaloraError], type[GraphError]] = {
        errors.MissingKeyError: NoKeyError,
        errors.DailyLimitError: LimitReachedError,
    }
    causes = error.errors.values() if isinstance(error, BatchError) else (error,)
    kind = next((kinds[type(cause)] for cause in causes if type(cause) in kinds), GraphError)
    words = words_for(error)
    press = press_after(error.first if isinstance(error, BatchError) else error) or words.press
    if several_users and re.search(r"\bXalora (?:tab\b|>)", press):
        kind, press = GraphError, _ASK_THE_HOST
    return kind(str(replace(words, press=press)))


def plain(error: XaloraError, text: str) -> str:
    """A client's sentence without ids; empty where it is not for the graph."""
    return _plain(text, {"task": error.task_id, "job": error.job_id})


def _plain(text: str, ids: Mapping[str, str | None]) -> str:
    text = _IDS_IN_BRACKETS.sub("", text.strip())
    named = _VARIABLES.sub(lambda found: _SETTINGS_OF[found[1]], text)
    if named != text:
        text = named[:1].upper() + named[1:]
    for name, id in ids.items():
        if id:
            text = text.replace(f"{name} {id}", f"the {name}").replace(
                f"{name.capitalize()} {id}", f"The {name}"
            )
    return "" if "\n" in text or _NOT_FOR_THE_GRAPH.search(text) else text


def words_for_dialog(error: XaloraError) -> Words:
    """The message of an error in the pack's own dialogs, which say more of what the user does there."""
    words = words_for(error)
    what, press = plain(error, error.what), plain(error, error.next_step)
    return Words(sentence(_cut(what)) or words.what, words.money, sentence(_cut(press)) or words.press)


def _money(error: XaloraError) -> str:
    if not error.money:
        return ""
    known = _MONEY.get(error.money)
    if known is None:
        of_class = _of_class(error, _MONEY_OF)
        known = of_class if of_class != NOT_KNOWN else sentence(plain(error, error.money)) or NOT_KNOWN
    return known


def _of_class(error: XaloraError, table: dict[type[XaloraError], T]) -> T:
    """The entry of the error's most special class."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def _cut(text: str, longest: int = LONGEST) -> str:
    """The text, without what does not fit, such as into two lines of a dialog; the log has it in full."""
    if len(text) <= longest:
        return text
    return f"{(text[:longest].rpartition(' ')[0] or text[:longest]).rstrip(',;:')} …"


def sentence(text: str) -> str:
    """The text with a full stop where it lacks one."""
    return text if not text or text[-1] in ".!?…" else f"{text}."
