"""Which way an input image takes, and what an inlined one looks like on the wire."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from xalora_client.config import Settings, load_settings
from xalora_client.errors import NOTHING_CHARGED, ConfigurationError, InputTooLargeError, StoreError
from xalora_client.media.inputs import PreparedImage, prepare_image
from xalora_client.media.media_types import MediaKind
from xalora_client.network.transport import InlineImage
from xalora_client.transfer.upload import InlineDelivery, StoreDelivery, choose_delivery


def noise(side: int = 64) -> PreparedImage:
    return prepare_image(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 1000, 1001, 1002])
@pytest.mark.parametrize("chunk", [1, 4, 7, 64, 4096])
def test_the_uri_in_chunks_is_the_uri(size: int, chunk: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    image = InlineImage("image/png", data)
    expected = "data:image/png;base64," + base64.b64encode(data).decode()
    assert image.uri_length == len(expected)
    chunks = list(image.uri_chunks(chunk))
    assert b"".join(chunks).decode() == expected
    assert all(len(piece) <= max(chunk, 4) for piece in chunks[1:])


def test_an_inlined_image_stays_out_of_reprs() -> None:
    assert repr(InlineImage("image/png", b"pixels")) == "InlineImage(media_type='image/png')"


async def test_a_small_image_goes_inside_the_request() -> None:
    image = noise()
    delivered = await InlineDelivery(len(image.data)).deliver(image, lifetime=60)
    assert isinstance(delivered.reference, InlineImage)
    assert delivered.reference.data == image.data
    assert delivered.reference.media_type == "image/png"
    await delivered.discard()


async def test_too_large_an_image_names_both_ways_out() -> None:
    image = noise()
    with pytest.raises(InputTooLargeError) as caught:
        await InlineDelivery(len(image.data) - 1).deliver(image, lifetime=60)
    message = str(caught.value)
    assert "XALORA_STORE_URL" in message
    assert "XALORA_INLINE_LIMIT" in message
    assert NOTHING_CHARGED in message


async def test_a_small_file_that_became_a_large_png_is_told_how_to_stay_small() -> None:
    """A phone's upright photograph, which EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noisy = np.random.default_rng(0).normal(128, 20, (96, 64, 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=60, exif=exif)
    image = prepare_image(file.getvalue())
    assert (image.kind, image.given_bytes) == (MediaKind.PNG, len(file.getvalue()))
    with pytest.raises(InputTooLargeError, match="saved upright as JPEG") as caught:
        await InlineDelivery(len(file.getvalue())).deliver(image, lifetime=60)
    assert "XALORA_STORE_URL" in str(caught.value)
    with pytest.raises(InputTooLargeError) as caught:
        await InlineDelivery(len(file.getvalue()) - 1).deliver(image, lifetime=60)
    assert "upright" not in str(caught.value)


async def test_the_settings_choose_the_way() -> None:
    image = noise()
    inline = choose_delivery(Settings(inline_limit=2 * len(image.data)))
    assert isinstance(inline, InlineDelivery)
    assert isinstance((await inline.deliver(image, lifetime=60)).reference, InlineImage)
    both = choose_delivery(
        Settings(
            inline_limit=len(image.data),
            store_url="s3://bucket/prefix",
            store_endpoint="http://127.0.0.1:9",
            store_region="eu-west-1",
            store_access_key_id="id",
            store_secret_access_key=SecretStr("hush"),
        )
    )
    assert isinstance(both, InlineDelivery)
    assert isinstance((await both.deliver(image, lifetime=60)).reference, InlineImage)
    assert "hush" not in repr(both)
    assert "eu-west-1" in repr(both)


@pytest.mark.parametrize("url", ["s3://", "https://bucket.example.com", "bucket", "s3:///prefix"])
def test_a_store_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        load_settings(env_files=(), store_url=url)


async def test_a_signature_longer_than_a_store_gives_is_refused_before_the_upload() -> None:
    store = StoreDelivery(
        Settings(
            store_url="s3://b",
            store_endpoint="http://127.0.0.1:9",
            store_access_key_id="a",
            store_secret_access_key=SecretStr("b"),
        )
    )
    with pytest.raises(StoreError, match="7 days"):
        await store.deliver(noise(4), lifetime=8 * 24 * 3600)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    # Another interpreter, in which the library can't be imported: as it is for most people.
    script = (
        "import sys; sys.modules['obstore'] = None\n"
        "from xalora_client.config import Settings\n"
        "from xalora_client.transfer.upload import StoreDelivery\n"
        "from xalora_client.errors import ConfigurationError\n"
        "try: StoreDelivery(Settings(store_url='s3://bucket'))\n"
        "except ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install xalora[s3]" in done.stdout


def test_delivery_is_light_to_import() -> None:
    script = (
        "import sys; import xalora_client.transfer.upload, xalora_client.transfer.download\n"
        "print([name for name in ('numpy', 'PIL', 'av', 'obstore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
