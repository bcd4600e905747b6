"""The ComfyUI under test, found as `make comfyui` installs it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from cache import REPOSITORY
from comfyui_install import Install, find_install

__all__ = ["REPOSITORY", "Install", "find_install"]
