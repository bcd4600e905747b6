"""A parameter of a workflow definition, as in the endpoint YAML, and the check of its values."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from ..errors import InvalidTaskError
from ..tasks import BASE_OPTIONS, MAX_SEED, is_sendable, number_as_text

AUTO = "auto"
"""Value of a parameter with ``installed: true`` that leaves the choice to the machine that runs the graph."""


class ParameterType(str, Enum):
    """The types of parameters, by their names in the endpoint YAML."""

    STRING = "string"
    INT = "int"
    NUMBER = "number"
    BOOL = "bool"
    IMAGE = "image"


_TRUE_OR_FALSE = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

# Other names for these types in existing endpoint files.
_TYPE_ALIASES = {
    "str": "string",
    "text": "string",
    "integer": "int",
    "float": "number",
    "double": "number",
    "boolean": "bool",
}

_PYTHON_NAMES = {
    ParameterType.STRING: "a text",
    ParameterType.INT: "a whole number",
    ParameterType.NUMBER: "a number",
    ParameterType.BOOL: "true or false",
    ParameterType.IMAGE: "an image: a path, a URL, bytes, a PIL image or an array",
}


def _as_type_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.strip().lower()  # ComfyUI's own are in capitals
    return _TYPE_ALIASES.get(name, name)


NodeId = Annotated[str, BeforeValidator(number_as_text), Field(min_length=1)]
"""Key of a node in an API-format prompt; endpoint files write it as a number or a text."""

Number = StrictInt | StrictFloat
Choice = StrictBool | StrictInt | StrictFloat | StrictStr


class ComfyTarget(BaseModel):
    """The node input that a parameter is written into."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    node_id: NodeId
    field: Literal["inputs"] = "inputs"
    subfield: str = Field(min_length=1)


_TAKEN_NAMES = frozenset({"cls", "self", "definition", *BASE_OPTIONS})


