"""Python client of the Xalora network of GPU miners.

Everything public is importable from here. The errors are loaded at once, everything else when first used.
"""

# ruff: noqa: I001  # isort would give each "X as X" an import of its own
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import (
    AmbiguousCreateError as AmbiguousCreateError,
    AuthenticationError as AuthenticationError,
    ClientClosedError as ClientClosedError,
    ConfigurationError as ConfigurationError,
    DailyLimitError as DailyLimitError,
    EngineError as EngineError,
    InputImageError as InputImageError,
    InputTooLargeError as InputTooLargeError,
    InvalidTaskError as InvalidTaskError,
    JournalError as JournalError,
    MissingKeyError as MissingKeyError,
    NetworkError as NetworkError,
    NoMinerError as NoMinerError,
    QueueLimitError as QueueLimitError,
    RateLimitError as RateLimitError,
    RequestRefusedError as RequestRefusedError,
    ResultDownloadError as ResultDownloadError,
    ResultError as ResultError,
    ResultExpiredError as ResultExpiredError,
    ResultFormatError as ResultFormatError,
    ResultLocationError as ResultLocationError,
    ResultMissingError as ResultMissingError,
    ResultSaveError as ResultSaveError,
    ResultTooLargeError as ResultTooLargeError,
    ServiceError as ServiceError,
    StoreError as StoreError,
    TaskCanceledError as TaskCanceledError,
    TaskError as TaskError,
    TaskFailedError as TaskFailedError,
    TaskNotKnownError as TaskNotKnownError,
    TaskTimeoutError as TaskTimeoutError,
    UnexpectedError as UnexpectedError,
    WorkflowDefinitionError as WorkflowDefinitionError,
    XaloraConnectionError as XaloraConnectionError,
    XaloraError as XaloraError,
)

_ERRORS = [name for name, value in globals().items() if isinstance(value, type)]

# Where each lazy name is defined, for __getattr__; and the same as imports, for type checkers and editors.
_LAZY = {
    "AsyncXalora": "client",
    "BlockingTaskHandle": "blocking",
    "BlockingTaskStream": "blocking",
    "Credentials": "config",
    "DefinedWorkflowTask": "workflows.task",
    "FluxLoraTask": "tasks",
    "HostOptions": "client",
    "ImageBatch": "image_batch",
    "LoadedSettings": "config",
    "LocalImage": "tasks",
    "Outcome": "results",
    "RunOptions": "client",
    "RunResult": "results",
    "Settings": "config",
    "TaskHandle": "handle",
    "TaskStatus": "results",
    "TaskStream": "streams",
    "Text2VideoTask": "tasks",
    "Timeouts": "config",
    "Timing": "results",
    "UpscaledImage": "tiles.upscaling",
    "UpscaledVideo": "video.report",
    "UpscalerTask": "tasks",
    "VideoProgress": "video.report",
    "WorkflowTask": "tasks",
    "WorkflowTaskResult": "results",
    "WorkflowTaskType": "tasks",
    "Xalora": "blocking",
    "load_settings": "config",
    "parse_api_key": "config",
}

if TYPE_CHECKING:
    from .blocking import (
        BlockingTaskHandle as BlockingTaskHandle,
        BlockingTaskStream as BlockingTaskStream,
        Xalora as Xalora,
    )
    from .client import (
        AsyncXalora as AsyncXalora,
        HostOptions as HostOptions,
        RunOptions as RunOptions,
    )
    from .config import (
        Credentials as Credentials,
        LoadedSettings as LoadedSettings,
        Settings as Settings,
        Timeouts as Timeouts,
        load_settings as load_settings,
        parse_api_key as parse_api_key,
    )
    from .handle import TaskHandle as TaskHandle
    from .image_batch import ImageBatch as ImageBatch
    from .results import (
        Outcome as Outcome,
        RunResult as RunResult,
        TaskStatus as TaskStatus,
        Timing as Timing,
        WorkflowTaskResult as WorkflowTaskResult,
    )
    from .streams import TaskStream as TaskStream
    from .tasks import (
        FluxLoraTask as FluxLoraTask,
        LocalImage as LocalImage,
        Text2VideoTask as Text2VideoTask,
        UpscalerTask as UpscalerTask,
        WorkflowTask as WorkflowTask,
        WorkflowTaskType as WorkflowTaskType,
    )
    from .tiles.upscaling import UpscaledImage as UpscaledImage
    from .video.report import (
        UpscaledVideo as UpscaledVideo,
        VideoProgress as VideoProgress,
    )
    from .workflows.task import DefinedWorkflowTask as DefinedWorkflowTask
else:
    # Hidden from type checkers: they would take any name for one that exists.
    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value


__all__ = ["__version__", *_ERRORS, *_LAZY]  # noqa: PLE0604  # names in a list of their own


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
