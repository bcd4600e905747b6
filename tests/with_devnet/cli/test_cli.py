"""The command line in a process of its own, against a devnet."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from journals import held
from PIL import Image
from shell import CEILING, KEY, Cli, draw, interrupted_until_it_ends, wait_for_leases

from xalora_client.devnet import DevnetThread

Start = Callable[..., "subprocess.Popen[str]"]


# --- results ----------------------------------------------------------------------------------------------


def test_one_image_to_a_named_file(cli: Cli, photo: Path, devnet: DevnetThread) -> None:
    document = cli.json("upscale", photo, "-o", "big.png")
    (result,) = document["results"]
    assert document["exit_code"] == 0
    assert result["input"] == str(photo)
    assert result["status"] == "done"
    assert result["files"] == ["big.png"]
    assert result["engine"] == "xalora"
    assert result["task_id"] in devnet.task_ids()
    assert result["seconds"].keys() == {"queued", "running", "transfer", "total"}
    assert result["error"] is None
    with Image.open(cli.folder / "big.png") as image:
        assert image.size == (80, 48)


def test_date_author_and_copyright_come_back_and_nothing_else_of_a_photograph(
    cli: Cli, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif.update({0x0132: "2026:03:01 10:11:12", 0x013B: "Ana Lopez", 0x8298: "(c) Ana", 0x010F: "a camera"})
    exif.get_ifd(0x8769)[0x9003] = "2026:02:28 09:00:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 52.0, 10.0)})
    pixels = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    for arguments in (
        ["upscale", "photo.jpg", "-o", "a.png"],
        ["run", "lanczos-upscale", "-p", "image=photo.jpg", "-o", "b.png"],
    ):
        done = cli(*arguments, XALORA_FALLBACK="never")
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / arguments[-1]) as image:
            got = image.getexif()
            assert dict(got.get_ifd(0x8769)) == {0x9003: "2026:02:28 09:00:00"}
            assert not got.get_ifd(0x8825)
            assert {tag: got[tag] for tag in got if tag != 0x8769} == {
                0x0132: "2026:03:01 10:11:12",
                0x013B: "Ana Lopez",
                0x8298: "(c) Ana",
            }


def test_one_odd_file_leaves_the_others_alone(cli: Cli, tmp_path: Path) -> None:
    for place in range(3):
        draw(tmp_path / f"{place}.png", place)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    document = cli.json("upscale", "0.png", "1.png", "2.png", code=2)
    assert [result["status"] for result in document["results"]] == ["done", "failed", "done"]
    assert document["results"][1]["error"]["type"] == "InputImageError"


def test_results_are_written_beside_their_inputs_named_by_content(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw(folder / "one.png", 1)
    draw(folder / "two.jpg", 2)
    done = cli("upscale", "pictures/one.png", "pictures/two.jpg")
    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in folder.iterdir())
    assert made == ["one.png", "one.xalora.png", "two.jpg", "two.xalora.png"]
    assert "pictures/one.png -> pictures/one.xalora.png" in done.stdout
    assert "the network" in done.stdout


def test_several_images_go_into_a_folder_and_equal_names_stay_apart(
    cli: Cli, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = draw(tmp_path / "other" / "photo.png", 2)
    document = cli.json("upscale", photo, other, photo, "-o", "made/")
    files = [result["files"] for result in document["results"]]
    assert files == [["made/photo.xalora.png"], ["made/photo.xalora-2.png"]]
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "photo.xalora.png",
        "photo.xalora-2.png",
    }


def test_prompts_give_files_named_after_them(cli: Cli, tmp_path: Path) -> None:
    video = cli.json("txt2vid", "A lighthouse, at dusk!", "--length", "8", "--seed", "3")
    assert video["results"][0]["files"] == ["a-lighthouse-at-dusk.xalora.mp4"]
    assert (tmp_path / "a-lighthouse-at-dusk.xalora.mp4").read_bytes()[4:8] == b"ftyp"
    again = cli.json("txt2vid", "A lighthouse, at dusk!", "--length", "8", "--seed", "4")
    assert again["results"][0]["files"] == ["a-lighthouse-at-dusk.xalora-2.mp4"]
    image = cli.json("txt2img", "a fox", "--lora", "style.safetensors", "--workflow-id", "3")
    assert image["results"][0]["files"] == ["a-fox.xalora.jpg"]
    assert (tmp_path / "a-fox.xalora.jpg").read_bytes()[:3] == b"\xff\xd8\xff"


def test_nothing_is_paid_for_if_a_file_exists(
    cli: Cli, photo: Path, devnet: DevnetThread, tmp_path: Path
) -> None:
    # The suffix of the result is not known yet, so a file with any of them counts.
    taken = tmp_path / "photo.xalora.webp"
    taken.write_bytes(b"mine")
    done = cli("upscale", photo)
    assert done.returncode == 2
    assert "photo.xalora.webp would be overwritten" in done.stderr
    assert "--force" in done.stderr
    named = cli("upscale", photo, "-o", taken)
    assert named.returncode == 2
    assert devnet.stats()["creates"] == 0
    assert taken.read_bytes() == b"mine"
    assert cli("upscale", photo, "-o", taken, "--force").returncode == 0
    assert taken.read_bytes()[8:12] == b"WEBP"


def test_the_same_files_again_skip_those_done(cli: Cli, devnet: DevnetThread, tmp_path: Path) -> None:
    """A second ``xalora upscale *.png`` in a folder, which matches the first results too."""
    draw(tmp_path / "a.png", 1)
    assert cli("upscale", "a.png").returncode == 0
    made = (tmp_path / "a.xalora.png").read_bytes()
    draw(tmp_path / "b.png", 2)
    everything = ["a.png", "a.xalora.png", "b.png"]
    again = cli("upscale", *everything)
    assert again.returncode == 0, again.stderr
    assert "Skipped results of this command: a.xalora.png." in again.stderr
    assert "Skipped: 1 image whose result exists already (a.xalora.png)." in again.stderr
    assert again.stdout.startswith("✓ b.png -> b.xalora.png")
    assert (tmp_path / "a.xalora.png").read_bytes() == made
    document = cli.json("upscale", *everything)
    assert (document["results"], document["skipped"]) == ([], everything)
    replaced = cli.json("upscale", *everything, "--force", "--no-reuse")
    assert [result["input"] for result in replaced["results"]] == ["a.png", "b.png"]
    assert replaced["skipped"] == ["a.xalora.png"]
    assert devnet.stats()["creates"] == 4
    assert {path.name for path in tmp_path.glob("*.png")} == {*everything, "b.xalora.png"}
    # Named without other images, results are inputs.
    assert cli.json("upscale", "a.xalora.png")["results"][0]["files"] == ["a.xalora.xalora.png"]
    both = cli.json("upscale", "a.xalora.png", "b.xalora.png", "-o", "more/")
    assert [result["files"] for result in both["results"]] == [
        ["more/a.xalora.xalora.png"],
        ["more/b.xalora.xalora.png"],
    ]


def test_the_same_task_again_sends_nothing(cli: Cli, photo: Path, devnet: DevnetThread) -> None:
    first = cli.json("upscale", photo, "-o", "1.png")
    second = cli.json("upscale", photo, "-o", "2.png")
    assert second["results"][0]["reused"] is True
    assert second["results"][0]["task_id"] == first["results"][0]["task_id"]
    assert devnet.stats()["creates"] == 1
    cli.json("upscale", photo, "-o", "3.png", "--no-reuse")
    assert devnet.stats()["creates"] == 2
    assert len({(cli.folder / f"{n}.png").read_bytes() for n in (1, 2, 3)}) == 1


def test_without_a_key_nothing_is_made_unless_this_machine_is_chosen(tmp_path: Path, photo: Path) -> None:
    refused = Cli(tmp_path)("upscale", photo)
    assert refused.returncode == 3
    assert refused.stderr.count("No API key is set") == 1
    assert "No API key is set" in refused.stderr
    assert not (tmp_path / "photo.xalora.png").exists()
    done = Cli(tmp_path)("upscale", photo, "--engine", "ncnn")
    assert done.returncode == 0, done.stderr
    assert "this machine by ncnn on cpu" in done.stdout
    assert "Upscaled with realesrgan-x4plus (4x), resized to 2x by LANCZOS" in done.stdout
    with Image.open(tmp_path / "photo.xalora.png") as image:
        assert image.size == (80, 48)
    document = Cli(tmp_path).json("upscale", photo, "--engine", "pillow", "-o", "2.png")
    assert document["results"][0]["engine"] == "pillow"
    assert "by LANCZOS, without a model" in document["results"][0]["note"]


def test_only_the_named_engine_is_used(tmp_path: Path, photo: Path, idle_devnet: DevnetThread) -> None:
    done = Cli(tmp_path, idle_devnet)("upscale", photo, "--engine", "pillow")
    assert done.returncode == 0
    assert done.stderr == ""
    lacking = Cli(tmp_path, idle_devnet)("upscale", photo, "-o", "2.png", "--engine", "comfyui")
    assert lacking.returncode == 5
    assert "XALORA_COMFYUI_URL" in lacking.stderr
    assert idle_devnet.stats()["creates"] == 0


def test_a_model_that_is_not_known_is_an_error_with_the_nearest_names(
    tmp_path: Path, photo: Path, idle_devnet: DevnetThread, unused_tcp_port: int
) -> None:
    cli = Cli(tmp_path, idle_devnet)
    typo = {"XALORA_UPSCALE_MODEL": "waifu2x-foto"}
    words = "upscale_model is waifu2x-foto, which is neither a file nor a model; there is waifu2x-photo"
    for engine in ("ncnn", "torch"):
        done = cli("upscale", photo, "--engine", engine, **typo)
        assert done.returncode == 3 and words in done.stderr, done.stderr
    away = {"XALORA_WORKFLOW_URL": f"http://127.0.0.1:{unused_tcp_port}", **typo}
    done = cli("upscale", photo, **away)
    assert done.returncode == 8 and words in done.stderr, done.stderr
    done = cli("upscale", photo, "--fallback", "local_only", **typo)
    assert done.returncode != 0 and words in done.stderr, done.stderr
    far = cli("upscale", photo, "--engine", "ncnn", XALORA_UPSCALE_MODEL="models/4x_foo.pth")
    assert far.returncode == 3 and "there is realesrgan-x4plus, " in far.stderr
    # What needs no model does not mind.
    assert cli("upscale", photo, "--engine", "pillow", **typo).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_bars_move_on_a_terminal_only(tmp_path: Path, photo: Path) -> None:
    other = draw(tmp_path / "other.png", 2)
    master, terminal = os.openpty()
    with DevnetThread(miners=1, api_key=KEY, task_seconds=1) as devnet:
        cli = Cli(tmp_path, devnet)
        process = subprocess.Popen(
            [sys.executable, "-m", "xalora_client", "upscale", photo, other, "--json"],
            cwd=tmp_path,
            env={**cli.env, "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=terminal,
        )
        os.close(terminal)
        shown = b""
        # The closed terminal is an error on Linux, and the end of the data elsewhere.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 65536):
                shown += piece
        os.close(master)
        out, _ = process.communicate(timeout=CEILING)
        quiet = cli("upscale", photo, other, "-o", "again/", "--json", "--no-reuse")
    assert process.returncode == 0
    assert [result["status"] for result in json.loads(out)["results"]] == ["done", "done"]
    text = shown.decode()
    for words in ("photo.png", "other.png", "queue", "running", "of 2 done"):
        assert words in text
    assert quiet.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there a reader that is gone shows differently")
@pytest.mark.parametrize("gone", [("stdout",), ("stdout", "stderr")])
def test_tasks_go_on_after_the_reader_closed_the_pipe(
    cli: Cli, tmp_path: Path, devnet: DevnetThread, gone: tuple[str, ...]
) -> None:
    """``xalora upscale *.png | head -1``, and the same with ``2>&1``."""
    photos = [draw(tmp_path / f"{n}.png", n) for n in range(3)]
    code, err = unread(cli, gone, "upscale", *photos, "--max-in-flight", 1)
    assert (code, err) == (0, "")
    assert len(list(tmp_path.glob("*.xalora.png"))) == 3
    assert devnet.stats()["tasks"]["finished"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="there a reader that is gone shows differently")
@pytest.mark.parametrize("arguments", [["--help"], ["config"], ["tasks"], ["tasks", "--json"], ["workflows"]])
def test_a_listing_into_a_closed_pipe_is_not_a_failure(tmp_path: Path, arguments: list[str]) -> None:
    assert unread(Cli(tmp_path), ("stdout",), *arguments) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
@pytest.mark.parametrize("report", [[], ["--json"], ["--jsonl"]])
def test_tasks_go_on_when_their_report_cannot_be_written(cli: Cli, tmp_path: Path, report: list[str]) -> None:
    photos = [draw(tmp_path / f"{n}.png", n) for n in range(2)]
    with Path("/dev/full").open("w") as full:
        code, err = cli.run_into({"stdout": full}, "upscale", *photos, "--max-in-flight", 1, *report)
    assert len(list(tmp_path.glob("*.xalora.png"))) == 2
    assert code == 3
    assert err.startswith("error: Standard output can't be written: No space left on device. ")
    assert err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes always wait")
def test_a_listing_into_a_full_pipe_that_does_not_wait_says_so(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, bytes(1 << 20))
    code, err = Cli(tmp_path).run_into({"stdout": writer}, "tasks", "--json")
    os.close(reader)
    os.close(writer)
    assert code == 3
    assert err.startswith("error: Standard output can't be written: ") and err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
def test_errors_are_told_when_their_events_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    with Path("/dev/full").open("w") as full:
        _, err = cli.run_into({"stdout": full}, "upscale", "broken.png", "--jsonl")
    lost, told = err.splitlines()
    assert lost.startswith("error: Standard output can't be written: ") and "broken.png" in told


def unread(cli: Cli, gone: tuple[str, ...], *arguments: object) -> tuple[int, str]:
    """The exit status and stderr of a command with closed pipes as streams."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return cli.run_into(dict.fromkeys(gone, writer), *arguments)
    finally:
        os.close(writer)


