"""EXIF blocks: the orientation, and who took a photograph when, read entry by entry and written back.

Pillow gives up a whole block for one odd value. Here an entry that can't be read is passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PREFIX = b"Exif\0\0"
"""Stands before the block in JPEG files, and in some PNG and WebP files."""

_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
_BYTE, _ASCII, _LONG, _UTF8 = 1, 2, 4, 129
# DateTime, Artist, Copyright, XPAuthor; and DateTimeOriginal, DateTimeDigitized, their time zones and
# fractions of a second.
_CREDITS = frozenset({0x0132, 0x013B, 0x8298, 0x9C9D})
_CREDITS_OF_EXIF_IFD = frozenset({0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292})
_LONGEST_TEXT = 4096
_MOST_ENTRIES = 1000
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\b")


class _Entry(NamedTuple):
    tag: int
    type: int
    value: bytes


class _Directory(NamedTuple):
    order: str
    entries: list[_Entry]


def orientation(block: bytes | None, xmp: bytes | None = None) -> int:
    """The orientation, 1..8, of an EXIF block, else of an XMP packet; 1 where neither holds one.

    Args:
        block: A TIFF structure, as EXIF is stored, or a whole TIFF file.
        xmp: An XMP packet.
    """
    main = _main_directory(block)
    for entry in main.entries:
        if entry.tag == _ORIENTATION:
            value = _integer(main.order, entry)
            return value if value is not None and 1 <= value <= 8 else 1
    found = _XMP_ORIENTATION.search(xmp) if xmp is not None else None
    return int(found.group(1)) if found is not None else 1


def credits_block(block: bytes | None) -> bytes | None:
    """An EXIF block with the date, author and copyright of another one and nothing else; None without any."""
    main = _main_directory(block)
    kept = {entry.tag: entry for entry in main.entries if entry.tag in _CREDITS and _is_text(entry)}
    more: dict[int, _Entry] = {}
    for entry in main.entries:
        if entry.tag == _EXIF_IFD and (offset := _integer(main.order, entry)) is not None:
            assert block is not None
            for inner in _entries(block, offset, main.order):
                if inner.tag in _CREDITS_OF_EXIF_IFD and _is_text(inner):
                    more[inner.tag] = inner
    return _written(kept, more) if kept or more else None


def _is_text(entry: _Entry) -> bool:
    types = (_BYTE,) if entry.tag == 0x9C9D else (_ASCII, _UTF8)
    return entry.type in types and len(entry.value) <= _LONGEST_TEXT and bool(entry.value.strip(b"\0 :"))


def _main_directory(block: bytes | None) -> _Directory:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4])) if block is not None else None
    if block is None or order is None or len(block) < 8:
        return _Directory("<", [])
    return _Directory(order, list(_entries(block, struct.unpack_from(order + "I", block, 4)[0], order)))


def _entries(block: bytes, offset: int, order: str) -> Iterator[_Entry]:
    if offset + 2 > len(block):
        return
    (count,) = struct.unpack_from(order + "H", block, offset)
    for place in range(min(count, _MOST_ENTRIES)):
        at = offset + 2 + 12 * place
        if at + 12 > len(block):
            return
        tag, type_, number = struct.unpack_from(order + "HHI", block, at)
        size = _TYPE_SIZES.get(type_, 0) * number
        start = at + 8 if size <= 4 else struct.unpack_from(order + "I", block, at + 8)[0]
        if 0 < size <= len(block) - start:
            yield _Entry(tag, type_, bytes(block[start : start + size]))


def _integer(order: str, entry: _Entry) -> int | None:
    code = _INTEGERS.get(entry.type)
    return int(struct.unpack_from(order + code, entry.value)[0]) if code is not None else None


def _written(main: Mapping[int, _Entry], more: Mapping[int, _Entry]) -> bytes:
    """A big-endian block of texts: the main directory, and behind it the one for EXIF."""
    header = b"MM\0*" + struct.pack(">I", 8)
    if not more:
        return header + _directory(main, 8)
    link = _Entry(_EXIF_IFD, _LONG, bytes(4))
    offset = 8 + len(_directory({**main, _EXIF_IFD: link}, 8))
    link = link._replace(value=struct.pack(">I", offset))
    return header + _directory({**main, _EXIF_IFD: link}, 8) + _directory(more, offset)


def _directory(entries: Mapping[int, _Entry], offset: int) -> bytes:
    """One directory and its values, for a place at ``offset`` of the block."""
    values_at = offset + 2 + 12 * len(entries) + 4
    table, values = struct.pack(">H", len(entries)), b""
    for tag, entry in sorted(entries.items()):
        number = len(entry.value) // _TYPE_SIZES[entry.type]
        field = entry.value.ljust(4, b"\0")
        if len(entry.value) > 4:
            field = struct.pack(">I", values_at + len(values))
            values += entry.value + b"\0" * (len(entry.value) % 2)
        table += struct.pack(">HHI", tag, entry.type, number) + field
    return table + bytes(4) + values
