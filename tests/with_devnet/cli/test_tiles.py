"""Large images in the shell: cut into tiles, one bar, gone on with after an interrupt."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import CEILING, Cli, draw, wait_for_leases

from xalora_client.devnet import DevnetThread

LIMIT = {"XALORA_INLINE_LIMIT": "100000"}
AWAY = {"XALORA_WORKFLOW_URL": "http://127.0.0.1:9", "XALORA_UPSCALE_MODEL": "lanczos"}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A picture of noise above the limit, of 3 x 2 tiles."""
    pixels = np.random.default_rng(5).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def creates(devnet: DevnetThread) -> int:
    return int(devnet.stats()["creates"])


def test_an_image_that_no_request_takes_is_cut(
    cli: Cli, devnet: DevnetThread, large: Path, tmp_path: Path
) -> None:
    done = cli("upscale", large, **LIMIT, XALORA_PRICES="upscaler=0.5")
    assert done.returncode == 0, done.stderr
    tiles = creates(devnet)
    assert f"large.png: {tiles} of {tiles} tiles differ: {tiles} tasks, about {tiles / 2:.2f}" in done.stdout
    assert "large.xalora.png  the network · " in done.stdout
    assert f"800x600 · {tiles} tiles · {tiles} tasks sent" in done.stdout
    with Image.open(tmp_path / "large.xalora.png") as made:
        assert made.size == (800, 600)
    whole = cli("upscale", large, "-o", "whole.png")
    assert whole.returncode == 0 and creates(devnet) == tiles + 1
    in_tiles, in_one = (
        np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("large.xalora.png", "whole.png")
    )
    assert np.abs(in_tiles - in_one).max() <= 1
    again = cli("upscale", large, "-o", "again.png", **LIMIT)
    assert again.returncode == 0 and creates(devnet) == tiles + 1, "kept results answer"


def test_an_image_that_the_network_finds_too_large_is_cut(cli: Cli, large: Path, tmp_path: Path) -> None:
    with DevnetThread(miners=2, largest_request=300_000) as devnet:
        network = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}
        done = cli("upscale", large, **network)
        assert done.returncode == 0, done.stderr
        assert creates(devnet) == 6
    # The larger tile that was tried first is the whole image.
    assert "large.png: 1 of 1 tile differs" in done.stdout
    assert "large.png: 6 of 6 tiles differ: 6 tasks" in done.stdout
    with Image.open(tmp_path / "large.xalora.png") as made:
        assert made.size == (800, 600)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_side_of_tiles_is_chosen_and_so_is_the_format(
    cli: Cli, devnet: DevnetThread, large: Path, tmp_path: Path, suffix: str
) -> None:
    done = cli("upscale", large, "--tile", 256, "-o", f"big.{suffix}")
    assert done.returncode == 0, done.stderr
    assert creates(devnet) == 6
    with Image.open(tmp_path / f"big.{suffix}") as made:
        assert (made.format, made.size) == ({"png": "PNG", "tif": "TIFF"}[suffix], (800, 600))


def test_what_is_one_task_is_a_tiff_too(cli: Cli, large: Path, tmp_path: Path) -> None:
    assert cli("upscale", large, "-o", "big.tiff").returncode == 0
    with Image.open(tmp_path / "big.tiff") as made:
        assert (made.format, made.size) == ("TIFF", (800, 600))


def test_small_pictures_beside_it_are_one_task_each(cli: Cli, devnet: DevnetThread, large: Path) -> None:
    small = [draw(large.parent / f"{number}.png", number) for number in range(3)]
    document = cli.json("upscale", large, *small, **LIMIT)
    by_name = {result["label"]: result for result in document["results"]}
    assert [by_name[f"{number}.png"]["tiles"] for number in range(3)] == [None] * 3
    tiles = by_name["large.png"]["tiles"]
    assert by_name["large.png"]["status"] == "done" and tiles["done"] == tiles["tasks"]
    assert creates(devnet) == tiles["tasks"] + 3


