"""Delivery of input images to miners: inside the request, or through the user's own object store.

Both implement :class:`ImageDelivery`; :func:`choose_delivery` picks one by the settings.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ..errors import ConfigurationError, InputTooLargeError, StoreError
from ..network.sessions import ca_bundle
from ..network.transport import InlineImage

if TYPE_CHECKING:
    from obstore.store import S3Store

    from ..config import Settings
    from ..media.inputs import PreparedImage

logger = logging.getLogger("xalora_client.delivery")

LONGEST_SIGNATURE = timedelta(days=7)
"""The longest time for which S3 lets a URL be signed."""

_MAX_RETRIES = 3
_THIS_MACHINE = "localhost,.localhost,127.0.0.0/8,::1"
_REQUEST_TIMEOUT = timedelta(minutes=30)  # 50 MB on a line of 0.25 Mbit/s


@dataclass(frozen=True)
class DeliveredImage:
    """An input image as a request refers to it: a URL, or the image itself."""

    reference: str | InlineImage = field(repr=False)  # a signed URL is enough to read the image
    _delete: Callable[[], Coroutine[Any, Any, None]] | None = field(default=None, repr=False)

    async def discard(self) -> None:
        """Delete what was uploaded, once the task has ended; nothing to do for an inlined image.

        A failure of the store is logged and not raised, since the task itself has ended.
        """
        if self._delete is not None:
            await self._delete()


class ImageDelivery(Protocol):
    """A way to deliver input images."""

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """Make an image readable for a miner.

        Args:
            image: The image.
            lifetime: Seconds for which it must at least stay readable.

        Raises:
            InputTooLargeError: It does not fit this way.
            StoreError: The store refused it.
        """
        ...


@dataclass(frozen=True)
class InlineDelivery:
    """Sends images inside the request, up to ``limit_bytes`` of encoded image (a third more as base64).

    Larger ones go to ``store``, where there is one.
    """

    limit_bytes: int
    store: StoreDelivery | None = None

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """See :class:`ImageDelivery`."""
        if len(image.data) <= self.limit_bytes:
            return DeliveredImage(InlineImage(image.kind.media_type, image.data))
        if self.store is not None:
            return await self.store.deliver(image, lifetime=lifetime)
        smaller = ""
        if image.given_bytes is not None and image.given_bytes <= self.limit_bytes:
            smaller = (
                f"It was given in {_megabytes(image.given_bytes)} MB and became a PNG, which keeps "
                "each pixel; saved upright as JPEG (no EXIF rotation), it goes as it is. Or: "
            )
        raise InputTooLargeError(
            f"The input image takes {_megabytes(len(image.data))} MB as {image.kind.name}, more than the "
            f"{_megabytes(self.limit_bytes)} MB that are sent inside a request",
            next_step=f"{smaller}Set XALORA_STORE_URL to an S3-compatible store of your own "
            "(pip install xalora[s3]), raise XALORA_INLINE_LIMIT, or have it upscaled in tiles "
            "(client.upscale_image, xalora upscale).",
        )


class StoreDelivery:
    """Uploads images to the user's own S3-compatible store and hands out signed URLs.

    Each object has a random name. Keys, region and endpoint that are not set come from the standard ``AWS_*``
    variables.

    Raises:
        ConfigurationError: The extra ``s3`` is not installed, or the settings do not fit.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.store_url
        self._store = _open_store(settings)
        self._prefix = urlsplit(str(self._url)).path.strip("/")
        self._shown = f"{self._url}, endpoint={settings.store_endpoint}, region={settings.store_region}"

    def __repr__(self) -> str:
        return f"StoreDelivery({self._shown})"

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """See :class:`ImageDelivery`."""
        import obstore

        validity = timedelta(seconds=ceil(lifetime))
        if validity > LONGEST_SIGNATURE:
            raise StoreError(
                f"A URL for the input image would have to stay valid for {validity}, and a store signs for "
                f"{LONGEST_SIGNATURE.days} days at most",
                next_step="Give the task a shorter timeout.",
            )
        key = f"{self._prefix}/{secrets.token_hex(16)}{image.kind.suffix}".lstrip("/")
        try:
            await obstore.put_async(
                self._store,
                key,
                image.data,
                attributes={"Content-Type": image.kind.media_type},
                use_multipart=False,  # one request: a cancel leaves no parts behind
            )
            url = await obstore.sign_async(self._store, "GET", key, validity)
        except _store_errors() as error:
            await self._delete(key)
            raise StoreError(
                f"The store {self._url} did not take the input image: {_first_line(error)}",
                next_step="Check XALORA_STORE_URL, the endpoint and the keys.",
            ) from error
        except BaseException:
            # Cancelled: the upload may have arrived all the same.
            await self._delete(key)
            raise
        return DeliveredImage(url, lambda: self._delete(key))

    async def _delete(self, key: str) -> None:
        import obstore

        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except _store_errors() as error:
            logger.warning("could not delete input image %s from %s: %s", key, self._url, _first_line(error))


def choose_delivery(settings: Settings) -> ImageDelivery:
    """The delivery by the settings: inline up to the limit, beyond it the store, if one is set.

    Raises:
        ConfigurationError: A store is set and can't be used, see :class:`StoreDelivery`.
    """
    store = None if settings.store_url is None else StoreDelivery(settings)
    return InlineDelivery(int(settings.inline_limit), store)


def _open_store(settings: Settings) -> S3Store:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigurationError(
            f"The store {settings.store_url} is set, and the library for it is not installed",
            next_step="Install it: pip install xalora[s3].",
        ) from error
    secret = settings.store_secret_access_key
    given = {
        "endpoint": settings.store_endpoint,
        "region": settings.store_region,
        "access_key_id": settings.store_access_key_id,
        "secret_access_key": secret and secret.get_secret_value(),
    }
    options: Any = {name: value for name, value in given.items() if value}
    # Not every S3-compatible store supports bulk deletes.
    options |= {"bucket": urlsplit(str(settings.store_url)).netloc, "disable_bulk_delete": True}
    try:
        return S3Store(
            config=options,
            client_options=_client_options(settings),
            retry_config={"max_retries": _MAX_RETRIES},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The store {settings.store_url} can't be used: {_first_line(error)}",
            next_step="Check XALORA_STORE_URL, the endpoint and the region.",
        ) from error


def _client_options(settings: Settings) -> Any:
    """The way to the store: the proxy and the CA bundle of the settings.

    Raises:
        ConfigurationError: The CA bundle can't be used.
    """
    # Stores in a private network have http:// endpoints, which obstore refuses by default.
    options: dict[str, Any] = {"allow_http": True, "timeout": _REQUEST_TIMEOUT}
    if settings.proxy is not None:
        options |= {"proxy_url": settings.proxy, "proxy_excludes": _THIS_MACHINE}
    bundle = ca_bundle(settings.ca)
    if bundle is not None:
        options["root_certificate"] = bundle
    return options


def _store_errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return (BaseError, OSError, ValueError)


def _first_line(error: Exception) -> str:
    """The first line of a store's error; a debug dump with signed URLs follows it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:.1f}"
