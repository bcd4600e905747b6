"""How much of a remote node's time a graph can use: wall time over max(remote, local), in a real ComfyUI.

The same graph twice: a remote node beside a synchronous local one. Once the remote node is Xalora's, which
works on the bridge; once the same client lives in the prompt's own loop, as in most packs with async nodes.

    python benchmarks/hybrid_graph.py
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "comfyui"))

from harness import ComfyUI, SessionDevnet, find_install

ROUNDS = 3
CASES = ((3.0, 4.0), (4.0, 4.0), (4.0, 1.0), (1.0, 4.0))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(remote: dict[str, Any], local: float) -> dict[str, Any]:
    return {
        "image": node("XaloraTestImage", width=512, height=512, seed=uuid.uuid4().int % 2**48),
        "remote": remote,
        "remote-seen": node("XaloraTestClock", value=["remote", 0]),
        "local": node("XaloraTestBlock", seconds=local, value=["image", 0], nonce=uuid.uuid4().hex),
        "local-seen": node("XaloraTestClock", value=["local", 0]),
    }


def wall_seconds(comfyui: ComfyUI, remote: dict[str, Any], local: float) -> float:
    record = comfyui.run(graph(remote, local), timeout=120)
    assert record.status == "success", record.describe()
    started, ended = record.of("execution_start")[0].at, record.of("execution_success")[0].at
    return ended - started


def main() -> None:
    with SessionDevnet() as devnet:
        env = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}
        with tempfile.TemporaryDirectory() as root, ComfyUI(find_install(), Path(root), env) as comfyui:
            print("| remote | local | node | wall | wall / max(remote, local) |")
            print("|---:|---:|---|---:|---:|")
            for remote, local in CASES:
                devnet.task_seconds = remote
                kinds = {
                    "Xalora, on the bridge": lambda: node("XaloraUpscaleImage", image=["image", 0]),
                    "client in the prompt's loop": lambda: node("XaloraTestLoopUpscale", image=["image", 0]),
                }
                for name, build in kinds.items():
                    wall = median(wall_seconds(comfyui, build(), local) for _ in range(ROUNDS))
                    share = wall / max(remote, local)
                    row = f"| {remote:g} s | {local:g} s | {name} | {wall:.2f} s | {share:.2f} |"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
