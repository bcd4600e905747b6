"""Input images of a task: ``data:`` URIs decoded, http addresses fetched."""

from __future__ import annotations

import asyncio
import base64
import binascii
import urllib.parse

import aiohttp

from ..errors import EngineError

MAX_INPUT_BYTES = 256 << 20


async def fetch_input(session: aiohttp.ClientSession, url: str) -> bytes:
    """The bytes of an input image.

    Raises:
        EngineError: It can't be had, or is larger than 256 MiB.
    """
    if url.startswith("data:"):
        return _data_from(url)
    try:
        async with session.get(url) as response:
            if response.status != 200:
                raise EngineError(f"The input image answered {response.status}")
            # Counted as it comes: the length may be unknown, or that of the compressed bytes.
            data = bytearray()
            async for part in response.content.iter_any():
                data += part
                if len(data) > MAX_INPUT_BYTES:
                    raise EngineError("The input image is too large")
            return bytes(data)
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as problem:
        raise EngineError(f"The input image can't be fetched: {type(problem).__name__}") from problem


def _data_from(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise EngineError("The data: URI has no data")
    if not head.endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as problem:
        raise EngineError(f"The data: URI is not base64: {problem}") from problem
