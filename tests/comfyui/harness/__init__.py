"""A real ComfyUI for tests and benchmarks: started, queued, listened to, interrupted, killed."""

from .client import Client, ComfyUIError, PromptRefusedError
from .install import Install, find_install
from .network import SessionDevnet
from .record import Event, Preview, ProgressText, RunRecord
from .server import ComfyUI, ComfyUIFactory, LoadCost, Preloaded, preload

__all__ = [
    "Client",
    "ComfyUI",
    "ComfyUIError",
    "ComfyUIFactory",
    "Event",
    "Install",
    "LoadCost",
    "Preloaded",
    "Preview",
    "ProgressText",
    "PromptRefusedError",
    "RunRecord",
    "SessionDevnet",
    "find_install",
    "preload",
]
