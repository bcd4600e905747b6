"""Parts of the command line without network: exit statuses, output files, text for the screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from xalora_client import errors
from xalora_client.cli.app import app
from xalora_client.cli.command import command
from xalora_client.cli.destinations import (
    PICTURE_SUFFIXES,
    SUFFIXES,
    VIDEO_SUFFIXES,
    Destination,
    Output,
    OutputNameError,
    is_result,
    plan_for_inputs,
    plan_for_names,
)
from xalora_client.cli.exit_codes import MEANINGS, ExitCode, exit_code_of, most_serious
from xalora_client.cli.formats import printable, short_path, shortened, slug
from xalora_client.cli.job_runner import Job, JobRunner
from xalora_client.cli.options import AsJson, AsLines
from xalora_client.cli.outputs import OutputError, OutputExistsError, check_destinations, write_result
from xalora_client.cli.screen import Screen
from xalora_client.cli.signals import means_at_once
from xalora_client.media.picture_formats import PictureEncoding, PictureFormat
from xalora_client.results import RunResult
from xalora_client.text import bytes_text, elapsed_text, seconds_text, span_text

PNG = b"\x89PNG\r\n\x1a\n and the rest"
JPEG = b"\xff\xd8\xff and the rest"
JOB = "job-1"


# --- exit statuses ----------------------------------------------------------------------------------------


def error_classes(kind: type[errors.XaloraError] = errors.XaloraError) -> Iterator[type[errors.XaloraError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


CODES = {
    "AmbiguousCreateError": 6,
    "InvalidTaskError": 2,
    "InputImageError": 2,
    "ConfigurationError": 3,
    "MissingKeyError": 3,
    "DailyLimitError": 3,
    "ClientClosedError": 4,
    "TaskNotKnownError": 5,
    "ResultMissingError": 5,
    "InputTooLargeError": 3,
    "WorkflowDefinitionError": 3,
    "AuthenticationError": 3,
    "ResultLocationError": 3,
    "JournalError": 3,
    "NetworkError": 4,
    "XaloraConnectionError": 8,
    "RateLimitError": 4,
    "NoMinerError": 4,
    "RequestRefusedError": 4,
    "ServiceError": 4,
    "StoreError": 4,
    "ResultDownloadError": 4,
    "XaloraError": 5,
    "TaskError": 5,
    "TaskFailedError": 5,
    "TaskCanceledError": 5,
    "TaskTimeoutError": 5,
    "QueueLimitError": 5,
    "ResultError": 5,
    "ResultExpiredError": 5,
    "ResultFormatError": 5,
    "ResultSaveError": 5,
    "ResultTooLargeError": 5,
    "EngineError": 5,
    "UnexpectedError": 1,
}


def test_every_error_has_an_exit_status() -> None:
    assert {kind.__name__: int(exit_code_of(kind("what"))) for kind in error_classes()} == CODES
    assert exit_code_of(OutputExistsError("what")) is ExitCode.USAGE
    assert exit_code_of(OutputNameError("what")) is ExitCode.USAGE


def test_the_most_serious_exit_status_counts() -> None:
    assert most_serious([]) is ExitCode.DONE
    assert most_serious([ExitCode.DONE, ExitCode.NETWORK, ExitCode.USAGE]) is ExitCode.NETWORK
    assert most_serious([ExitCode.NO_NETWORK, ExitCode.CONFIGURATION]) is ExitCode.NO_NETWORK
    assert most_serious([ExitCode.DONE, ExitCode.DONE_HERE]) is ExitCode.DONE_HERE
    for worse in set(ExitCode) - {ExitCode.DONE, ExitCode.DONE_HERE}:
        assert most_serious([worse, ExitCode.DONE_HERE, ExitCode.DONE]) is worse
    assert most_serious([ExitCode.NO_NETWORK, ExitCode.TASK_FAILED]) is ExitCode.TASK_FAILED
    assert most_serious([ExitCode.OUTCOME_UNKNOWN, ExitCode.TASK_FAILED]) is ExitCode.OUTCOME_UNKNOWN
    assert most_serious([ExitCode.INTERRUPTED, ExitCode.OUTCOME_UNKNOWN]) is ExitCode.INTERRUPTED


def test_a_signal_ends_at_once_where_it_is_no_echo_of_the_first() -> None:
    assert not means_at_once(0, 0.0)
    assert not means_at_once(1, 0.9)
    assert means_at_once(1, 1.0)
    assert means_at_once(2, 0.1)


def test_the_readme_has_the_exit_statuses() -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    table = readme.split("| exit status | |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {int(code)} | {MEANINGS[code]} |" for code in ExitCode]


def test_the_command_line_starts_without_what_only_tasks_need() -> None:
    heavy = ["numpy", "PIL.Image", "av", "aiohttp"]
    code = f"import sys, xalora_client.cli.app; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_help_leaves_the_breaking_of_lines_to_the_terminal() -> None:
    helps = [each.callback.__doc__ or "" for each in app.registered_commands if each.callback is not None]
    assert len(helps) > 10
    assert not [text for text in helps if "\n" in text.replace("\n\n", "")]


@pytest.mark.parametrize("missing", [["typer"], ["rich"], ["typer", "rich"]])
def test_without_its_libraries_the_command_line_says_what_to_install(missing: list[str]) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import runpy; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "runpy.run_module('xalora_client', run_name='__main__')", "demo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'pip install "xalora[cli]"' in done.stderr
    assert " and ".join(missing) in done.stderr


# --- output files -----------------------------------------------------------------------------------------


def test_results_are_planned_beside_their_inputs() -> None:
    places = plan_for_inputs(
        ["a/photo.jpg", "b/photo.png", "https://example.org/x/Pic%20ture.png?k=1"], Output()
    )
    assert [place.path for place in places] == [
        Path("a/photo.xalora"),
        Path("b/photo.xalora"),
        Path("Pic_ture.xalora"),
    ]
    assert not any(place.exact for place in places)


def test_inputs_that_would_share_a_result_do_not() -> None:
    places = plan_for_inputs(["a/Photo.jpg", "a/photo.png", "b/photo.png"], Output("made/"))
    assert [place.path.name for place in places] == ["Photo.xalora", "photo.xalora-2", "photo.xalora-3"]


def test_a_result_keeps_the_suffix_where_another_picture_has_the_same_name() -> None:
    for name in ("1.jpg", "1.HEIC", "2.jpg", "2.txt", "2.xalora.png", "3.jpg", "3.jpg.png", "4.png", "4.mov"):
        Path(name).touch()

    def name_of(*inputs: str) -> list[str]:
        return [place.path.name for place in plan_for_inputs(inputs, Output("made/"))]

    # Whichever of them is named, and in any order.
    for name in ("1.jpg", "1.HEIC", "4.png"):
        assert name_of(name) == [f"{name}.xalora"]
    assert name_of("1.jpg", "1.HEIC") == name_of("1.HEIC", "1.jpg")[::-1] == ["1.jpg.xalora", "1.HEIC.xalora"]
    assert name_of("2.jpg", "3.jpg", "3.jpg.png") == ["2.xalora", "3.xalora", "3.jpg.png.xalora"]
    (place,) = plan_for_inputs(["1.jpg"], Output())
    assert place.made_here().path == Path("1.jpg.local")


@pytest.mark.parametrize("character", ["a", "ä", "漢", "🦊"])
def test_long_names_are_shortened_at_a_character_and_stay_distinct(character: str) -> None:
    size = len(character.encode())
    stem = character * (250 // size)
    inputs = [f"{stem}.jpg", f"{stem[:-2]}b.jpg", f"{stem[:-1]}.png"]
    for name in inputs:
        Path(name).touch()
    places = plan_for_inputs(inputs, Output())
    alone = [plan_for_inputs([name], Output())[0] for name in inputs]
    assert places == alone and len({place.path for place in places}) == 3
    for place in (*places, *(place.made_here() for place in places)):
        assert place.taken() == []
        for total in (1, 12):
            path = place.file(".webp", 11, total)
            assert len(path.name.encode()) <= 255 and path.name.startswith(character * (200 // size))
            source = kept(PNG)
            assert write_result([source], Destination(path, exact=True), force=False).files == (path,)
            assert (
                write_result([kept(PNG + b"\0", "other")], Destination(path, exact=True), force=False).files[
                    0
                ]
                != path
            )
    exact = Destination(Path(f"{character * (251 // size)}.png"), exact=True)
    check_destinations([exact], force=False)
    assert len(exact.made_here().path.name.encode()) <= 255


PNG_FORMAT, JPG_FORMAT = PictureEncoding(PictureFormat.PNG), PictureEncoding(PictureFormat.JPG)


def test_an_output_is_a_file_unless_it_is_a_folder_for_one_input_and_for_many(tmp_path: Path) -> None:
    big = Destination(Path("big.png"), exact=True, encoding=PNG_FORMAT)
    assert plan_for_inputs(["photo.jpg"], Output("big.png")) == [big]
    assert plan_for_inputs(["photo.jpg"], Output("made/")) == [Destination(Path("made/photo.xalora"))]
    assert plan_for_inputs(["photo.jpg"], Output(str(tmp_path))) == [Destination(tmp_path / "photo.xalora")]
    assert plan_for_inputs(["1.jpg", "2.jpg"], Output("made/"))[1] == Destination(Path("made/2.xalora"))
    assert plan_for_inputs(["1.jpg", "2.jpg"], Output(str(tmp_path)))[1].path == tmp_path / "2.xalora"
    for several in (["1.jpg", "2.jpg"], ["a fox", "a dog"]):
        for plan in (plan_for_inputs, plan_for_names):
            with pytest.raises(OutputNameError, match=r"made names a file.*-o made/"):
                plan(several, Output("made"))
            with pytest.raises(OutputNameError, match="takes one result"):
                plan(several, Output("-"))
    # A folder may hold any number of pictures.
    with pytest.raises(OutputNameError, match="names a file"):
        plan_for_inputs(["in/1.jpg"], Output("made"), below={"in/1.jpg": Path()})


def test_pictures_of_a_folder_keep_their_places_below_it() -> None:
    below = {"in/a/1.jpg": Path("a"), "in/b/1.jpg": Path("b")}
    places = plan_for_inputs(list(below), Output("made/"), below=below)
    assert [place.path for place in places] == [Path("made/a/1.xalora"), Path("made/b/1.xalora")]
    assert plan_for_inputs(list(below), Output(), below=below)[1].path == Path("in/b/1.xalora")


def test_an_output_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (place,) = plan_for_inputs(["photo.jpg"], Output("~/made/"))
    assert place == Destination(tmp_path / "made" / "photo.xalora")
    (place,) = plan_for_names(["fox"], Output("~/fox.mp4"))
    assert place == Destination(tmp_path / "fox.mp4", exact=True)


@pytest.mark.parametrize(
    ("output", "encoding"),
    [
        (Output(), None),
        (Output("big"), None),
        (Output("big.mp4"), None),
        (Output("made/"), None),
        (Output("made.png/"), None),
        (Output("big.PNG"), PNG_FORMAT),
        (Output("big.jpeg"), JPG_FORMAT),
        (Output("big.jpg", quality=80), PictureEncoding(PictureFormat.JPG, 80)),
        (Output("made/", PictureFormat.AVIF, 50), PictureEncoding(PictureFormat.AVIF, 50)),
        (Output("-", PictureFormat.WEBP), PictureEncoding(PictureFormat.WEBP)),
        (Output("big", PictureFormat.JPG), JPG_FORMAT),
        (Output("big.jpeg", PictureFormat.JPG), JPG_FORMAT),
    ],
)
def test_the_format_is_that_of_the_option_or_of_the_suffix(
    output: Output, encoding: PictureEncoding | None
) -> None:
    assert output.encoding() == encoding


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (Output("big.bmp"), "not written here"),
        (Output("big.gif"), r"not written here.*Take \.png, .*\.mp4"),
        (Output("big.PDF"), "not written here"),
        (Output("big.mp4", suffixes=PICTURE_SUFFIXES), "not written here"),
        (Output("big.png", suffixes=VIDEO_SUFFIXES), r"Take \.mp4 or \.webp"),
        (Output("big.png", PictureFormat.JPG), "two formats"),
        (Output(quality=80), "--quality is that of"),
        (Output("big.png", quality=80), "--quality is that of"),
        (Output("made/", PictureFormat.PNG, 80), "--quality is that of"),
    ],
)
def test_options_of_the_format_that_contradict_each_other_are_refused(output: Output, words: str) -> None:
    with pytest.raises(OutputNameError, match=words):
        output.encoding()


def test_what_this_machine_makes_instead_of_the_network_is_named_so() -> None:
    local = [
        place.made_here().path.name
        for place in (
            Destination(Path("photo.xalora")),
            Destination(Path("photo.xalora-2")),
            Destination(Path("big.png"), exact=True),
            Destination(Path("big"), exact=True),
        )
    ]
    assert local == ["photo.local", "photo.local-2", "big.local.png", "big.local"]
    names = ["photo.local.png", "photo.local-2.png", "photo.xalora.avif", "photo.png", "local.png"]
    assert [is_result(name) for name in names] == [True, True, True, False, False]
    # It does not count as done.
    Path("photo.local.png").write_bytes(PNG)
    assert Destination(Path("photo.xalora")).taken() == []


def test_prompts_take_the_first_free_name() -> None:
    Path("a-fox.xalora.mp4").write_bytes(b"")
    assert [place.path.name for place in plan_for_names(["a fox", "A fox!", "a dog"], Output())] == [
        "a-fox.xalora-2",
        "a-fox.xalora-3",
        "a-dog.xalora",
    ]


def test_with_a_format_only_a_result_of_that_format_counts() -> None:
    place = Destination(Path("photo.xalora"), encoding=JPG_FORMAT)
    Path("photo.xalora.png").write_bytes(PNG)
    assert place.taken() == []
    Path("photo.xalora.jpg").write_bytes(JPEG)
    assert place.taken() == [Path("photo.xalora.jpg")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_existing_result_is_an_obstacle(suffix: str) -> None:
    place = Destination(Path("photo.xalora"))
    check_destinations([place], force=False)
    Path(f"photo.xalora{suffix}").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="would be overwritten"):
        check_destinations([place], force=False)
    check_destinations([place], force=True)


def test_folders_are_created_before_a_task_is_paid_for() -> None:
    check_destinations([Destination(Path("made/deep/photo.xalora"))], force=False)
    assert Path("made/deep").is_dir()
    Path("file").write_bytes(b"")
    with pytest.raises(errors.ConfigurationError, match="can't be created"):
        check_destinations([Destination(Path("file/photo.xalora"))], force=False)
    with pytest.raises(errors.ConfigurationError, match="is a folder"):
        check_destinations([Destination(Path("made"), exact=True)], force=True)


@pytest.mark.parametrize("name", ["a" * 256 + ".png", "/proc/x.png", "/proc/self/photo.xalora"])
@pytest.mark.skipif(sys.platform != "linux", reason="a folder that nobody can write to")
def test_a_place_that_takes_no_file_is_found_beforehand(name: str) -> None:
    for exact in (True, False) if name.startswith("/") else (True,):
        with pytest.raises(errors.ConfigurationError, match="can't be written to: "):
            check_destinations([Destination(Path(name), exact=exact)], force=False)
    check_destinations([Destination(Path("photo.xalora"))], force=False)
    assert list(Path().glob(".*")) == list(Path().glob("photo*")) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_found_beforehand() -> None:
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(errors.ConfigurationError, match="can't be written to"):
        check_destinations([Destination(Path("locked/photo.xalora"))], force=False)


def kept(content: bytes, name: str = "kept") -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def test_a_result_is_named_by_its_content_and_copied() -> None:
    written = write_result([kept(JPEG)], Destination(Path("photo.xalora")), force=False)
    assert written.files == (Path("photo.xalora.jpg"),)
    assert written.remarks == ()
    assert Path("photo.xalora.jpg").read_bytes() == JPEG
    assert Path("kept").exists()
    assert {path.name for path in Path().iterdir()} == {"kept", "photo.xalora.jpg"}


def test_a_result_of_another_format_goes_by_the_name_it_is_kept_under() -> None:
    written = write_result([kept(bytes(9), "kept.mkv")], Destination(Path("fox.xalora")), force=False)
    assert written.files == (Path("fox.xalora.mkv"),)


def test_several_files_of_one_result_are_numbered() -> None:
    sources = [kept(PNG, "1"), kept(JPEG, "2")]
    assert write_result(sources, Destination(Path("fox.xalora")), force=False).files == (
        Path("fox.xalora-1.png"),
        Path("fox.xalora-2.jpg"),
    )
    exact = write_result([kept(PNG, "1"), kept(PNG, "2")], Destination(Path("fox.png"), True), force=False)
    assert exact.files == (Path("fox-1.png"), Path("fox-2.png"))


def test_a_name_the_user_gave_is_kept_with_a_remark_where_it_misleads() -> None:
    written = write_result([kept(PNG)], Destination(Path("big.jpg"), exact=True), force=False)
    assert written.files == (Path("big.jpg"),)
    assert written.remarks == ("big.jpg holds PNG data, in spite of its name",)


def test_a_file_without_a_suffix_says_how_to_write_to_a_folder() -> None:
    written = write_result([kept(PNG)], Destination(Path("big"), exact=True), force=False)
    assert written.remarks == ("big is a file and holds PNG data; for a folder write big/",)
    known = Destination(Path("large"), exact=True, encoding=PNG_FORMAT)
    assert write_result([kept(PNG)], known, force=False).remarks == ()


def test_a_file_created_meanwhile_is_not_replaced() -> None:
    Path("photo.xalora.png").write_bytes(b"mine")
    place = Destination(Path("photo.xalora"))
    written = write_result([kept(PNG)], place, force=False)
    assert written.files == (Path("photo.xalora-2.png"),)
    assert "photo.xalora.png exists by now" in written.remarks[0]
    assert Path("photo.xalora.png").read_bytes() == b"mine"
    assert write_result([kept(PNG)], place, force=True).files == (Path("photo.xalora.png"),)
    assert Path("photo.xalora.png").read_bytes() == PNG
    Path("photo.xalora-2.png").unlink()
    # Another command, of the same folder, wrote the same result meanwhile.
    same = write_result([kept(PNG)], place, force=False)
    assert (same.files, same.remarks) == ((Path("photo.xalora.png"),), ())
    assert not Path("photo.xalora-2.png").exists()


KILLED_WHILE_IT_NAMES = """
import os, signal
from pathlib import Path
from xalora_client.cli.destinations import Destination
from xalora_client.cli.outputs import write_result
from xalora_client.media.saving import save_beside_others
Path.replace = Path.hardlink_to = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    "call",
    [
        "write_result([Path('kept.png')], Destination(Path('photo.xalora')), force=False)",
        "save_beside_others([Path('kept.png')], Path(), 'photo.xalora')",
    ],
)
def test_a_process_that_is_killed_while_it_names_a_result_leaves_no_empty_one(call: str) -> None:
    kept(PNG, "kept.png")
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_NAMES + call], check=False)
    assert done.returncode == -9
    assert not Path("photo.xalora.png").exists()


