"""The list of nodes that the pack offers to ComfyUI."""

from __future__ import annotations

from .host import compat
from .host.compat import ComfyExtension, io
from .internal_nodes import XaloraLocalVideo, XaloraMergeImages, XaloraTakeImages
from .sidebar import routes
from .submit_collect import (
    XaloraCollect,
    XaloraSubmitTextToImage,
    XaloraSubmitTextToVideo,
    XaloraSubmitUpscale,
)
from .text_to_image import XaloraTextToImage
from .text_to_video import XaloraTextToVideo
from .upscale import XaloraUpscaleImage
from .workflow_nodes import workflow_nodes

# Ids and sockets of a published node never change: saved graphs name them.
NODES: list[type[io.ComfyNode]] = [
    XaloraUpscaleImage,
    XaloraTextToVideo,
    XaloraTextToImage,
    XaloraSubmitUpscale,
    XaloraSubmitTextToVideo,
    XaloraSubmitTextToImage,
    XaloraCollect,
    XaloraTakeImages,
    XaloraMergeImages,
    XaloraLocalVideo,
]


class XaloraExtension(ComfyExtension):
    """What `comfy_entrypoint` hands to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        routes.register(compat.running_server())
        return [*NODES, *workflow_nodes()]
