"""The list of nodes that the pack offers to ComfyUI."""

from __future__ import annotations

from .compat import ComfyExtension, io
from .upscale import XaloraUpscaleImage

# Ids and sockets of a published node never change: saved graphs name them.
NODES: list[type[io.ComfyNode]] = [XaloraUpscaleImage]


class XaloraExtension(ComfyExtension):
    """What `comfy_entrypoint` hands to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
