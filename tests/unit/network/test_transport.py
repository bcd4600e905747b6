"""The JSON body of a create, as it is sent: in pieces, with everybody else's turns between them."""

from __future__ import annotations

import asyncio
import base64
import json

from xalora_client.network.transport import InlineImage, json_body

PIXELS = bytes(range(256)) * 8192


async def test_an_inlined_image_is_sent_in_pieces_of_known_length() -> None:
    body = json_body({"before": "é", "image": InlineImage("image/png", PIXELS), "after": [1]})
    pieces = [piece async for piece in body.chunks()]
    sent = b"".join(pieces)
    assert len(sent) == body.length
    assert max(map(len, pieces)) <= 256 * 1024
    uri = f"data:image/png;base64,{base64.b64encode(PIXELS).decode()}"
    assert json.loads(sent) == {"before": "é", "image": uri, "after": [1]}


async def test_everybody_else_gets_a_turn_between_two_pieces() -> None:
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(somebody_else())
    await asyncio.sleep(0)
    before = turns
    body = json_body({"image": InlineImage("image/png", PIXELS)})
    # Taken as fast as they come, as a socket with room does.
    pieces = [piece async for piece in body.chunks()]
    other.cancel()
    assert len(pieces) > 10
    assert turns - before >= len(pieces) - 1


def test_a_body_does_not_show_the_key_in_it() -> None:
    assert "s3cret" not in repr(json_body({"api_key": "s3cret"}))