class Parameter(BaseModel):
    """A parameter in an endpoint YAML.

    Public miners read the keys ``name`` to ``comfyui``, and ignore the four after them, which are this
    package's own:

    - ``scope``: ``network`` parameters are sent and have no node input, ``local`` ones are never sent, and
      ``fixed`` ones are built into the network's workflow at their default, so that another value is for
      this machine only;
    - ``presets``: a choice that sets other parameters (an aspect ratio that stands for a width and height);
    - ``installed``: the choice is one of the files on the machine that runs it, or "auto";
    - ``multiline``: the text gets a large box.

    Without ``comfyui`` a parameter has no node input: it is sent, and changes nothing on this machine.

    A file is checked when it is loaded; values are checked by :meth:`check`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_enum_values=False)

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    label: str = ""
    description: str = ""
    tip: str = ""
    type: Annotated[ParameterType, BeforeValidator(_as_type_name)]
    required: bool = False
    default: Any = None
    minimum: Number | None = None
    maximum: Number | None = None
    step: Annotated[Number, Field(gt=0)] | None = None
    options: tuple[Choice, ...] | None = None
    comfyui: ComfyTarget | None = None

    scope: Literal["both", "network", "local", "fixed"] = "both"
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    installed: bool = False
    multiline: bool = False

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        # ComfyUI and the client call functions with the parameters by name, beside arguments of these names.
        if value in _TAKEN_NAMES or value.startswith("__"):
            raise ValueError(f"the name {value} is taken")
        return value

    @field_validator("default", mode="before")
    @classmethod
    def _read_words(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML 1.1's words for true and false, which many files still have.
        is_bool = info.data.get("type") is ParameterType.BOOL
        return _TRUE_OR_FALSE.get(value.lower(), value) if is_bool and isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        options = self.options or ()
        unknown = [choice for choice in self.presets if choice not in options]
        is_number = self.type in (ParameterType.INT, ParameterType.NUMBER)
        problems = {
            f"minimum and maximum do not apply to the type {self.type.value}": bool(bounds) and not is_number,
            f"minimum {self.minimum} is above maximum {self.maximum}": bounds != sorted(bounds),
            f"minimum {self.minimum} is above {MAX_SEED}, the largest value that can be sent": (
                self.minimum is not None and self.minimum > MAX_SEED
            ),
            "options is an empty list": self.options == (),
            "options do not apply to the type image": bool(options) and self.is_image,
            "installed applies to the type string only": self.installed
            and self.type is not ParameterType.STRING,
            "scope fixed needs a default": self.scope == "fixed" and self.default is None,
            f"presets name {unknown[0] if unknown else None!r}, which is not among the options": bool(
                unknown
            ),
            "an image parameter has no default": self.is_image and self.default is not None,
        }
        for problem, applies in problems.items():
            if applies:
                raise ValueError(problem)
        for option in options:
            self._must_be_of_type("options", option)
        if self.default is not None:
            self._check_default()
        return self

    def _check_default(self) -> None:
        self._must_be_of_type("default", self.default)
        typed = self._typed(self.default)
        if self.options is not None:
            if typed not in self._choices() and not self._is_auto(typed):
                raise ValueError(f"default {self.default!r} is not among the options")
        elif not _is_between(self.minimum, typed, self.maximum):
            bounds = f"outside {self.minimum} to {self.maximum}"
            if self.maximum is None:
                bounds = f"below {self.minimum}"
            elif self.minimum is None:
                bounds = f"above {self.maximum}"
            raise ValueError(f"default {self.default!r} is {bounds}")
        if self.type is ParameterType.INT:
            # YAML reads 1e2 and 64.0 as fractions, which a node's integer input need not take.
            object.__setattr__(self, "default", typed)

    def _must_be_of_type(self, key: str, value: Any) -> None:
        if self._typed(value) is None:
            hint = " (put it in quotes)" if self.type is ParameterType.STRING else ""
            raise ValueError(f"{key} {value!r} is not {_PYTHON_NAMES[self.type]}{hint}")

    @property
    def title(self) -> str:
        """The label, or the name where the file gives none."""
        return self.label or self.name

    @property
    def is_image(self) -> bool:
        return self.type is ParameterType.IMAGE

    @property
    def is_seed(self) -> bool:
        """Whether it feeds a random generator: a whole number whose name, or node input, ends in "seed"."""
        target = self.comfyui.subfield if self.comfyui else ""
        return self.type is ParameterType.INT and (self.name.endswith("seed") or target.endswith("seed"))

    @property
    def user_maximum(self) -> int | float | None:
        """The largest value a user may give.

        A whole number is capped at 2^53 - 1: beyond it JSON no longer carries every integer exactly into
        JavaScript, which the network's SDK is written in, so another value than the given one could arrive.
        """
        if self.type is ParameterType.INT:
            return MAX_SEED if self.maximum is None else min(self.maximum, MAX_SEED)
        return self.maximum

    @property
    def user_minimum(self) -> int | float | None:
        """The smallest value a user may give; whole numbers without one start at -(2^53 - 1), seeds at 0."""
        if self.minimum is None and self.type is ParameterType.INT:
            return 0 if self.is_seed else -MAX_SEED
        return self.minimum

    @property
    def allowed(self) -> str:
        """The allowed values: "a whole number from 512 to 2048 in steps of 64"."""
        if self.options is not None:
            return "one of " + ", ".join(repr(option) for option in self.options)
        words = _PYTHON_NAMES[self.type]
        low = self.minimum
        high = self.maximum if self.maximum is None else self.user_maximum
        if low is not None and high is not None:
            words += f" from {low} to {high}" if low != high else f": {low}, nothing else"
        elif low is not None:
            words += f" of at least {low}"
        elif high is not None:
            words += f" of at most {high}"
        if self._has_grid and low != high:
            words += f" in steps of {self.step}"
        if self.type is ParameterType.STRING and self.required:
            words += " that is not empty"
        if self.installed:
            words += f' (the name of an installed file, or "{AUTO}")'
        return words

    def check(self, value: Any) -> Any:
        """The value in the parameter's own type.

        Whole numbers must lie on the grid ``minimum + n * step``: a latent can't have another size, so the
        graph would silently make a different picture from the one that is paid for. The default is accepted
        as it is, since real endpoint files have defaults off their grid. For ``number`` the step is only a
        hint for a widget.

        An image is returned unchanged; the media package checks it.

        Raises:
            InvalidTaskError: Wrong type, out of range, off the grid, not among the choices, or an empty text
                where one is required.
        """
        typed = self._typed(value)
        if typed is None and isinstance(value, str) and not is_sendable(value):
            raise InvalidTaskError(
                f"Parameter {self.name} holds half of a character (a lone surrogate), which can't be sent",
                next_step="Correct the text and try again.",
            )
        if typed is None or not self._allows(typed):
            raise self._refusal(value)
        is_on_grid = not self._has_grid or (typed - (self.minimum or 0)) % self.step == 0
        if not is_on_grid and self.options is None and typed != self.default:
            raise self._refusal(value, self._nearest(typed))
        return typed

    def _allows(self, typed: Any) -> bool:
        """Whether a value of the right type is among the options, or in the range."""
        if self.is_image or self._is_auto(typed):
            return True
        if self.options is not None:
            return typed in self._choices()
        if self.type is ParameterType.BOOL or typed == self.default:
            return True
        if self.type is ParameterType.STRING:
            return not self.required or bool(typed.strip())
        return _is_between(self.user_minimum, typed, self.user_maximum)

    def parse(self, text: str) -> Any:
        """The value of a text from a command line, checked as by :meth:`check`.

        Raises:
            InvalidTaskError: The text is no value of this parameter.
        """
        value: Any = text
        if self.type is ParameterType.BOOL:
            value = _TRUE_OR_FALSE.get(text.strip().lower(), text)
        elif self.type in (ParameterType.INT, ParameterType.NUMBER):
            try:
                value = int(text) if self.type is ParameterType.INT else float(text)
            except ValueError:
                raise self._refusal(text) from None
        return self.check(value)

    @property
    def _has_grid(self) -> bool:
        return self.type is ParameterType.INT and isinstance(self.step, int) and self.step > 1

    def _is_auto(self, value: Any) -> bool:
        return self.installed and value == AUTO

    def _choices(self) -> list[Any]:
        return [self._typed(option) for option in self.options or ()]

    def _typed(self, value: Any) -> Any:
        """The value in this parameter's type, or None where it is of another."""
        return _CONVERTERS[self.type](value)

    def _nearest(self, value: int) -> str:
        start, step = self.minimum or 0, self.step
        assert step is not None
        below = int(start + (value - start) // step * step)
        high = self.user_maximum
        near = [below, int(below + step)]
        return " or ".join(str(number) for number in near if high is None or number <= high)

    def _refusal(self, value: Any, nearest: str = "") -> InvalidTaskError:
        allowed = f"allowed is {self.allowed}" + (f"; the nearest is {nearest}" if nearest else "")
        if self.maximum is not None and self.user_maximum != self.maximum:
            allowed += f" (the workflow itself takes up to {self.maximum}, too large to be sent exactly)"
        return InvalidTaskError(
            f"Parameter {self.name} was given {shown(value)}, but {allowed}",
            next_step="Correct the parameter and try again.",
        )


def _typed_image(value: Any) -> Any:
    if isinstance(value, str):
        # A path may hold bytes that are no UTF-8, which Python gives as surrogates.
        return value if value.strip() and (is_sendable(value) or "://" not in value[:8]) else None
    is_array_or_file = isinstance(value, bytes | os.PathLike) or any(
        hasattr(value, attribute)
        for attribute in ("__array_interface__", "__array__", "detach", "pixel_digest")
    )
    return value if is_array_or_file else None


def _is_between(low: float | None, value: float, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _typed_number(value: Any) -> float | None:
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _typed_int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


_CONVERTERS: dict[ParameterType, Callable[[Any], Any]] = {
    ParameterType.STRING: lambda value: value if isinstance(value, str) and is_sendable(value) else None,
    ParameterType.INT: _typed_int,
    ParameterType.NUMBER: _typed_number,
    ParameterType.BOOL: lambda value: value if isinstance(value, bool) else None,
    ParameterType.IMAGE: _typed_image,
}


def shown(value: Any) -> str:
    """The value for an error message, shortened, and without the pixels of an image."""
    if isinstance(value, bytes) or not isinstance(
        value, str | int | float | bool | list | tuple | dict | type(None)
    ):
        return f"a value of type {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
