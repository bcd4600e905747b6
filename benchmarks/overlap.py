"""Remote work beside local work in one graph: wall time over the longer of the two, in a real ComfyUI.

A remote node of T seconds, `XaloraUpscaleImage`, beside a synchronous local one of L seconds (asleep, as
one that waits for a GPU). Medians of rounds after one that teaches the client how long such tasks take;
and of rounds whose tasks are the first of their kind, with no such history. 1.00 is a graph that takes no
longer than the slower of the two: no time to submit, to notice the end (by polls that cost requests), to
fetch and to decode.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from _peers import comfyui
from _report import Report

ROUNDS = 5
# Remote and local seconds, and the image's side.
CASES = ((3.0, 4.0, 256), (4.0, 4.0, 512), (10.0, 10.0, 1024))
FIRST = (4.0, 4.0)
# A side for each round: tasks of these sizes are each a kind of their own.
FIRST_SIDES = (64, 76, 91, 108, 128)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(local: float, side: int) -> dict[str, Any]:
    return {
        "image": node(
            "XaloraTestImage", width=side, height=side, kind="gradient", seed=uuid.uuid4().int % 2**48
        ),
        "remote": node("XaloraUpscaleImage", image=["image", 0]),
        "remote-seen": node("XaloraTestClock", value=["remote", 0]),
        "local": node("XaloraTestBlock", seconds=local, value=["image", 0], nonce=uuid.uuid4().hex),
        "local-seen": node("XaloraTestClock", value=["local", 0]),
    }


def wall_seconds(host: Any, local: float, side: int) -> float:
    record = host.run(graph(local, side), timeout=120)
    assert record.status == "success", record.describe()
    # ComfyUI's own times, in ms: it collects garbage after a prompt, and its messages arrive only then.
    started, ended = (
        record.of(kind)[0].data["timestamp"] for kind in ("execution_start", "execution_success")
    )
    return (float(ended) - float(started)) / 1000


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("overlap", "Remote work beside local work in ComfyUI", method)
    install = comfyui()
    from harness import ComfyUI, SessionDevnet

    walls: dict[tuple[float, float], list[float]] = {}
    with SessionDevnet() as net, tempfile.TemporaryDirectory() as root:
        env = {"XALORA_WORKFLOW_URL": net.url, "XALORA_API_KEY": net.api_key}
        with ComfyUI(install, Path(root), env) as host:
            net.task_seconds = FIRST[0]
            first = [wall_seconds(host, FIRST[1], side) for side in FIRST_SIDES]
            print(f"T {FIRST[0]:g}, L {FIRST[1]:g}, no history: {first}", file=sys.stderr, flush=True)
            for remote, local, side in CASES:
                net.task_seconds = remote
                wall_seconds(host, 0.0, side)
                walls[remote, local] = [wall_seconds(host, local, side) for _ in range(ROUNDS)]
                print(f"T {remote:g}, L {local:g}: {walls[remote, local]}", file=sys.stderr, flush=True)

    share = median(first) / max(FIRST)
    rows = [[f"{FIRST[0]:g} s", f"{FIRST[1]:g} s", "no", f"{median(first):.2f}", f"{share:.3f}"]]
    shares = {f"{FIRST[0]:g} beside {FIRST[1]:g} s, first of its kind": share}
    report.target(f"{FIRST[0]:g} s beside {FIRST[1]:g} s, first of its kind", share, 1.2, unit="x")
    for (remote, local), seconds in walls.items():
        share = median(seconds) / max(remote, local)
        shares[f"{remote:g} beside {local:g} s"] = share
        rows.append([f"{remote:g} s", f"{local:g} s", "yes", f"{median(seconds):.2f}", f"{share:.3f}"])
        report.target(f"{remote:g} s beside {local:g} s", share, 1.05, unit="x")
    report.table(["remote", "local", "past runs", "wall, s", "wall / max(remote, local)"], rows)
    report.note(f"ComfyUI {'.'.join(map(str, install.version))}. Serial would be 1.75, 2 and 2.")
    report.bars("wall / max(remote, local)", shares, "", limit=1.05)
    report.raw(
        first=first, walls={f"{remote:g}/{local:g}": taken for (remote, local), taken in walls.items()}
    )
    report.finish()


if __name__ == "__main__":
    main()
