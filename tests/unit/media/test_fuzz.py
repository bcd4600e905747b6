"""Random damage to files of every kind: sniffing, structure and decoding end in a result or in a typed error.

`FUZZ_SECONDS` is how long it goes on (`make fuzz`: 600). The corpus in `tests/fuzz_corpus` holds one file of
each kind, and what was found; a finding is written to `.artifacts/fuzz`, and belongs into the corpus.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path

import pytest

from xalora_client.errors import ResultFormatError
from xalora_client.media.containers import BrokenMediaError
from xalora_client.media.result_files import decode_files, open_as_video
from xalora_client.media.validation import check_complete, check_unknown_format, kind_of_result

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("FUZZ_SEED", str(time.time_ns())))
CORPUS = Path(__file__).resolve().parents[2] / "fuzz_corpus"
FINDINGS = Path(__file__).resolve().parents[3] / ".artifacts" / "fuzz"
SLOW_SECONDS = 60.0
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def read(path: Path) -> str:
    """Do with a file what is done with a result; what came of it."""
    try:
        kind = kind_of_result(path)
        if kind is None:
            check_unknown_format(path, ".bin")
            return "unknown"
        check_complete(path, kind)
        if kind.is_container:
            open_as_video(path).frames(0, 2)
        else:
            decode_files([path])
    except (BrokenMediaError, ResultFormatError) as error:
        if "has ended" in str(error):  # its worker crashed
            raise
        return type(error).__name__
    return "read"


def damaged(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """A file with some bytes, numbers or parts changed."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        place = chance.randrange(len(changed))
        if chance.random() < 0.5:  # most of what can go wrong is near the front
            place = min(place, chance.randrange(200))
        way = chance.randrange(8)
        if way == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif way == 1:
            changed[place] = chance.randrange(256)
        elif way == 2:
            order = chance.choice("<>")
            number = chance.choice(_NUMBERS)
            if chance.random() < 0.5:
                changed[place : place + 4] = struct.pack(order + "I", number)
            else:
                changed[place : place + 2] = struct.pack(order + "H", number & 0xFFFF)
        elif way == 3:
            del changed[place:]
        elif way == 4:
            del changed[place : place + chance.randrange(1, 64)]
        elif way == 5:
            part = changed[place : place + chance.randrange(1, 400)]
            changed[place:place] = part * chance.choice((1, 2, 50))
        elif way == 6:
            start = chance.randrange(len(other))
            changed[place:place] = other[start : start + chance.randrange(1, 400)]
        else:
            changed[place : place + 16] = chance.randbytes(16)
    mended = bytes(changed)
    return _with_checksums(mended) if mended.startswith(_PNG) and chance.random() < 0.8 else mended


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, so that the damage gets past them."""
    changed = bytearray(data)
    place = len(_PNG)
    while place + 12 <= len(changed):
        end = place + 12 + struct.unpack_from(">I", changed, place)[0]
        if end > len(changed):
            break
        struct.pack_into(">I", changed, end - 4, zlib.crc32(changed[place + 4 : end - 4]))
        place = end
    return bytes(changed)


@pytest.mark.parametrize("seed", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_is_read_or_refused(seed: Path) -> None:
    assert (read(seed) == "read") == seed.name.startswith("good")


@pytest.mark.timeout(SECONDS + 240)
def test_damage_ends_in_a_typed_error(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    seeds = [seed.read_bytes() for seed in sorted(CORPUS.iterdir())]
    file = tmp_path / "result"
    outcomes: Counter[str] = Counter()
    found: list[str] = []
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        data = damaged(chance, chance.choice(seeds), chance.choice(seeds))
        file.write_bytes(data)
        began = time.monotonic()
        try:
            outcomes[read(file)] += 1
            if time.monotonic() - began > SLOW_SECONDS:
                raise TimeoutError
        except Exception:  # noqa: BLE001 - this is what is looked for
            FINDINGS.mkdir(parents=True, exist_ok=True)
            kept = FINDINGS / f"{zlib.crc32(data):08x}"
            kept.write_bytes(data)
            found.append(f"{kept}\n{traceback.format_exc()}")
    sys.stdout.write(f"seed {SEED}: {dict(outcomes)}\n")
    assert not found, f"seed {SEED}, {len(found)} findings, the first: {found[0]}"
    # A mutation that breaks everything, or nothing, would find nothing.
    assert outcomes["read"] and outcomes["BrokenMediaError"]
