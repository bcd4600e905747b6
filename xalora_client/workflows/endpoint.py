"""The YAML files of definitions: a miner's endpoint file, and the index of a folder."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from ..errors import WorkflowDefinitionError
from ..tasks import number_as_text
from .parameters import NodeId, Parameter

OutputKind = Literal["image", "video"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class Endpoint(BaseModel):
    """An endpoint file: names the workflow, its parameters, and the node whose files are the result."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    description: str = ""
    tip: str = ""
    comfyui_output_node_id: NodeId
    parameters: Annotated[
        tuple[Parameter, ...], BeforeValidator(lambda value: () if value is None else value)
    ] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        by_name: dict[str, Parameter] = {}
        for parameter in self.parameters:
            if parameter.name in by_name:
                raise ValueError(f"the parameter {parameter.name} is given twice")
            by_name[parameter.name] = parameter
        for parameter in self.parameters:
            for choice, values in parameter.presets.items():
                for name, value in values.items():
                    if name not in by_name:
                        raise ValueError(f"preset {choice!r} of {parameter.name} sets the unknown {name}")
                    by_name[name].check(value)
        return self


class IndexEntry(BaseModel):
    """One line of ``index.yaml``: the network's names for a pair of files.

    ``workflow`` and ``endpoint`` are files in the same folder or in folders below it, by default
    ``<name>.json`` and ``<name>.yaml``. Without ``workflow_id`` the hosted network does not know the
    workflow: own miners and this machine can run it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_type: str = Field(pattern=r"^[\w.-]+$")
    output: OutputKind
    workflow_id: Annotated[str | None, BeforeValidator(number_as_text)] = None
    label: str = ""
    workflow: str = ""
    endpoint: str = ""

    @field_validator("workflow", "endpoint")
    @classmethod
    def _check_file_name(cls, value: str) -> str:
        path = PurePosixPath(value.replace("\\", "/"))
        if value and (
            not path.name or path.is_absolute() or ".." in path.parts or PureWindowsPath(value).drive
        ):
            raise ValueError(f"{value!r} is not a file in the same folder or in one below it")
        return path.as_posix() if value else value


_Model = TypeVar("_Model", bound=BaseModel)


def load_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; a key given twice, and an alias, is an error.

    Raises:
        WorkflowDefinitionError: Not valid YAML, or not a mapping.
    """
    try:
        # A few lines of aliases of aliases become any number of values.
        has_aliases = "*" in text and _has_aliases(text)
        document = None if has_aliases else yaml.load(text, Loader=_CoreLoader)
    except RecursionError:
        raise _broken(source, "it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _broken(source, f"it is not valid YAML: {' '.join(str(error).split())}") from None
    if has_aliases:
        raise _broken(source, "it has aliases (*name), which are not read")
    if not isinstance(document, dict):
        raise _broken(source, "it is not a mapping of keys to values")
    return document


def _has_aliases(text: str) -> bool:
    return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader))


# libyaml's parser, which PyYAML's wheels contain, is several times faster.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_BASES = {"0x": 16, "0o": 8}


class _CoreLoader(_Loader):  # type: ignore[valid-type, misc]  # chosen at import
    """Plain values as YAML 1.2's core schema types them, in which ``57:8`` and ``on`` are texts.

    YAML 1.1, which PyYAML follows, knows numbers to base 60, dates, and four more words for true and false.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = dict(yaml.SafeLoader.yaml_constructors)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, _BASES.get(text[:2], 10))

    def construct_number(self, node: yaml.ScalarNode) -> float:
        return float(self.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^{_pattern}$"), _first)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _CoreLoader.construct_integer)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _CoreLoader.construct_number)


def parse_model(model: type[_Model], value: Any, source: str) -> _Model:
    """An endpoint file's mapping, or a line of an index, as its model.

    Raises:
        WorkflowDefinitionError: A key is missing, unknown, or is invalid.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        reasons = "; ".join(_explain(problem, value) for problem in error.errors(include_url=False))
        raise _broken(source, reasons) from None


def _explain(problem: Any, document: Any) -> str:
    """``parameter width, maximum: Input should be ...``: the parameter by name instead of position."""
    place = list(problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    words = []
    if len(place) >= 2 and place[0] == "parameters" and isinstance(place[1], int):
        words.append(f"parameter {_parameter_name(document, place[1])}")
        place = place[2:]
    words.extend(str(part) for part in place if part not in ("int", "float", "constrained-int"))
    return f"{', '.join(words)}: {message}" if words else message


def _parameter_name(document: Any, index: int) -> str:
    entries = document.get("parameters") if isinstance(document, Mapping) else None
    entry = entries[index] if isinstance(entries, list | tuple) and index < len(entries) else None
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return str(name) if name else f"number {index + 1}"


def _broken(source: str, reason: str) -> WorkflowDefinitionError:
    return WorkflowDefinitionError(f"{source}: {reason}", next_step="Correct the file and load it again.")