# --- workflows by name ------------------------------------------------------------------------------------


def test_a_workflow_runs_by_its_name(cli: Cli, tmp_path: Path) -> None:
    document = cli.json("run", "mochi-fp8", "-p", "prompt=A red fox", "-p", "length=16", "-p", "seed=5")
    assert document["results"][0]["files"] == ["a-red-fox.xalora.webp"]
    with Image.open(tmp_path / "a-red-fox.xalora.webp") as video:
        assert (video.size, video.n_frames) == ((848, 480), 16)


def test_a_workflow_with_an_image_writes_beside_it(cli: Cli, photo: Path, tmp_path: Path) -> None:
    done = cli("run", "lanczos-upscale", "-p", f"image={photo}", "--engine", "pillow")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "photo.lanczos-upscale.xalora.png") as image:
        assert image.size == (80, 48)


def test_workflows_are_listed_shown_and_checked(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "index.yaml").write_text("mine: {task_type: img2img, output: image}\n")
    (own / "mine.json").write_text("not JSON")
    (own / "mine.yaml").write_text("comfyui_output_node_id: 1\n")
    cli = Cli(tmp_path)
    listed = cli.json("workflows", "list")
    names = [each["name"] for each in listed["workflows"]]
    assert {"upscale", "lanczos-upscale", "hunyuan-fp8", "mochi-fp8", "flux-lora"} <= set(names)
    assert listed["problems"] == []
    for name in names:
        assert name in cli("workflows").stdout
    shown = cli.json("workflows", "show", "mochi-fp8")
    width = next(each for each in shown["parameters"] if each["name"] == "width")
    assert (width["minimum"], width["maximum"], width["step"]) == (256, 1024, 8)
    assert "xalora run mochi-fp8 -p prompt=..." in cli("workflows", "show", "mochi-fp8").stdout
    assert cli("workflows", "check").returncode == 0
    broken = cli("workflows", "check", XALORA_WORKFLOWS_DIR=str(own))
    assert broken.returncode == 3
    assert "mine" in broken.stderr
    used = cli("run", "mine", XALORA_WORKFLOWS_DIR=str(own))
    assert used.returncode == 3
    assert "mine.json" in used.stderr


