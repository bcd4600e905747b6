"""Where results go: file names planned from inputs, prompts and ``-o``. No I/O but looking what exists."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError
from ..media.media_types import CLIP_CONTAINERS, MediaKind
from ..media.picture_formats import PictureEncoding, PictureFormat
from .formats import short_path, slug

MARK = ".xalora"
"""Stands between the input's name and the suffix of its result."""

LOCAL_MARK = ".local"
"""Stands there where this machine made the result because the network could not."""

STREAM = "-"
"""Standard input as an input, standard output as ``-o``."""

PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff", ".jp2", ".qoi"}
)
"""Suffixes of the files that are taken from a folder. A file that is named is taken whatever its suffix."""

CLIPS = frozenset({*CLIP_CONTAINERS, ".webm"})
"""Suffixes of clips."""

NAME_BYTES = 255
"""The longest name of a file on common file systems."""

_BASE_BYTES = 225
"""The longest name of an input in that of its result; leaves room for mark, numbers and suffix."""

_RESULT_STEM = re.compile(rf"({re.escape(MARK)}|{re.escape(LOCAL_MARK)})(-\d+)?$")

SUFFIXES = tuple(dict.fromkeys([*(kind.suffix for kind in MediaKind), PictureFormat.AVIF.suffix]))

PICTURE_SUFFIXES = (*(each.suffix for each in PictureFormat), ".jpeg", ".tiff")
"""What the name of a picture's file may end in."""

VIDEO_SUFFIXES = (MediaKind.MP4.suffix, MediaKind.WEBP.suffix)
"""The same of a video from a prompt or a workflow."""

ANY_SUFFIX = (*PICTURE_SUFFIXES, MediaKind.MP4.suffix)
"""The same of a result that may be either."""


class OutputNameError(ConfigurationError):
    """The options for the output contradict each other or the number of results. Nothing was sent."""


@dataclass(frozen=True)
class Output:
    """The user's options for where results go, and in which format.

    Args:
        path: The text of ``-o``. An existing folder or a text that ends in ``/`` is a folder, ``-`` is
            standard output, anything else a file. A leading ``~`` is the home folder.
        format: The format of ``--format``; default: that of the suffix of ``path``, else as results come.
        quality: Of ``--quality``, 1 to 100.
        suffixes: What a file's name may end in; it may have no suffix too.
    """

    path: str | None = None
    format: PictureFormat | None = None
    quality: int | None = None
    suffixes: Sequence[str] = ANY_SUFFIX

    @property
    def is_stream(self) -> bool:
        """Whether it is standard output."""
        return self.path == STREAM

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        expanded = self._expanded
        return bool(expanded) and (expanded.endswith(("/", os.sep)) or Path(expanded).is_dir())

    @property
    def is_file(self) -> bool:
        """Whether it names one file, or standard output."""
        return bool(self.path) and not self.is_folder

    @property
    def _expanded(self) -> str:
        # A Path would drop the final slash.
        return os.path.expanduser(self.path or "")  # noqa: PTH111

    @property
    def folder(self) -> Path | None:
        """The folder, None where results go beside their inputs."""
        return Path(self._expanded) if self.is_folder else None

    def encoding(self) -> PictureEncoding | None:
        """How pictures are written; None: as they come.

        Raises:
            OutputNameError: The options contradict each other.
        """
        suffix = Path(self.path or "").suffix.lower() if self.is_file and not self.is_stream else ""
        if suffix and suffix not in self.suffixes:
            *others, last = self.suffixes
            raise OutputNameError(
                f"-o {self.path} names a format that is not written here",
                next_step=f"Take {', '.join(others)} or {last}.",
            )
        named = PictureFormat.of_suffix(suffix)
        if named is not None and self.format not in (None, named):
            raise OutputNameError(
                f"-o {self.path} and --format {self.format.value if self.format else ''} name two formats",
                next_step="Leave one of them out.",
            )
        chosen = self.format or named
        if self.quality is not None and (chosen is None or not chosen.is_lossy):
            raise OutputNameError(
                "--quality is that of JPG, WebP or AVIF",
                next_step="Add --format jpg, webp or avif, or give -o such a suffix.",
            )
        return None if chosen is None else PictureEncoding(chosen, self.quality)

    def file(self, encoding: PictureEncoding | None) -> Destination:
        """The one file, or standard output, that this names."""
        if self.is_stream:
            return Destination(Path(STREAM), exact=True, encoding=encoding, is_stream=True)
        return Destination(Path(self._expanded), exact=True, encoding=encoding)

    def check_takes_several(self) -> None:
        """Check that several results can go there.

        Raises:
            OutputNameError: They can't.
        """
        if self.is_stream:
            raise OutputNameError(
                "-o - takes one result, and there may be several", next_step="Name a folder: -o results/"
            )
        if self.is_file:
            raise OutputNameError(
                f"-o {self.path} names a file, and there may be several results",
                next_step=f"For a folder write a slash behind it: -o {self.path}/",
            )


