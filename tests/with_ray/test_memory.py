"""Too little memory: for an engine, and a /dev/shm of a few megabytes. ``CLUSTER=whole`` runs these."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from simulated import LANCZOS, Cluster

from xalora_client.media.png_encode import encode_png

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER") != "whole", reason="make cluster-test runs these; see test_smoke.py"
)


def image(height: int, width: int, *, noise: bool = False) -> str:
    pixels = np.zeros((height, width, 3), np.uint8)
    if noise:
        pixels = np.random.default_rng(1).integers(0, 256, pixels.shape, np.uint8)
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()


def upscaled(cluster: Cluster, job_id: str, url: str, workflow: str = LANCZOS) -> dict[str, object]:
    details = {"parameters": {"image": url}}
    return cluster.end_of(cluster.create(job_id, workflow_id=workflow, task_details=details), 120)


@pytest.mark.parametrize(
    ("engine", "workflow", "height", "spare"),
    [("pillow", LANCZOS, 6000, 300 << 20), ("ncnn", "upscale", 220, 60 << 20)],
    ids=["pillow", "ncnn"],
)
def test_an_engine_without_memory_fails_its_task_and_its_worker_goes_on(
    tmp_path: Path, engine: str, workflow: str, height: int, spare: int
) -> None:
    with Cluster(tmp_path, "--engine", engine, "--name", "box") as cluster:
        cluster.wait_for_workers("box/cpu0")
        assert upscaled(cluster, "before", image(8, 8), workflow)["status"] == "finished"
        with cluster.head.no_more_memory("ray::Worker", spare) as pid:
            end = upscaled(cluster, "large", image(height, height), workflow)
            assert (end["status"], "emory" in end["msg"]) == ("failed", True), end
            assert upscaled(cluster, "after", image(8, 8), workflow)["status"] == "finished"
        assert cluster.head.pids("ray::Worker") == [pid]


@pytest.mark.parametrize("megabytes", [8, 64])
def test_a_small_shared_memory_holds_up_no_large_task(tmp_path: Path, megabytes: int) -> None:
    alone = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
    within = [*alone, "sh", "-c", mount, "sh"]
    tried = subprocess.run([*within, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no /dev/shm of its own here: {tried.stderr.strip()}")
    options = ("--engine", "pillow", "--name", "box", "--slots", 2)
    with Cluster(tmp_path, *options, within=within) as cluster:
        cluster.wait_for_workers("box/cpu0", "box/cpu1")
        # Some 50 MB each, and a result of four times as much.
        url = image(3500, 4000, noise=True)
        ids = [
            cluster.create(f"large-{number}", task_details={"parameters": {"image": url}})
            for number in range(4)
        ]
        ends = [cluster.end_of(task_id, 240) for task_id in ids]
        assert [end["status"] for end in ends] == ["finished"] * 4, ends
        assert len(cluster.file(ends[0])) > 100 << 20
