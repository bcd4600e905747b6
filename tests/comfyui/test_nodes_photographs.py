"""Photographs as people have them through a node: what LoadImage made of each comes back doubled."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
from graphs import doubled, dump, node
from harness import ComfyUI, SessionDevnet
from photographs import make_photographs

logger = logging.getLogger(__name__)


def test_they_go_through_a_node_unharmed(comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path)
    graph = {}
    for place, photograph in enumerate(photographs):
        shutil.copy(photograph.path, comfyui.root / "input" / photograph.path.name)
        graph[f"{place}-load"] = node("LoadImage", image=photograph.path.name)
        graph[f"{place}-up"] = node("XaloraUpscaleImage", image=[f"{place}-load", 0])
        graph[f"{place}-before"] = dump([f"{place}-load", 0])
        graph[f"{place}-after"] = dump([f"{place}-up", 0])
    record = comfyui.run(graph)
    assert record.status == "success"
    for place, photograph in enumerate(photographs):
        before, after = record.array(f"{place}-before")[0], record.array(f"{place}-after")[0]
        difference = np.abs(after - doubled(before)) * 255
        logger.info("node, %s: %.3f at most", photograph.path.name, difference.max())
        assert after.shape == (2 * before.shape[0], 2 * before.shape[1], 3)
        assert difference.max() < 0.01, photograph.path.name
    assert devnet.new_stats()["tasks"] == {"finished": len(photographs)}
