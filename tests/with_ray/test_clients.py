"""The network's own Node SDK as a client, and workers with a real ComfyUI. ``CLUSTER=whole`` runs these."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from simulated import LANCZOS, Cluster, name_of, small_png, until

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("CLUSTER") != "whole", reason="make cluster-test runs these; see test_smoke.py"
    ),
    pytest.mark.timeout(400),
]

# One task to its end, one that is canceled, one that no machine can run.
NODE_PROGRAM = """
const Heurist = require("heurist").default;
const { UpscalerTask } = require("heurist/dist/apis.js");
const [workflowURL, apiKey, free, held] = process.argv.slice(1);
(async () => {
  const { workflow } = new Heurist({ apiKey, workflowURL });
  const task = new UpscalerTask({ image_url: free });
  const miner = await workflow.resourceRequest("tests", undefined, "upscaler");
  const done = await workflow.executeWorkflowAndWaitForResult(task, 60000, 1000);
  const id = await workflow.executeWorkflow(new UpscalerTask({ image_url: held, timeout_seconds: 600 }));
  const canceled = await workflow.cancelTask(id);
  const after = await workflow.queryTaskResult(id);
  const refused = await workflow.executeWorkflow(new UpscalerTask({ image_url: free, workflow_id: "77" }))
    .catch((error) => error.errorDetails);
  console.log(JSON.stringify({ miner, done, canceled, after, refused }));
})();
"""


def test_the_node_sdk_is_a_client(cluster: Cluster, repository: Path) -> None:
    sys.path.insert(0, str(repository / "benchmarks"))
    from _peers import node_sdk

    folder = node_sdk()
    if folder is None:
        pytest.skip("Node is missing, or npm can't install heurist")
    program = NODE_PROGRAM.replace("heurist/dist", f"{folder}/node_modules/heurist/dist")
    images = [cluster.inputs.url(name) for name in ("node-sdk", "held-node-sdk")]
    done = subprocess.run(
        ["node", "-e", program, cluster.url, cluster.api_key, *images],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    told = json.loads(done.stdout)
    assert told["miner"] in ("fast/cpu0", "slow/cpu0")
    assert told["done"]["status"] == "finished"
    assert cluster.file(told["done"])
    assert told["canceled"]["msg"] == "Task canceled" and told["after"]["status"] == "canceled"
    assert told["refused"]["status_code"] == 404 and "'77'" in told["refused"]["message"]


def test_the_nodes_of_comfyui_send_their_tasks_there(
    cluster: Cluster, repository: Path, tmp_path: Path
) -> None:
    sys.path.insert(0, str(repository / "tests" / "comfyui"))
    from harness import ComfyUI

    graph = {
        "image": {"class_type": "LoadImage", "inputs": {}},
        "upscale": {"class_type": "XaloraUpscaleImage", "inputs": {"image": ["image", 0]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["upscale", 0], "filename_prefix": "big"}},
    }
    network = {
        "XALORA_WORKFLOW_URL": cluster.url,
        "XALORA_API_KEY": cluster.api_key,
        "XALORA_FALLBACK": "never",
    }
    with ComfyUI(_install(), tmp_path, network) as comfyui:
        graph["image"]["inputs"]["image"] = comfyui.upload_image(small_png())
        record = comfyui.run(graph, timeout=120)
        assert record.status == "success", record.describe()
        (saved,) = record.outputs["save"]["images"]
        with Image.open(comfyui.output_dir / saved["filename"]) as image:
            assert image.size == (16, 16)


def _install() -> Any:
    """The ComfyUI that the tests run."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
    from comfyui_install import find_install

    try:
        return find_install()
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def with_comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head whose one worker has a real ComfyUI."""
    install = _install()
    options = ("--comfyui", install.path, "--comfyui-python", install.python, "--name", "box")
    with Cluster(tmp_path_factory.mktemp("comfyui"), *options) as cluster:
        until(lambda: LANCZOS in cluster.workers().get("box/cpu0", {}).get("workflows", ()), 300)
        yield cluster


def comfyui_pids(cluster: Cluster) -> list[int]:
    return cluster.head.pids("/main.py --listen=127.0.0.1")


def gradient(cluster: Cluster, job_id: str, frames: int) -> str:
    """A video without a model; each frame takes the processor some 10 ms."""
    parameters = {"prompt": job_id, "width": 1920, "height": 1088, "length": frames, "seed": len(job_id)}
    return cluster.create(
        job_id,
        task_type="txt2vid",
        workflow_id="gradient-video",
        task_details={"parameters": parameters},
    )


def busy(cluster: Cluster) -> bool:
    """Whether the worker's ComfyUI executes a prompt."""
    log = cluster.head.folder / "worker-0" / "comfyui" / "log.txt"
    return "got prompt" in log.read_text("utf-8", "replace")