def test_what_it_would_be_is_told_and_nothing_sent(cli: Cli, devnet: DevnetThread, large: Path) -> None:
    done = cli("upscale", large, "--dry-run", **LIMIT)
    assert "large.png: would be sent in 12 tiles: 12 tasks" in done.stdout, done.stdout
    document = cli.json("upscale", large, "--tile", 256, "--dry-run", XALORA_PRICES="upscaler=0.5")
    (planned,) = document["inputs"]
    assert (planned["tiles"], planned["tasks"], document["tasks"]) == (6, 6, 6)
    assert document["estimate"] == "3.00"
    refused = cli("upscale", large, "--tile", 256, "--max-tasks", 5, "--dry-run")
    assert refused.returncode == 3 and "and 5 are the limit" in refused.stderr
    assert creates(devnet) == 0


def test_above_the_limit_nothing_is_sent(cli: Cli, devnet: DevnetThread, large: Path) -> None:
    done = cli("upscale", large, "--tile", 256, "--max-tasks", 5)
    assert done.returncode == 3
    assert "large.png needs 6 tasks (6 of 6 tiles differ), and 5 are the limit." in done.stderr
    never = cli("upscale", large, "--tile", "never", **LIMIT)
    assert never.returncode == 3 and "more than the 0.1 MB that are sent inside a request" in never.stderr
    assert creates(devnet) == 0


