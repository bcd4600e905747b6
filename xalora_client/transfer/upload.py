"""How an input image reaches a miner: inside the request, or through the user's own object store.

The two ways stand behind :class:`ImageDelivery`; :func:`choose_delivery` picks one from the settings.
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

from pydantic import SecretStr

from ..errors import ConfigurationError, InputTooLargeError, StoreError
from ..network.transport import InlineImage

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

    from ..config import Settings
    from ..media.inputs import PreparedImage

logger = logging.getLogger("xalora_client.delivery")

LONGEST_SIGNATURE = timedelta(days=7)
"""The longest time for which S3 lets a URL be signed."""

_MAX_RETRIES = 3
_REQUEST_TIMEOUT = timedelta(minutes=30)  # 50 MB on a line of 0.25 Mbit/s


@dataclass(frozen=True)
class DeliveredImage:
    """An input image as a request refers to it: a URL, or the image itself."""

    reference: str | InlineImage = field(repr=False)  # whoever sees a signed URL can read the image
    _delete: Callable[[], Coroutine[Any, Any, None]] | None = field(default=None, repr=False)

    async def discard(self) -> None:
        """Delete what was uploaded, once the task has ended; nothing to do for an inlined image.

        A store that refuses is logged and not raised: the task is done, and its input is the lesser worry.
        """
        if self._delete is not None:
            await self._delete()


class ImageDelivery(Protocol):
    """A way for input images to reach a miner."""

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """Make an image readable for a miner.

        Args:
            image: The image.
            lifetime: Seconds for which it must stay readable at least.

        Raises:
            InputTooLargeError: It does not fit this way.
            StoreError: The store could not take it.
        """
        ...


@dataclass(frozen=True)
class InlineDelivery:
    """Sends images inside the request, up to ``limit_bytes`` of encoded image (a third more as base64)."""

    limit_bytes: int

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """See :class:`ImageDelivery`; the lifetime does not matter here."""
        if len(image.data) > self.limit_bytes:
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
                "(pip install xalora[s3]), or raise XALORA_INLINE_LIMIT.",
            )
        return DeliveredImage(InlineImage(image.kind.media_type, image.data))


@dataclass(frozen=True)
class StoreConfig:
    """Where the user's object store is, and who may write to it.

    Attributes:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.
        endpoint: URL of a store that is not AWS's own (MinIO, R2, ...).
        region: Its region; None for ``AWS_REGION``, else the store's default.
        access_key_id: None for ``AWS_ACCESS_KEY_ID`` or whatever else AWS's own clients find.
        secret_access_key: Likewise; never shown.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: SecretStr | None = None


class StoreDelivery:
    """Uploads images to the user's own S3-compatible store and hands out signed URLs.

    Each object has a random name that tells nothing of the image or the machine. Keys and endpoint that are
    not given come from the standard ``AWS_*`` variables.

    Raises:
        ConfigurationError: The extra ``s3`` is not installed, or the configuration does not fit.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._store = _open_store(config)
        self._prefix = urlsplit(config.url).path.strip("/")

    def __repr__(self) -> str:
        return f"StoreDelivery({self._config!r})"

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
                use_multipart=False,  # one request: nothing half-uploaded is left behind when cancelled
            )
            url = await obstore.sign_async(self._store, "GET", key, validity)
        except _store_errors() as error:
            await self._delete(key)
            raise StoreError(
                f"The store {self._config.url} did not take the input image: {_first_line(error)}",
                next_step="Check XALORA_STORE_URL, the endpoint and the keys.",
            ) from error
        except BaseException:
            # Cancelled half-way: the upload may have arrived all the same.
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
            logger.warning(
                "could not delete input image %s from %s: %s", key, self._config.url, _first_line(error)
            )


@dataclass(frozen=True)
class InlineOrStore:
    """Sends small images inside the request and uploads the others."""

    inline: InlineDelivery
    store: StoreDelivery

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        """See :class:`ImageDelivery`."""
        if len(image.data) <= self.inline.limit_bytes:
            return await self.inline.deliver(image, lifetime=lifetime)
        return await self.store.deliver(image, lifetime=lifetime)


def choose_delivery(settings: Settings) -> ImageDelivery:
    """The delivery that the settings ask for: inline up to the limit, the store beyond, if there is one.

    Raises:
        ConfigurationError: A store is set and can't be used, see :class:`StoreDelivery`.
    """
    inline = InlineDelivery(int(settings.inline_limit))
    if settings.store_url is None:
        return inline
    store = StoreDelivery(
        StoreConfig(
            settings.store_url,
            endpoint=settings.store_endpoint,
            region=settings.store_region,
            access_key_id=settings.store_access_key_id,
            secret_access_key=settings.store_secret_access_key,
        )
    )
    return InlineOrStore(inline, store)


def _open_store(config: StoreConfig) -> S3Store:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigurationError(
            f"The store {config.url} is set, and the library that speaks to it is not installed",
            next_step="Install it: pip install xalora[s3].",
        ) from error
    address = urlsplit(config.url)
    if address.scheme != "s3" or not address.netloc:
        raise ConfigurationError(
            f"The store {config.url!r} is not of the form s3://bucket/prefix",
            next_step="Correct XALORA_STORE_URL.",
        )
    # Not every S3-compatible store knows S3's own way to delete many objects at once.
    options: S3Config = {"bucket": address.netloc, "disable_bulk_delete": True}
    if config.endpoint:
        options["endpoint"] = config.endpoint
    if config.region:
        options["region"] = config.region
    if config.access_key_id:
        options["access_key_id"] = config.access_key_id
    if config.secret_access_key is not None:
        options["secret_access_key"] = config.secret_access_key.get_secret_value()
    try:
        return S3Store(
            config=options,
            # An http:// endpoint is one in the user's own network; obstore refuses it unless told.
            client_options={"allow_http": True, "timeout": _REQUEST_TIMEOUT},
            retry_config={"max_retries": _MAX_RETRIES},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The store {config.url} can't be used: {_first_line(error)}",
            next_step="Check XALORA_STORE_URL, the endpoint and the region.",
        ) from error


def _store_errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return (BaseError, OSError, ValueError)


def _first_line(error: Exception) -> str:
    """The part of a store's error that helps people, without the debug dump (and signed URLs) after it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:.1f}"
