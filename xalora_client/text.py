"""Durations, sizes and counts in words, the same in all messages; the name that was meant by another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def suggested(name: str, known: Sequence[str]) -> str:
    """What to write in place of a name that is not known: ``Write workflow_id.``, or all that are.

    ``workflowId``, as in JavaScript, means ``workflow_id``; ``seed`` means ``noise_seed`` if there is that.
    """
    plain = {re.sub(r"[^a-z0-9]", "", each.lower()): each for each in known}
    meant = plain.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    close = [meant] if meant else difflib.get_close_matches(name, known, 1, 0.75)
    longer = [each for each in known if name in each.split("_")]
    if not close and len(longer) == 1:
        close = longer
    return f"Write {close[0]}." if close else f"There are {', '.join(sorted(known))}."


def seconds_text(seconds: float | None) -> str:
    """A measured duration: ``0.42 s``, ``3.2 s``, ``47 s``, ``2 min 5 s``; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return elapsed_text(round(seconds))


def elapsed_text(seconds: float) -> str:
    """The time since a moment, in whole seconds as a clock shows them: ``0 s``, ``47 s``, ``2 min 5 s``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def span_text(span: tuple[float, float]) -> str:
    """A range of durations: ``40-55 s``, or ``40 s`` where both ends read the same."""
    low, high = (seconds_text(value) for value in span)
    if low == high:
        return low
    unit = " s"
    if low.endswith(unit) and high.endswith(unit) and " min" not in low + high:
        low = low.removesuffix(unit)
    return f"{low}-{high}"


def bytes_text(size: float) -> str:
    """A size: ``812 B``, ``3.4 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def counted(number: int, thing: str) -> str:
    """A number of things: ``1 task``, ``3 tasks``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def scaled_text(number: int, thing: str, whose: str) -> str:
    """How many results were scaled to the others: ``1 tile came in another size and was scaled to ...``."""
    were = "was" if number == 1 else "were"
    return f"{counted(number, thing)} came in another size and {were} scaled to {whose}."


def differing(number: int, total: int, thing: str) -> str:
    """How many of some things differ from all others: ``1,412 of 1,500 frames differ``."""
    return f"{number:,} of {total:,} {thing}{'' if total == 1 else 's'} differ{'s' if number == 1 else ''}"


_ORDINALS = (
    "next",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
)


def queue_text(position: int) -> str:
    """A place in the network's queue: ``third in the queue``, ``21st in the queue``."""
    if position < len(_ORDINALS):
        return f"{_ORDINALS[position]} in the queue"
    suffix = "th" if position % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(position % 10, "th")
    return f"{position}{suffix} in the queue"
