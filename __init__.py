"""ComfyUI-Xalora: ComfyUI nodes for upscaling, text to video and text to image on the Xalora network.

ComfyUI imports this folder under a name that it chooses, so all imports inside are relative. The nodes are
imported only when ComfyUI asks for them, so that importing the folder elsewhere has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes.extension import XaloraExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> XaloraExtension:
    """Called by ComfyUI once, while it loads custom nodes."""
    from .nodes.extension import XaloraExtension

    return XaloraExtension()
