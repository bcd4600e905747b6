"""Engines that run a bound workflow on this machine. The module of each is imported when it is used."""

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
