"""Ends of a task and of a head, and who is refused. ``CLUSTER=whole`` runs these."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import LANCZOS, XALORA, Cluster, Process, listens, name_of, until

from xalora_client.cluster.supervisor import token_file

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER") != "whole", reason="make cluster-test runs these; see test_smoke.py"
)

BOTH = ("fast/cpu0", "slow/cpu0")


def is_free(cluster: Cluster) -> None:
    """Both workers take tasks again."""
    until(lambda: not any(worker["task_id"] for worker in cluster.workers().values()), what="free workers")
    ids = [cluster.create(f"free-{os.urandom(4).hex()}") for _ in range(4)]
    assert {cluster.end_of(task_id)["status"] for task_id in ids} == {"finished"}


def test_a_running_task_is_canceled(cluster: Cluster) -> None:
    with cluster.running("held-cancel") as (task_id, _):
        assert cluster.ask("task_cancel", task_id=task_id)[1]["msg"] == "Task canceled"
        assert cluster.task(task_id)["status"] == "canceled"
        # Before the input comes: the worker does not wait for it.
        is_free(cluster)
    assert cluster.task(task_id)["status"] == "canceled"


def test_a_waiting_task_is_canceled_and_never_runs(cluster: Cluster) -> None:
    with cluster.running("held-a"), cluster.running("held-b"):
        task_id = cluster.create("never")
        assert cluster.task(task_id)["queue_position"] == 1
        assert cluster.task(cluster.create("later"))["queue_position"] == 2
        cluster.ask("task_cancel", task_id=task_id)
    is_free(cluster)
    assert cluster.task(task_id)["status"] == "canceled"
    assert cluster.inputs.asked["never"] == 0


def test_the_networks_time_ends_a_running_task(cluster: Cluster) -> None:
    with cluster.running("held-late", timeout_seconds=5) as (task_id, _):
        end = cluster.end_of(task_id)
        assert (end["status"], "timeout_seconds" in end["msg"]) == ("canceled", True)
        is_free(cluster)


def test_the_networks_time_ends_a_waiting_task_from_its_create(cluster: Cluster) -> None:
    with cluster.running("held-c"), cluster.running("held-d"):
        task_id = cluster.create("too-late", timeout_seconds=1)
        end = cluster.end_of(task_id)
        assert (end["status"], "miner_id" in end) == ("canceled", False)
    is_free(cluster)
    assert cluster.inputs.asked["too-late"] == 0


def test_a_failure_of_the_engine_has_its_reason_and_is_not_tried_again(cluster: Cluster) -> None:
    parameters = {"image": "data:image/png;base64,bm90IGFuIGltYWdl"}
    task_id = cluster.create("broken", task_details={"parameters": parameters})
    end = cluster.end_of(task_id)
    assert end["status"] == "failed"
    assert end["msg"] and "Lost" not in end["msg"]
    is_free(cluster)


def test_a_result_that_the_head_can_not_keep_fails_its_task_with_the_reason(cluster: Cluster) -> None:
    results = cluster.head.folder / "results"
    with cluster.running("held-disk") as (task_id, _):
        results.rename(results.with_name("away"))
        results.touch()
    try:
        end = cluster.end_of(task_id)
        assert (end["status"], "can't keep the result" in end["msg"]) == ("failed", True), end
    finally:
        results.unlink()
        results.with_name("away").rename(results)
    is_free(cluster)


def test_a_workflow_that_no_machine_can_run(cluster: Cluster) -> None:
    status, answer = cluster.ask("resource_request", workflow_id="upscale")
    assert status == 404 and "pillow" in answer["message"]
    task_id = cluster.create("no-machine", workflow_id="upscale")
    assert "No machine" in cluster.task(task_id)["msg"]
    cluster.ask("task_cancel", task_id=task_id)
    assert cluster.ask("resource_request", workflow_id=LANCZOS)[0] == 200


def test_a_stranger_without_a_key(cluster: Cluster) -> None:
    task_id = cluster.create("mine")
    for key in ("tests#wrong", cluster.key("other")):
        assert cluster.ask("task_result_query", api_key=key, task_id=task_id)[0] == 401
        assert cluster.ask("task_cancel", api_key=key, task_id=task_id)[0] == 401
    cluster.end_of(task_id)


@pytest.mark.parametrize("token", ["", "0" * 64], ids=["none", "wrong"])
def test_a_stranger_without_the_token_can_run_nothing(cluster: Cluster, tmp_path: Path, token: str) -> None:
    program = (
        f"import ray; ray.init(address='127.0.0.1:{cluster.ray_port}', log_to_driver=False)\n"
        "print('INSIDE', ray.get(ray.remote(lambda: 1).remote()))"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"HOME": str(tmp_path)} | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, env=own, capture_output=True, text=True, timeout=110)
    assert done.returncode != 0 and "INSIDE" not in done.stdout
    assert len(cluster.workers()) == 2


def test_a_machine_with_another_token_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    head = f"127.0.0.1:{cluster.ray_port}"
    stranger = Process(tmp_path / "stranger", "join", head, "--token", token, "--engine", "pillow")
    try:
        until(lambda: stranger.returncode is not None, 90, stranger.logs)
        assert "The head refuses this machine's token" in stranger.output, stranger.logs
    finally:
        stranger.end()


def test_rays_traffic_is_encrypted_where_its_tls_is_set_up(tmp_path: Path) -> None:
    from ray.util import get_node_ip_address

    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    # Ray turns a loopback address into the machine's own.
    names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{get_node_ip_address()}"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=cluster",
    ]
    command += ["-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    environment = {"RAY_USE_TLS": "1", "RAY_TLS_SERVER_KEY": str(key)}
    environment |= dict.fromkeys(("RAY_TLS_SERVER_CERT", "RAY_TLS_CA_CERT"), str(certificate))
    with Cluster(tmp_path, environment=environment) as cluster:
        served = ssl.get_server_certificate(("127.0.0.1", cluster.ray_port))
        assert served.strip() == certificate.read_text().strip()
        cluster.join("one", environment=environment)
        cluster.wait_for_workers("one/cpu0")
        assert cluster.end_of(cluster.create("encrypted"))["status"] == "finished"


def test_a_machine_with_another_release_of_ray_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    # Ray's own check, on a machine whose Ray says that it is another release.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "version = types.ModuleType('ray._version')\n"
        "version.version, version.commit = '2.60.9', 'other'\n"
        "sys.modules['ray._version'] = version\n"
    )
    head = f"127.0.0.1:{cluster.ray_port}"
    own = f"Ray 2.60.9 on Python {sys.version.split()[0]}"
    environment = {"PYTHONPATH": str(tmp_path)}
    other = Process(
        *(tmp_path / "other", "join", head, "--token", cluster.token, "--engine", "pillow"),
        environment=environment,
    )
    try:
        until(lambda: other.returncode is not None, 90, other.logs)
        assert other.returncode == 3 and f"and this machine {own}" in " ".join(other.output.split())
    finally:
        other.end()


def test_a_machine_waits_for_a_head_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.token
    early = Process(tmp_path / "early", "join", "127.0.0.1:9", "--token", token, "--engine", "pillow")
    try:
        early.says("nothing answers at 127.0.0.1:9; trying until it does")
    finally:
        early.end()
    assert early.returncode == 0 and early.pids() == []


def test_a_machine_joins_a_head_that_comes_later(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    token = token_file(tmp_path / "head")
    head = f"127.0.0.1:{cluster.ray_port}"
    early = Process(
        tmp_path / "early", "join", head, *("--token", token, "--engine", "pillow", "--name", "early")
    )
    cluster.machines["early"] = early
    early.says(f"nothing answers at {head}")
    with cluster:
        cluster.wait_for_workers("early/cpu0")
        assert cluster.end_of(cluster.create("later"))["status"] == "finished"


def test_a_model_on_one_machine_only(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.join("plain")
        cluster.join("model", "--engine", "ncnn")
        cluster.wait_for_workers("model/cpu0", "plain/cpu0")
        first = cluster.end_of(cluster.create("upscaled", workflow_id="upscale"))
        assert (first["status"], first["miner_id"]) == ("finished", "model/cpu0"), first
        ids = [cluster.create(f"either-{number}") for number in range(4)]
        assert {cluster.end_of(task_id)["status"] for task_id in ids} == {"finished"}


def test_a_port_that_is_taken_is_told_in_a_sentence(tmp_path: Path, cluster: Cluster) -> None:
    command = [*XALORA, "cluster", "up", "--port", str(cluster.port), "--dir", str(tmp_path / "other")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert f"can't listen on 127.0.0.1:{cluster.port}: address already in use" in done.stderr


def test_a_folder_in_use_is_told_in_a_sentence(cluster: Cluster) -> None:
    command = [*XALORA, "cluster", "up", "--dir", str(cluster.head.folder), "--engine", "pillow"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "runs already" in done.stderr
    assert listens(cluster.port)


def test_a_key_that_is_revoked_while_its_task_runs(cluster: Cluster) -> None:
    key = cluster.key("guest")
    asked = {"task_type": "upscaler", "workflow_id": LANCZOS, "job_id": "guest"}
    asked["task_details"] = {"parameters": {"image": cluster.inputs.url("held-revoked")}}
    task_id = cluster.ask("task_create", api_key=key, **asked)[1]["task_id"]
    cluster.inputs.wait_for("held-revoked")
    command = [*XALORA, "cluster", "key", "guest", "--revoke", "--dir", str(cluster.head.folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for endpoint in ("task_result_query", "task_cancel"):
        assert cluster.ask(endpoint, api_key=key, task_id=task_id)[0] == 401
    assert cluster.ask("task_create", api_key=key, **asked)[0] == 401
    cluster.inputs.release("held-revoked")
    # The task goes on, and is there for the consumer's next key.
    new = cluster.key("guest")

    def is_finished() -> bool:
        told = cluster.ask("task_result_query", api_key=new, task_id=task_id)[1]
        return bool(told["status"] == "finished")

    until(is_finished, what="the end of its task")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_head_and_a_machine_whatever_they_do(tmp_path: Path, number: signal.Signals) -> None:
    with Cluster(tmp_path) as cluster:
        machine = cluster.join("one")
        cluster.wait_for_workers("one/cpu0")
        with cluster.running("held-signal"):
            pids = [*machine.pids(), *cluster.head.pids()]
            assert (machine.stop(number), cluster.head.stop(number)) == (0, 0)
            # Again, and while it starts.
            machine.start()
            machine.says("nothing answers")
            cluster.head.start()
            until(cluster.head.pids)
            pids += cluster.head.pids()
            assert (machine.stop(number), cluster.head.stop(number)) == (0, 0)
        assert not [name for pid in pids if (name := name_of(pid))]
        assert not listens(cluster.port) and not listens(cluster.ray_port)
        # Where nothing runs any more, that is no error.
        cluster.head.end()
