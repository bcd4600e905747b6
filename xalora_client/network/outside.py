"""What comes from outside, made safe to keep and to show: printable text, JSON of bounded size. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..config import Credentials

NESTING_LIMIT = 64
ID_LIMIT = 256
STATUS_LIMIT = 64
TEXT_LIMIT = 2000

_ENTRIES_LIMIT = 1000
_KEY_SIGN = "[key]"

# A key as short as a devnet's ("devnet") stands in addresses by chance, and is no secret.
_SHORTEST_SECRET = 8

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def printable(text: str, limit: int) -> str:
    """A text on one line, cut to ``limit`` characters, without what steers terminals or turns text around."""
    # Much more than is shown is not looked at.
    line = " ".join(_UNPRINTABLE.sub(_shown, text[: 8 * limit]).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _shown(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else " "


def is_bounded(value: Any) -> bool:
    """Whether JSON is nested at most :data:`NESTING_LIMIT` deep."""
    level = [value]
    for _ in range(NESTING_LIMIT + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def cleaned(value: Any, limit: int = TEXT_LIMIT) -> Any:
    """JSON with every text :func:`printable`; of long lists and objects the beginning."""
    if isinstance(value, str):
        return printable(value, limit)
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_ENTRIES_LIMIT]
        return {printable(str(name), ID_LIMIT): cleaned(each, limit) for name, each in pairs}
    if isinstance(value, list):
        return [cleaned(each, limit) for each in value[:_ENTRIES_LIMIT]]
    return value


def task_id_in(payload: Mapping[str, Any], credentials: Credentials) -> str | None:
    """The id of a task in an answer as it came; None for what can't be kept and asked about again."""
    said = payload.get("task_id")
    if isinstance(said, bool) or not isinstance(said, str | int):
        return None
    text = str(said)
    is_whole = 0 < len(text) <= ID_LIMIT and printable(text, ID_LIMIT) == text
    return text if is_whole and without_key(text, credentials, hides_short=False) == text else None


def without_key(value: Any, credentials: Credentials, *, hides_short: bool = True) -> Any:
    """JSON in which the key, where somebody repeats it, is replaced.

    Args:
        hides_short: Replace a key of a few characters too, which may stand there by chance.
    """
    if not hides_short and len(credentials.api_key) < _SHORTEST_SECRET:
        return value
    if isinstance(value, str):
        # In no local variable: error reporters send those along with a traceback.
        whole = value.replace(f"{credentials.consumer_id}#{credentials.api_key}", _KEY_SIGN)
        return whole.replace(credentials.api_key, _KEY_SIGN)
    if isinstance(value, Mapping):
        return {
            without_key(name, credentials, hides_short=hides_short): without_key(
                each, credentials, hides_short=hides_short
            )
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [without_key(each, credentials, hides_short=hides_short) for each in value]
    return value


def has_content_coding(codings: Iterable[str]) -> bool:
    """Whether ``Content-Encoding`` headers name a compression.

    Other words that stores leave there, such as ``aws-chunked`` or a charset, change nothing.
    """
    return any(each.strip().lower() in _COMPRESSIONS for line in codings for each in line.split(","))


_COMPRESSIONS = frozenset({"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz"})
