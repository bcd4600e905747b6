"""Input images as the user names them: files, URLs, folders, and standard input."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import typer

from ..errors import NOTHING_CHARGED, InputImageError
from ..text import counted
from .destinations import CLIPS, PICTURES, STREAM, Destination, is_result, is_url, named
from .formats import short_path
from .screen import Screen


@dataclass(frozen=True)
class Inputs:
    """The inputs of a command, each once.

    Attributes:
        sources: Paths, URLs, or ``-``.
        below: For a file of a folder that was named, the folder below that in which it lies.
        folders: Folders that were named and not looked into.
        clips: Clips in the folders, which are left out.
        unreadable: Inputs, and folders of inputs, that can't be looked at, and why; they are ``sources`` too.
    """

    sources: tuple[str, ...]
    below: Mapping[str, Path] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    unreadable: Mapping[str, InputImageError] = field(default_factory=dict)

    @property
    def is_one(self) -> bool:
        """Whether the user named a single image."""
        return len(self.sources) == 1 and not self.below and not self.folders

    def label(self, source: str) -> str:
        """An input's name in lines about it: below the folder that was named, and no other input's."""
        if source == STREAM:
            return "stdin"
        if is_url(source):
            return source.rpartition("/")[2] or source
        if source in self.below:
            return (self.below[source] / Path(source).name).as_posix()
        name = Path(source).name
        return name if self._names[name] == 1 else short_path(Path(source))

    @cached_property
    def _names(self) -> Counter[str]:
        return Counter(Path(each).name for each in self.sources)

    def skipped(self, chosen: Sequence[str]) -> list[str]:
        """What is left out where these are chosen."""
        taken = set(chosen)
        return [each for each in (*self.sources, *self.folders, *self.clips) if each not in taken]


def existing_inputs(names: Sequence[str], called: str = "FILES", *, recursive: bool = False) -> Inputs:
    """The images that the user named.

    Args:
        recursive: Take the pictures of a folder and of all folders in it, hidden ones left out.

    Raises:
        typer.BadParameter: A name is neither a file nor a URL, or none of them is an image.
    """
    below: dict[str, Path] = {}
    folders: list[str] = []
    found: list[str] = []
    clips: list[str] = []
    unreadable: dict[str, InputImageError] = {}

    def note(error: OSError) -> None:
        name = str(error.filename)
        found.append(name)
        unreadable[name] = InputImageError(
            f"{short_path(Path(name))} can't be read: {error.strerror or error}",
            money=NOTHING_CHARGED,
            next_step="Check its permissions, or leave it out.",
        )

    for name in names:
        kind = "file" if is_url(name) or name == STREAM else _kind(name, note)
        if kind in ("file", "pipe"):
            found.append(name)
        elif kind == "nothing":
            raise typer.BadParameter(f"{name} does not exist", param_hint=called)
        elif kind == "folder" and recursive:
            for path in media_in(Path(name), note):
                if path.suffix.lower() in CLIPS:
                    clips.append(str(path))
                    continue
                kind = _kind(str(path), note)
                # A pipe is for who names it, as in `xalora upscale <(...)`.
                if kind in ("file", "unreadable"):
                    below[str(path)] = path.parent.relative_to(name)
                if kind == "file":
                    found.append(str(path))
        elif kind == "folder":
            folders.append(name)
    once = {name if is_url(name) or name == STREAM else os.path.realpath(name): name for name in found[::-1]}
    sources = tuple(once.values())[::-1]
    if not sources and folders:
        is_or_are = "is a folder" if len(folders) == 1 else "are folders"
        raise typer.BadParameter(
            f"{named([Path(name) for name in folders])} {is_or_are}; -r takes the pictures in it",
            param_hint=called,
        )
    if not sources:
        raise typer.BadParameter(
            f"{named([Path(name) for name in names])} has no pictures"
            + (f"; name the clips in it, such as {short_path(Path(clips[0]))}" if clips else ""),
            param_hint=called,
        )
    left_out = tuple(clip for clip in dict.fromkeys(clips) if clip not in sources and not is_result(clip))
    return Inputs(sources, below, tuple(folders), left_out, unreadable)


def _kind(
    name: str, note: Callable[[OSError], None]
) -> Literal["file", "pipe", "folder", "nothing", "unreadable"]:
    """What a path leads to, a device or socket being a pipe; ``note`` is told why it can't be looked at."""
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116  # Path.stat would drop a final slash
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.lexists(name):
            return "nothing"
        note(error)
    except OSError as error:
        note(error)
    else:
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "pipe"
    return "unreadable"


def media_in(folder: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """The pictures and clips in a folder and in all below it, by their suffixes; hidden ones are left out.

    Args:
        note: Is told of each folder that can't be looked into.
    """
    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES | CLIPS:
                yield Path(place) / name


def without_done(
    screen: Screen, inputs: Inputs, planned: Mapping[str, Destination], *, force: bool
) -> list[str]:
    """The inputs to work on, with a note on those skipped: a second ``*.png`` matches results too."""
    if inputs.folders:
        screen.note(
            f"Skipped {counted(len(inputs.folders), 'folder')}: "
            f"{named([Path(name) for name in inputs.folders])}. -r takes the pictures in it."
        )
    if inputs.clips:
        clips = [Path(name) for name in inputs.clips]
        screen.note(
            f"Skipped {counted(len(clips), 'clip')}: {named(clips)}. -r takes pictures; xalora upscale takes "
            "clips by their names."
        )
    if inputs.is_one:
        return list(inputs.sources)
    fresh = [source for source in inputs.sources if not is_result(source)]
    if not fresh:
        # The user named results only, so these are the inputs.
        fresh = list(inputs.sources)
    # In a folder they are what the command before has left there.
    results = [Path(each) for each in inputs.sources if each not in fresh and each not in inputs.below]
    if results:
        screen.note(
            f"Skipped results of this command: {named(results)}. To upscale such a file, name it alone."
        )
    if force:
        return fresh
    existing = [[] if source in inputs.unreadable else planned[source].taken() for source in fresh]
    if any(existing):
        screen.note(
            f"Skipped: {counted(sum(map(bool, existing)), 'image')} whose result exists already "
            f"({named([path for paths in existing for path in paths])}). For other options too "
            "--force replaces these files, another -o writes elsewhere."
        )
    return [source for source, paths in zip(fresh, existing, strict=True) if not paths]
