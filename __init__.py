"""ComfyUI-Xalora: upscaling, text to video and text to image on the Xalora network, as ComfyUI nodes.

ComfyUI imports this folder under a name of its own making, so everything inside is imported relatively, and
nothing at all is imported before ComfyUI asks for the nodes: the package stays harmless elsewhere.
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
