"""A cluster from ``up`` to ``down``, and a machine that dies with a task: the short tests."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from simulated import Cluster, listens, name_of

from xalora_client import Xalora
from xalora_client.tasks import UpscalerTask


def test_one_machine_serves_the_client_and_goes_down_clean(tmp_path: Path) -> None:
    with Cluster(tmp_path, "--engine", "pillow", "--name", "box") as cluster:
        cluster.wait_for_workers("box/cpu0")
        with Xalora(api_key=cluster.api_key, workflow_url=cluster.url) as client:
            result = client.run(UpscalerTask(image_url=cluster.inputs.url("free")))
        assert result.files[0].read_bytes().startswith(b"\x89PNG")
        pids = cluster.head.pids()
        assert any("raylet" in name_of(pid) for pid in pids)
        temporary = [path for path in Path("/tmp").glob("xalora-cluster-*") if path.stat().st_mode & 0o077]
        assert not temporary, "only its user may enter the folder of Ray's sockets"
        # Nothing but the endpoints of the front is for others, and here neither are these.
        assert not _listens_elsewhere(pids)
    assert cluster.head.returncode == 0
    assert not [name for pid in pids if (name := name_of(pid))]
    assert not listens(cluster.port) and not listens(cluster.ray_port)
    assert not (tmp_path / "head" / "processes.json").exists()


def test_a_task_outlives_its_machine(tmp_path: Path) -> None:
    head = ("--listen", "127.0.0.1", "--engine", "pillow", "--name", "head")
    with Cluster(tmp_path, *head) as cluster:
        machine = cluster.join("other")
        cluster.wait_for_workers("head/cpu0", "other/cpu0")
        with cluster.running("held-a") as (first, its_machine), cluster.running("held-b") as (second, _):
            task_id, image = (first, "held-a") if its_machine is machine else (second, "held-b")
            machine.signal(signal.SIGKILL)
            # The head's own worker gets free, and takes the task that was lost.
            cluster.inputs.release("held-b" if image == "held-a" else "held-a")
            cluster.inputs.wait_for(image, times=2)
        end = cluster.end_of(task_id)
        assert (end["status"], end["miner_id"], end["task_id"]) == ("finished", "head/cpu0", task_id)
        assert cluster.file(end)
        # The supervisor of the machine has it join again.
        cluster.wait_for_workers("head/cpu0", "other/cpu0")


def _listens_elsewhere(pids: list[int]) -> list[str]:
    """The addresses, other than loopback, on which these processes listen."""
    inodes = set()
    for pid in pids:
        try:
            for path in Path(f"/proc/{pid}/fd").iterdir():
                inodes.add(os.readlink(path))  # noqa: PTH115
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address = fields[1].partition(":")[0]
                # The last group of an IPv6 address may hold an IPv4 one; bytes are in the machine's order.
                if socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]) != "127.0.0.1":
                    found.append(fields[1])
    return found
