"""Where results go: named before anything is paid for, never over a file, and whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import STILL_RETRIEVABLE, ConfigurationError, XaloraError
from ..media.sniff import MediaKind, sniff_file
from .formats import short_path, slug

MARK = ".xalora"
"""Between the input's name and the suffix of what was made of it."""

_RESULT_STEM = re.compile(rf"{re.escape(MARK)}(-\d+)?$")

SUFFIXES = tuple(dict.fromkeys(kind.suffix for kind in MediaKind))


class OutputError(XaloraError):
    """A result could not be put where it belongs."""


class OutputExistsError(ConfigurationError):
    """A result would go over a file that is already there. Nothing was sent."""


@dataclass(frozen=True)
class Destination:
    """Where one task's result goes.

    ``exact``: ``path`` is the file itself, as the user named it. Else the suffix that the content asks for is
    added to it.
    """

    path: Path
    exact: bool = False

    def candidates(self) -> Iterator[Path]:
        """Every file that a single result may become."""
        if self.exact:
            yield self.path
        else:
            for suffix in SUFFIXES:
                yield self.path.with_name(self.path.name + suffix)

    def taken(self) -> list[Path]:
        """The files that are in its way."""
        return [path for path in self.candidates() if path.exists()]

    def file(self, kind: MediaKind | None, number: int, count: int) -> Path:
        """The path of the ``number``-th (from 0) of ``count`` files of this content."""
        base, suffix = self.path, kind.suffix if kind is not None else ".bin"
        if self.exact:
            base, suffix = base.with_suffix(""), base.suffix
        name = base.name if count == 1 else f"{base.name}-{number + 1}"
        return base.with_name(name + suffix)


def is_url(text: str) -> bool:
    """Whether an input is an address instead of a file."""
    return text.lower().startswith(("http://", "https://"))


def is_result(source: str) -> bool:
    """Whether an input is a file that this command has made, as its name says."""
    return not is_url(source) and _RESULT_STEM.search(Path(source).stem) is not None


def named(paths: Sequence[Path]) -> str:
    """Files in a sentence: the first few by name, the others counted."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(short_path(path) for path in paths[:3]) + more


def plan_for_inputs(inputs: Sequence[str], output: str | None) -> list[Destination]:
    """A destination for each input: beside it, or where ``output`` says.

    Args:
        inputs: Paths or URLs (whose results go into the working directory).
        output: A file for one input, a folder for several; one that exists or ends in ``/`` is a folder. The
            ``~`` that a shell has left as it is counts as the home folder.
    """
    output = _at_home(output)
    if output is not None and len(inputs) == 1 and not _names_folder(output):
        return [Destination(Path(output), exact=True)]
    taken: set[str] = set()
    destinations = []
    for source in inputs:
        name = _name_of(source)
        folder = Path(output) if output else Path() if is_url(source) else Path(source).parent
        # Some file systems take Photo and photo for the same name, so both count as taken.
        path = next(
            path
            for path in (folder / f"{name}{ordinal}{MARK}" for ordinal in _ordinals())
            if str(path).casefold() not in taken
        )
        taken.add(str(path).casefold())
        destinations.append(Destination(path))
    return destinations


def plan_for_names(names: Sequence[str], output: str | None) -> list[Destination]:
    """A destination named after each prompt or label, in the working directory or where ``output`` says.

    The first such name that is free: the same prompt is often tried again.

    Args:
        output: As for :func:`plan_for_inputs`.
    """
    output = _at_home(output)
    if output is not None and len(names) == 1 and not _names_folder(output):
        return [Destination(Path(output), exact=True)]
    destinations: list[Destination] = []
    for name in names:
        destinations.append(
            next(
                place
                for ordinal in _ordinals()
                if (place := Destination(Path(output or "") / f"{slug(name)}{ordinal}{MARK}"))
                not in destinations
                and not any(path.exists() for path in place.candidates())
            )
        )
    return destinations


def check_destinations(destinations: Iterable[Destination], *, force: bool) -> None:
    """Make the folders, and see that every result can be written; called before anything is paid for.

    Raises:
        OutputExistsError: A file is in the way, and ``force`` was not given.
        ConfigurationError: A folder can't be made or written.
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
                f"The folder {short_path(folder)} can't be made: {error.strerror or error}",
                next_step="Use -o to write elsewhere.",
            ) from None
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(
                f"The folder {short_path(folder)} can't be written to", next_step="Use -o to write elsewhere."
            )


@dataclass(frozen=True)
class Written:
    """Files written, and what the user should know about how."""

    files: tuple[Path, ...]
    remarks: tuple[str, ...] = ()


def write_result(sources: Sequence[Path], destination: Destination, *, force: bool) -> Written:
    """Copy a result to its destination. Blocking.

    A file that has come into the way since :func:`check_destinations` is not replaced without ``force``: the
    result gets another name, since it is paid for.

    Raises:
        OutputError: It can't be written; the message says where the result is kept.
    """
    files: list[Path] = []
    remarks: list[str] = []
    for number, source in enumerate(sources):
        kind = sniff_file(source)
        wanted = destination.file(kind, number, len(sources))
        if kind is None and not destination.exact:
            wanted = wanted.with_suffix(source.suffix or ".bin")
        try:
            written = _copy(source, wanted, force=force)
        except OSError as error:
            kept = ", ".join(str(path) for path in sources)
            raise OutputError(
                f"{short_path(wanted)} can't be written: {error.strerror or error}",
                money=STILL_RETRIEVABLE,
                next_step=f"The result is kept as {kept}.",
            ) from error
        files.append(written)
        if written != wanted:
            remarks.append(f"{short_path(wanted)} is taken by now, so this went to {short_path(written)}")
        if kind is not None and destination.exact and not _suits(wanted.suffix, kind):
            remarks.append(f"{short_path(written)} holds {kind.value.upper()} data, whatever its name says")
    return Written(tuple(files), tuple(remarks))


def _copy(source: Path, wanted: Path, *, force: bool) -> Path:
    """Copy to ``wanted``, or to the first free name beside it unless ``force``; gives the path used."""
    part = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}.part")
    try:
        with source.open("rb") as reader, part.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        target = wanted if force else _reserve(wanted)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _reserve(wanted: Path) -> Path:
    """Take the first free name, in one step with finding it free, so that no other program gets it too."""
    for ordinal in _ordinals():
        path = wanted.with_name(f"{wanted.stem}{ordinal}{wanted.suffix}")
        try:
            path.open("xb").close()
        except FileExistsError:
            continue
        return path
    raise AssertionError("there are endless ordinals")


def _ordinals() -> Iterator[str]:
    """Nothing, then ``-2``, ``-3`` and so on."""
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def _at_home(output: str | None) -> str | None:
    return output and os.path.expanduser(output)  # noqa: PTH111  # a Path would lose the slash at the end


def _names_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def _name_of(source: str) -> str:
    if not is_url(source):
        return Path(source).stem
    last = unquote(urlsplit(source).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", Path(last).stem).strip("._") or "image"


def _suits(suffix: str, kind: MediaKind) -> bool:
    return suffix.lower() in {kind.suffix, f".{kind.value}"}