# --- exit statuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["upscale"],
        ["upscale", "nowhere.png"],
        ["upscale", "photo.png", "--engine", "magic"],
        ["upscale", "photo.png", "--engine", "pillow", "--fallback", "never"],
        ["upscale", "photo.png", "--timeout", "0"],
        ["upscale", "text.png"],
        ["txt2vid", "a fox", "--length", "-1"],
        ["txt2img", "a fox"],
        ["cancel"],
        ["cancel", "some-id", "--all"],
        ["forget", "some-id"],
        ["resume", ""],
        *([name, "\udcff"] for name in ("status", "resume", "cancel", "forget")),
        ["devnet", "--fault", "nonsense"],
        ["run", "sharpn"],
        ["run", "sharpen", "-p", "image"],
        ["run", "sharpen", "-p", "image=photo.png", "-p", "image=photo.png"],
        ["run", "sharpen", "-p", "image=photo.png", "-p", "amount=3"],
        ["run", "mochi-fp8", "-p", "prompt=a fox", "-p", "steps=many"],
        ["run", "mochi-fp8"],
        ["run", "lanczos-upscale", "-p", "image=."],
        ["workflows", "show", "nothing"],
        ["nonsense"],
    ],
)
def test_usage_errors_exit_with_2(
    idle_devnet: DevnetThread, photo: Path, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    done = Cli(tmp_path, idle_devnet)(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip()
    assert done.stdout == ""
    assert idle_devnet.stats()["creates"] == 0


def test_no_key_exits_with_3_before_anything_runs_and_so_does_a_wrong_one(
    cli: Cli, photo: Path, devnet: DevnetThread, tmp_path: Path
) -> None:
    for arguments in (
        ["upscale", photo, draw(tmp_path / "other.png", 2), "-o", "made/"],
        ["upscale", photo, "--fallback", "on_any_failure", "-o", "made/"],
        ["txt2vid", "a fox", "-o", "made/", "--engine", "xalora"],
        ["run", "lanczos-upscale", photo, "-o", "made/"],
    ):
        missing = cli(*arguments, XALORA_API_KEY="")
        assert missing.returncode == 3
        assert missing.stderr.count("No API key is set") == 1
        assert "XALORA_API_KEY" in missing.stderr
        assert not (tmp_path / "made").exists()
    endpoints = devnet.stats()["endpoints"]
    assert [endpoints[name] for name in ("resource_request", "task_create", "task_result_query")] == [0, 0, 0]
    wrong = cli("upscale", photo, XALORA_API_KEY="alice#very-secret-but-wrong")
    assert wrong.returncode == 3
    assert "does not accept the API key" in wrong.stderr
    three = [draw(tmp_path / f"{name}.png", number) for number, name in enumerate("abc", 3)]
    told = cli("upscale", *three, XALORA_API_KEY="alice#very-secret-but-wrong").stderr
    assert told.count("does not accept the API key") == 1
    short = (
        r"error: [abc]\.png: the same as for [abc]\.png\. The task was not accepted, so nothing was charged\."
    )
    assert len(re.findall(short, told)) == 2
    document = cli.json("upscale", photo, code=3, XALORA_API_KEY="malformed")
    assert document["error"]["type"] == "ConfigurationError"
    assert document["exit_code"] == 3


def test_an_unreachable_network_exits_with_8(
    cli: Cli, photo: Path, unused_tcp_port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    done = cli("upscale", photo, "--fallback", "never", XALORA_WORKFLOW_URL=url)
    assert done.returncode == 8
    assert url in done.stderr
    assert "nothing was charged" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.xalora.*"))


def test_a_failed_task_exits_with_5(cli: Cli, photo: Path, devnet: DevnetThread) -> None:
    devnet.add_fault("miner:failed")
    document = cli.json("upscale", photo, code=5)
    (result,) = document["results"]
    assert result["status"] == "failed"
    assert result["error"]["type"] == "TaskFailedError"
    assert result["error"]["task_id"] == result["task_id"]
    assert result["files"] == []


def test_an_unknown_outcome_exits_with_6_until_it_is_decided(
    cli: Cli, photo: Path, devnet: DevnetThread
) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    first = cli("upscale", photo, "--fallback", "never")
    assert first.returncode == 6
    again = cli("upscale", photo, "--fallback", "never")
    assert again.returncode == 6
    assert "--if-unknown" in again.stderr
    assert devnet.stats()["creates"] == 1
    assert cli("resume", "--all").returncode == 6
    resent = cli.json("upscale", photo, "--fallback", "never", "--if-unknown", "resend")
    assert resent["results"][0]["status"] == "done"
    stats = devnet.stats()
    assert (stats["creates"], stats["duplicates"]) == (1, 1)


def test_a_local_result_after_an_unknown_create_says_what_that_may_cost(
    cli: Cli, devnet: DevnetThread, photo: Path, tmp_path: Path
) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    here = ("--fallback", "on_any_failure")
    document = cli.json("upscale", photo, "-o", "made.png", *here, code=6)
    (result,) = document["results"]
    assert (result["status"], result["engine"], document["exit_code"]) == ("done_here", "ncnn", 6)
    assert result["files"] == ["made.local.png"] and (tmp_path / "made.local.png").is_file()
    assert result["error"]["type"] == "AmbiguousCreateError"
    # It stays unknown for the same task.
    again = cli("upscale", photo, "-o", "again.png", *here)
    assert again.returncode == 6
    assert "Upscaled with realesrgan-x4plus" in again.stdout
    assert "Running on this machine with the ncnn engine." in again.stderr
    error = again.stderr.splitlines()[-1]
    assert error.startswith("error: ") and result["error"]["job_id"] in error
    assert "may exist and be charged" in error and "--if-unknown resend" in error
    assert devnet.stats()["creates"] == 1
    assert cli("upscale", photo, "-o", "settled.png", "--if-unknown", "resend").returncode == 0


def test_of_several_inputs_the_most_serious_counts(cli: Cli, devnet: DevnetThread, tmp_path: Path) -> None:
    photos = [draw(tmp_path / f"{n}.png", n) for n in range(4)]
    devnet.add_fault("task_create:drop_after:n=2")
    devnet.add_fault("miner:failed:n=1")
    document = cli.json("upscale", *photos, "--fallback", "never", "--max-in-flight", 1, code=6)
    kinds = [result["error"] and result["error"]["type"] for result in document["results"]]
    assert kinds == ["TaskFailedError", "AmbiguousCreateError", None, None]
    assert [result["input"] for result in document["results"]] == [str(path) for path in photos]
    assert {path.name for path in tmp_path.glob("*.xalora.png")} == {"2.xalora.png", "3.xalora.png"}


# --- Ctrl-C -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_remote_tasks(tmp_path: Path, number: signal.Signals) -> None:
    photos = [draw(tmp_path / f"{n}.png", n) for n in range(3)]
    with DevnetThread(miners=2, api_key=KEY, task_seconds=120) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", *photos, "--json")
        devnet.wait_for(lambda stats: stats["running_now"] == 2 and stats["creates"] == 3)
        # Only a task whose id has arrived can be canceled; the client asks for its status then.
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 3)
        process.send_signal(number)
        out, err = process.communicate(timeout=CEILING)
        stats = devnet.stats()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert stats["tasks"]["canceled"] == 3
    assert stats["tasks"]["waiting"] == stats["tasks"]["running"] == 0
    document = json.loads(out)
    assert [result["status"] for result in document["results"]] == ["interrupted"] * 3
    assert document["exit_code"] == 130


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_at_once_changes_nothing(tmp_path: Path, photo: Path, number: signal.Signals) -> None:
    """GNU ``timeout`` sends its signal to the process, and then to its group."""
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", photo)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 1)
        # The answer to the cancel is late, so that the second signal comes before the end.
        devnet.add_fault("task_cancel:delay:seconds=1")
        process.send_signal(number)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_cancel"] >= 1)
        process.send_signal(number)
        _, err = process.communicate(timeout=CEILING)
        stats = devnet.stats()
    assert process.returncode == 130
    assert stats["tasks"]["canceled"] == 1
    assert "is canceled" in err and "Ended at once" not in err and "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_a_third_signal_ends_at_once_and_says_what_runs_on(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", photo)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 1)
        (task_id,) = devnet.task_ids()
        devnet.add_fault("task_cancel:delay:seconds=60")
        process.send_signal(signal.SIGINT)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_cancel"] >= 1)
        err = interrupted_until_it_ends(process)
        assert process.returncode == 130
        assert f"task {task_id} may run on and be charged; cancel it with: xalora cancel {task_id}" in err
        assert "Traceback" not in err
        devnet.clear_faults()
        assert cli("cancel", task_id).returncode == 0


