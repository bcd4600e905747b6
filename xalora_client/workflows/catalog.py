"""The catalog of workflow definitions: those shipped, and those in the user's own folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from ..config import load_settings
from ..errors import WorkflowDefinitionError
from .definition import WorkflowDefinition, load_definition, read_text
from .endpoint import NAME_PATTERN, IndexEntry, load_yaml, parse_model
from .exported import load_export

SHIPPED_FOLDER = Path(__file__).parent / "definitions"
INDEX_FILE = "index.yaml"


_folders_in_use: WeakKeyDictionary[object, Path] = WeakKeyDictionary()


def use_folder(client: object, folder: Path) -> None:
    """Have :func:`own_folders` name a client's folder while that client lives."""
    _folders_in_use[client] = folder


def own_folders() -> tuple[Path, ...]:
    """The user's folders of definitions: by the environment, a ``.env`` file, and this process's clients."""
    named = load_settings().settings.workflows_dir
    folders = ([] if named is None else [named]) + list(_folders_in_use.values())
    return tuple(dict.fromkeys(folders))


@dataclass(frozen=True)
class DefinitionProblem:
    """Why a definition could not be loaded; ``name`` is a definition's, or a folder's if all failed."""

    name: str
    reason: str
    folder: Path

    def __str__(self) -> str:
        return f"Workflow definition {self.name} in {self.folder} is left out: {self.reason}"


class WorkflowCatalog:
    """Definitions by name, and the problems of those that could not be loaded.

    A broken definition does not affect the others. Of two with the same name the later folder's wins, so that
    a user can replace a shipped one; ``notices`` says so.
    """

    def __init__(
        self,
        definitions: Iterable[WorkflowDefinition],
        problems: Iterable[DefinitionProblem] = (),
        notices: Iterable[str] = (),
    ) -> None:
        self._definitions = {definition.name: definition for definition in definitions}
        self.problems = tuple(problems)
        self.notices = tuple(notices)

    @classmethod
    def load(cls, *folders: Path | None) -> WorkflowCatalog:
        """Read the shipped definitions, then those of the folders in order; None is no folder.

        Broken folders and files raise nothing, see :attr:`problems`.
        """
        definitions: dict[str, WorkflowDefinition] = {}
        problems: list[DefinitionProblem] = []
        notices: list[str] = []
        for folder in dict.fromkeys(filter(None, (SHIPPED_FOLDER, *folders))):
            for loaded in _load_folder(folder):
                if isinstance(loaded, DefinitionProblem):
                    problems.append(loaded)
                else:
                    if loaded.name in definitions:
                        notices.append(_replaces(loaded, definitions[loaded.name]))
                    definitions[loaded.name] = loaded
        return cls(definitions.values(), problems, notices)

    def __iter__(self) -> Iterator[WorkflowDefinition]:
        return iter(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._definitions)

    def get(self, name: str) -> WorkflowDefinition:
        """The definition of that name.

        Raises:
            WorkflowDefinitionError: There is none, or it is broken; the message says which.
        """
        if name in self._definitions:
            return self._definitions[name]
        for problem in self.problems:
            if problem.name == name:
                raise WorkflowDefinitionError(
                    f"Workflow {name} can't be used: {problem.reason}", next_step="Correct its files."
                )
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise WorkflowDefinitionError(
            f"There is no workflow {name}", next_step=f"{hint}Known are: {', '.join(self.names)}."
        )

    def find(
        self, *, task_type: str | None = None, workflow_id: str | None = None
    ) -> WorkflowDefinition | None:
        """The definition that runs a task of the network, or None.

        Args:
            task_type: Used where there is no ``workflow_id``: the first definition of that type.
            workflow_id: A hosted id, or a definition's name (own miners know it by that).
        """
        if workflow_id is not None:
            named = self._definitions.get(workflow_id)
            hosted = (d for d in self if d.workflow_id == workflow_id)
            return next(hosted, named)
        return next((d for d in self if d.task_type == task_type), None)


def _load_folder(folder: Path) -> Iterator[WorkflowDefinition | DefinitionProblem]:
    pairs = sorted(path for path in folder.glob("*.json") if path.with_suffix(".yaml").exists())
    try:
        has_index = (folder / INDEX_FILE).exists() or not pairs
        index = load_yaml(read_text(folder / INDEX_FILE), INDEX_FILE) if has_index else {}
    except WorkflowDefinitionError as error:
        yield DefinitionProblem(folder.name, _reason(error), folder)
        return
    used: set[str] = set()
    for key, value in index.items():
        name = str(key)
        try:
            if not re.match(NAME_PATTERN, name):
                raise WorkflowDefinitionError(
                    "a name has up to 64 letters, digits, _ and -",
                    next_step=f"Rename it in {INDEX_FILE}.",
                )
            entry = parse_model(IndexEntry, value, f"{INDEX_FILE}, {name}")
            used.update((entry.workflow or f"{name}.json", entry.endpoint or f"{name}.yaml"))
            yield load_definition(name, entry, folder)
        except WorkflowDefinitionError as error:
            yield DefinitionProblem(name, _reason(error), folder)
        except Exception as error:  # noqa: BLE001 - somebody's file must not keep the others from loading
            yield DefinitionProblem(name, f"reading it failed with a {type(error).__name__}.", folder)
    for path in pairs:
        if path.name not in used and path.stem not in index:
            try:
                yield replace(load_export(path), sends_graph=False)
            except WorkflowDefinitionError as error:
                yield DefinitionProblem(path.stem, _reason(error), folder)
    yield from _halves(folder, used | {INDEX_FILE})


def _halves(folder: Path, used: set[str]) -> Iterator[DefinitionProblem]:
    """Files of a pair whose other one is missing."""
    for path in sorted((*folder.glob("*.json"), *folder.glob("*.yaml"))):
        other = path.with_suffix(".yaml" if path.suffix == ".json" else ".json")
        if path.name in used or other.exists():
            continue
        hint = f"`xalora workflows add {path.name}` writes it" if path.suffix == ".json" else "add it"
        yield DefinitionProblem(path.stem, f"{other.name} is missing beside {path.name}; {hint}", folder)


def _replaces(new: WorkflowDefinition, old: WorkflowDefinition) -> str:
    which = "the shipped one" if old.source == SHIPPED_FOLDER else f"the one in {old.source}"
    return f"Workflow definition {new.name} in {new.source} replaces {which} of the same name"


def _reason(error: WorkflowDefinitionError) -> str:
    return " ".join(part for part in (error.what.rstrip(".") + ".", error.next_step) if part)
