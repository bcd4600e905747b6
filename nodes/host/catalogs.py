"""The workflow definitions that this ComfyUI knows: shipped, and the user's own."""

from __future__ import annotations

from pathlib import Path

from ...xalora_client.workflows import WorkflowCatalog
from . import compat
from .settings import STATE_FOLDER, read_settings

FOLDER = "workflows"


def own_folder() -> Path:
    """Where users of ComfyUI put definitions of their own: ``<user folder>/xalora/workflows``."""
    return compat.user_directory() / STATE_FOLDER / FOLDER


def catalog() -> WorkflowCatalog:
    """All definitions, read anew; a later folder's wins over an earlier one's of the same name.

    Raises:
        ConfigurationError: The settings do not fit.
    """
    folders = [own_folder()] if own_folder().is_dir() else []
    configured = read_settings().settings.workflows_dir
    if configured is not None:
        folders.append(configured)
    return WorkflowCatalog.load(folders, environ={})
