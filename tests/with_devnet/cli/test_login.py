"""``xalora login`` and ``logout``: the stored key, who can read it, and which network it goes to."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shell import CEILING, KEY, Cli

from xalora_client import AsyncXalora, ConfigurationError, load_settings
from xalora_client.config import LOGIN
from xalora_client.devnet import DevnetThread
from xalora_client.key_file import login_file


def entered(cli: Cli, key: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "xalora_client", "login", *map(str, arguments)],
        cwd=cli.folder,
        env={**cli.env, "XALORA_API_KEY": "", **env},
        input=key,
        capture_output=True,
        text=True,
        timeout=CEILING,
        check=False,
    )
    assert "very-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def known(cli: Cli) -> Cli:
    """A shell without variables, logged in to the devnet."""
    assert entered(cli, f"{KEY}\n").returncode == 0
    del cli.env["XALORA_API_KEY"], cli.env["XALORA_WORKFLOW_URL"]
    return cli


def test_a_stored_key_is_used_by_the_shell_and_by_programs(
    known: Cli, photo: Path, devnet: DevnetThread
) -> None:
    path = login_file().path
    assert path.read_text() == KEY
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert known("upscale", photo, "--engine", "xalora").returncode == 0
    assert devnet.stats()["creates"] == 1
    settings = {each["name"]: each for each in known.json("config")["settings"]}
    assert (settings["api_key"]["value"], settings["api_key"]["source"]) == ("alice#********", LOGIN)
    assert (settings["workflow_url"]["value"], settings["workflow_url"]["source"]) == (devnet.url, LOGIN)
    client = AsyncXalora()
    assert client.settings.credentials().consumer_id == "alice"
    assert known("logout").stdout.strip().endswith("is deleted.")
    assert not path.exists() and not any(path.parent.iterdir())
    assert known("upscale", photo, "-o", "x.png").returncode == 3
    assert known("logout").stdout == "No key was stored.\n"


def test_a_stored_key_goes_to_its_own_network_only(known: Cli, devnet: DevnetThread) -> None:
    with DevnetThread(miners=0, api_key=KEY) as other:
        assert known.json("config", XALORA_WORKFLOW_URL=other.url)["settings"][0]["value"] is None
        Path(".env").write_text(f"XALORA_WORKFLOW_URL={other.url}\n")
        assert load_settings().settings.api_key is None
        refused = known("txt2vid", "a fox")
        assert refused.returncode == 3
        assert (
            f"No API key is set for {other.url}; that of `xalora login` is for {devnet.url}."
            in refused.stderr
        )
        Path(".env").write_text(f"XALORA_WORKFLOW_URL={devnet.url}/\n")
        assert load_settings().sources["api_key"] == LOGIN
        # A key from elsewhere does not take the stored network along.
        Path(".env").unlink()
        assert load_settings(api_key="bob#key").sources["workflow_url"] == "default"
        assert sum(other.stats()["endpoints"].values()) == 0


def test_a_key_that_the_network_refuses_is_not_stored(cli: Cli) -> None:
    done = entered(cli, "alice#very-secret-but-wrong")
    assert done.returncode == 3
    assert "does not accept the API key" in done.stderr
    assert not login_file().path.exists()


@pytest.mark.parametrize("key", ["", "\n", "malformed", "very-", "#very-secret"])
def test_no_key_and_a_malformed_one_are_refused(cli: Cli, key: str, devnet: DevnetThread) -> None:
    assert entered(cli, key).returncode in (2, 3)
    assert not login_file().path.exists()
    assert devnet.stats()["endpoints"]["resource_request"] == 0


def test_a_key_is_no_argument_and_is_not_repeated(cli: Cli) -> None:
    done = entered(cli, "", "alice#very-secret-key")
    assert done.returncode == 2
    assert "history" in done.stderr
    assert not login_file().path.exists()


def test_a_key_is_stored_with_a_warning_where_it_can_not_be_tested(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    done = entered(Cli(tmp_path), KEY, "--url", url)
    assert done.returncode == 0
    assert "could not be tested" in done.stderr
    assert login_file().read_endpoint() == url


def test_a_variable_that_wins_over_the_stored_key_is_told(cli: Cli) -> None:
    done = entered(cli, KEY, XALORA_API_KEY="bob#other")
    assert done.returncode == 0
    assert "another is set (environment)" in done.stderr


def test_a_key_file_that_can_not_be_read_names_itself(tmp_path: Path) -> None:
    login_file().path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="api-key can't be read"):
        load_settings()
    assert load_settings(api_key="bob#key").settings.credentials().consumer_id == "bob"


def asked_for_the_key(cli: Cli) -> tuple[subprocess.Popen[bytes], int]:
    """`xalora login` that waits for the key on a terminal of its own, and that terminal's other end."""
    import termios

    master, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "xalora_client", "login"],
        cwd=cli.folder,
        env={**cli.env, "XALORA_API_KEY": ""},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    until = time.monotonic() + CEILING
    while termios.tcgetattr(master)[3] & termios.ECHO:
        assert time.monotonic() < until
        time.sleep(0.05)
    return process, master


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("way", ["Ctrl-D", "Ctrl-C"])
def test_a_question_that_is_left_is_an_interrupt(cli: Cli, way: str) -> None:
    process, master = asked_for_the_key(cli)
    if way == "Ctrl-D":
        os.write(master, b"\4")
    else:
        # The terminal does not control the process, so its Ctrl-C would not arrive.
        process.send_signal(signal.SIGINT)
    assert process.wait(CEILING) == 130
    os.close(master)
    assert not login_file().path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_typed_key_is_not_echoed(cli: Cli) -> None:
    process, master = asked_for_the_key(cli)
    os.write(master, f"{KEY}\n".encode())
    shown = b""
    # The closed terminal is an error on Linux, and the end of the data elsewhere.
    with contextlib.suppress(OSError):
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    assert process.wait(CEILING) == 0
    assert b"API key" in shown and b"very-secret" not in shown
    assert login_file().path.read_text() == KEY
