"""The catalog of workflow definitions in this ComfyUI: those of the pack, and the user's own."""

from __future__ import annotations

from pathlib import Path

from ...xalora_client.workflows import WorkflowCatalog
from . import compat
from .comfyui_settings import STATE_FOLDER, read_settings

FOLDER = "workflows"


def own_folder() -> Path:
    """The folder for the user's own definitions: ``<user folder>/xalora/workflows``."""
    return compat.user_directory() / STATE_FOLDER / FOLDER


def catalog() -> WorkflowCatalog:
    """All definitions, read again at each call; of two with one name, the later folder's is used.

    Raises:
        ConfigurationError: A setting is invalid.
    """
    own = own_folder() if own_folder().is_dir() else None
    return WorkflowCatalog.load(own, read_settings().settings.workflows_dir)