@pytest.mark.skipif(shutil.which("timeout") is None, reason="there is no GNU timeout")
def test_gnu_timeout_cancels_the_remote_task(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        cli = Cli(tmp_path, devnet)
        done = subprocess.run(
            ["timeout", "12", sys.executable, "-m", "xalora_client", "upscale", str(photo)],
            cwd=tmp_path,
            env=cli.env,
            capture_output=True,
            text=True,
            timeout=CEILING,
            check=False,
        )
        stats = devnet.stats()
    assert done.returncode == 124  # as `timeout` says it
    assert stats["tasks"]["running"] == stats["tasks"]["waiting"] == 0
    assert stats["creates"] == 0 or "is canceled" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_an_unconfirmed_cancel_is_reported_and_does_not_stick(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        devnet.add_fault("task_cancel:503")
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", photo)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=CEILING)
        (task_id,) = devnet.task_ids()
        assert process.returncode == 130
        assert f"xalora cancel {task_id}" in err
        assert devnet.task(task_id).status in ("waiting", "running")
        assert [task["state"] for task in cli.json("tasks")["tasks"]] == ["submitted"]
        devnet.clear_faults()
        # A later wait is nobody's wish to cancel.
        assert cli("resume", "--all", "--timeout", "1").returncode == 5
        assert devnet.task(task_id).status in ("waiting", "running")
        assert cli("cancel", task_id).returncode == 0
        assert devnet.task(task_id).status == "canceled"
        assert cli.json("tasks")["tasks"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_on_resume_cancels_nothing(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        cli = Cli(tmp_path, devnet)
        assert cli("upscale", photo, "--timeout", "2").returncode == 5
        (task_id,) = devnet.task_ids()
        asked = devnet.stats()["endpoints"]["task_result_query"]
        process = cli.start("resume", "--all", "--jsonl")
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] > asked)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=CEILING)
        assert process.returncode == 130
        assert "Interrupted; no task is canceled." in err
        assert devnet.stats()["endpoints"].get("task_cancel", 0) == 0
        assert devnet.task(task_id).status == "running"
        ended = [line for line in map(json.loads, out.splitlines()) if line["event"] in ("result", "end")]
        assert [(line["event"], line.get("status")) for line in ended] == [
            ("result", "interrupted"),
            ("end", None),
        ]
        assert ended[0]["task_id"] == task_id


def test_a_resumed_result_takes_no_name_of_another_input(tmp_path: Path) -> None:
    one, two = draw(tmp_path / "a.png", 1), draw(tmp_path / "a-2.png", 2)
    with DevnetThread(miners=1, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        assert cli("upscale", one).returncode == 0
        devnet.kill_miner()
        assert cli("upscale", one, "--no-reuse", "--force", "--timeout", "2").returncode == 5
        devnet.add_miner()
        assert cli("resume", "--all").returncode == 0
        assert (tmp_path / "a.xalora-2.png").exists()
        assert cli.json("upscale", one, two)["skipped"] == [str(one)]
        assert (tmp_path / "a-2.xalora.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_a_cancel_confirmed_under_a_held_lock_is_not_told_as_open(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        process = Cli(tmp_path, devnet).start("upscale", photo)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 1)
        journal = Path(os.environ["XALORA_STATE_DIR"]) / "journal.sqlite3"
        with held(journal):
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=CEILING)
        (task_id,) = devnet.task_ids()
        assert f"task {task_id} is canceled" in err
        assert "may run on" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_while_a_create_is_unanswered_says_that_its_outcome_is_unknown(
    tmp_path: Path, photo: Path
) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        devnet.add_fault("task_create:delay:seconds=60")
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", photo)
        devnet.wait_for(lambda stats: stats["endpoints"]["task_create"] == 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=CEILING)
        assert process.returncode == 130
        (task,) = cli.json("tasks")["tasks"]
        assert task["state"] == "unknown"
        assert task["job_id"] in err
        assert cli("upscale", photo, "--fallback", "never").returncode == 6


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_while_a_cancel_is_unanswered_says_that_the_task_may_run_on(tmp_path: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        devnet.add_fault("task_cancel:delay:seconds=60")
        process = Cli(tmp_path, devnet).start("cancel", "some-id", "--json")
        devnet.wait_for(lambda stats: stats["endpoints"]["task_cancel"] >= 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=CEILING)
    assert process.returncode == 130
    document = json.loads(out)
    assert document["exit_code"] == 130
    (task,) = document["tasks"]
    assert (task["task_id"], task["state"]) == ("some-id", None)
    assert task["error"]["money"] == "The task may run on and be charged."
    assert "The task may run on and be charged." in err


def test_d5_a_result_that_could_not_be_written_counts_as_not_delivered(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        process = cli.start("upscale", photo, "-o", "out/x.png")
        devnet.wait_for(lambda stats: stats["creates"] == 1)
        # A file in the place of the folder: the result can't be put there.
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").write_bytes(b"")
        devnet.add_miner()
        process.communicate(timeout=CEILING)
        assert process.returncode != 0
        assert cli("upscale", photo, "--no-reuse", "-o", "y.png").returncode == 0
        assert (tmp_path / "y.png").is_file()
        assert devnet.stats()["creates"] == 1
        # Now it is delivered, and without reuse the next one is paid for.
        assert cli("upscale", photo, "--no-reuse", "-o", "z.png").returncode == 0
        assert devnet.stats()["creates"] == 2


# --- earlier tasks ----------------------------------------------------------------------------------------


def test_a_task_left_running_is_listed_and_resumed(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        left = cli.json("upscale", photo, "--timeout", "4", code=5)
        task_id = left["results"][0]["error"]["task_id"]
        assert left["results"][0]["error"]["type"] == "TaskTimeoutError"
        (listed,) = cli.json("tasks")["tasks"]
        assert listed["task_id"] == task_id
        assert (listed["open"], listed["attended"], listed["label"]) == (True, False, "upscale photo.png")
        assert cli.json("status", task_id)["status"] == "waiting"
        devnet.add_miner()
        resumed = cli.json("resume", "--all", "-o", "taken-up.png")
        assert resumed["results"][0]["files"] == ["taken-up.png"]
        assert resumed["results"][0]["task_id"] == task_id
        assert devnet.stats()["creates"] == 1
        assert cli.json("tasks")["tasks"] == []
        assert [task["state"] for task in cli.json("tasks", "--all")["tasks"]] == ["finished"]
        assert cli.json("status", listed["job_id"])["status"] == "finished"
    with Image.open(tmp_path / "taken-up.png") as image:
        assert image.size == (80, 48)


def test_what_a_run_and_the_day_have_cost_is_told(cli: Cli, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.open(photo).rotate(90).save(other)
    third = tmp_path / "third.png"
    Image.open(photo).rotate(180).save(third)
    cli.json("upscale", photo)
    cli.json("upscale", other, third, "-o", f"{tmp_path}/both/")
    # A kept result answers: nothing is sent, so this is no run that costs.
    cli.json("upscale", photo, "-o", "again.png")
    listing = cli("tasks", "--all", XALORA_PRICES="upscaler=0.25").stdout
    assert "Last run: 2 tasks, about 0.50 by your prices." in listing
    assert "Since midnight: 3 tasks, about 0.75 by your prices." in listing
    listed = cli.json("tasks", "--all")
    assert (listed["last_run"], listed["today"]) == (
        {"tasks": 2, "cost": None},
        {"tasks": 3, "cost": None},
    )
    runs = [task["run_id"] for task in listed["tasks"]]
    assert runs[0] == runs[1] != runs[2]
    # What is forgotten was sent all the same.
    assert cli("forget", "--ended").returncode == 0
    assert cli.json("tasks")["today"] == {"tasks": 3, "cost": None}


def test_a_cancel_that_comes_too_late_does_not_say_done(cli: Cli, photo: Path) -> None:
    (result,) = cli.json("upscale", photo)["results"]
    late = cli("cancel", result["task_id"])
    assert late.stdout.strip() == f"task {result['task_id']}: nothing to cancel, done before"


def test_a_cancel_of_a_finished_task_says_how_to_get_its_result(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        left = cli.json("upscale", photo, "--timeout", "4", code=5)
        task_id = left["results"][0]["error"]["task_id"]
        devnet.add_miner()
        devnet.wait_for(lambda stats: stats["tasks"]["finished"] == 1)
        late = cli("cancel", task_id)
    assert "finished and is paid for" in late.stdout
    assert f"xalora resume {task_id}" in late.stdout


@pytest.mark.parametrize(
    "arguments",
    [["tasks"], ["tasks", "--all"], ["resume", "--all"], ["cancel", "--all"], ["forget", "--ended"]],
)
def test_a_journal_that_cannot_be_used_is_not_taken_for_an_empty_one(
    tmp_path: Path, idle_devnet: DevnetThread, arguments: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    document = Cli(tmp_path, idle_devnet).json(*arguments, code=3, XALORA_STATE_DIR=str(tmp_path / "file"))
    assert document["error"]["type"] == "JournalError"
    assert "journal" in document["error"]["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C can't be sent to one process")
def test_ctrl_c_leaves_a_task_that_another_process_waits_for(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        one = cli.start("upscale", photo, "-o", "1.png")
        devnet.wait_for(lambda stats: stats["endpoints"]["task_result_query"] >= 1)
        other = cli.start("upscale", photo, "-o", "2.png")
        wait_for_leases(2)
        one.send_signal(signal.SIGINT)
        _, err = one.communicate(timeout=CEILING)
        assert one.returncode == 130
        assert "not canceled, another process waits for task" in err
        assert "xalora cancel" not in err
        devnet.add_miner()
        other.communicate(timeout=CEILING)
        assert other.returncode == 0


def test_cancel_all_and_forget(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        cli = Cli(tmp_path, devnet)
        cli.json("upscale", photo, "--timeout", "4", code=5)
        task_id = cli.json("tasks")["tasks"][0]["task_id"]
        refused = cli("forget", task_id)
        assert refused.returncode == 3
        assert "still open" in refused.stderr
        document = cli.json("cancel", "--all")
        assert document["tasks"][0]["state"] == "canceled"
        assert devnet.task(task_id).status == "canceled"
        assert cli.json("forget", task_id)["tasks"][0]["task_id"] == task_id
        assert cli.json("tasks", "--all")["tasks"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_forget_asks_on_a_terminal_before_it_deletes_results(cli: Cli, photo: Path) -> None:
    cli.json("upscale", photo, draw(cli.folder / "other.png", 2))

    def on_terminal(answer: bytes, *arguments: str) -> bytes:
        master, terminal = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "xalora_client", "forget", "--ended", *arguments],
            cwd=cli.folder,
            env=cli.env,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        os.write(master, answer)
        shown = b""
        # The closed terminal is an error on Linux, and the end of the data elsewhere.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 4096):
                shown += piece
        os.close(master)
        assert process.wait(CEILING) == 0
        return shown

    refused = on_terminal(b"\n")
    assert b"Forget 2 ended tasks, and delete 2 kept results? [y/N]" in refused
    assert len(cli.json("tasks", "--all")["tasks"]) == 2
    assert b"2 ended tasks forgotten" in on_terminal(b"y\n")
    assert cli.json("tasks", "--all")["tasks"] == []
    cli.json("upscale", photo, "-o", "again.png")
    unasked = on_terminal(b"", "--yes")
    assert b"?" not in unasked and b"1 ended task forgotten" in unasked
    # Without a terminal nobody is asked.
    assert cli.json("forget", "--ended")["ended"] == 0


def test_a_task_known_by_its_id_alone_is_fetched(cli: Cli, photo: Path, tmp_path: Path) -> None:
    task_id = cli.json("upscale", photo, "-o", "1.png")["results"][0]["task_id"]
    elsewhere = cli.json("resume", task_id, "-o", "2.png", XALORA_STATE_DIR=str(tmp_path / "elsewhere"))
    assert elsewhere["results"][0]["status"] == "done"
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_an_id_the_network_does_not_know(cli: Cli) -> None:
    done = cli("status", "no-such-task")
    assert done.returncode == 5
    assert "does not know this task" in done.stderr


# --- configuration ----------------------------------------------------------------------------------------


def test_config_shows_values_with_their_sources_and_no_key(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("XALORA_API_KEY=bob#very-secret-in-env-file\nXALORA_MAX_IN_FLIGHT=3\n")
    cli = Cli(tmp_path)
    env = {
        "XALORA_MAX_IN_FLIGHT": "5",
        "XALORA_STORE_SECRET_ACCESS_KEY": "very-secret-too",
        "XALORA_WORKFLOW_URL": "https://user:very-secret-password@example.org",
    }
    settings = {each["name"]: each for each in cli.json("config", **env)["settings"]}
    assert settings["api_key"]["value"] == "bob#********"
    assert settings["api_key"]["source"] == ".env"
    assert (settings["max_in_flight"]["value"], settings["max_in_flight"]["source"]) == (5, "environment")
    assert settings["store_secret_access_key"]["value"] == "********"
    assert settings["workflow_url"]["value"] == "https://********@example.org"
    assert settings["reuse"] == {
        "name": "reuse",
        "variable": "XALORA_REUSE",
        "value": True,
        "source": "default",
        "description": settings["reuse"]["description"],
    }
    shown = cli("config", **env)
    assert shown.returncode == 0
    assert "bob#********" in shown.stdout
    assert ".env" in shown.stdout
    dashed = cli("config", XALORA_API_KEY="very-secret-dashed")
    assert "********" in dashed.stdout


def test_config_names_the_invalid_setting(tmp_path: Path) -> None:
    done = Cli(tmp_path)("config", XALORA_MAX_IN_FLIGHT="many")
    assert done.returncode == 3
    assert "XALORA_MAX_IN_FLIGHT" in done.stderr
    assert Cli(tmp_path)("config", XALORA_API_KEY="malformed").returncode == 3


# --- a network on this machine ----------------------------------------------------------------------------


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        processes.append(Cli(tmp_path).start(*arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=CEILING)


def test_devnet_prints_one_line_and_serves_until_a_signal(
    tmp_path: Path, photo: Path, started: Start
) -> None:
    import urllib.request

    network = started("devnet", "--miners", 1, "--api-key", "carol#very-secret", "--json")
    told = json.loads(first_line(network))
    assert told.keys() == {"url", "api_key"}
    assert told["api_key"] == "carol#very-secret"
    cli = Cli(tmp_path)
    cli.env |= {"XALORA_WORKFLOW_URL": told["url"], "XALORA_API_KEY": told["api_key"]}
    assert cli("upscale", photo, "--engine", "xalora").returncode == 0
    with urllib.request.urlopen(f"{told['url']}/devnet/stats", timeout=CEILING) as answer:
        stats = json.load(answer)
    assert stats["creates"] == 1
    assert stats["tasks"]["finished"] == 1
    network.send_signal(signal.SIGTERM)
    out, err = network.communicate(timeout=CEILING)
    assert network.returncode == 0
    assert out == err == ""


def test_devnet_shows_a_person_what_to_export(started: Start) -> None:
    network = started("devnet", "--miners", 0)
    assert network.stdout is not None
    lines = []
    while not (lines and "Ctrl-C" in lines[-1]):
        lines.append(network.stdout.readline())
        assert lines[-1], "it ended without its panel"
    text = "".join(lines)
    assert "export XALORA_WORKFLOW_URL='http://127.0.0.1:" in text
    assert "export XALORA_API_KEY='devnet#devnet'" in text


def test_a_port_that_is_taken(cli: Cli, devnet: DevnetThread) -> None:
    done = cli("devnet", "--port", devnet.url.rpartition(":")[2])
    assert done.returncode == 3
    assert "can't listen" in done.stderr
    assert ": address already in use. Choose" in done.stderr


def test_the_demo_names_a_missing_picture(tmp_path: Path) -> None:
    done = Cli(tmp_path)("demo", "missing.png")
    assert done.returncode == 2
    assert "Invalid value for IMAGES: missing.png does not exist" in done.stderr


def test_a_database_that_cannot_be_made(tmp_path: Path) -> None:
    done = Cli(tmp_path)("devnet", "--db", "nowhere/tasks.sqlite3")
    assert done.returncode == 3
    assert "can't keep its tasks in nowhere" in done.stderr


def test_a_miner_without_a_sequencer_says_so(tmp_path: Path, started: Start) -> None:
    refused = Cli(tmp_path)("miner", "--sequencer", "127.0.0.1:80")
    assert refused.returncode == 2
    assert "is not an http:// or https:// address" in refused.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        miner = started("miner", "--sequencer", f"http://127.0.0.1:{taken.getsockname()[1]}", "--json")
        first_line(miner)
        miner.send_signal(signal.SIGINT)
        _, err = miner.communicate(timeout=CEILING)
    assert "nothing answers at http://127.0.0.1" in err
    assert miner.returncode == 0


def test_a_miner_process_works_for_a_sequencer(tmp_path: Path, photo: Path, started: Start) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        miner = started("miner", "--sequencer", devnet.url, "--json")
        assert json.loads(first_line(miner))["sequencer"] == devnet.url
        document = Cli(tmp_path, devnet).json("upscale", photo, "--engine", "xalora")
        assert devnet.task(document["results"][0]["task_id"]).status == "finished"
        miner.send_signal(signal.SIGINT)
        miner.communicate(timeout=CEILING)
        assert miner.returncode == 0
