"""Date, author and copyright of a photograph in the picture made of it, and nothing else of its EXIF."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import picture_files as files
import pytest
from PIL import Image, TiffImagePlugin

from xalora_client.media.credits import credits_of, picture_with_credits
from xalora_client.media.inputs import prepare_image

DATE_TIME, MAKE, ARTIST, COPYRIGHT, XP_AUTHOR = 0x0132, 0x010F, 0x013B, 0x8298, 0x9C9D
ORIGINAL, OFFSET, SUBSECONDS, COMMENT, SERIAL = 0x9003, 0x9011, 0x9291, 0x9286, 0xA431
EXIF, GPS = 0x8769, 0x8825
MAIN = {DATE_TIME: "2026:03:01 10:11:12", ARTIST: "Ana Lopez", COPYRIGHT: "(c) Ana"}
MORE = {ORIGINAL: "2026:02:28 09:00:00", OFFSET: "+01:00", SUBSECONDS: "123"}
TELLING = (b"Nikon", b"secret comment", b"SN-4711")


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def full_exif() -> Image.Exif:
    exif = Image.Exif()
    exif.update({**MAIN, MAKE: "Nikon", 0x0112: 6, XP_AUTHOR: "Ana".encode("utf-16-le") + b"\0\0"})
    exif.get_ifd(EXIF).update({**MORE, COMMENT: b"ASCII\0\0\0secret comment", SERIAL: "SN-4711"})
    exif.get_ifd(GPS).update({1: "N", 2: (48.0, 52.0, 10.0), 3: "E", 4: (2.0, 20.0, 0.0)})
    return exif


def photograph(path: Path) -> Path:
    options: dict[str, Any] = {"exif": full_exif()}
    if path.suffix == ".heic":
        import pillow_heif

        pillow_heif.from_pillow(picture()).save(path, exif=full_exif().tobytes())
    else:
        picture().save(path, **options)
    return path


def check_credits(data: bytes, expected_more: dict[int, str]) -> None:
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        more = exif.get_ifd(EXIF)
        assert {tag: exif[tag] for tag in MAIN} == MAIN
        assert dict(more) == expected_more
        assert set(exif) == {*MAIN, XP_AUTHOR, *([EXIF] if expected_more else [])}
        assert not exif.get_ifd(GPS)
    for secret in TELLING:
        assert secret not in data


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".heic", ".avif"])
@pytest.mark.parametrize("result", ["PNG", "JPEG", "lossy WEBP", "lossless WEBP", "WEBP with alpha"])
def test_they_are_put_into_every_format(suffix: str, result: str, tmp_path: Path) -> None:
    block = credits_of(photograph(tmp_path / f"photo{suffix}"))
    assert block is not None
    image = picture(1)
    if result.endswith("alpha"):
        image.putalpha(100)
    options: dict[str, Any] = {"lossless": "lossless" in result} if "WEBP" in result else {}
    made = tmp_path / "result"
    made.write_bytes(files.saved(image, "WEBP" if "WEBP" in result else result, **options))
    content = picture_with_credits(made, block)
    assert content is not None
    # Pillow writes no second directory into a TIFF file.
    check_credits(content, {} if suffix == ".tiff" else MORE)
    with Image.open(made) as before, Image.open(io.BytesIO(content)) as after:
        assert (before.mode, before.size) == (after.mode, after.size)
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_nothing_of_it_leaves_the_machine(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".webp", ".tiff", ".heic"):
        sent = prepare_image(photograph(tmp_path / f"photo{suffix}")).data
        for text in (*TELLING, b"Ana", b"2026:0"):
            assert text not in sent, suffix


def test_a_result_with_exif_of_its_own_stays_as_it_came(tmp_path: Path) -> None:
    block = credits_of(photograph(tmp_path / "photo.jpg"))
    assert block is not None
    exif = Image.Exif()
    exif[MAKE] = "prompt: a cat"
    for format_name in ("PNG", "JPEG", "WEBP"):
        made = tmp_path / "result"
        made.write_bytes(files.saved(picture(1), format_name, exif=exif))
        assert picture_with_credits(made, block) is None


@pytest.mark.parametrize("content", [b"\0\0\0\x18ftypmp42" + bytes(99), b"GIF89a" + bytes(99), b"hello"])
def test_other_results_stay_as_they_came(content: bytes, tmp_path: Path) -> None:
    block = credits_of(photograph(tmp_path / "photo.jpg"))
    assert block is not None
    (tmp_path / "result").write_bytes(content)
    assert picture_with_credits(tmp_path / "result", block) is None


def test_a_damaged_result_stays_as_it_came(tmp_path: Path) -> None:
    block = credits_of(photograph(tmp_path / "photo.jpg"))
    assert block is not None
    for format_name in ("PNG", "WEBP"):
        data = files.saved(picture(1), format_name)
        (tmp_path / "result").write_bytes(data[: len(data) // 2])
        assert picture_with_credits(tmp_path / "result", block) is None


def test_a_photograph_without_them_or_that_is_gone_has_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain.png"
    picture().save(plain)
    assert credits_of(plain) is None
    assert credits_of(tmp_path / "gone.jpg") is None
    (tmp_path / "text.txt").write_text("hello")
    assert credits_of(tmp_path / "text.txt") is None
    only_place = Image.Exif()
    only_place.get_ifd(GPS).update({1: "N", 2: (48.0, 52.0, 10.0)})
    only_place[DATE_TIME] = "    :  :     :  :  "
    picture().save(tmp_path / "place.jpg", exif=only_place)
    assert credits_of(tmp_path / "place.jpg") is None


def test_odd_entries_beside_them_are_passed_over(tmp_path: Path) -> None:
    text = "ñ".encode() + b"a\0"
    entries = [
        struct.pack(">HHI", 0x010F, 99, 4) + bytes(4),
        struct.pack(">HHI", 0x011A, 6, 1) + b"\xff\0\0\0",
        struct.pack(">HHI", ARTIST, 2, len(text)) + text,
        struct.pack(">HHI", COPYRIGHT, 2, 5_000_000) + struct.pack(">I", 10),
        struct.pack(">HHI", EXIF, 4, 1) + struct.pack(">I", 900_000),
    ]
    block = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    path = tmp_path / "odd.jpg"
    picture().save(path, exif=b"Exif\0\0" + block)
    credits_block = credits_of(path)
    assert credits_block is not None
    made = tmp_path / "result.png"
    picture(1).save(made)
    content = picture_with_credits(made, credits_block)
    assert content is not None
    with Image.open(io.BytesIO(content)) as image:
        assert dict(image.getexif()) == {ARTIST: "ñ".encode().decode("latin-1") + "a"}


def test_a_tiff_file_is_an_exif_block_itself(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ARTIST] = "Ana"
    picture().save(tmp_path / "a.tif", tiffinfo=tags)
    assert credits_of(tmp_path / "a.tif") is not None
