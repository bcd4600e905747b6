"""Task classes, one for each workflow; parameters are checked before anything is sent.

One file, since each class is short and read beside the one that all derive from.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypedDict
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from typing_extensions import Self, Unpack

from .config import Credentials, parse_api_key
from .errors import ConfigurationError, InvalidTaskError
from .text import suggested

if TYPE_CHECKING:
    import numpy as np
    from pydantic._internal._model_construction import ModelMetaclass as TaskClass

    from .journal.records import Whole
    from .media.inputs import ImageInput
else:
    ImageInput = Any

    class TaskClass(type(BaseModel)):
        """Pydantic's metaclass, which also takes plain class attributes where the class says what is sent."""

        def __new__(cls, name, bases, namespace, /, **options):
            gives_details = "task_details" in namespace or any(
                isinstance(base, cls) and base._gives_details() for base in bases
            )
            annotations = namespace.get("__annotations__", {})
            fields = {field for base in bases for field in getattr(base, "model_fields", ())}
            known = {each for base in bases for each in dir(base)} - fields
            for attribute, value in list(namespace.items()):
                is_plain = not (attribute.startswith("_") or callable(value) or hasattr(value, "__get__"))
                if not is_plain or attribute in annotations or attribute in known:
                    continue
                if attribute in fields or not gives_details:
                    raise InvalidTaskError(
                        f"{attribute} of {name} has no type, so it would not be sent",
                        next_step=f"Write {attribute}: <type> = {value!r} in the class body.",
                    )
                namespace["__annotations__"] = annotations = {**annotations, attribute: ClassVar[Any]}
            return super().__new__(cls, name, bases, namespace, **options)


MAX_SEED = 2**53 - 1
"""Largest integer that JSON carries exactly into JavaScript, which the network's own SDK is written in."""

DEFAULT_JOB_ID_PREFIX = "sdk-workflow"
JOB_ID_DIGITS = 10

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Prompt = Annotated[str, Field(min_length=1, pattern=r"\S")]

FLUX_ASPECT_RATIOS = (
    "custom",
    "1:1 square 1024x1024",
    "3:4 portrait 896x1152",
    "5:8 portrait 832x1216",
    "9:16 portrait 768x1344",
    "9:21 portrait 640x1536",
    "4:3 landscape 1152x896",
    "3:2 landscape 1216x832",
    "16:9 landscape 1344x768",
    "21:9 landscape 1536x640",
)


def number_as_text(value: Any) -> Any:
    """An id as text; files and users write many ids as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_sendable(text: str) -> bool:
    """Whether a text has a form in UTF-8; half of a character (a lone surrogate) has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unsendable(value: Any) -> bool:
    """Whether a text anywhere in a JSON value has no form in UTF-8."""
    if isinstance(value, str):
        return not is_sendable(value)
    if isinstance(value, Mapping):
        return any(_unsendable(each) for pair in value.items() for each in pair)
    return isinstance(value, list | tuple) and any(_unsendable(each) for each in value)


class WorkflowTaskType(str, Enum):
    """The network's names for the kinds of tasks that this package has classes for."""

    UPSCALER = "upscaler"
    FLUX_LORA = "txt2img"
    TEXT_TO_VIDEO = "txt2vid"


class LocalImage:
    """Marks a field whose value may be an image of this machine; it is delivered before the create."""


class BaseOptions(TypedDict, total=False):
    """The five options that every task takes (protocol, "Tasks")."""

    consumer_id: str | None
    job_id_prefix: str | None
    timeout_seconds: float | None
    workflow_id: str | None
    api_key: SecretStr | str | None


BASE_OPTIONS = frozenset(BaseOptions.__annotations__)

_NO_PARAMETERS = BASE_OPTIONS | {"task_type"}
_RANDOM_TYPES = (WorkflowTaskType.FLUX_LORA, WorkflowTaskType.TEXT_TO_VIDEO)


