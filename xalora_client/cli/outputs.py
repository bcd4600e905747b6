"""Output files: checked before a task is paid for, written whole, never over an existing file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from filecmp import cmp
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ..errors import STILL_RETRIEVABLE, ConfigurationError, ResultFormatError, XaloraError
from ..files import draft_of, settle_if_free
from ..media.credits import credits_of, picture_with_credits
from ..media.media_types import MediaKind, sniff_file
from ..media.picture_formats import PictureEncoding, PictureFormat
from .destinations import Destination, fitting, named, ordinals
from .formats import short_path


class OutputError(XaloraError):
    """A result could not be written to its destination."""


class OutputExistsError(ConfigurationError):
    """A result would overwrite an existing file. Nothing was sent."""


def check_destinations(destinations: Iterable[Destination], *, force: bool) -> None:
    """Check that every result can be written, and create the folders, before a task is paid for.

    Raises:
        OutputExistsError: A file exists, and ``force`` is not set.
        ConfigurationError: A folder can't be created or written to, or a format can't be written here.
    """
    destinations = list(destinations)
    check_free(destinations, force=force)
    for each in {each.path.parent: each for each in destinations if not each.is_stream}.values():
        folder = each.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {short_path(folder)} can't be created: {error.strerror or error}",
                next_step="Use -o to write elsewhere.",
            ) from None
        try:
            # What a folder's permissions say is not the whole truth: a disk may be full, or read-only.
            with draft_of(each.path) as draft:
                draft.write_bytes(b"\0")
            if each.exact:
                with suppress(FileNotFoundError):
                    each.path.lstat()
        except OSError as error:
            raise ConfigurationError(
                f"{'' if each.exact else 'The folder '}{short_path(each.path if each.exact else folder)} "
                f"can't be written to: {error.strerror or error}",
                next_step="Use -o to write elsewhere.",
            ) from None


def check_free(destinations: Sequence[Destination], *, force: bool) -> None:
    """Check that no result would replace a file, and that each format can be written; nothing is made.

    Raises:
        OutputExistsError: A file exists, and ``force`` is not set.
        ConfigurationError: A folder has the name of a file, or a format can't be written here.
    """
    for encoding in {each.encoding for each in destinations if each.encoding is not None}:
        encoding.check()
    blocked = [path for each in destinations for path in each.taken()]
    folders = [path for path in blocked if path.is_dir()]
    if folders:
        raise ConfigurationError(
            f"{short_path(folders[0])} is a folder", next_step="Name a file, or move the folder away."
        )
    if blocked and not force:
        raise OutputExistsError(
            f"{named(blocked)} would be overwritten",
            next_step="Use --force to replace, or -o to write elsewhere.",
        )


@dataclass(frozen=True)
class Written:
    """The files of a result, and remarks for the user."""

    files: tuple[Path, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """A file of a result as it is written: its bytes, or the file that holds them."""

    source: Path
    kind: MediaKind | None
    suffix: str
    data: bytes | None = None
    remark: str = ""

    def reader(self) -> BinaryIO:
        return self.source.open("rb") if self.data is None else BytesIO(self.data)


def write_result(
    sources: Sequence[Path],
    destination: Destination,
    *,
    force: bool,
    photograph: Path | bytes | None = None,
    write_stream: Callable[[BinaryIO], None] | None = None,
) -> Written:
    """Write a result to its destination, in the format that this asks for. Blocking.

    Args:
        photograph: What it was made of; its date, author and copyright are put into the copy.
        write_stream: Writes to standard output.

    A result that can't be had in that format is written as it came, with a remark. If a file has appeared
    since :func:`check_destinations`, the result gets another name unless ``force`` is set, since it is paid
    for.

    Raises:
        OutputError: The result can't be written; the message says where it is kept.
    """
    files: list[Path] = []
    remarks: list[str] = []
    credits_block = None if photograph is None else credits_of(photograph)
    if destination.is_stream and len(sources) > 1:
        kept = ", ".join(str(path) for path in sources[1:])
        remarks.append(f"the result has {len(sources)} files, and standard output takes one; kept as {kept}")
        sources = sources[:1]
    for number, source in enumerate(sources):
        content = _content(source, destination, credits_block)
        wanted = destination.file(content.suffix, number, len(sources))
        try:
            with content.reader() as reader:
                if destination.is_stream:
                    assert write_stream is not None
                    write_stream(reader)
                    written = wanted
                else:
                    written = _copy(reader, wanted, force=force)
        except OSError as error:
            kept = ", ".join(str(path) for path in sources)
            where = "standard output" if destination.is_stream else short_path(wanted)
            raise OutputError(
                f"{where} can't be written: {error.strerror or error}",
                money=STILL_RETRIEVABLE,
                next_step=f"The result is kept as {kept}.",
            ) from error
        files.append(written)
        if content.remark:
            remarks.append(content.remark)
        remarks += remarks_on_name(wanted, written)
        if (
            destination.exact
            and not destination.is_stream
            and not _suits(wanted.suffix, content, destination)
        ):
            remarks.append(_misnamed(written, content))
    return Written(tuple(files), tuple(remarks))


def _content(source: Path, destination: Destination, credits_block: bytes | None) -> _Content:
    """A file of a result in the format that its destination asks for, else as it came, with a remark."""
    from ..media.reencoding import reencoded
    from ..media.result_files import open_as_video

    kind = sniff_file(source)
    suffix = kind.suffix if kind is not None else source.suffix or ".bin"
    plain = _Content(source, kind, suffix)
    encoding = destination.encoding
    if destination.is_stream and encoding is None:
        encoding = PictureEncoding(PictureFormat.PNG)
    try:
        if destination.is_video and kind is not None and kind.is_animation:
            return _Content(open_as_video(source).path, MediaKind.MP4, MediaKind.MP4.suffix)
        if encoding is not None and encoding.changes(kind):
            picture = reencoded(source, encoding, credits_block)
            remark = "its transparency is white now: JPG has none" if picture.lost_alpha else ""
            return replace(plain, suffix=encoding.format.suffix, data=picture.data, remark=remark)
        if encoding is not None and not destination.exact and suffix != encoding.format.suffix:
            what = kind.value.upper() if kind is not None else suffix.removeprefix(".").upper()
            plain = replace(plain, remark=f"the result is {what}, which stays as it came")
    except (ResultFormatError, OSError, MemoryError, ValueError) as error:
        what = error.what if isinstance(error, ResultFormatError) else str(error)
        plain = replace(plain, remark=f"the result stays in the format in which it came: {what}")
    data = None if credits_block is None else picture_with_credits(source, credits_block)
    return replace(plain, data=data)


def _misnamed(written: Path, content: _Content) -> str:
    held = content.kind.value.upper() if content.kind is not None else "other"
    if not written.suffix:
        return f"{short_path(written)} is a file and holds {held} data; for a folder write {written.name}/"
    return f"{short_path(written)} holds {held} data, in spite of its name"


def _suits(suffix: str, content: _Content, destination: Destination) -> bool:
    """Whether a file's name tells what it holds."""
    if suffix == "" and destination.encoding is not None:
        return True
    is_format = PictureFormat.of_suffix(suffix)
    if is_format is not None:
        return is_format is PictureFormat.of_suffix(content.suffix)
    return suffix.lower() == content.suffix