def test_a_workers_comfyui_runs_the_workflows_it_has(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    workers = cluster.workers()["box/cpu0"]
    assert {LANCZOS, "gradient-video", "sharpen"} <= set(workers["workflows"])
    # Without model files.
    assert "upscale" not in workers["workflows"] and workers["lacking"]["upscale"]
    image = cluster.end_of(cluster.create("comfyui-image"))
    assert image["status"] == "finished" and cluster.file(image)
    video = cluster.end_of(gradient(cluster, "short", 4), 120)
    assert video["status"] == "finished" and video["result"].endswith(".mp4")
    # Nothing of a task stays in the folders of its ComfyUI.
    folder = cluster.head.folder / "worker-0" / "comfyui"
    until(lambda: not [*folder.glob("output/*"), *folder.glob("input/*")], 30)


def test_a_cancel_interrupts_the_comfyui(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    (cluster.head.folder / "worker-0" / "comfyui" / "log.txt").write_text("")
    task_id = gradient(cluster, "long", 128)
    until(lambda: busy(cluster), 60)
    before = comfyui_pids(cluster)
    assert cluster.ask("task_cancel", task_id=task_id)[1]["msg"] == "Task canceled"
    after = cluster.end_of(cluster.create("after-the-cancel"), 120)
    assert after["status"] == "finished"
    assert cluster.task(task_id)["status"] == "canceled"
    assert comfyui_pids(cluster) == before


def test_a_comfyui_that_dies_costs_its_task_one_more_run(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    (cluster.head.folder / "worker-0" / "comfyui" / "log.txt").write_text("")
    task_id = gradient(cluster, "killed", 32)
    until(lambda: busy(cluster), 60)
    before = comfyui_pids(cluster)
    cluster.head.signal(signal.SIGKILL, "/main.py --listen=127.0.0.1")
    end = cluster.end_of(task_id, 300)
    assert end["status"] == "finished", end
    assert not set(before) & set(comfyui_pids(cluster))


def test_a_comfyui_without_memory_fails_its_task_and_goes_on(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    assert cluster.end_of(gradient(cluster, "small", 4), 120)["status"] == "finished"
    with cluster.head.no_more_memory("/main.py --listen=127.0.0.1", 300 << 20) as pid:
        end = cluster.end_of(gradient(cluster, "too-large", 128), 120)
        assert (end["status"], "memory" in end["msg"]) == ("failed", True), end
        assert cluster.end_of(cluster.create("small-image"), 120)["status"] == "finished"
    assert comfyui_pids(cluster) == [pid]


def test_a_comfyui_that_the_kernel_kills_each_time_fails_its_task(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    (cluster.head.folder / "worker-0" / "comfyui" / "log.txt").write_text("")
    task_id = gradient(cluster, "killed-twice", 128)
    until(lambda: busy(cluster), 60)
    before = cluster.head.signal(signal.SIGKILL, "/main.py --listen=127.0.0.1")
    # The next one begins a log of its own.
    until(lambda: set(comfyui_pids(cluster)) - set(before) and busy(cluster), 300)
    cluster.head.signal(signal.SIGKILL, "/main.py --listen=127.0.0.1")
    end = cluster.end_of(task_id)
    assert end["status"] == "failed"
    assert end["msg"] == "Lost 2 times, the last time on box/cpu0: its ComfyUI ended"
    assert cluster.end_of(cluster.create("after-both"), 300)["status"] == "finished"


def test_no_comfyui_outlives_its_worker(with_comfyui: Cluster) -> None:
    cluster = with_comfyui
    before = comfyui_pids(cluster)
    assert before
    cluster.head.signal(signal.SIGKILL, "ray::Worker")
    until(lambda: not [pid for pid in before if name_of(pid)], 30)
    until(lambda: LANCZOS in cluster.workers().get("box/cpu0", {}).get("workflows", ()), 300)
    assert cluster.end_of(cluster.create("with-the-next"), 120)["status"] == "finished"
