"""Names for work: which requests are the same work, and which run about equally long."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def fingerprint(
    *,
    sequencer_url: str,
    consumer_id: str,
    task_type: str,
    workflow_id: str | None,
    parameters: Mapping[str, Any],
    image_digests: Mapping[str, str],
) -> str:
    """A digest that is equal exactly for the same work asked of the same network by the same consumer.

    Images count by their decoded pixels, not by file name or encoding; the sequencer's URL is part of it, so
    that a devnet's answer can never stand for the hosted network's.

    Args:
        parameters: As sent; images among them are passed over.
        image_digests: For each image parameter, the digest of its pixels, or its URL.
    """
    work = {
        "sequencer": sequencer_url.rstrip("/"),
        "consumer": consumer_id,
        "type": task_type,
        "workflow": workflow_id,
        "parameters": {name: value for name, value in parameters.items() if name not in image_digests},
        "images": dict(image_digests),
    }
    canonical = json.dumps(work, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def duration_kind(
    *,
    task_type: str,
    workflow_id: str | None,
    parameters: Mapping[str, Any],
    pixels: int | None,
) -> str:
    """The class of tasks that take about as long as this one: type, workflow, size and length.

    Image sizes fall into classes half an octave wide, since two photographs seldom have the very same size.
    """
    parts = [task_type, workflow_id or "-"]
    if pixels:
        parts.append(f"2^{round(2 * math.log2(pixels)) / 2:g}px")
    for name in ("aspect_ratio", "width", "height", "length", "steps"):
        if parameters.get(name) is not None:
            parts.append(f"{name}={parameters[name]}")
    return " ".join(parts)
