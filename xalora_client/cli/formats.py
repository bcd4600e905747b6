"""Paths, file names and text from elsewhere, made fit for a terminal line."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")
"""Names that Windows takes for a device, with any suffix."""


def short_path(path: Path) -> str:
    """The path relative to the working directory if it lies below that, else with ``~``, else absolute."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links
    roots = [(Path.cwd(), "")]
    with suppress(RuntimeError):  # a user without a home, as in a container
        roots.append((Path.home(), "~/"))
    for root, prefix in roots:
        if path.is_relative_to(root) and path != root:
            return prefix + path.relative_to(root).as_posix()
    return str(path)


def printable(text: str) -> str:
    """The text without escape sequences and control characters, which would reach the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def on_one_line(text: str) -> str:
    """The same of a text that is to stay one line, whatever a file is called."""
    return printable(text).replace("\n", "\N{REPLACEMENT CHARACTER}")


def shortened(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def slug(text: str, limit: int = 40) -> str:
    """A file name from a prompt: ``a-red-fox``; ``xalora`` for a prompt without letters and digits."""
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
