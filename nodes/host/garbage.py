"""What is loaded before ComfyUI starts is left out of Python's full garbage collections."""

from __future__ import annotations

import gc


def leave_out_what_is_loaded() -> None:
    """Freeze the objects of ComfyUI, torch and the node packs that are loaded so far.

    A full collection looks at each of them and holds up every thread meanwhile: 0.4 s each time, by ComfyUI
    after a prompt and by Python under many tasks (`benchmarks/soak.py`). Modules and classes stay anyway.

    To be called while nodes are loaded. The executor is made later; it drops its caches in reference cycles,
    and they would stay.
    """
    gc.freeze()
