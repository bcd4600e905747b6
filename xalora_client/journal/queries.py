"""WHERE clauses for listing and searching records. No I/O."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypedDict

from typing_extensions import Unpack

from .records import clean_text
from .rules import ENDED, TaskState

# Calls of the functions below, which every connection that reads knows. The status of a task that has ended
# is shown nowhere.
_TEXTS = "searched_texts(details, label, engine, miner, error, CASE state WHEN 'submitted' THEN status END)"
_NAMES = "searched_names(id, label, files, job_id, task_id, task_type, workflow_id)"

_ENDED_STATES = ", ".join(f"'{state.value}'" for state in sorted(ENDED))
# The same as `Record.group`.
GROUP = (
    f"(CASE WHEN state IN ({_ENDED_STATES}, 'unknown') THEN 'failed'"
    f" WHEN state <> 'finished' OR (files = '[]' AND delivered = 0) THEN 'active' ELSE 'done' END)"
)
# The same as `Record.is_open`.
IS_OPEN = (
    f"(CASE state WHEN 'finished' THEN files = '[]' AND delivered = 0"
    f" ELSE state NOT IN ({_ENDED_STATES}) AND forgotten = 0 END)"
)
# The same as `Record.is_left`.
IS_LEFT = f"({IS_OPEN} OR (state = 'finished' AND delivered = 0))"
MADE_HERE = f"({GROUP} = 'failed' AND engine IS NOT NULL AND engine <> 'xalora')"

_AT_NETWORK = "state = 'submitted' AND cancel_requested_at IS NULL"

NAMED: Mapping[str, str] = {
    "prepared": "state = 'prepared'",
    "sending": "state = 'sending'",
    "waiting": f"{_AT_NETWORK} AND COALESCE(status, 'waiting') = 'waiting'",
    "running": f"{_AT_NETWORK} AND status = 'running'",
    "cancel_requested": "state = 'submitted' AND cancel_requested_at IS NOT NULL",
    "fetching": f"state = 'finished' AND {GROUP} = 'active'",
    "kept": f"{GROUP} = 'done' AND files <> '[]'",
    "evicted": f"{GROUP} = 'done' AND files = '[]'",
    "failed": f"state = 'failed' AND NOT {MADE_HERE}",
    "canceled": f"state = 'canceled' AND NOT {MADE_HERE}",
    "not_sent": f"state = 'not_sent' AND NOT {MADE_HERE}",
    "unknown": "state = 'unknown'",
    "made_here": f"{MADE_HERE} AND state <> 'unknown'",
    "upscaler": "task_type = 'upscaler'",
    "txt2img": "task_type = 'txt2img'",
    "txt2vid": "task_type = 'txt2vid'",
    "miner": "miner IS NOT NULL",
}
"""Conditions for what a list shows in words of its own, which are in no column."""


def searched_texts(details: str, *texts: str | None) -> str:
    """Where each word of a search is looked for: in texts, and in parameters that are texts or seeds."""
    given = json.loads(details)
    parameters = (str(value) for name, value in given.items() if isinstance(value, str) or "seed" in name)
    return folded("\n".join([*(text for text in texts if text), *parameters]))


def searched_names(record_id: int, label: str, files: str, *ids: str | None) -> str:
    """Where a search is looked for as a whole: in ids, and in names of files."""
    names = [str(file[0]) for file in json.loads(files)]
    # As the sidebar has a browser save them.
    title = " ".join(re.split(r"[\W_]+", label))[:60].strip()
    saved = [f"{title} ({record_id}){PurePath(name).suffix}" for name in names]
    return folded("\n".join([*(id for id in ids if id), *names, *saved]))


def folded(text: str) -> str:
    """A text as it is compared in a search: without upper case, and composed."""
    return unicodedata.normalize("NFC", text).casefold()


class Which(TypedDict, total=False):
    """Conditions on the records of a list; all of them hold.

    Args:
        states: Only these.
        text: Only those with each word of it in label, parameters, engine, miner, error or status, or with
            all of it in an id or the name of a file. Upper case is the same as lower.
        since: Only those changed after this `Journal.version`.
        is_open: Only those with something left to do or to decide, or only the others.
        is_left: Only those that are open or undelivered, see `Record.is_left`.
        groups: Only those in one of these groups, see `Record.group`; all where none is named.
        named: For a word of the text, the names in `NAMED` of what it finds as well.
        whole_id: Only the parts of this whole, see `Whole`.
        one_a_whole: Of those found that are parts of the same whole, only the newest.
    """

    states: Iterable[TaskState] | None
    text: str | None
    since: int | None
    is_open: bool | None
    is_left: bool
    groups: Collection[str]
    named: Mapping[str, Collection[str]] | None
    whole_id: str | None
    one_a_whole: bool


def where(**which: Unpack[Which]) -> tuple[str, tuple[Any, ...]]:
    """The clause and its values; without conditions it lets everything through."""
    clauses = ["1"]
    values: list[Any] = []
    if (states := which.get("states")) is not None:
        names = [state.value for state in states]
        clauses.append(f"state IN ({', '.join('?' for _ in names)})")
        values.extend(names)
    if words := clean_text(which.get("text") or "").split():
        named = which.get("named") or {}
        shown = [[f"({NAMED[name]})" for name in named.get(word, ())] for word in words]
        each = [f"({' OR '.join([f'instr({_TEXTS}, ?)', *conditions])})" for conditions in shown]
        clauses.append(f"(instr({_NAMES}, ?) OR ({' AND '.join(each)}))")
        values += [folded(" ".join(words)), *map(folded, words)]
    if (since := which.get("since")) is not None:
        clauses.append("version > ?")
        values.append(since)
    if (is_open := which.get("is_open")) is not None:
        clauses.append(IS_OPEN if is_open else f"NOT {IS_OPEN}")
    if which.get("is_left"):
        clauses.append(IS_LEFT)
    if groups := which.get("groups"):
        clauses.append(f"{GROUP} IN ({', '.join('?' for _ in groups)})")
        values.extend(groups)
    if (whole_id := which.get("whole_id")) is not None:
        clauses.append("whole_id = ?")
        values.append(clean_text(whole_id))
    found = " AND ".join(clauses)
    if which.get("one_a_whole"):
        newest = f"SELECT max(id) FROM entries WHERE whole_id IS NOT NULL AND {found} GROUP BY whole_id"
        return f"WHERE {found} AND (whole_id IS NULL OR id IN ({newest}))", (*values, *values)
    return f"WHERE {found}", tuple(values)
