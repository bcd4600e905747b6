"""The address that a result is downloaded from, and the errors about it. No I/O."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

import aiohttp

from ..errors import (
    STILL_RETRIEVABLE,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
    ResultLocationError,
    ResultTooLargeError,
)
from ..network.failure_text import describe_failure

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_GONE = frozenset({404, 410})


@dataclass(frozen=True)
class Target:
    """The address of a download."""

    url: str
    task_id: str | None

    @property
    def shown_url(self) -> str:
        """The URL without what may be secret in it: user, password, query."""
        try:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]
        except ValueError:
            return "the URL given"

    @property
    def is_remote(self) -> bool:
        return not self.url[:5].lower().startswith("data:")

    def cause(self, error: Exception) -> str:
        """As :func:`describe_failure`, without the address that the result's own address redirects to."""
        text = describe_failure(error)
        if not isinstance(error, aiohttp.ClientConnectorError):
            return text
        is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
        if not is_proxy and error.host != urlsplit(self.url).hostname:
            for address in (f"{error.host}:{error.port}", error.host):
                text = text.replace(address, "the server that it redirects to")
        return text

    @property
    def subject(self) -> str:
        return f"The result of task {self.task_id}" if self.task_id else f"The result at {self.shown_url}"

    def failed(self, reason: str, status_code: int | None = None) -> ResultDownloadError:
        kind: type[ResultDownloadError] = ResultDownloadError
        what = f"{self.subject} could not be downloaded: {reason}"
        next_step = "Fetch it again by the task's id; the download continues where it stopped."
        money = STILL_RETRIEVABLE
        if status_code in _GONE:
            kind = ResultExpiredError
            what = f"{self.subject} is no longer there (HTTP {status_code})"
            money = "The task was paid for; its result has expired on the network."
            next_step = "Run the task again if you still need it."
        return kind(
            what,
            money=money,
            next_step=next_step,
            task_id=self.task_id,
            status_code=status_code,
        )

    def refused(self, reason: str, *, may_be_listed: bool = False) -> ResultLocationError:
        return ResultLocationError(
            f"{self.subject} is not fetched: {reason}",
            money=STILL_RETRIEVABLE,
            next_step="If you know the host and trust it, name it in XALORA_RESULT_HOSTS and fetch the "
            "result again by the task's id."
            if may_be_listed
            else "Tell whoever runs the sequencer.",
            task_id=self.task_id,
        )

    def too_large(self, limit: int) -> ResultDownloadError:
        size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        error = self.failed(f"it is larger than {size}, the limit")
        error.next_step = "To fetch it, raise XALORA_MAX_RESULT_BYTES and take it up again by the task's id."
        return error

    def replaced(self, reason: str) -> ResultDownloadError:
        error = self.failed(f"something else came in its place: {reason}")
        error.next_step = (
            "If a login page or a proxy answers, log in there; then fetch the result again by the task's id."
        )
        return error

    def needs_too_much(self, reason: str) -> ResultTooLargeError:
        return ResultTooLargeError(
            f"{self.subject} can't be checked here: {reason}",
            money=STILL_RETRIEVABLE,
            next_step="With more memory or higher limits run the task again, which fetches it at no cost; to "
            f"pay for a new one, use again=True or forget it first (`xalora forget {self.task_id}`).",
            task_id=self.task_id,
        )

    def broken(self, reason: str) -> ResultFormatError:
        return ResultFormatError(
            f"{self.subject} arrived and can't be used: {reason}",
            money=STILL_RETRIEVABLE,
            next_step="Fetch it again by the task's id; if it stays broken, the miner wrote it so.",
            task_id=self.task_id,
        )

    def data_uri_content(self, max_bytes: int) -> bytes:
        """The content of a ``data:`` URI.

        Raises:
            ResultDownloadError: It is larger than ``max_bytes``.
            ResultFormatError: It is no data.
        """
        head, comma, body = self.url.partition(",")
        if len(body) * 3 // 4 > max_bytes:
            raise self.too_large(max_bytes)
        if not comma:
            raise self.broken("its data: URI has no comma")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        # Some encoders break lines, leave the padding out, or write the alphabet for URLs.
        text = unquote_to_bytes(body).translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
        try:
            return b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except Base64Error as error:
            raise self.broken(f"its data: URI is no valid base64 ({error})") from error
