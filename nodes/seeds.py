"""Seeds as widgets and as batches."""

from __future__ import annotations

from ..xalora_client.tasks import MAX_SEED
from .host.compat import io

__all__ = ["MAX_SEED", "seed_input", "seeds_from"]


def seed_input() -> io.Input:
    """The ``seed`` widget, with ComfyUI's control after each run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip="The same seed and inputs give the same result.",
    )


def seeds_from(seed: int, count: int) -> list[int]:
    """``count`` seeds: ``seed``, ``seed + 1``, and so on; after the largest comes 0."""
    return [(seed + offset) % (MAX_SEED + 1) for offset in range(count)]
