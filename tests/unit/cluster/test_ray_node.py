"""How Ray is started: variables, arguments, refusals. Ray itself is not needed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from xalora_client.cluster import ray_node
from xalora_client.cluster.machine import Machine
from xalora_client.errors import ConfigurationError

MACHINE = Machine("box", "ncnn", slots=2, folder="/nowhere")

MISMATCH = """
RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 192.0.2.7 was started with:
    Ray: 2.60.1
    Python: 3.12.1
"""


def test_ray_is_quiet_and_needs_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setenv("http_proxy", "http://proxy")
    token, gcs = tmp_path / "token", tmp_path / "gcs"
    head = ray_node.head_environment(token, gcs, loopback=True, machine=None)
    assert "RAY_ADDRESS" not in head
    assert (head["RAY_AUTH_MODE"], head["RAY_AUTH_TOKEN_PATH"]) == ("token", str(token))
    assert head["RAY_USAGE_STATS_ENABLED"] == "0"
    assert head["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    # No look-up of cloud metadata, and the user's own value for the workers.
    assert head["http_proxy"] != "http://proxy"
    assert ray_node.proxies()["http_proxy"] == "http://proxy"
    machine = ray_node.environment(token, loopback=False)
    assert machine["http_proxy"] == "http://proxy"
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in machine


def test_rays_tls_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.setenv(name, "own")
        assert ray_node.environment(tmp_path, loopback=False)[name] == "own"


def test_a_machine_names_itself_and_its_slots(tmp_path: Path) -> None:
    command = ray_node.machine_command("head:6399", "192.0.2.7", tmp_path, MACHINE)
    assert {"--address=head:6399", "--num-cpus=2", "--num-gpus=0", "--block"} <= set(command)
    assert '--resources={"xalora_machine_box": 1}' in command
    assert "--num-gpus=0" not in ray_node.machine_command(
        "head:6399", "192.0.2.7", tmp_path, Machine("box", "comfyui", slots=1, folder="/nowhere")
    )


def test_a_head_that_does_not_work_has_no_slots(tmp_path: Path) -> None:
    command = ray_node.head_command("127.0.0.1", 6399, tmp_path, None)
    assert {"--num-cpus=0", "--num-gpus=0", "--resources={}"} <= set(command)


@pytest.mark.parametrize(("free", "on_disk"), [(64 << 20, True), (90 << 20, False), (64 << 30, False)])
def test_a_small_shared_memory_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, on_disk: bool
) -> None:
    monkeypatch.setattr(ray_node.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    command = ray_node.head_command("127.0.0.1", 6399, tmp_path, MACHINE)
    assert (f"--plasma-directory={tmp_path}" in command) == on_disk
    (size,) = (int(each.partition("=")[2]) for each in command if each.startswith("--object-store-memory="))
    assert 80 << 20 <= size <= 256 << 20
    assert on_disk or size <= free


def test_other_versions_are_told_in_one_sentence() -> None:
    assert ray_node.refusal_in(MISMATCH) == (
        "The head has Ray 2.60.0 on Python 3.11.7, and this machine Ray 2.60.1 on Python 3.12.1"
    )


def test_a_patch_release_of_python_is_no_reason() -> None:
    warning = MISMATCH.replace("RuntimeError: Version", "WARNING: Python patch version")
    assert ray_node.refusal_in(warning) is None
    assert ray_node.refusal_in("the head is gone") is None


def test_where_there_is_no_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="needs ray") as caught:
        ray_node.check_installed()
    assert 'pip install "xalora[cluster]"' in str(caught.value)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_than_on_linux_the_message_says_so(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(ConfigurationError, match="run Linux") as caught:
        ray_node.check_installed()
    assert "XALORA_WORKFLOW_URL" in str(caught.value)
