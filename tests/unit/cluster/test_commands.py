"""The commands of ``xalora cluster`` that need no running cluster."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from xalora_client.cli.app import app
from xalora_client.cluster.keys import Keys


@pytest.fixture(autouse=True)
def as_if_ray_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return found("json") if name == "ray" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cluster", *map(str, arguments)])


def test_a_key_is_shown_with_what_whoever_sends_tasks_sets(tmp_path: Path) -> None:
    shown = run("key", "me", "--dir", tmp_path).stdout.splitlines()
    assert shown[0] == "export XALORA_WORKFLOW_URL='http://127.0.0.1:8100'"
    key = shown[1].partition("'")[2].rstrip("'")
    assert shown[1].startswith("export XALORA_API_KEY='me#")
    assert Keys(tmp_path / "keys.json").is_valid(*key.split("#"))
    told = json.loads(run("key", "you", "--dir", tmp_path, "--json").stdout)
    assert told["api_key"].startswith("you#")


def test_a_key_is_revoked(tmp_path: Path) -> None:
    key = json.loads(run("key", "me", "--dir", tmp_path, "--json").stdout)["api_key"]
    assert run("key", "me", "--revoke", "--dir", tmp_path).exit_code == 0
    assert not Keys(tmp_path / "keys.json").is_valid(*key.split("#"))
    assert run("key", "me", "--revoke", "--dir", tmp_path).exit_code == 3


def test_where_no_cluster_runs_the_commands_say_so(tmp_path: Path) -> None:
    status = run("status", "--dir", tmp_path)
    assert status.exit_code == 3 and "xalora cluster up" in status.stderr
    assert "Nothing runs here" in run("down", "--dir", tmp_path).stdout


@pytest.mark.parametrize("command", [["up"], ["join", "head", "--token", "t"], ["status"], ["down"]])
def test_elsewhere_than_on_linux_each_command_says_so(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    done = run(*command)
    assert done.exit_code == 3 and "Machines of a cluster run Linux" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "none-such"], "none-such is none of"),
        (["--engine", "comfyui"], "needs it"),
        (["--listen", "fd00::1"], "IPv4 address"),
        (["--comfyui", "."], "There is no ComfyUI in"),
        (["--listen", "192.0.2.200", "--engine", "pillow"], "can't listen on 192.0.2.200:8100"),
    ],
)
def test_what_can_not_start_is_told_in_a_sentence(tmp_path: Path, options: list[str], says: str) -> None:
    done = run("up", "--dir", tmp_path / "cluster", *options)
    assert done.exit_code in (2, 3)
    assert says in " ".join(done.stderr.split())
    assert not (tmp_path / "cluster" / "processes.json").exists()