@dataclass(frozen=True)
class Destination:
    """Where the result of one task goes.

    ``exact``: ``path`` is the whole file name, given by the user. Otherwise the suffix of the result's format
    is added to it. ``encoding``: how its pictures are written, None as they come. ``is_stream``: it goes to
    standard output, and ``path`` means nothing.
    """

    path: Path
    exact: bool = False
    encoding: PictureEncoding | None = None
    is_stream: bool = False

    @property
    def is_video(self) -> bool:
        """Whether an animation is to become an MP4: on standard output, or in a file of that name."""
        if self.is_stream:
            return self.encoding is None
        return self.exact and self.path.suffix.lower() == MediaKind.MP4.suffix

    def candidates(self) -> Iterator[Path]:
        """Every path that a result of one file may get."""
        if self.is_stream:
            return
        if self.exact:
            yield self.path
            return
        suffixes = SUFFIXES if self.encoding is None else (self.encoding.format.suffix,)
        for suffix in suffixes:
            yield self.path.with_name(self.path.name + suffix)

    def taken(self) -> list[Path]:
        """The candidates that exist."""
        return [path for path in self.candidates() if os.path.lexists(path)]

    def made_here(self) -> Destination:
        """The destination of a result that this machine made because the network could not."""
        if self.is_stream:
            return self
        if self.exact:
            name = fitting(self.path.stem, f"{LOCAL_MARK}{self.path.suffix}")
            return replace(self, path=self.path.with_name(name))
        name = self.path.name
        base, _, ordinal = name.rpartition(MARK) if MARK in name else (name, "", "")
        return replace(self, path=self.path.with_name(f"{base}{LOCAL_MARK}{ordinal}"))

    def file(self, suffix: str, number: int, total: int) -> Path:
        """The path of the ``number``-th (from 0) of ``total`` files, whose format has this suffix."""
        base = self.path
        if self.exact:
            base, suffix = base.with_suffix(""), base.suffix
        return base.with_name(fitting(base.name, suffix if total == 1 else f"-{number + 1}{suffix}"))


def fitting(stem: str, tail: str, limit: int = NAME_BYTES) -> str:
    """A name of at most ``limit`` bytes: ``stem`` and ``tail``; a long ``stem`` is cut and stays distinct."""
    if len(os.fsencode(stem + tail)) <= limit:
        return stem + tail
    tail = f"~{hashlib.blake2b(os.fsencode(stem), digest_size=4).hexdigest()}{tail}"
    while stem and len(os.fsencode(stem + tail)) > limit:
        stem = stem[:-1]
    return stem + tail


def is_url(text: str) -> bool:
    """Whether an input is a URL and not a path."""
    return text.lower().startswith(("http://", "https://"))


def is_result(source: str) -> bool:
    """Whether an input is named like a result of this command."""
    return not is_url(source) and _RESULT_STEM.search(Path(source).stem) is not None