def test_a_result_that_cannot_be_written_says_where_it_is_kept() -> None:
    with pytest.raises(OutputError, match="can't be written") as caught:
        write_result([kept(PNG)], Destination(Path("gone/photo.xalora")), force=False)
    assert "kept as kept" in str(caught.value)
    assert "stays retrievable" in str(caught.value)


# --- text for the screen ----------------------------------------------------------------------------------


def test_times_and_sizes_read_as_people_write_them() -> None:
    assert [seconds_text(s) for s in (None, 0.416, 3.24, 9.96, 47.6, 125, 3725)] == [
        "-",
        "0.42 s",
        "3.2 s",
        "10.0 s",
        "48 s",
        "2 min 5 s",
        "1 h 2 min",
    ]
    assert [elapsed_text(s) for s in (-1, 0.9, 59.9, 60)] == ["0 s", "0 s", "59 s", "1 min 0 s"]
    assert span_text((40.2, 55)) == "40-55 s"
    assert span_text((0.5, 12)) == "0.50-12 s"
    assert span_text((40.2, 39.8)) == "40 s"
    assert span_text((55, 65)) == "55 s-1 min 5 s"
    assert [bytes_text(b) for b in (0, 999, 1000, 3_400_000, 812_000_000, 2.5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "3.4 MB",
        "812 MB",
        "2.5 GB",
    ]


def test_text_from_elsewhere_cannot_control_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\nc é") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}\nc é"
    assert shortened("one\n two   three", 9) == "one two…"


def test_names_from_prompts() -> None:
    assert slug("A red fox, in the SNOW; highly detailed, 8k, cinematic") == (
        "a-red-fox-in-the-snow-highly-detailed-8k"
    )
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("Fuchs im Schnee: größer") == "fuchs-im-schnee-größer"
    assert slug("x" * 100) == "x" * 40
    assert slug("!?") == "xalora"
    # Names of devices on Windows.
    assert [slug(name) for name in ("Con", "lpt1", "nul!", "contact", "com12")] == [
        "xalora-con",
        "xalora-lpt1",
        "xalora-nul",
        "contact",
        "com12",
    ]


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert short_path(Path("made/photo.png")) == "made/photo.png"
    assert short_path(tmp_path / "photo.png") == "photo.png"
    assert short_path(tmp_path.parent / "other" / "photo.png") == "~/other/photo.png"
    assert short_path(Path("/elsewhere/photo.png")) == "/elsewhere/photo.png"


def test_a_path_is_absolute_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert short_path(Path("/elsewhere/photo.png")) == "/elsewhere/photo.png"


# --- unforeseen errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "named"),
    [(KeyError("as nobody foresaw"), 1, "UnexpectedError"), (KeyboardInterrupt(), 130, None)],
)
def test_a_command_prints_its_json_however_it_ends(
    capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, named: str | None
) -> None:
    @command
    def odd(as_json: AsJson = False, as_lines: AsLines = False) -> ExitCode:
        raise raised

    for option in ("as_json", "as_lines"):
        with pytest.raises(typer.Exit) as ended:
            odd(**{option: True})
        said = capsys.readouterr()
        document = json.loads(said.out)
        assert ended.value.exit_code == document["exit_code"] == code
        assert document.get("error", {}).get("type") == named
        assert said.err.count("bug of xalora") == (named is not None)


async def test_an_unforeseen_error_of_one_job_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "kept.png"
    source.write_bytes(PNG)

    class Client:
        def delivered(self, result: RunResult) -> None:
            pass

    async def odd(client: Any, on_event: Any) -> RunResult:
        raise KeyError("as nobody foresaw")

    async def good(client: Any, on_event: Any) -> RunResult:
        return RunResult((source,), "xalora", JOB, "t-1")

    jobs = [
        Job(str(place), run, Destination(Path(f"{place}.xalora")))
        for place, run in enumerate([good, odd, good])
    ]
    runner = JobRunner(Screen(), jobs, force=False, at_once=1)
    client: Any = Client()
    await runner.run(client)
    assert [report.code for report in runner.reports] == [ExitCode.DONE, ExitCode.UNEXPECTED, ExitCode.DONE]
    assert runner.code is ExitCode.UNEXPECTED
    assert "unforeseen KeyError" in capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("*.xalora.png")} == {"0.xalora.png", "2.xalora.png"}
