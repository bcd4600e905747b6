"""Keys of the cluster's consumers: a file of names and digests, read anew when it changes."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigurationError
from ..files import write_private

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Keys:
    """Consumers and the SHA-256 digests of their keys; the keys themselves are kept nowhere.

    Args:
        path: The file, readable by its user alone; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests: dict[str, str] = {}
        self._seen: tuple[int, int] | None = None

    def add(self, consumer_id: str) -> str:
        """Make a key for a consumer, in place of an earlier one; returns ``<consumer_id>#<api_key>``.

        Raises:
            ConfigurationError: The name has other characters than letters, digits, ``_``, ``.`` and ``-``.
        """
        if not _NAME.fullmatch(consumer_id):
            raise ConfigurationError(
                f"{consumer_id!r} can't name a consumer",
                money="",
                next_step="Use up to 64 letters, digits, dots, hyphens and underscores.",
            )
        key = secrets.token_hex(24)
        with self._changed() as digests:
            digests[consumer_id] = _digest(key)
        return f"{consumer_id}#{key}"

    def revoke(self, consumer_id: str) -> bool:
        """Have a consumer's key refused from now on; False where there is none."""
        with self._changed() as digests:
            return digests.pop(consumer_id, None) is not None

    def is_valid(self, consumer_id: str, api_key: str) -> bool:
        """Whether this is the consumer's key."""
        return hmac.compare_digest(self._read().get(consumer_id, ""), _digest(api_key))

    def is_known(self, api_key: str) -> bool:
        """Whether this is any consumer's key."""
        return _digest(api_key) in self._read().values()

    def _read(self) -> dict[str, str]:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        # The file is replaced and never written in place, so a change has another inode or time.
        if (stat.st_ino, stat.st_mtime_ns) != self._seen:
            self._digests = json.loads(self._path.read_text(encoding="utf-8"))
            self._seen = (stat.st_ino, stat.st_mtime_ns)
        return self._digests

    @contextmanager
    def _changed(self) -> Iterator[dict[str, str]]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            digests = dict(self._read())
            yield digests
            write_private(self._path, json.dumps(digests))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