def named(paths: Sequence[PurePath]) -> str:
    """Files for a sentence: the first three by name, the others as a number."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(short_path(Path(path)) for path in paths[:3]) + more


def plan_for_inputs(
    inputs: Sequence[str],
    output: Output,
    *,
    below: Mapping[str, Path] | None = None,
    workflow: str | None = None,
) -> list[Destination]:
    """A destination for each input: beside it, or at ``output``.

    Args:
        inputs: Paths or URLs, or ``-``. Results of URLs go into the working directory, and that of ``-`` to
            standard output.
        below: For inputs of a folder, the folder below it in which they lie; kept below ``output``.
        workflow: The name of the workflow that makes the results, for their names.

    Raises:
        OutputNameError: The options contradict each other or the number of inputs.
    """
    if len(inputs) > 1 or below:
        output.check_takes_several()
    encoding = output.encoding()
    if output.is_file and inputs:
        return [output.file(encoding)]
    names = InputNames()
    bases = [_base(source, output.folder, (below or {}).get(source), names) for source in inputs]
    if workflow is not None:
        bases = [of_workflow(base, workflow) for base in bases]
    streams = {source: Output(STREAM).file(encoding) for source in inputs if source == STREAM}
    planned = _plan(bases, encoding, lambda _: True)
    if not output.folder:
        planned = [streams.get(source, place) for source, place in zip(inputs, planned, strict=True)]
    return planned


def plan_for_names(names: Sequence[str], output: Output) -> list[Destination]:
    """A destination named after each prompt or label, see :func:`plan_for_results`."""
    return plan_for_results([Path(slug(name)) for name in names], output)


def plan_for_results(bases: Sequence[Path], output: Output) -> list[Destination]:
    """A destination for each base, a path without mark and suffix, or under its name at ``output``.

    A name that is taken gets a number: the same prompt is often tried again, and a result that is taken up
    is paid for.

    Raises:
        OutputNameError: As for :func:`plan_for_inputs`.
    """
    if len(bases) > 1:
        output.check_takes_several()
    encoding = output.encoding()
    if output.is_file and bases:
        return [output.file(encoding)]
    places = [base if output.folder is None else output.folder / base.name for base in bases]
    return _plan(places, encoding, lambda place: not place.taken())


def of_workflow(base: Path, workflow: str) -> Path:
    """The path of a workflow's result, without mark and suffix: ``photo.sharpen`` of ``photo``."""
    return base.with_name(f"{base.name}.{workflow}")


class InputNames:
    """Names inputs for their results; looks once into each folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, Counter[str]] = {}

    def of(self, path: Path) -> str:
        """The input's name without its suffix, or with it where another picture or clip beside it has that.

        So each name belongs to one input, whichever of them a command is given.
        """
        if path.parent not in self._folders:
            self._folders[path.parent] = _names_in(path.parent)
        names = self._folders[path.parent]
        own = path.suffix.lower() in PICTURES | CLIPS and names[path.name.casefold()] > 0
        return path.name if names[path.stem.casefold()] > own else path.stem


def _names_in(folder: Path) -> Counter[str]:
    """How many pictures and clips of a folder have a name, with and without suffix."""
    try:
        names = [Path(name) for name in os.listdir(folder)]  # noqa: PTH208  # names alone
    except OSError:
        return Counter()
    media = [name for name in names if name.suffix.lower() in PICTURES | CLIPS]
    return Counter(text.casefold() for name in media for text in (name.name, name.stem))


def _base(source: str, folder: Path | None, below: Path | None, names: InputNames) -> Path:
    """The path of a result without mark and suffix."""
    if source == STREAM:
        return (folder or Path()) / "stdin"
    if is_url(source):
        return (folder or Path()) / _name_of_url(source)
    path = Path(source)
    return (path.parent if folder is None else folder / (below or Path())) / (names.of(path) or "image")


def _plan(
    bases: Sequence[Path], encoding: PictureEncoding | None, is_free: Callable[[Destination], bool]
) -> list[Destination]:
    destinations: dict[str, Destination] = {}
    for base in bases:
        name = fitting(base.name, "", _BASE_BYTES)
        for ordinal in ordinals():
            # The number follows the mark, since photo-2.png may be another input.
            place = Destination(base.with_name(f"{name}{MARK}{ordinal}"), encoding=encoding)
            # Some file systems do not tell Photo from photo.
            if str(place.path).casefold() not in destinations and is_free(place):
                destinations[str(place.path).casefold()] = place
                break
    return list(destinations.values())


def ordinals() -> Iterator[str]:
    """An empty string, then ``-2``, ``-3`` and so on."""
    return chain([""], (f"-{number}" for number in count(2)))


def _name_of_url(url: str) -> str:
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", Path(last).stem).strip("._") or "image"
