"""What it costs to have the client at hand: its import beside aiohttp's, and the pack in ComfyUI's start.

Imports are timed in fresh processes with compiled modules, medians. The pack's cost is taken around ComfyUI's
own `load_custom_node` in a real ComfyUI; its first start, which compiles the pack, is told apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from _peers import REPOSITORY, comfyui
from _report import Report

IMPORT_ROUNDS = 11
STARTS = 4

# Compiled modules are kept, as they are for users, whatever the developer's shell says.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}

CHILD = """
import json, time
began = time.perf_counter()
import aiohttp
with_aiohttp = time.perf_counter()
import xalora_client
package = time.perf_counter()
from xalora_client import AsyncXalora
client = time.perf_counter()
AsyncXalora("a#b", "http://localhost", env_files=())
made = time.perf_counter()
print(json.dumps([with_aiohttp - began, package - with_aiohttp, client - package, made - client]))
"""


def imports() -> list[list[float]]:
    """Seconds for aiohttp, then for the package, for the client class, and for a client, a row a process."""
    rows = []
    for _ in range(1 + IMPORT_ROUNDS):
        command = [sys.executable, "-c", CHILD]
        ended = subprocess.run(
            command,
            env={**os.environ, **COMPILED},
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
        )
        rows.append(json.loads(ended.stdout))
    return rows[1:]


def main() -> None:
    report = Report("startup", "Import and start", " ".join((__doc__ or "").split("\n\n")[1].split()))
    rows = imports()
    aiohttp, package, client, made = (median(column) for column in zip(*rows, strict=True))
    added = median(row[1] + row[2] for row in rows)
    report.table(
        ["in a fresh Python", "ms"],
        [
            ["import aiohttp", f"{1000 * aiohttp:.0f}"],
            ["import xalora_client, after it", f"{1000 * package:.0f}"],
            ["from xalora_client import AsyncXalora, after it", f"{1000 * client:.0f}"],
            ["AsyncXalora(...), settings read", f"{1000 * made:.0f}"],
        ],
    )

    install = comfyui()
    from harness import ComfyUI

    costs = []
    with tempfile.TemporaryDirectory() as root:
        host = ComfyUI(install, Path(root), COMPILED)
        for _ in range(STARTS):
            with host:
                costs.append(host.load_cost())
    first, *later = costs
    wall, cpu = (median(getattr(cost, name) for cost in later) for name in ("wall_seconds", "cpu_seconds"))
    report.table(
        ["the pack in ComfyUI " + ".".join(map(str, install.version)), "ms", "ms CPU"],
        [
            ["first start", f"{1000 * first.wall_seconds:.0f}", f"{1000 * first.cpu_seconds:.0f}"],
            [f"later starts, median of {len(later)}", f"{1000 * wall:.0f}", f"{1000 * cpu:.0f}"],
        ],
    )
    report.note(f"A later start imports {len(later[-1].imported)} modules that ComfyUI had not.")
    report.target("import of the client over aiohttp", 1000 * added, 150, unit=" ms")
    report.target("the pack's part of ComfyUI's start", 1000 * wall, 100, unit=" ms")
    shown = {"aiohttp": aiohttp, "ours, over aiohttp": added, "ours, pack in ComfyUI": wall}
    report.bars("added to a start", {name: 1000 * seconds for name, seconds in shown.items()}, "ms")
    report.raw(imports=rows, pack=[[cost.wall_seconds, cost.cpu_seconds] for cost in costs])
    report.finish()


if __name__ == "__main__":
    main()
