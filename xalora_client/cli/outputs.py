"""Output files: planned and checked before a task is paid for, written whole, never over an existing file."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ..errors import STILL_RETRIEVABLE, ConfigurationError, XaloraError
from ..media.credits import credits_of, picture_with_credits
from ..media.media_types import MediaKind, sniff_file
from .formats import short_path, slug

MARK = ".xalora"
"""Stands between the input's name and the suffix of its result."""

_RESULT_STEM = re.compile(rf"{re.escape(MARK)}(-\d+)?$")

SUFFIXES = tuple(dict.fromkeys(kind.suffix for kind in MediaKind))


class OutputError(XaloraError):
    """A result could not be written to its destination."""


class OutputExistsError(ConfigurationError):
    """A result would overwrite an existing file. Nothing was sent."""


@dataclass(frozen=True)
class Destination:
    """Where the result of one task goes.

    ``exact``: ``path`` is the whole file name, given by the user. Otherwise the suffix of the result's format
    is added to it.
    """

    path: Path
    exact: bool = False

    def candidates(self) -> Iterator[Path]:
        """Every path that a result of one file may get."""
        if self.exact:
            yield self.path
        else:
            for suffix in SUFFIXES:
                yield self.path.with_name(self.path.name + suffix)

    def taken(self) -> list[Path]:
        """The candidates that exist."""
        return [path for path in self.candidates() if path.exists()]

    def file(self, kind: MediaKind | None, number: int, total: int) -> Path:
        """The path of the ``number``-th (from 0) of ``total`` files, for this kind of content."""
        base, suffix = self.path, kind.suffix if kind is not None else ".bin"
        if self.exact:
            base, suffix = base.with_suffix(""), base.suffix
        name = base.name if total == 1 else f"{base.name}-{number + 1}"
        return base.with_name(name + suffix)


def is_url(text: str) -> bool:
    """Whether an input is a URL and not a path."""
    return text.lower().startswith(("http://", "https://"))


def is_result(source: str) -> bool:
    """Whether an input is named like a result of this command."""
    return not is_url(source) and _RESULT_STEM.search(Path(source).stem) is not None


def named(paths: Sequence[Path]) -> str:
    """Files for a sentence: the first three by name, the others as a number."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(short_path(path) for path in paths[:3]) + more


def plan_for_inputs(inputs: Sequence[str], output: str | None) -> list[Destination]:
    """A destination for each input: beside it, or at ``output``.

    Args:
        inputs: Paths or URLs. Results of URLs go into the working directory.
        output: A file for one input, a folder for several. A path that is a folder or ends in ``/`` is a
            folder for one input too. A leading ``~`` is the home folder.
    """
    bases = [
        Path(_name_of_url(source)) if is_url(source) else Path(source).parent / Path(source).stem
        for source in inputs
    ]
    return _plan(bases, output, lambda _: True)


def plan_for_names(names: Sequence[str], output: str | None) -> list[Destination]:
    """A destination named after each prompt or label, in the working directory or at ``output``.

    A name that is taken gets a number, since the same prompt is often tried again.

    Args:
        output: As for :func:`plan_for_inputs`.
    """
    return _plan([Path(slug(name)) for name in names], output, lambda place: not place.taken())


def _plan(
    bases: Sequence[Path], output: str | None, is_free: Callable[[Destination], bool]
) -> list[Destination]:
    output = output and os.path.expanduser(output)  # noqa: PTH111  # a Path would drop the final slash
    if output and len(bases) == 1 and not (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        return [Destination(Path(output), exact=True)]
    destinations: dict[str, Destination] = {}
    for base in bases:
        folder = Path(output) if output else base.parent
        for ordinal in _ordinals():
            place = Destination(folder / f"{base.name}{ordinal}{MARK}")
            # Some file systems do not tell Photo from photo.
            if str(place.path).casefold() not in destinations and is_free(place):
                destinations[str(place.path).casefold()] = place
                break
    return list(destinations.values())


def check_destinations(destinations: Iterable[Destination], *, force: bool) -> None:
    """Create the folders and check that every result can be written, before a task is paid for.

    Raises:
        OutputExistsError: A file exists, and ``force`` is not set.
        ConfigurationError: A folder can't be created or written to.
    """
    destinations = list(destinations)
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
    for folder in dict.fromkeys(each.path.parent for each in destinations):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {short_path(folder)} can't be created: {error.strerror or error}",
                next_step="Use -o to write elsewhere.",
            ) from None
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(
                f"The folder {short_path(folder)} can't be written to", next_step="Use -o to write elsewhere."
            )


@dataclass(frozen=True)
class Written:
    """The files of a result, and remarks for the user."""

    files: tuple[Path, ...]
    remarks: tuple[str, ...] = ()


def write_result(
    sources: Sequence[Path], destination: Destination, *, force: bool, photograph: Path | None = None
) -> Written:
    """Copy a result to its destination. Blocking.

    Args:
        photograph: The file it was made of; its date, author and copyright are put into the copy.

    If a file has appeared since :func:`check_destinations`, the result gets another name unless ``force`` is
    set, since it is paid for.

    Raises:
        OutputError: The result can't be written; the message says where it is kept.
    """
    files: list[Path] = []
    remarks: list[str] = []
    credits_block = None if photograph is None else credits_of(photograph)
    for number, source in enumerate(sources):
        kind = sniff_file(source)
        wanted = destination.file(kind, number, len(sources))
        if kind is None and not destination.exact:
            wanted = wanted.with_suffix(source.suffix or ".bin")
        try:
            with _content(source, credits_block) as reader:
                written = _copy(reader, wanted, force=force)
        except OSError as error:
            kept = ", ".join(str(path) for path in sources)
            raise OutputError(
                f"{short_path(wanted)} can't be written: {error.strerror or error}",
                money=STILL_RETRIEVABLE,
                next_step=f"The result is kept as {kept}.",
            ) from error
        files.append(written)
        if written != wanted:
            remarks.append(f"{short_path(wanted)} exists by now, so the result is in {short_path(written)}")
        if kind is not None and destination.exact and not _suits(wanted.suffix, kind):
            remarks.append(f"{short_path(written)} holds {kind.value.upper()} data, in spite of its name")
    return Written(tuple(files), tuple(remarks))


def _content(source: Path, credits_block: bytes | None) -> BinaryIO:
    content = None if credits_block is None else picture_with_credits(source, credits_block)
    return source.open("rb") if content is None else BytesIO(content)


def _copy(reader: BinaryIO, wanted: Path, *, force: bool) -> Path:
    """Copy to ``wanted``, or to a free name beside it unless ``force``; returns the path."""
    part = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        target = wanted if force else _reserve(wanted)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _reserve(wanted: Path) -> Path:
    """Create an empty file under the first free name, so that no other program takes it."""
    for ordinal in _ordinals():
        path = wanted.with_name(f"{wanted.stem}{ordinal}{wanted.suffix}")
        with suppress(FileExistsError):
            path.open("xb").close()
            return path
    raise AssertionError("the ordinals are infinite")


def _ordinals() -> Iterator[str]:
    """An empty string, then ``-2``, ``-3`` and so on."""
    return chain([""], (f"-{number}" for number in count(2)))


def _name_of_url(url: str) -> str:
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", Path(last).stem).strip("._") or "image"


def _suits(suffix: str, kind: MediaKind) -> bool:
    return suffix.lower() in {kind.suffix, f".{kind.value}"}
