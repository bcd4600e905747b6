"""Python client of the Xalora network of GPU miners.

Everything public is importable from here; the heavy parts are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .blocking import BlockingTaskHandle as BlockingTaskHandle
    from .blocking import Xalora as Xalora
    from .client import AsyncXalora as AsyncXalora
    from .client import TaskHandle as TaskHandle
    from .config import (
        Credentials as Credentials,
    )
    from .config import (
        Settings as Settings,
    )
    from .config import (
        load_settings as load_settings,
    )
    from .config import (
        parse_api_key as parse_api_key,
    )
    from .errors import (
        AmbiguousCreateError as AmbiguousCreateError,
    )
    from .errors import (
        AuthenticationError as AuthenticationError,
    )
    from .errors import (
        ClientClosedError as ClientClosedError,
    )
    from .errors import (
        ConfigurationError as ConfigurationError,
    )
    from .errors import (
        EngineError as EngineError,
    )
    from .errors import (
        InputImageError as InputImageError,
    )
    from .errors import (
        InputTooLargeError as InputTooLargeError,
    )
    from .errors import (
        InvalidTaskError as InvalidTaskError,
    )
    from .errors import (
        JournalError as JournalError,
    )
    from .errors import (
        MissingKeyError as MissingKeyError,
    )
    from .errors import (
        NetworkError as NetworkError,
    )
    from .errors import (
        NoMinerError as NoMinerError,
    )
    from .errors import (
        QueueLimitError as QueueLimitError,
    )
    from .errors import (
        RateLimitError as RateLimitError,
    )
    from .errors import (
        RequestRefusedError as RequestRefusedError,
    )
    from .errors import (
        ResultDownloadError as ResultDownloadError,
    )
    from .errors import (
        ResultError as ResultError,
    )
    from .errors import (
        ResultExpiredError as ResultExpiredError,
    )
    from .errors import (
        ResultFormatError as ResultFormatError,
    )
    from .errors import (
        ResultLocationError as ResultLocationError,
    )
    from .errors import (
        ServiceError as ServiceError,
    )
    from .errors import (
        StoreError as StoreError,
    )
    from .errors import (
        TaskCanceledError as TaskCanceledError,
    )
    from .errors import (
        TaskError as TaskError,
    )
    from .errors import (
        TaskFailedError as TaskFailedError,
    )
    from .errors import (
        TaskTimeoutError as TaskTimeoutError,
    )
    from .errors import (
        WorkflowDefinitionError as WorkflowDefinitionError,
    )
    from .errors import (
        XaloraConnectionError as XaloraConnectionError,
    )
    from .errors import (
        XaloraError as XaloraError,
    )
    from .image_batch import ImageBatch as ImageBatch
    from .results import (
        Outcome as Outcome,
    )
    from .results import (
        RunResult as RunResult,
    )
    from .results import (
        Timing as Timing,
    )
    from .results import (
        WorkflowTaskResult as WorkflowTaskResult,
    )
    from .tasks import (
        FluxLoraTask as FluxLoraTask,
    )
    from .tasks import (
        LocalImage as LocalImage,
    )
    from .tasks import (
        Text2VideoTask as Text2VideoTask,
    )
    from .tasks import (
        UpscalerTask as UpscalerTask,
    )
    from .tasks import (
        WorkflowTask as WorkflowTask,
    )
    from .workflows.task import DefinedWorkflowTask as DefinedWorkflowTask

_HOMES = {
    "image_batch": ("ImageBatch",),
    "blocking": ("BlockingTaskHandle", "Xalora"),
    "client": ("AsyncXalora", "TaskHandle"),
    "config": ("Credentials", "Settings", "load_settings", "parse_api_key"),
    "workflows.task": ("DefinedWorkflowTask",),
    "errors": (
        "AmbiguousCreateError",
        "AuthenticationError",
        "ClientClosedError",
        "ConfigurationError",
        "EngineError",
        "InputImageError",
        "InputTooLargeError",
        "InvalidTaskError",
        "JournalError",
        "MissingKeyError",
        "NetworkError",
        "NoMinerError",
        "QueueLimitError",
        "RateLimitError",
        "RequestRefusedError",
        "ResultDownloadError",
        "ResultError",
        "ResultExpiredError",
        "ResultFormatError",
        "ResultLocationError",
        "ServiceError",
        "StoreError",
        "TaskCanceledError",
        "TaskError",
        "TaskFailedError",
        "TaskTimeoutError",
        "WorkflowDefinitionError",
        "XaloraConnectionError",
        "XaloraError",
    ),
    "results": ("Outcome", "RunResult", "Timing", "WorkflowTaskResult"),
    "tasks": ("FluxLoraTask", "LocalImage", "Text2VideoTask", "UpscalerTask", "WorkflowTask"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604  # names of the lazy exports, see __getattr__


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
