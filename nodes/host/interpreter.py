"""Settings of the Python that ComfyUI runs in: its page stays quick while hundreds of tasks are open."""

from __future__ import annotations

import gc
import sys

SWITCH_SECONDS = 0.001
"""How long a thread that computes keeps others waiting; Python's own 5 ms, for each of a request's steps."""


def leave_out_what_is_loaded() -> None:
    """Freeze the objects of ComfyUI, torch and the node packs that are loaded so far.

    A full collection looks at each of them and holds up every thread meanwhile: 0.4 s each time, by ComfyUI
    after a prompt and by Python under many tasks (`benchmarks/soak.py`). Modules and classes stay anyway.

    To be called while nodes are loaded. The executor is made later; it drops its caches in reference cycles,
    and they would stay.
    """
    gc.freeze()


def switch_threads_sooner() -> None:
    """Have threads that compute give way sooner, unless somebody has chosen less.

    A request for the page's tasks reads the journal in some ten steps, and after each it waits for Python's
    lock: with the tasks' own loop busy, 145 ms at 5 ms, 69 ms at 1 ms (medians, 12,800 records).
    """
    sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
