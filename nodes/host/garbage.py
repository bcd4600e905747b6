"""What ComfyUI has loaded once it starts is left out of Python's full garbage collections."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web


def leave_out_what_is_loaded(app: web.Application) -> None:
    """Freeze the objects of ComfyUI, torch and all node packs when the server starts.

    A full collection looks at each of them and holds up every thread meanwhile: 0.4 s each time, by ComfyUI
    after a prompt and by Python under many tasks (`benchmarks/soak.py`). Modules and classes stay anyway.
    """

    async def freeze(_: web.Application) -> None:
        gc.freeze()

    app.on_startup.append(freeze)
