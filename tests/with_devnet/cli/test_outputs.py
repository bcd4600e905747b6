"""Where results of the command line go, in which format, and what comes from and goes to pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, features
from shell import CEILING, KEY, Cli, draw

from xalora_client import UpscalerTask, Xalora
from xalora_client.client import HostOptions
from xalora_client.devnet import DevnetThread


def names(folder: Path) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "sqlite3" not in path.suffix}


def asked(devnet: DevnetThread) -> int:
    """How many requests of consumers came."""
    return sum(count for name, count in devnet.stats()["endpoints"].items() if not name.startswith("miner"))


@pytest.fixture
def away(unused_tcp_port: int) -> dict[str, str]:
    """The settings for a network that is not there, and for this machine to take over at once."""
    return {"XALORA_WORKFLOW_URL": f"http://127.0.0.1:{unused_tcp_port}", "XALORA_UPSCALE_MODEL": "lanczos"}


def piped(cli: Cli, data: bytes, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """A command with bytes on standard input, and the bytes that it writes."""
    return subprocess.run(
        [sys.executable, "-m", "xalora_client", *map(str, arguments)],
        cwd=cli.folder,
        env=cli.env,
        input=data,
        capture_output=True,
        timeout=CEILING,
        check=False,
    )


def opened(data: bytes | Path) -> Image.Image:
    image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    image.load()
    return image


# --- what this machine made instead of the network --------------------------------------------------------


def test_a_fallback_exits_with_7_is_named_so_and_does_not_count_as_done(
    cli: Cli, photo: Path, tmp_path: Path, away: dict[str, str]
) -> None:
    other = draw(tmp_path / "other.png", 2)
    document = cli.json("upscale", photo, other, code=7, **away)
    assert [result["status"] for result in document["results"]] == ["done_here"] * 2
    assert document["results"][0]["error"]["type"] == "XaloraConnectionError"
    assert names(tmp_path) >= {"photo.local.png", "other.local.png"}
    told = cli("upscale", photo, other, "--force", **away).stderr
    assert told.count("Running on this machine") == told.count("--fallback never stops instead.") == 1
    assert "warning: upscale photo.png: " in told or "warning: upscale other.png: " in told
    assert not list(tmp_path.glob("*.xalora.*"))
    made = (tmp_path / "photo.local.png").read_bytes()
    # Its file does not keep the network's result from being written, and is left out of the inputs.
    again = cli("upscale", *sorted(map(str, tmp_path.glob("*.png"))))
    assert again.returncode == 0, again.stderr
    assert "Skipped results of this command: other.local.png, photo.local.png." in again.stderr
    assert names(tmp_path) >= {"photo.xalora.png", "other.xalora.png"}
    assert (tmp_path / "photo.local.png").read_bytes() == made


def test_a_failure_wins_over_a_fallback(cli: Cli, photo: Path, away: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    done = cli("upscale", photo, broken, **away)
    assert done.returncode == 2
    assert "Of 2 tasks: 1 done by this machine instead, named .local" in done.stderr
    assert "1 failed" in done.stderr
    assert (tmp_path / "photo.local.png").exists()


def test_a_second_fallback_leaves_the_first_one_alone(
    cli: Cli, photo: Path, away: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "photo.local.png").write_bytes(b"mine")
    done = cli("upscale", photo, **away)
    assert done.returncode == 7
    assert "photo.local.png exists by now, so the result is in photo.local-2.png" in done.stderr
    assert (tmp_path / "photo.local.png").read_bytes() == b"mine"


@pytest.mark.parametrize("arguments", [["--engine", "pillow"], ["--fallback", "local_only"]])
def test_this_machine_where_the_user_chose_it_is_done(
    tmp_path: Path, photo: Path, idle_devnet: DevnetThread, arguments: list[str]
) -> None:
    cli = Cli(tmp_path, idle_devnet)
    document = cli.json("upscale", photo, *arguments, XALORA_UPSCALE_MODEL="lanczos", XALORA_API_KEY="")
    assert [result["status"] for result in document["results"]] == ["done"]
    assert (tmp_path / "photo.xalora.png").exists()


# --- -o, formats ------------------------------------------------------------------------------------------


def test_o_means_the_same_for_one_file_and_for_many(
    cli: Cli, photo: Path, devnet: DevnetThread, tmp_path: Path
) -> None:
    other = draw(tmp_path / "other.png", 2)
    refused = cli("upscale", photo, other, "-o", "made")
    assert refused.returncode == 2
    assert "-o made names a file" in refused.stderr and "-o made/" in refused.stderr
    assert devnet.stats()["creates"] == 0 and not (tmp_path / "made").exists()
    assert cli("upscale", photo, "-o", "made/").returncode == 0
    assert cli("upscale", photo, other, "-o", "made").returncode == 0  # it is a folder by now
    assert names(tmp_path / "made") == {"photo.xalora.png", "other.xalora.png"}
    assert cli("upscale", photo, "-o", "single").returncode == 0
    assert (tmp_path / "single").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "file", "kind"),
    [
        (["-o", "big.jpg"], "big.jpg", "JPEG"),
        (["-o", "BIG.JPEG", "--quality", "40"], "BIG.JPEG", "JPEG"),
        (["-o", "big.webp"], "big.webp", "WEBP"),
        (["--format", "jpg", "-o", "made/"], "made/photo.xalora.jpg", "JPEG"),
        (["--format", "webp", "--quality", "70"], "photo.xalora.webp", "WEBP"),
        (["--format", "png"], "photo.xalora.png", "PNG"),
        (["--format", "tiff"], "photo.xalora.tif", "TIFF"),
        pytest.param(
            ["--format", "avif"],
            "photo.xalora.avif",
            "AVIF",
            marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF"),
        ),
    ],
)
def test_pictures_are_written_in_the_format_that_was_asked_for(
    cli: Cli, tmp_path: Path, arguments: list[str], file: str, kind: str
) -> None:
    exif = Image.Exif()
    exif.update({0x013B: "Ana Lopez", 0x010F: "a camera"})
    smooth = np.linspace(0, 255, 24 * 40 * 3).reshape(24, 40, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    done = cli("upscale", "photo.jpg", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    image = opened(tmp_path / file)
    assert (image.format, image.size) == (kind, (80, 48))
    # Date, author and copyright come back in each format.
    # A TIFF's tags hold what it is made of as well.
    own = set(image.tag_v2) - {0x013B, 0x010F} if kind == "TIFF" else set()
    assert {tag: value for tag, value in image.getexif().items() if tag not in own} == {0x013B: "Ana Lopez"}
    expected = np.asarray(Image.fromarray(smooth).resize((80, 48), Image.Resampling.LANCZOS), np.int16)
    assert np.abs(np.asarray(image.convert("RGB"), np.int16) - expected).mean() < 4


def test_a_format_that_contradicts_or_is_not_written_is_refused_before_anything_is_sent(
    cli: Cli, photo: Path, devnet: DevnetThread
) -> None:
    for arguments in (
        ["upscale", photo, "-o", "big.bmp"],
        ["upscale", photo, "-o", "big.gif", "-n"],
        ["upscale", photo, "-o", "big.mp4"],
        ["run", "lanczos-upscale", photo, "-o", "big.gif"],
        ["run", "lanczos-upscale", "-p", f"image={photo}", "-o", "big.mp4"],
        ["run", "mochi-fp8", "-p", "prompt=a fox", "-o", "fox.gif"],
        ["txt2img", "a fox", "--lora", "gecko", "-o", "fox.mp4"],
        ["txt2vid", "a fox", "-o", "fox.png"],
        ["upscale", photo, "-o", "big.png", "--format", "jpg"],
        ["upscale", photo, "--quality", "80"],
    ):
        done = cli(*arguments)
        assert done.returncode == 2, arguments
        assert "Take ." in done.stderr or "--" in done.stderr
    assert cli("upscale", photo, "--format", "gif").returncode == 2
    assert devnet.stats()["creates"] == 0


def test_transparency_that_a_format_lacks_is_told(cli: Cli, tmp_path: Path) -> None:
    pixels = np.zeros((24, 40, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "glass.png")
    done = cli("upscale", "glass.png", "-o", "glass.jpg")
    assert done.returncode == 0, done.stderr
    assert "its transparency is white now" in done.stderr
    Image.fromarray(pixels[:20]).save(tmp_path / "pane.png")
    both = cli("upscale", "glass.png", "pane.png", "-o", "made/", "--format", "jpg")
    assert sorted(both.stderr.splitlines()) == [
        f"warning: {name}: its transparency is white now: JPG has none" for name in ("glass.png", "pane.png")
    ]
    assert opened(tmp_path / "glass.jpg").getpixel((3, 3)) == (255, 255, 255)


def test_a_video_stays_as_it_came_whatever_the_format_of_pictures(cli: Cli, tmp_path: Path) -> None:
    arguments = ("-p", "prompt=A red fox", "-p", "length=16", "-p", "seed=5", "--format", "jpg")
    done = cli("run", "mochi-fp8", *arguments)
    assert done.returncode == 0, done.stderr
    assert "the result is ANIMATED-WEBP, which stays as it came" in done.stderr
    assert opened(tmp_path / "a-red-fox.xalora.webp").n_frames == 16
    made = cli("run", "mochi-fp8", *arguments[:-2], "-o", "fox.mp4")
    assert made.returncode == 0, made.stderr
    with av.open(str(tmp_path / "fox.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_of_photographs(cli: Cli, tmp_path: Path, devnet: DevnetThread) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "day two" / ".thumbs").mkdir(parents=True)
    draw(pictures / "1.png", 1)
    draw(pictures / "day two" / "1.JPG", 2)
    draw(pictures / "day two" / ".thumbs" / "1.png", 3)
    (pictures / "notes.txt").write_text("no picture")
    refused = cli("upscale", "pictures")
    assert refused.returncode == 2
    assert "pictures is a folder; -r takes the pictures in it" in refused.stderr
    document = cli.json("upscale", "-r", "pictures", "-o", "made/")
    assert [result["files"] for result in document["results"]] == [
        ["made/1.xalora.png"],
        ["made/day two/1.xalora.png"],
    ]
    beside = cli("upscale", "-r", "pictures")
    assert beside.returncode == 0
    assert names(pictures) >= {"1.xalora.png", "day two/1.xalora.png"}
    again = cli("upscale", "-r", "pictures", "--json")
    document = json.loads(again.stdout)
    assert document["results"] == [] and len(document["skipped"]) == 4
    # The results of the command before are no news.
    assert "Skipped results" not in again.stderr and "whose result exists already" in again.stderr
    assert devnet.stats()["creates"] == 2
    assert cli("upscale", "-r", "pictures", "-o", "single").returncode == 2


def test_a_picture_that_comes_beside_one_of_the_same_name_is_upscaled_too(
    cli: Cli, tmp_path: Path, devnet: DevnetThread
) -> None:
    (tmp_path / "in").mkdir()
    draw(tmp_path / "in" / "img.png", 1)
    assert cli("upscale", "-r", "in").returncode == 0
    draw(tmp_path / "in" / "img.bmp", 2)
    document = cli.json("upscale", "-r", "in")
    files = [file for result in document["results"] for file in result["files"]]
    assert files == ["in/img.bmp.xalora.png", "in/img.png.xalora.png"]
    # The first one's result was kept.
    assert devnet.stats()["creates"] == 2
    assert cli.json("upscale", "-r", "in")["results"] == []
    assert cli.json("upscale", "in/img.bmp", code=2)["error"]["type"] == "OutputExistsError"


@pytest.mark.skipif(sys.platform == "win32", reason="other limits and links")
def test_one_input_that_can_not_be_looked_at_does_not_end_the_others(
    cli: Cli, tmp_path: Path, devnet: DevnetThread
) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    draw(tmp_path / "in" / "1.png", 1)
    draw(tmp_path / "in" / ("ä" * 123 + ".png"), 2)
    # Not even root can look at these links; a folder without permissions it can.
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere.jpg")
    draw(tmp_path / "in" / "below" / "2.png", 3)
    (tmp_path / "in" / "below").chmod(0)
    told = cli("upscale", "-r", "in", "-n")
    assert told.returncode == 2
    document = cli.json("upscale", "-r", "in", code=2)
    (tmp_path / "in" / "below").chmod(0o700)
    status = {Path(result["input"]).name: result["status"] for result in document["results"]}
    failed = {name for name, each in status.items() if each == "failed"}
    assert failed == {"loop.jpg", "gone.jpg"} | ({"below"} if os.geteuid() else set())
    assert status["1.png"] == status["ä" * 123 + ".png"] == "done"
    errors = [result["error"]["message"] for result in document["results"] if result["error"]]
    assert all("can't be read: " in message for message in errors), errors
    assert {path.stat().st_size > 0 for path in (tmp_path / "in").glob("*.xalora.png")} == {True}


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that nobody can write to")
def test_a_place_that_takes_no_file_costs_nothing(
    cli: Cli, photo: Path, tmp_path: Path, devnet: DevnetThread
) -> None:
    for arguments in (
        ["upscale", photo],
        ["txt2img", "a fox", "--lora", "x"],
        ["run", "lanczos-upscale", photo],
    ):
        done = cli(*arguments, "-o", "/proc/x.png")
        assert (done.returncode, devnet.stats()["creates"]) == (3, 0)
        assert "/proc/x.png can't be written to: " in done.stderr


def test_what_is_left_out_of_a_folder_is_told_and_counted_once(cli: Cli, tmp_path: Path) -> None:
    for place in ("in/a", "in/b"):
        (tmp_path / place).mkdir(parents=True)
        draw(tmp_path / place / "1.png", len(place) + ord(place[-1]))
        (tmp_path / place / "clip.MOV").write_bytes(b"a clip")
    told = cli("upscale", "-r", "in", "-n")
    assert "Skipped 2 clips: in/a/clip.MOV, in/b/clip.MOV. -r takes pictures" in told.stderr
    assert "a/1.png: would be sent" in told.stdout and "b/1.png: would be sent" in told.stdout
    assert ", 2 skipped." in told.stdout
    both = cli("upscale", "in/a/1.png", "in/b/1.png", "-n")
    assert "in/a/1.png: would be sent" in both.stdout and "in/b/1.png: would be sent" in both.stdout
    document = cli.json("upscale", "-r", "in")
    assert {Path(each).name for each in document["skipped"]} == {"clip.MOV"}
    again = cli("upscale", "-r", "in", "-n")
    assert "Skipped: 2 images whose result exists already" in again.stderr
    # Two pictures and two clips, and not the two results.
    assert "0 tasks would be sent (0 B of images), 4 skipped." in again.stdout
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "clip.mp4").write_bytes(b"a clip")
    refused = cli("upscale", "-r", "clips")
    assert refused.returncode == 2 and "name the clips in it" in " ".join(refused.stderr.split())


def test_a_subfolder_among_files_is_skipped_with_a_word(cli: Cli, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    draw(tmp_path / "old" / "1.png", 1)
    done = cli("upscale", photo, "old")
    assert done.returncode == 0
    assert "Skipped 1 folder: old. -r takes the pictures in it." in done.stderr
    assert names(tmp_path / "old") == {"1.png"}
    document = cli.json("upscale", photo, "old", "-o", "made/")
    assert document["skipped"] == ["old"]
    (tmp_path / "empty").mkdir()
    nothing = cli("upscale", "-r", "empty")
    assert nothing.returncode == 2 and "empty has no pictures" in nothing.stderr


def test_a_workflow_runs_on_each_image(cli: Cli, photo: Path, tmp_path: Path, devnet: DevnetThread) -> None:
    other = draw(tmp_path / "other.png", 2)
    document = cli.json("run", "lanczos-upscale", photo, other, "-o", "made/")
    assert [result["input"] for result in document["results"]] == [str(photo), str(other)]
    made = {"photo.lanczos-upscale.xalora.png", "other.lanczos-upscale.xalora.png"}
    assert names(tmp_path / "made") == made
    # Neither upscaling nor another workflow takes them for its own results.
    upscaled = cli.json("upscale", photo, other, "-o", "made/")
    assert len(upscaled["results"]) == 2 and upscaled["skipped"] == []
    again = cli("run", "lanczos-upscale", photo, other, "-o", "made/")
    assert "For other options too --force replaces these files, another -o writes elsewhere." in again.stderr
    sent = devnet.stats()["creates"]
    surplus = cli("run", "lanczos-upscale", photo, "-p", f"image={other}")
    assert surplus.returncode == 2 and "takes no further image" in surplus.stderr
    assert cli("run", "mochi-fp8", photo, "-p", "prompt=a fox").returncode == 2
    assert devnet.stats()["creates"] == sent


@pytest.mark.parametrize("name", ["photo.heic", "photo.avif"])
def test_photographs_of_telephones_are_taken(cli: Cli, tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(pixels)).save(tmp_path / name)
    elif features.check("avif"):
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        pytest.skip("this Pillow reads no AVIF")
    document = cli.json("upscale", "-r", ".")
    assert [result["files"] for result in document["results"]] == [["photo.xalora.png"]]


# --- pipes ------------------------------------------------------------------------------------------------


def test_an_image_goes_from_standard_input_to_standard_output(cli: Cli, photo: Path, tmp_path: Path) -> None:
    data = photo.read_bytes()
    for arguments in (
        ["upscale", "-"],
        ["upscale", "-", "-o", "-"],
        ["run", "lanczos-upscale", "-", "-o", "-"],
    ):
        done = piped(cli, data, *arguments)
        assert done.returncode == 0, done.stderr
        image = opened(done.stdout)
        assert (image.format, image.size) == ("PNG", (80, 48))
    jpeg = piped(cli, data, "upscale", "-", "--format", "jpg")
    assert opened(jpeg.stdout).format == "JPEG"
    assert b"stdin -> stdout" in jpeg.stderr
    file = piped(cli, data, "upscale", "-", "-o", "big.png")
    assert file.returncode == 0 and b"stdin -> big.png" in file.stdout
    assert opened(tmp_path / "big.png").size == (80, 48)
    assert names(tmp_path) == {"photo.png", "big.png"} | {
        name for name in names(tmp_path) if name.startswith("xalora-state/")
    }


def test_nothing_but_the_bytes_of_a_fallback_is_on_standard_output(
    cli: Cli, photo: Path, away: dict[str, str]
) -> None:
    cli.env |= away
    done = piped(cli, photo.read_bytes(), "upscale", "-", "-o", "-")
    assert done.returncode == 7
    assert opened(done.stdout).size == (80, 48)
    assert b"Running on this machine" in done.stderr


@pytest.mark.parametrize("workflow", ["1", "2"])
def test_a_prompt_from_standard_input_becomes_an_mp4_on_standard_output(cli: Cli, workflow: str) -> None:
    options = ("--workflow-id", workflow, *(("--length", 16) if workflow == "2" else ()))
    done = piped(
        cli, "Ein Fuchs im Schnee, größer\n".encode(), "txt2vid", "-", "-o", "-", "--seed", 3, *options
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout[4:8] == b"ftyp"
    with av.open(io.BytesIO(done.stdout)) as video:
        assert sum(1 for _ in video.decode(video=0)) == (73 if workflow == "1" else 16)


def test_a_prompt_from_standard_input_names_the_file(cli: Cli, tmp_path: Path) -> None:
    done = piped(cli, b"a red fox\n", "txt2vid", "-", "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a-red-fox.xalora.mp4").exists()


def test_pipes_that_can_not_work_are_refused_before_anything_is_sent(
    cli: Cli, photo: Path, devnet: DevnetThread
) -> None:
    data = photo.read_bytes()
    for given, arguments in (
        (b"", ["upscale", "-"]),
        (b" \n", ["txt2vid", "-"]),
        (b"\xff\xfe\xff", ["txt2vid", "-"]),
        (data, ["upscale", "-", "-o", "-", "--json"]),
        (data, ["upscale", "-", "-o", "-", "--jsonl"]),
        (data, ["upscale", "-", photo, "-o", "-"]),
    ):
        done = piped(cli, given, *arguments)
        assert (done.returncode, done.stdout) == (2, b""), arguments
    assert devnet.stats()["creates"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there a reader that is gone shows differently")
def test_a_result_that_its_reader_did_not_take_is_kept_and_told(
    cli: Cli, photo: Path, devnet: DevnetThread
) -> None:
    import os

    reader, writer = os.pipe()
    os.close(reader)
    code, err = cli.run_into({"stdout": writer}, "upscale", photo, "-o", "-", "--no-reuse")
    os.close(writer)
    assert code == 5
    assert "standard output can't be written" in err and "kept as" in err
    # It was not delivered, so the same task is not paid for again.
    assert cli("upscale", photo, "--no-reuse").returncode == 0
    assert devnet.stats()["creates"] == 1


# --- resume -----------------------------------------------------------------------------------------------


def test_resumed_results_go_beside_their_inputs(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (tmp_path / "elsewhere").mkdir()
    exif = Image.Exif()
    exif[0x013B] = "Ana Lopez"
    pixels = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / "one.jpg", exif=exif)
    draw(pictures / "two.png", 2)
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        left = Cli(tmp_path, devnet)("upscale", "pictures/one.jpg", "pictures/two.png", "--timeout", "4")
        assert left.returncode == 5
        (pictures / "two.xalora.png").write_bytes(b"mine")
        devnet.add_miner()
        resumed = Cli(tmp_path / "elsewhere", devnet).json("resume", "--all", "--format", "jpg")
        assert devnet.stats()["creates"] == 2
    files = sorted(Path(file) for result in resumed["results"] for file in result["files"])
    assert files == [pictures / "one.xalora.jpg", pictures / "two.xalora.jpg"]
    # Its author comes back as from the command that was left.
    assert opened(files[0]).getexif()[0x013B] == "Ana Lopez"
    assert sorted(result["input"] for result in resumed["results"]) == [
        str(pictures / "one.jpg"),
        str(pictures / "two.png"),
    ]


def test_a_result_that_was_never_handed_over_is_listed_and_resumed_once_nobody_has_it(
    cli: Cli, photo: Path, devnet: DevnetThread, tmp_path: Path
) -> None:
    """As a process leaves it that is killed while it writes."""
    with Xalora(devnet.api_key, devnet.url) as client:
        held = client.run(UpscalerTask(image=photo), host=HostOptions(delivers=True))
        (listed,) = cli.json("tasks")["tasks"]
        assert (listed["state"], listed["files"]) == ("finished", [str(path) for path in held.files])
        assert cli.json("resume", "--all")["results"] == []
    told = cli("tasks").stdout
    assert "to write" in told and "1 task that no process waits for: xalora resume --all" in told
    assert "finished and is paid for; for its result: xalora resume" in cli("cancel", held.task_id).stdout
    refused = cli("forget", held.task_id)
    assert refused.returncode == 3 and "has a result that was never written" in refused.stderr
    (result,) = cli.json("resume", "--all")["results"]
    assert result["files"] == [str(tmp_path / "photo.xalora.png")]
    assert opened(tmp_path / "photo.xalora.png").size == (80, 48)
    assert devnet.stats()["creates"] == 1
    assert cli.json("tasks")["tasks"] == []


def test_a_resumed_result_of_a_workflow_is_named_after_it(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=10) as devnet:
        cli = Cli(tmp_path, devnet)
        assert cli("run", "lanczos-upscale", photo, "--timeout", "4").returncode == 5
        (result,) = cli.json("resume", "--all")["results"]
    assert [Path(file).name for file in result["files"]] == ["photo.lanczos-upscale.xalora.png"]


def test_a_resumed_result_whose_folder_is_gone_goes_to_the_working_directory(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    draw(stick / "one.png", 1)
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        assert cli("upscale", "stick/one.png", "--timeout", "4").returncode == 5
        stick.rename(tmp_path / "away")
        devnet.add_miner()
        resumed = cli.json("resume", "--all")
    assert [result["files"] for result in resumed["results"]] == [["one.xalora.png"]]


# --- --dry-run, --jsonl -----------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_happen_and_does_nothing(
    cli: Cli, photo: Path, devnet: DevnetThread, tmp_path: Path
) -> None:
    assert cli("upscale", photo, "-o", "first.png").returncode == 0
    new, done = draw(tmp_path / "new.png", 2), draw(tmp_path / "done.png", 3)
    (tmp_path / "done.xalora.png").write_bytes(b"mine")
    before = names(tmp_path), asked(devnet)
    document = cli.json("upscale", photo, new, done, "--dry-run", XALORA_PRICES="upscaler=0.02")
    assert [(each["input"], each["action"]) for each in document["inputs"]] == [
        (str(photo), "reuse"),
        (str(new), "send"),
    ]
    assert (document["tasks"], document["estimate"], document["skipped"]) == (1, "0.02", [str(done)])
    assert document["bytes"] == document["inputs"][1]["bytes"] > 1000
    told = cli("upscale", photo, new, "-o", "made/", "--no-reuse", "-n", XALORA_PRICES="upscaler=0.02")
    assert told.returncode == 0
    assert "2 tasks would be sent" in told.stdout and "About 0.04 by your prices" in told.stdout
    video = cli.json("txt2vid", "a fox", "--dry-run")
    assert (video["tasks"], video["bytes"], video["estimate"]) == (1, 0, None)
    local = cli.json("upscale", photo, new, "--dry-run", "--engine", "pillow", XALORA_API_KEY="")
    assert (local["tasks"], {each["action"] for each in local["inputs"]}) == (0, {"here"})
    assert (names(tmp_path), asked(devnet)) == before


def test_a_dry_run_names_what_can_not_be_sent(cli: Cli, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    document = cli.json("upscale", photo, "broken.png", "--dry-run", code=2)
    assert [each["action"] for each in document["inputs"]] == ["send", "fail"]
    assert cli("upscale", photo, "-o", photo, "--dry-run").returncode == 2
    told = cli("upscale", photo, "broken.png", "--dry-run")
    assert "1 task would be sent" in told.stdout and ", 1 can't be sent." in told.stdout


def test_a_dry_run_knows_the_limit_of_a_day(cli: Cli, tmp_path: Path) -> None:
    photos = [draw(tmp_path / f"{index}.png", index) for index in range(4)]
    limit = {"XALORA_DAILY_TASKS": "3", "XALORA_PRICES": "upscaler=0.02"}
    assert cli("upscale", photos[0], **limit).returncode == 0
    document = cli.json("upscale", *photos, "--dry-run", code=3, **limit)
    assert (document["tasks"], document["beyond_limit"], document["estimate"]) == (2, 1, "0.04")
    told = cli("upscale", *photos, "--dry-run", **limit)
    assert "2 tasks would be sent" in told.stdout and "1 beyond the limit of a day" in told.stdout
    by_cost = {"XALORA_DAILY_COST": "0.05", "XALORA_PRICES": "upscaler=0.02"}
    assert cli.json("upscale", *photos, "--dry-run", code=3, **by_cost)["tasks"] == 1


def test_a_dry_run_without_a_key_says_that_nothing_would_be_sent(cli: Cli, photo: Path) -> None:
    told = cli("upscale", photo, "--dry-run", XALORA_API_KEY="")
    assert told.returncode == 0
    assert "No API key is set: nothing would be sent until then" in told.stderr


def test_a_dry_run_knows_equal_pictures_of_one_command(cli: Cli, tmp_path: Path) -> None:
    first, second = draw(tmp_path / "first.png", 2), draw(tmp_path / "second.png", 2)
    (tmp_path / "below").mkdir()
    third = draw(tmp_path / "below" / "first.png", 2)
    document = cli.json("upscale", first, second, third, "--dry-run", "-o", "made/")
    assert [each["action"] for each in document["inputs"]] == ["send", "same", "same"]
    told = cli("upscale", first, second, third, "--dry-run", "-o", "made/").stdout
    assert "second.png: the same as first.png, one task for both" in told
    assert "1 task would be sent" in told and ", 2 the same as others." in told


def test_a_dry_run_knows_a_task_under_way_and_an_unknown_outcome(tmp_path: Path, photo: Path) -> None:
    with DevnetThread(miners=0, api_key=KEY) as devnet:
        cli = Cli(tmp_path, devnet)
        assert cli("upscale", photo, "--timeout", "4").returncode == 5
        (under_way,) = cli.json("upscale", photo, "--dry-run")["inputs"]
        assert under_way["action"] == "wait"
        devnet.add_fault("task_create:drop_after:n=1")
        other = draw(tmp_path / "other.png", 2)
        assert cli("upscale", other, "--fallback", "never").returncode == 6
        (unknown,) = cli.json("upscale", other, "--dry-run")["inputs"]
        assert unknown["action"] == "unknown"


def test_jsonl_prints_a_line_for_each_event(cli: Cli, photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    done = cli("upscale", photo, broken, "--jsonl")
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    own = [line for line in lines if line.get("input") == str(photo)]
    assert [line["event"] for line in own if line["event"] not in ("waiting", "running", "downloading")] == [
        "submitted",
        "done",
        "result",
    ]
    assert len({line["task_id"] for line in own}) <= 2 and own[-1]["status"] == "done"
    assert all(line["time"] > 1e9 for line in lines)
    failed = next(line for line in lines if line["event"] == "result" and line["input"] == str(broken))
    assert failed["error"]["type"] == "InputImageError"
    assert lines[-1]["event"] == "end" and lines[-1]["exit_code"] == 2
    refused = cli("upscale", photo, "--jsonl", "-o", "x.png", XALORA_API_KEY="malformed")
    (end,) = [json.loads(line) for line in refused.stdout.splitlines()]
    assert (end["event"], end["exit_code"], end["error"]["type"]) == ("end", 3, "ConfigurationError")
    assert cli("upscale", photo, "--json", "--jsonl").returncode == 2


def test_jsonl_tells_a_fallback(cli: Cli, photo: Path, away: dict[str, str]) -> None:
    done = cli("upscale", photo, "--jsonl", **away)
    assert done.returncode == 7
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    (fell,) = [line for line in lines if line["event"] == "falling_back"]
    assert (fell["engine"], fell["error"]["type"]) == ("pillow", "XaloraConnectionError")
    (step,) = [line for line in lines if line["event"] == "local_progress"]
    assert (step["label"], step["step"], step["done"], step["total"]) == ("photo.png", "step 1/1", 1, 1)
    assert "a callback failed" not in done.stderr
