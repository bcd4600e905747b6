"""Numbers, paths and foreign text as people read them."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")
"""What Windows takes for a device, whatever suffix follows."""


def seconds_text(seconds: float | None) -> str:
    """``0.42 s``, ``3.2 s``, ``47 s``, ``2 min 5 s``; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return elapsed_text(round(seconds))


def elapsed_text(seconds: float) -> str:
    """As :func:`seconds_text`, in whole seconds gone by: what a clock that ticks shows."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def span_text(span: tuple[float, float]) -> str:
    """``40-55 s``, or ``40 s`` where both ends look the same."""
    low, high = (seconds_text(value) for value in span)
    if low == high:
        return low
    unit = " s"
    if low.endswith(unit) and high.endswith(unit) and " min" not in low + high:
        low = low.removesuffix(unit)
    return f"{low}-{high}"


def bytes_text(size: float) -> str:
    """``812 B``, ``3.4 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def counted(number: int, thing: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def short_path(path: Path) -> str:
    """Relative to the working directory where the file lies below it, else with ``~``, else whole."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links the user chose to name
    roots = [(Path.cwd(), "")]
    with suppress(RuntimeError):  # a user without a home, as in a container
        roots.append((Path.home(), "~/"))
    for root, prefix in roots:
        if path.is_relative_to(root) and path != root:
            return prefix + path.relative_to(root).as_posix()
    return str(path)


def printable(text: str) -> str:
    """Text from elsewhere without what would steer a terminal (escape sequences, control characters)."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, width: int) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def slug(text: str, limit: int = 40) -> str:
    """A file name from a prompt: ``a-red-fox``; ``xalora`` where nothing is left."""
    plain = unicodedata.normalize("NFKC", text).lower()
    words = re.findall(r"[^\W_]+", plain)
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word
        if len(longer) > limit:
            break
        name = longer
    if _DEVICES.fullmatch(name):
        return f"xalora-{name}"
    return name or "".join(words)[:limit] or "xalora"
