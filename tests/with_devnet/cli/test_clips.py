"""Clips in the shell: one command, one bar, gone on with after an interrupt."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest
from shell import CEILING, Cli, draw, interrupted_until_it_ends
from video_files import moving_photograph, played, track, write_video

from xalora_client.devnet import DevnetThread


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", moving_photograph(12, hold=2), lossless=True)


def creates(devnet: DevnetThread) -> int:
    return int(devnet.stats()["creates"])


def test_a_clip_is_upscaled_with_its_sound(
    cli: Cli, devnet: DevnetThread, clip: Path, tmp_path: Path
) -> None:
    done = cli("upscale", clip)
    assert done.returncode == 0, done.stderr
    assert "clip.mp4: 6 of 12 frames differ: 6 tasks" in done.stdout
    assert "clip.xalora.mp4  192x128 · 12 frames · by the network · 6 tasks sent" in done.stdout
    made = tmp_path / "clip.xalora.mp4"
    assert len(played(made)) == 12
    assert track(made, "audio") == track(clip, "audio")
    again = cli("upscale", clip)
    assert again.returncode == 2 and "would be overwritten" in again.stderr
    assert creates(devnet) == 6


def test_the_output_is_named_or_a_folder(cli: Cli, clip: Path, tmp_path: Path) -> None:
    matroska = write_video(tmp_path / "other.mkv", moving_photograph(2))
    assert cli("upscale", clip, "-o", tmp_path / "large.mkv").returncode == 0
    assert cli("upscale", clip, matroska, "-o", f"{tmp_path / 'folder'}/").returncode == 0
    assert (tmp_path / "large.mkv").exists()
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"clip.xalora.mp4", "other.xalora.mkv"}


def test_what_it_would_be_is_told_and_nothing_sent(
    cli: Cli, devnet: DevnetThread, clip: Path, tmp_path: Path
) -> None:
    document = cli.json("upscale", clip, "--dry-run", XALORA_PRICES="upscaler=0.5")
    (planned,) = document["results"]
    assert (planned["frames"], planned["tasks"], planned["estimate"]) == (12, 6, "3.00")
    assert document["dry_run"] is True
    assert creates(devnet) == 0 and not (tmp_path / "clip.xalora.mp4").exists()


def test_above_the_limit_nothing_is_sent(cli: Cli, devnet: DevnetThread, clip: Path) -> None:
    done = cli("upscale", clip, "--max-tasks", 5)
    assert done.returncode == 3
    assert "clip.mp4 needs 6 tasks (6 of 12 frames differ), and 5 are the limit." in done.stderr
    assert creates(devnet) == 0


def test_programs_get_a_document_or_lines(cli: Cli, clip: Path, tmp_path: Path) -> None:
    document = cli.json("upscale", clip)
    (result,) = document["results"]
    assert result["status"] == "done" and result["video"]["tasks"] == 6
    assert result["video"]["engines"] == {"xalora": 6}
    lines = [json.loads(line) for line in cli("upscale", clip, "--force", "--jsonl").stdout.splitlines()]
    names = [line["event"] for line in lines]
    assert names[-1] == "end" and names[-2] == "result" and "plan" in names and "progress" in names
    last = [line for line in lines if line["event"] == "progress"][-1]
    assert (last["done"], last["frames"]) == (12, 12)


def test_an_interrupted_command_goes_on_where_it_was(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_photograph(60), lossless=True)
    with DevnetThread(miners=4, task_seconds=0.2) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", clip)
        deadline = time.monotonic() + CEILING
        while devnet.stats()["tasks"]["finished"] < 8:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, complaint = process.communicate(timeout=CEILING)
        took = time.monotonic() - began
        assert process.returncode == 130
        assert took < 6, "3 s, and the end of the process beside other programs"
        assert "Interrupted: canceling" in complaint
        assert "of 60 frames are encoded" in complaint and "goes on from there" in complaint
        done = cli("upscale", clip)
        assert done.returncode == 0, done.stderr
        assert devnet.stats()["tasks"]["finished"] == 60
    assert len(played(tmp_path / "clip.xalora.mp4")) == 60


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_that_appears_meanwhile_is_replaced_with_force_alone(
    tmp_path: Path, clip: Path, force: tuple[str, ...]
) -> None:
    with DevnetThread(miners=0) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", clip, "--json", *force)
        devnet.wait_for(lambda stats: stats["creates"] >= 1)
        (tmp_path / "clip.xalora.mp4").write_bytes(b"mine")
        devnet.add_miner()
        out, err = process.communicate(timeout=CEILING)
    assert process.returncode == 0, err
    is_left = (tmp_path / "clip.xalora.mp4").read_bytes() == b"mine"
    is_told = "clip.xalora.mp4 exists by now, so the result is in clip.xalora-2.mp4" in err
    assert [is_left, is_told, (tmp_path / "clip.xalora-2.mp4").exists()] == [not force] * 3
    (result,) = json.loads(out)["results"]
    assert Path(result["output"]).name == f"clip.xalora{'' if force else '-2'}.mp4"


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
@pytest.mark.parametrize(
    ("fault", "asked", "words"),
    [
        ("task_cancel:503", "task_result_query", "2 tasks may run on and be charged; cancel every open task"),
        (
            "task_create:delay:seconds=60",
            "task_create",
            "no answer came to the create of 2 tasks, which may exist and be charged",
        ),
    ],
)
def test_ctrl_c_tells_of_what_may_run_on(
    tmp_path: Path, clip: Path, fault: str, asked: str, words: str
) -> None:
    with DevnetThread(miners=0, faults=[fault]) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", clip, "--max-in-flight", 2)
        devnet.wait_for(lambda stats: stats["endpoints"][asked] >= 2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=CEILING)
    assert process.returncode == 130
    assert f"clip.mp4: {words}" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_a_third_signal_ends_at_once_and_says_what_runs_on(tmp_path: Path, clip: Path) -> None:
    with DevnetThread(miners=0, faults=["task_cancel:delay:seconds=60"]) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", clip, "--max-in-flight", 2)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 2)
        err = interrupted_until_it_ends(process)
    assert process.returncode == 130
    assert "Ended at once.\nclip.mp4: 2 tasks may run on and be charged; see: xalora tasks\n" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
@pytest.mark.parametrize("arguments", [(), ("--jsonl",)])
def test_clips_go_on_when_their_report_cannot_be_written(
    cli: Cli, clip: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    other = write_video(tmp_path / "other.mp4", moving_photograph(2), lossless=True)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with Path("/dev/full").open("w") as full:
        _, err = cli.run_into({"stdout": full}, "upscale", clip, "broken.mp4", other, *arguments)
    assert (tmp_path / "clip.xalora.mp4").exists() and (tmp_path / "other.xalora.mp4").exists()
    assert "broken.mp4: " in err


def test_what_a_killed_command_left_is_one_line_and_no_files_of_frames(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_photograph(12, hold=2), lossless=True)
    with DevnetThread(miners=0) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", clip, "--max-in-flight", 3)
        while sum(task["state"] == "submitted" for task in cli.json("tasks")["tasks"]) < 3:
            assert process.poll() is None
        process.kill()
        process.communicate(timeout=CEILING)
        listed = cli("tasks").stdout
        assert "upscale clip.mp4 " in listed and "3 under way" in listed and "frame" not in listed
        assert "upscale clip.mp4: 3 tasks left; the same command again takes them up" in listed
        assert "resume --all" not in listed
        frames = cli.json("tasks")["tasks"]
        assert len(frames) == 3 and len({frame["whole_id"] for frame in frames}) == 1
        devnet.add_miner()
        devnet.wait_for(lambda stats: stats["tasks"]["finished"] == 3)
        resumed = cli("resume", "--all")
        assert resumed.returncode == 0 and "the same command again takes them up" in resumed.stderr
        assert {path.name for path in tmp_path.glob("*.*")} == {"clip.mp4"}
        assert cli("upscale", clip).returncode == 0
        assert creates(devnet) == 6
        assert "6 done" in cli("tasks", "--all").stdout


def test_frames_that_this_machine_made_are_named(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_photograph(6), lossless=True)
    with DevnetThread(miners=1, faults=["miner:failed:n=2,4"]) as devnet:
        cli = Cli(tmp_path, devnet)
        done = cli(
            "upscale",
            clip,
            "--fallback",
            "on_any_failure",
            "--max-in-flight",
            1,
            XALORA_UPSCALE_MODEL="lanczos",
        )
    assert done.returncode == 7, done.stderr
    assert "this machine made frames 2, 4;" in done.stderr


def test_an_engine_of_this_machine_sends_nothing(cli: Cli, devnet: DevnetThread, clip: Path) -> None:
    done = cli("upscale", clip, "--engine", "pillow")
    assert done.returncode == 0, done.stderr
    assert "done by this machine, nothing is sent" in done.stdout and "by pillow (6)" in done.stdout
    assert creates(devnet) == 0


def test_a_frame_that_fails_for_good_is_named(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_photograph(4), lossless=True)
    with DevnetThread(miners=1, faults=["miner:failed:n=2,3,4"]) as devnet:
        cli = Cli(tmp_path, devnet)
        done = cli("upscale", clip, "--max-in-flight", 1)
        assert done.returncode == 5
        assert "Frame 2 of clip.mp4 3 times" in done.stderr and "goes on from there" in done.stderr
        assert cli("upscale", clip).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photo.png",), "in commands of their own"),
        (("--format", "jpg"), "are for pictures"),
        (("-o", "-"), "not to standard output"),
        (("-o", "big.gif"), "Take .mp4, .m4v, .mov or .mkv"),
    ],
)
def test_what_does_not_go_together_is_refused(
    cli: Cli, clip: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    draw(tmp_path / "photo.png", 1)
    done = cli("upscale", clip, *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_a_broken_clip_is_not_taken_for_a_picture(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = cli("upscale", "broken.mp4")
    assert done.returncode == 2
    assert "no MP4, MOV, WebM or Matroska video" in done.stderr and "PNG" not in done.stderr


def test_options_of_clips_are_refused_for_pictures(cli: Cli, tmp_path: Path) -> None:
    done = cli("upscale", draw(tmp_path / "photo.png", 1), "--same-engine")
    assert done.returncode == 2 and "is for clips" in done.stderr