def _copy(reader: BinaryIO, wanted: Path, *, force: bool) -> Path:
    """Copy to ``wanted``, or to a free name beside it unless ``force``; returns the path."""
    with draft_of(wanted) as draft:
        with draft.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        return put(draft, wanted, force=force)


def put(draft: Path, wanted: Path, *, force: bool) -> Path:
    """Rename a whole draft to ``wanted``, or to a free name beside it unless ``force``; returns the path."""
    written = draft.replace(wanted) if force else _to_free_name(draft, wanted)
    if written != wanted and cmp(written, wanted, shallow=False):
        # Another command has just written the same result.
        written.unlink()
        return wanted
    return written


def remarks_on_name(wanted: Path, written: Path) -> list[str]:
    """What the user is told where a result has another name than was planned."""
    if written == wanted:
        return []
    return [f"{short_path(wanted)} exists by now, so the result is in {short_path(written)}"]


def _to_free_name(draft: Path, wanted: Path) -> Path:
    """Give a whole draft the first free name; returns the path."""
    for ordinal in ordinals():
        path = wanted.with_name(fitting(wanted.stem, f"{ordinal}{wanted.suffix}"))
        with suppress(FileExistsError):
            settle_if_free(draft, path)
            return path
    raise AssertionError("the ordinals are infinite")