def test_programs_get_lines(cli: Cli, large: Path) -> None:
    done = cli("upscale", large, "--tile", 256, "--jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["tasks"] for line in lines if line["event"] == "plan"] == [6]
    told = [line for line in lines if line["event"] == "tile_progress"]
    assert (told[0]["done"], told[-1]["done"], told[-1]["tasks"]) == (0, 6, 6)
    assert lines[-1]["event"] == "end"


def test_an_interrupted_command_goes_on_where_it_was(tmp_path: Path, large: Path) -> None:
    with DevnetThread(miners=2, task_seconds=0.3) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", large, "--tile", 160, "--max-in-flight", 2)
        deadline = time.monotonic() + CEILING
        while devnet.stats()["tasks"]["finished"] < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, complaint = process.communicate(timeout=CEILING)
        assert process.returncode == 130
        assert time.monotonic() - began < 6, "3 s, and the end of the process beside other programs"
        assert "Interrupted: canceling 2 tasks in the network" in complaint
        assert "of 20 tiles are here, and what is paid for is kept." in complaint
        assert not list(tmp_path.glob("*.xalora*")) and not list(tmp_path.glob(".*.part"))
        before = creates(devnet)
        done = cli("upscale", large, "--tile", 160)
        assert done.returncode == 0, done.stderr
        assert creates(devnet) - before <= 20 - 4


def test_without_a_network_this_machine_makes_it_and_says_so(tmp_path: Path, large: Path) -> None:
    cli = Cli(tmp_path)
    done = cli("upscale", large, "--tile", 256, **AWAY, XALORA_API_KEY="me#key")
    assert done.returncode == 7, done.stderr
    made = (tmp_path / "large.local.png").read_bytes()
    assert not (tmp_path / "large.xalora.png").exists()
    named = cli("upscale", large, "--tile", 256, "--engine", "pillow")
    assert named.returncode == 0 and "done by this machine, nothing is sent" in named.stdout
    assert (tmp_path / "large.xalora.png").exists()
    (tmp_path / "large.local.png").write_bytes(b"mine")
    again = cli("upscale", large, "--tile", 256, "--force", **AWAY, XALORA_API_KEY="me#key")
    assert again.returncode == 7 and (tmp_path / "large.local.png").read_bytes() == made


def test_a_second_fallback_leaves_the_first_one_alone(cli: Cli, tmp_path: Path, large: Path) -> None:
    (tmp_path / "large.local.png").write_bytes(b"mine")
    done = cli("upscale", large, "--tile", 256, **AWAY)
    assert done.returncode == 7, done.stderr
    assert "large.local.png exists by now, so the result is in large.local-2.png" in done.stderr
    assert (tmp_path / "large.local.png").read_bytes() == b"mine"
    assert (tmp_path / "large.local-2.png").exists()


def test_a_fallback_with_force_leaves_the_image_that_is_paid_for(
    cli: Cli, tmp_path: Path, large: Path
) -> None:
    named = ("upscale", large, "--tile", 256, "-o", "named.png")
    assert cli(*named).returncode == 0
    paid_for = (tmp_path / "named.png").read_bytes()
    assert cli(*named, "--force", **AWAY).returncode == 7
    assert (tmp_path / "named.png").read_bytes() == paid_for
    assert (tmp_path / "named.local.png").exists()


def test_this_machine_where_the_user_chose_it_has_the_usual_name(tmp_path: Path, large: Path) -> None:
    done = Cli(tmp_path)("upscale", large, "--tile", 256, "--fallback", "local_only", **AWAY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large.xalora.png").exists() and not (tmp_path / "large.local.png").exists()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_that_appears_meanwhile_is_replaced_with_force_alone(
    tmp_path: Path, large: Path, force: tuple[str, ...]
) -> None:
    with DevnetThread(miners=0) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", large, "--tile", 256, *force)
        devnet.wait_for(lambda stats: stats["creates"] >= 1)
        (tmp_path / "large.xalora.png").write_bytes(b"mine")
        devnet.add_miner()
        out, err = process.communicate(timeout=CEILING)
    assert process.returncode == 0, err
    is_left = (tmp_path / "large.xalora.png").read_bytes() == b"mine"
    is_told = "large.xalora.png exists by now, so the result is in large.xalora-2.png" in err
    assert [is_left, is_told, (tmp_path / "large.xalora-2.png").exists()] == [not force] * 3
    assert f"large.xalora{'' if force else '-2'}.png" in out


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_tells_of_the_tasks_that_may_run_on(tmp_path: Path, large: Path) -> None:
    with DevnetThread(miners=0, faults=["task_cancel:503"]) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", large, "--tile", 256, "--max-in-flight", 2)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=CEILING)
        assert "0 of 6 tiles are here" in err
        assert "large.png: 2 tasks may run on and be charged; cancel every open task with: " in err
        devnet.clear_faults()
        assert cli("cancel", "--all").returncode == 0
        assert devnet.stats()["tasks"]["canceled"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_tells_of_the_tasks_that_another_process_waits_for(tmp_path: Path, large: Path) -> None:
    with DevnetThread(miners=0) as devnet:
        cli = Cli(tmp_path, devnet)
        tiles = ("upscale", large, "--tile", 256, "--max-in-flight", 2, "-o")
        one = cli.start(*tiles, "1.png")
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 2)
        other = cli.start(*tiles, "2.png")
        wait_for_leases(4)
        one.send_signal(signal.SIGINT)
        _, err = one.communicate(timeout=CEILING)
        assert "large.png: not canceled, another process waits for 2 tasks" in err
        assert "may run on" not in err
        other.send_signal(signal.SIGINT)
        other.communicate(timeout=CEILING)
        assert devnet.stats()["tasks"]["canceled"] == 2


def test_unknown_outcomes_are_not_told_as_tasks_that_go_on(tmp_path: Path, large: Path) -> None:
    with DevnetThread(miners=0, faults=["task_create:drop_after"]) as devnet:
        cli = Cli(tmp_path, devnet)
        tiles = ("upscale", large, "--tile", 256, "--max-in-flight", 2, "--fallback", "never")
        assert cli(*tiles).returncode == 6
        resumed = cli("resume", "--all")
        assert resumed.returncode == 6
        assert "upscale large.png: what became of 2 tasks is not known." in resumed.stderr
        assert "may exist and be charged" in resumed.stderr
        assert "takes them up" not in resumed.stderr and "No open tasks" not in resumed.stdout
        again = cli(*tiles)
        assert again.returncode == 6
        assert "6 of 6 tiles differ, no new task for 2: 4 tasks" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--tile", "huge"), 2, "is not auto, always, never or a number of pixels"),
        (("--tile", "20"), 3, "Tiles of 20 pixels"),
        (("--tile", "256", "-o", "large.jpg"), 3, "as PNG or TIFF"),
        (("--tile", "256", "--format", "webp"), 3, "as PNG or TIFF"),
        (("--tile", "256", "-o", "-"), 2, "not to standard output"),
    ],
)
def test_what_does_not_go_together_is_refused(
    cli: Cli, devnet: DevnetThread, large: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = cli("upscale", large, *arguments)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert creates(devnet) == 0
