"""The list of the pack's nodes, and the extension object for ComfyUI."""

from __future__ import annotations

from .host import compat, help_pages, interpreter
from .host.compat import ComfyExtension, io
from .internal_nodes import XaloraLocalVideo, XaloraMergeImages, XaloraNcnnUpscale, XaloraTakeImages
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
from .upscale_video import XaloraUpscaleVideo
from .workflow_nodes import workflow_nodes

# Ids and sockets of a published node never change: saved graphs refer to them.
NODES: list[type[io.ComfyNode]] = [
    XaloraUpscaleImage,
    XaloraUpscaleVideo,
    XaloraTextToVideo,
    XaloraTextToImage,
    XaloraSubmitUpscale,
    XaloraSubmitTextToVideo,
    XaloraSubmitTextToImage,
    XaloraCollect,
    XaloraTakeImages,
    XaloraNcnnUpscale,
    XaloraMergeImages,
    XaloraLocalVideo,
]


class XaloraExtension(ComfyExtension):
    """The object that `comfy_entrypoint` returns."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        server = compat.running_server()
        if server is not None and routes.register(server):
            help_pages.register(server)
            interpreter.leave_out_what_is_loaded()
            interpreter.switch_threads_sooner()
        return [*NODES, *workflow_nodes()]
