"""Engines that run a bound workflow on this machine. Each one's own module is imported when it is wanted."""

from __future__ import annotations

from .base import (
    Availability,
    EngineCanceledError,
    EngineProgress,
    EngineRun,
    LocalEngine,
    MissingFilesError,
    ProgressCallback,
)

__all__ = [
    "Availability",
    "EngineCanceledError",
    "EngineProgress",
    "EngineRun",
    "LocalEngine",
    "MissingFilesError",
    "ProgressCallback",
]