def _empty_as_none(value: Any) -> Any:
    """The network's own SDK takes an empty text, and 0 seconds, for an option that was not given."""
    if isinstance(value, SecretStr):
        return value if value.get_secret_value() else None
    return None if isinstance(value, str | int | float) and not value else value


def _whole(value: float | None) -> float | None:
    return int(value) if value is not None and value.is_integer() else value


NotEmpty = BeforeValidator(_empty_as_none)


class WorkflowTask(BaseModel, metaclass=TaskClass):
    """Base of all tasks, abstract. Derive a class for a workflow of your own::

        class SketchTask(WorkflowTask):
            task_type = "sketch"
            prompt: str
            strength: float = Field(default=0.5, ge=0, le=1)

    Every field beside the base options becomes a parameter; those that are None are not sent. A field
    annotated ``Annotated[Any, LocalImage()]`` takes local images.

    A class may give ``task_details`` instead, as in the network's own SDK, and ``task_type``, as properties;
    what they give is sent. Its ``__init__`` may set attributes. A value of ``parameters`` that only an image
    can be (a ``Path``, bytes, an array, a Pillow image), and a path named ``image`` or ``..._image``, is
    delivered as an image.

    Args:
        consumer_id: Pays for this task instead of the client's own consumer.
        job_id_prefix: First part of the ``job_id`` (default, and where it is empty: ``sdk-workflow``).
        timeout_seconds: The *network* cancels the task after this many seconds; not the client's own wait. 0
            is not sent.
        workflow_id: Which workflow of the network runs the task.
        api_key: Key for this task alone, also used to poll and cancel it: the combined form, or the bare key.
            A bare key is of ``consumer_id``, else of the client's own consumer; one that contains ``-`` or
            ``#`` needs ``consumer_id`` beside it.

    Raises:
        InvalidTaskError: A parameter has the wrong type, is out of range, or is not known.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    task_type: ClassVar[str] = ""
    seed_field: ClassVar[str | None] = None
    """The field that makes the result repeatable; None where the task draws no random numbers."""

    consumer_id: Annotated[str | None, NotEmpty] = None
    job_id_prefix: Annotated[str | None, Field(pattern=r"^[\w.-]+$"), NotEmpty] = None
    timeout_seconds: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_whole)] | None, NotEmpty
    ] = None
    workflow_id: Annotated[str | None, NotEmpty, BeforeValidator(number_as_text)] = None
    api_key: Annotated[SecretStr | None, NotEmpty, Field(repr=False)] = None

    def __init__(self, options: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        name = type(self).__name__
        is_typed = "task_type" in type(self).model_fields or type(self).task_type != ""
        if type(self) is WorkflowTask or not is_typed:
            raise InvalidTaskError(
                "WorkflowTask is abstract" if type(self) is WorkflowTask else f"{name} has no task_type",
                next_step='Derive a class that has a line such as task_type = "sketch".',
            )
        if options is not None:
            values = {**self._taken_from(options), **values}
        # An __init__ may set attributes before it calls this one.
        earlier = dict(self.__dict__)
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = error.errors(include_input=False)
            raise InvalidTaskError(
                f"{name}: " + "; ".join(_explain(each) for each in problems),
                next_step=self._advice(problems),
            ) from None
        self.__dict__.update(earlier)

    @classmethod
    def _advice(cls, problems: Sequence[Any]) -> str:
        """What to do about the problems of values that were given."""
        missing = [str(each["loc"][0]) for each in problems if each["type"] == "missing"]
        if missing and cls.__init__ not in _OWN_INITS:
            return f"Give {missing[0]} to super().__init__({missing[0]}=...), or drop the __init__."
        unknown = [str(each["loc"][0]) for each in problems if each["type"] == "extra_forbidden"]
        if unknown:
            return suggested(unknown[0], [field.alias or name for name, field in cls.model_fields.items()])
        return "Correct the parameter and try again."

    def _taken_from(self, options: Any) -> dict[str, Any]:
        """What of an object of options is for this class, as the network's own SDK takes it."""
        if not isinstance(options, Mapping):
            raise InvalidTaskError(
                f"{type(self).__name__} was given {type(options).__name__} where options are expected",
                next_step=f"Name each option: {type(self).__name__}(prompt=..., timeout_seconds=...).",
            )
        if not self._gives_details():
            return dict(options)
        known = {field.alias or name for name, field in type(self).model_fields.items()}
        return {name: value for name, value in options.items() if name in known}

    @classmethod
    def _gives_details(cls) -> bool:
        """Whether the class itself says what is sent."""
        return cls.task_details is not WorkflowTask.task_details

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif name in cls.model_fields:
            if name in self.__dict__ and self.__dict__[name] is value:
                return
            raise InvalidTaskError(
                f"{name} of a {cls.__name__} can't be set", next_step=f"Give it to the class: {name}=..."
            )
        elif isinstance(getattr(cls, name, None), property) or not cls._gives_details():
            raise InvalidTaskError(
                f"{cls.__name__} sets {name}, which would not be sent",
                next_step=f"Write {name}: <type> in the class body and drop __init__, or give task_details.",
            )
        else:
            object.__setattr__(self, name, value)

    @model_validator(mode="after")
    def _check_texts(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_image = any(isinstance(each, LocalImage) for each in field.metadata)
            if is_image and isinstance(value, str) and not value.strip():
                raise ValueError(f"{name}: it is empty, and no image")
            # A path may hold bytes that are no UTF-8, which Python gives as surrogates.
            is_path = is_image and isinstance(value, str) and "://" not in value[:8]
            if not is_path and _unsendable(value):
                raise ValueError(f"{name}: it holds half of a character (a lone surrogate)")
        return self

    # pydantic compares field by field, which is ambiguous for the arrays a field may hold.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def parameters(self) -> dict[str, Any]:
        """The parameters that were given, by their network names; local images as they were given."""
        return {
            field.alias or name: value
            for name, field in type(self).model_fields.items()
            if name not in _NO_PARAMETERS and (value := getattr(self, name)) is not None
        }

    def details(self) -> dict[str, Any]:
        """``{"parameters": {...}}`` as it is sent, but for images, which are as they were given.

        Raises:
            InvalidTaskError: The class's own ``task_details`` have another form.
        """
        if not self._gives_details():
            return {"parameters": self.parameters()}
        given: Any = self.task_details
        if callable(given):
            raise self._no_property("task_details")
        parameters = given.get("parameters") if isinstance(given, Mapping) else None
        if not isinstance(parameters, Mapping):
            raise InvalidTaskError(
                f"task_details of {type(self).__name__} is not a dict with parameters",
                next_step='Return {"parameters": {...}}.',
            )
        sent = {str(name): value for name, value in parameters.items() if value is not None}
        return {**given, "parameters": sent}

    def images_among(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the parameters that hold an image, local or by URL."""
        fields = {
            field.alias or name
            for name, field in type(self).model_fields.items()
            if any(isinstance(m, LocalImage) for m in field.metadata)
        }
        gives = self._gives_details()
        return {
            name: value
            for name, value in parameters.items()
            if name in fields or (gives and _is_image(name, value))
        }

    def image_parameters(self) -> dict[str, Any]:
        """The parameters that hold an image, local or by URL."""
        return self.images_among(self.details()["parameters"])

    @property
    def task_details(self) -> dict[str, Any]:
        """``{"parameters": {...}}`` as ``task_create`` carries it; a class may give its own.

        Raises:
            InvalidTaskError: An image is local: it has no URL before the client has delivered it.
        """
        from .media.inputs import is_remote

        # A class that gives its own may build on these, whose images the client delivers.
        images = {} if self._gives_details() else self.image_parameters()
        for name, image in images.items():
            if not is_remote(image):
                raise InvalidTaskError(
                    f"Parameter {name} is an image of this machine, which has no URL yet",
                    next_step="Run the task through a client, which delivers the image first.",
                )
        return {"parameters": self.parameters()}

    @property
    def repeatable(self) -> bool:
        """Whether the same task gives the same result: no randomness, or a seed is given.

        Without ``seed_field``, a text to an image or a video whose class gives its own ``task_details`` is
        random unless they have a parameter ``seed`` or ``..._seed``.
        """
        if self.seed_field is None and self._gives_details() and self.kind_of_task in _RANDOM_TYPES:
            return any(name.endswith("seed") for name in self.details()["parameters"])
        return self.seed_field is None or getattr(self, self.seed_field) is not None

    @property
    def recipe(self) -> str | None:
        """A digest of what computes the task, where that is known here: another one is another task."""
        return None

    def describe(self) -> str:
        """A short description, for lists and the journal."""
        text = str(getattr(self, "prompt", "") or self.kind_of_task)
        return text if len(text) <= 80 else text[:77] + "..."

    def whole(self) -> Whole | None:
        """What the result is a part of, for lists; None for a result by itself."""
        return None

    @property
    def file_stem(self) -> str:
        """A file name, without suffix, for the result: the input image's, or words of the prompt."""
        for image in self.image_parameters().values():
            if isinstance(image, str | os.PathLike) and not str(image).startswith("data:"):
                is_url = "://" in str(image)[:8]
                stem = PurePath(unquote(urlsplit(str(image)).path) if is_url else image).stem
                if stem := _words(stem) if is_url else stem:
                    return stem
        return _words(str(getattr(self, "prompt", "") or self.describe())) or "result"

    def new_job_id(self) -> str:
        """``<job_id_prefix or "sdk-workflow">-<10 hex digits>``, a new one at each call."""
        return f"{self.job_id_prefix or DEFAULT_JOB_ID_PREFIX}-{secrets.token_hex(JOB_ID_DIGITS // 2)}"

    @property
    def kind_of_task(self) -> str:
        """The ``task_type`` that is sent.

        Raises:
            InvalidTaskError: The class's own is no text, or empty.
        """
        given: Any = self.task_type
        if callable(given):
            raise self._no_property("task_type")
        kind = given.value if isinstance(given, Enum) else given
        if not isinstance(kind, str) or not kind:
            raise InvalidTaskError(
                f"task_type of {type(self).__name__} is {kind!r}, and no text",
                next_step='Give it a text, such as task_type = "sketch".',
            )
        return kind

    def _no_property(self, name: str) -> InvalidTaskError:
        return InvalidTaskError(
            f"{name} of {type(self).__name__} is a method", next_step=f"Write @property above def {name}."
        )

    @property
    def is_hosted(self) -> bool:
        """Whether the hosted network may know this workflow."""
        return True

    def own_credentials(self, default: Credentials | None) -> Credentials | None:
        """The credentials of this task: its own key or consumer, else the client's.

        Raises:
            ConfigurationError: ``api_key`` is combined and malformed, or bare without a consumer.
        """
        if self.api_key is None:
            if self.consumer_id is None or default is None:
                return default
            return Credentials(self.consumer_id, default.api_key)
        consumer_id = self.consumer_id
        if consumer_id is None and not _is_combined(self.api_key):
            if default is None:
                raise ConfigurationError(
                    f"The api_key of this {type(self).__name__} is a bare key, and nobody is known to pay",
                    next_step="Give consumer_id beside it, or the combined form <consumer_id>#<api_key>.",
                )
            consumer_id = default.consumer_id
        if consumer_id is not None:
            return Credentials(consumer_id, self.api_key.get_secret_value())
        return parse_api_key(self.api_key.get_secret_value())


class UpscalerTask(WorkflowTask):
    """Upscale one image (``task_type`` "upscaler").

    Args:
        image: A path, bytes, a PIL image, a numpy array ``[H,W,C]`` (uint8, or float 0..1) or a URL.
        image_url: The SDK's name for an image given by URL. As there, ``{"image_url": ...}`` with all options
            may stand in place of ``image``.
    """

    task_type: ClassVar[str] = "upscaler"

    image: Annotated[ImageInput, LocalImage()]

    def __init__(
        self,
        image: ImageInput | Mapping[str, Any] | None = None,
        *,
        image_url: str | None = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        values: dict[str, Any] = {**options}
        if isinstance(image, Mapping):
            values = {**image, **options}
            image, by_url = values.pop("image", None), values.pop("image_url", None)
            image_url = image_url or by_url
        if (
            image is None
            and image_url is None
            and (unknown := values.keys() - type(self).model_fields.keys())
        ):
            name = min(unknown)
            raise InvalidTaskError(
                f"{type(self).__name__}: {name}: {_UNKNOWN}",
                next_step=suggested(name, [*type(self).model_fields, "image_url"]),
            )
        if (image is None) == (image_url is None):
            raise InvalidTaskError(
                "UpscalerTask takes one image, either as image or as image_url",
                next_step="Give exactly one of the two.",
            )
        super().__init__(image=image_url if image is None else image, **values)

    @classmethod
    def for_batch(cls, images: np.ndarray[Any, Any], **options: Unpack[BaseOptions]) -> list[Self]:
        """One task for each image of a batch ``[N,H,W,C]``, in order; run them with ``run_many``."""
        if getattr(images, "ndim", 0) != 4:
            raise InvalidTaskError(
                f"A batch has the shape [N,H,W,C], not {tuple(getattr(images, 'shape', ()))}",
                next_step="Use UpscalerTask(image=...) for a single image.",
            )
        return [cls(image, **options) for image in images]

    def describe(self) -> str:
        if isinstance(self.image, str | PurePath) and not str(self.image).startswith("data:"):
            return f"upscale {PurePath(str(self.image).split('?')[0]).name}"
        return "upscale an image"


class FluxLoraTask(WorkflowTask):
    """An image from a prompt with a LoRA on Flux (``task_type`` "txt2img", hosted workflow ``3``).

    Args:
        prompt: What the image shows.
        lora_name: File name of the LoRA as the network knows it.
        aspect_ratio: One of :data:`FLUX_ASPECT_RATIOS`; ``custom`` uses width and height.
        width, height: 512-2048 px in steps of 8; the public miner lists steps of 64, the network's own
            documentation 680x1024.
        guidance: Flux guidance, 0-100.
        steps: Denoising steps, 1-100.
        noise_seed: 0 to 2^53 - 1.
        strength_model: Strength of the LoRA, 0-1.
    """

    task_type: ClassVar[str] = "txt2img"
    seed_field: ClassVar[str | None] = "noise_seed"

    prompt: Prompt
    lora_name: Annotated[str, Field(min_length=1)]
    aspect_ratio: str | None = None
    width: int | None = Field(default=None, ge=512, le=2048, multiple_of=8)
    height: int | None = Field(default=None, ge=512, le=2048, multiple_of=8)
    guidance: float | None = Field(default=None, ge=0, le=100)
    steps: int | None = Field(default=None, ge=1, le=100)
    noise_seed: Seed | None = None
    strength_model: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _check_aspect_ratio(self) -> Self:
        if self.aspect_ratio is not None and self.aspect_ratio not in FLUX_ASPECT_RATIOS:
            raise ValueError(f"aspect_ratio is one of {', '.join(FLUX_ASPECT_RATIOS)}")
        return self


class VideoLimits(BaseModel):
    """The limits of a hosted text-to-video workflow (protocol, "Known workflow ids")."""

    width: tuple[int, int]
    height: tuple[int, int]
    length: tuple[int, int]
    step: int = 1
    fps: tuple[int, int] = (1, 120)


VIDEO_LIMITS: Mapping[str, VideoLimits] = {
    "1": VideoLimits(width=(848, 848), height=(480, 480), length=(37, 73), fps=(24, 24)),
    "2": VideoLimits(width=(256, 1024), height=(256, 1024), length=(16, 128), step=8),
}


class Text2VideoTask(WorkflowTask):
    """A video from a prompt (``task_type`` "txt2vid").

    Args:
        prompt: What the video shows.
        width, height: Pixels. Workflow ``1`` makes 848x480 only; ``2`` 256-1024 in steps of 8.
        length: Frames. Workflow ``1`` 37 (the documented default) to 73 (the public miner's); ``2`` 16-128.
        steps: Denoising steps, 1-100.
        seed: 0 to 2^53 - 1.
        fps: Frames a second, 1-120.
        quality: Encoder quality, 1-100.
    """

    task_type: ClassVar[str] = "txt2vid"
    seed_field: ClassVar[str | None] = "seed"

    prompt: Prompt
    width: int | None = Field(default=None, ge=16, le=8192)
    height: int | None = Field(default=None, ge=16, le=8192)
    length: int | None = Field(default=None, ge=1, le=10_000)
    steps: int | None = Field(default=None, ge=1, le=100)
    seed: Seed | None = None
    fps: int | None = Field(default=None, ge=1, le=120)
    quality: int | None = Field(default=None, ge=1, le=100)

    @model_validator(mode="after")
    def _check_workflow_limits(self) -> Self:
        limits = VIDEO_LIMITS.get(self.workflow_id or "")
        if limits is None:
            return self
        for name in ("width", "height", "length", "fps"):
            value: int | None = getattr(self, name)
            low, high = getattr(limits, name)
            if value is not None and not low <= value <= high:
                allowed = str(low) if low == high else f"{low} to {high}"
                raise ValueError(f"{name} is {value}; workflow {self.workflow_id} allows {allowed}")
            if value is not None and name in ("width", "height") and low != high and value % limits.step:
                raise ValueError(f"{name} is {value}; it must be a multiple of {limits.step}")
        return self


def check_is_task(value: object) -> None:
    """Check what a client is to run.

    Raises:
        InvalidTaskError: It is no task.
    """
    if isinstance(value, WorkflowTask):
        return
    if isinstance(value, type):
        raise InvalidTaskError(
            f"{value.__name__} is a class, and no task", next_step=f"Give its values: {value.__name__}(...)."
        )
    several = isinstance(value, list | tuple)
    raise InvalidTaskError(
        f"A {type(value).__name__} is no task",
        next_step="Use run_many for several tasks." if several else "Write such as UpscalerTask(image=...).",
    )


def _words(text: str) -> str:
    """A text as part of a file name."""
    words = re.sub(r"[^\w.()+-]+", "-", text).strip("-.")
    return words.encode()[:80].decode(errors="ignore").rstrip("-.")


def _is_combined(key: SecretStr) -> bool:
    return not {"#", "-"}.isdisjoint(key.get_secret_value())


def _is_image(name: str, value: Any) -> bool:
    """Whether a value of a class's own ``task_details`` is an image, by its type or its name."""
    if isinstance(value, str):
        return bool(value) and (name == "image" or name.endswith("_image"))
    is_file = isinstance(value, bytes | bytearray | os.PathLike)
    return is_file or any(hasattr(value, each) for each in ("__array_interface__", "__array__", "detach"))


_OWN_INITS: set[Any] = {WorkflowTask.__init__, UpscalerTask.__init__}


_UNKNOWN = "there is no such option"
_WORDS = {"extra_forbidden": _UNKNOWN, "missing": "it is missing", "string_too_short": "it is empty"}


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = _WORDS.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
