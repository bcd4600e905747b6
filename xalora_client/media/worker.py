"""A worker process: reads one result file at a time for its parent, and sends values and pixels back.

Requests come as JSON lines on standard input, each with an open file through a socket (POSIX) or with its
path. Replies are JSON lines; rows of pixels go through slots of a memory that parent and worker share. It
imports nothing that talks to a network, and is started with an empty environment.
"""

from __future__ import annotations

import array
import errno
import io
import json
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
import PIL

from . import animation, limits, video_decode
from .containers import BrokenMediaError, png_chunks
from .image_files import read_header
from .images import ROWS_AT_ONCE, Pixels, is_see_through, read_frames, read_pixels
from .isolation import MemoryLimit, isolate
from .limits import TooLargeError
from .media_types import MediaKind
from .sent_pixels import as_sent, in_srgb
from .workers import SLOT_BYTES, SLOTS

_LONGEST_CLAUSE = 300
# A decoder holds its output, and often a converted or turned copy, beside the file.
_COPIES = 4
_PILLOW_OUT_OF_MEMORY = "out of memory when"
# FFmpeg says EAGAIN where it can start no thread.
_OF_THIS_MACHINE = frozenset({errno.EAGAIN, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class _Stopped(Exception):
    """The parent wants no more of this reply."""


class Reply:
    """What goes back to the parent while one file is read."""

    def __init__(self, memory: MemoryLimit, file_bytes: int) -> None:
        self._memory = memory
        self._file_bytes = file_bytes
        self._free = list(range(SLOTS))
        self.declared(0, 0)

    def tell(self, **message: Any) -> None:
        _out.write(json.dumps(message).encode() + b"\n")
        _out.flush()

    def declared(self, at_once: int, in_all: int) -> None:
        """Take the memory, and ask for the time, that a file with so many bytes of pixels needs."""
        self._memory.allow(3 * self._file_bytes + _COPIES * at_once)
        if in_all:
            self.tell(work=in_all)

    def image(self, width: int, height: int, channels: int, maximum: int) -> None:
        """Begin an image; its rows follow."""
        if width * channels * 2 > SLOT_BYTES:
            raise TooLargeError(f"its rows of {width} pixels are too long")
        self.tell(image=[width, height, channels, maximum])

    def rows(self, start: int, block: npt.NDArray[Any]) -> None:
        """Send rows of the current image, ``[N, W, C]``, the first of them at ``start``."""
        self._send(start, len(block), block.shape, block.dtype, lambda first, last: block[first:last])

    def pixels(self, pixels: Pixels) -> None:
        """Send a whole image."""
        self.image(pixels.width, pixels.height, pixels.channels, pixels.maximum)
        shape = (pixels.height, pixels.width, pixels.channels)
        dtype = np.dtype(np.uint8 if pixels.maximum == 255 else np.uint16)
        self._send(0, pixels.height, shape, dtype, pixels.rows, ROWS_AT_ONCE)

    def _send(
        self,
        start: int,
        count: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        rows: Callable[[int, int], npt.NDArray[Any]],
        at_once: int | None = None,
    ) -> None:
        """Send ``count`` rows; ``at_once`` of them are asked for in one step, which fits a core's cache."""
        _, width, channels = shape
        stored = np.dtype("<u2") if dtype.itemsize == 2 else np.dtype(np.uint8)
        step = SLOT_BYTES // (width * channels * stored.itemsize)
        for first in range(0, count, step):
            last = min(first + step, count)
            slot = self._free_slot()
            place: npt.NDArray[Any] = np.ndarray(
                (last - first, width, channels), stored, _ring, slot * SLOT_BYTES
            )
            for top in range(first, last, at_once or step):
                bottom = min(top + (at_once or step), last)
                np.copyto(place[top - first : bottom - first], rows(top, bottom))
            self.tell(rows=[slot, start + first, last - first])

    def _free_slot(self) -> int:
        if not self._free:
            said = _in.readline()
            if not said.strip().isdigit():
                raise _Stopped
            self._free.append(int(said))
        return self._free.pop()

    def drain(self) -> None:
        """Take the slots back that the parent still reads."""
        while len(self._free) < SLOTS:
            said = _in.readline()
            if not said:
                raise EOFError
            if said.strip().isdigit():
                self._free.append(int(said))


# --- what a worker does with a file ---


def check(file: BinaryIO, reply: Reply, kind: str) -> None:
    media_kind = MediaKind.named(kind)
    if media_kind.is_container:
        video_decode.verify(file, media_kind)
    elif media_kind.is_animation:
        animation.check_animation(file.read())
    else:
        data = file.read()
        # Of an image too large to be decoded the header is enough: other programs may open it.
        with suppress(TooLargeError):
            if media_kind is not MediaKind.PNG:
                read_pixels(data, is_result=True)
                return
            read_header(data)
        if media_kind is MediaKind.PNG:
            for _ in png_chunks(data):
                pass


def header(file: BinaryIO, reply: Reply) -> dict[str, Any]:
    read = read_header(file.read())
    return {**vars(read), "kind": read.kind.value}


def see_through(file: BinaryIO, reply: Reply) -> bool:
    return is_see_through(file.read())


def pixels(file: BinaryIO, reply: Reply) -> None:
    reply.pixels(in_srgb(read_pixels(file.read(), is_result=True)))


def sent_pixels(file: BinaryIO, reply: Reply) -> None:
    """As they would be sent: 8 bits, sRGB."""
    reply.pixels(as_sent(read_pixels(file.read(), is_result=True)))


def frames(file: BinaryIO, reply: Reply) -> None:
    for frame in read_frames(file.read()):
        reply.pixels(in_srgb(frame))


def preview(file: BinaryIO, reply: Reply, side: int) -> None:
    """Every n-th pixel, as sRGB."""
    whole = as_sent(read_pixels(file.read(), is_result=True))
    step = max(1, max(whole.width, whole.height) // (2 * side))
    small = np.ascontiguousarray(whole.rows(0, whole.height)[::step, ::step])
    reply.image(small.shape[1], small.shape[0], small.shape[2], 255)
    reply.rows(0, small)


def durations(file: BinaryIO, reply: Reply) -> list[int]:
    return animation.animation_durations(file.read())


def has_picture(file: BinaryIO, reply: Reply, kind: str) -> bool:
    return video_decode.has_picture(file, MediaKind.named(kind))


def video(file: BinaryIO, reply: Reply, kind: str) -> dict[str, Any]:
    return video_decode.read_video(file, MediaKind.named(kind))


def video_frames(file: BinaryIO, reply: Reply, kind: str, **wanted: Any) -> int:
    return video_decode.write_frames(file, MediaKind.named(kind), reply, **wanted)


OPERATIONS: dict[str, Callable[..., Any]] = {
    step.__name__: step
    for step in (
        check,
        header,
        see_through,
        pixels,
        sent_pixels,
        frames,
        preview,
        durations,
        has_picture,
        video,
        video_frames,
    )
}


def answer(request: dict[str, Any], file: BinaryIO, reply: Reply) -> dict[str, Any]:
    """The last message of a reply. Whatever a file causes becomes a clause about it."""
    try:
        return {"value": OPERATIONS[request["do"]](file, reply, **request["with"])}
    except _Stopped:
        return {"value": None}
    except TooLargeError as error:
        return {"too_large": str(error)[:_LONGEST_CLAUSE]}
    except BrokenMediaError as error:
        return _of_this_machine(error) or {"broken": str(error)[:_LONGEST_CLAUSE]}
    except Exception as error:  # noqa: BLE001 - strangers' files make decoders raise anything
        said = {"broken": f"it can't be decoded ({type(error).__name__}: {error})"[:_LONGEST_CLAUSE]}
        return _of_this_machine(error) or said


def _of_this_machine(error: BaseException | None) -> dict[str, Any] | None:
    """The last message where the cause says nothing of the file: the machine has run out of something."""
    while error is not None:
        if isinstance(error, MemoryError) or _PILLOW_OUT_OF_MEMORY in str(error):
            return {"too_large": "decoding it needs more memory than what it declares"}
        # FFmpeg says EIO of damaged files as well.
        numbers = _OF_THIS_MACHINE - {errno.EIO} if isinstance(error, av.FFmpegError) else _OF_THIS_MACHINE
        if isinstance(error, OSError) and error.errno in numbers:
            return {"too_large": f"a fault of this machine ended its decoding ({error.strerror})"}
        error = error.__cause__ or error.__context__
    return None


# --- the process ---

_in: BinaryIO
_out: BinaryIO
_ring: mmap.mmap


def main(ring: str, files: str) -> None:
    """Serve requests until standard input ends.

    Args:
        ring: The descriptor, or the path, of the memory for pixels.
        files: The descriptor of the socket through which files come; empty where paths are given.
    """
    global _in, _out, _ring  # noqa: PLW0603
    _in, _out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("r+b") as nothing:
        for descriptor in (0, 1, 2):  # decoders may print
            os.dup2(nothing.fileno(), descriptor)
    memory_file = int(ring) if ring.isdigit() else os.open(ring, os.O_RDWR | getattr(os, "O_BINARY", 0))
    _ring = mmap.mmap(memory_file, SLOTS * SLOT_BYTES)
    incoming = socket.socket(fileno=int(files)) if files else None
    _load_lazy_parts()
    packages = (
        Path(os.__file__),
        *(Path(str(each.__file__)) for each in (np, PIL, av)),
        Path(__file__).parent,
    )
    took_effect = isolate(path.parent for path in packages)
    memory = MemoryLimit()
    _out.write(json.dumps({"isolated": took_effect}).encode() + b"\n")
    _out.flush()
    while line := _in.readline():
        if line == b"stop\n":  # for a reply that had ended by then
            continue
        request = json.loads(line)
        with (
            limits.using(limits.PixelLimits(*request["limits"])),
            _received(incoming) if incoming is not None else Path(request["path"]).open("rb") as file,
        ):
            reply = Reply(memory, os.fstat(file.fileno()).st_size)
            limits.on_declared = reply.declared
            last = answer(request, file, reply)
        reply.tell(**last)
        reply.drain()


def _received(incoming: socket.socket) -> BinaryIO:
    descriptors = array.array("i")
    _, control, _, _ = incoming.recvmsg(1, socket.CMSG_LEN(descriptors.itemsize))
    descriptors.frombytes(control[0][2][: descriptors.itemsize])
    return os.fdopen(descriptors[0], "rb")


def _load_lazy_parts() -> None:
    """Decode one small image, so that Pillow and PyAV have loaded what they need."""
    from PIL import Image, ImageCms

    ImageCms.createProfile("sRGB")
    for name in ("PNG", "JPEG", "WEBP", "GIF"):
        stored = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stored, name)
        with suppress(BrokenMediaError):
            read_pixels(stored.getvalue())
    # Threads take address space, so one is there before it is counted.
    thread = threading.Thread(target=sys.getrefcount, args=(None,))
    thread.start()
    thread.join()
