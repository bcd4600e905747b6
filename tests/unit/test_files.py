from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from xalora_client.files import draft_of, files_named, settle_if_free


@pytest.mark.parametrize("name", ["result.png", "ä" * 120 + ".png", "🐈" * 62, "a" * 255])
def test_a_whole_file_replaces_the_old_one(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.write_text("old")
    with draft_of(place) as draft:
        draft.write_text("new")
        assert place.read_text() == "old"
        draft.replace(place)
    assert place.read_text() == "new"
    assert [*tmp_path.iterdir()] == [place]


def test_what_fails_leaves_the_old_file_alone_and_no_draft(tmp_path: Path) -> None:
    place = tmp_path / "result.png"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError), draft_of(place) as draft:
        draft.write_text("half")
        _ = 1 / 0
    assert place.read_text() == "old"
    assert [*tmp_path.iterdir()] == [place]


def test_two_at_once_have_drafts_of_their_own(tmp_path: Path) -> None:
    place = tmp_path / "result.png"
    with draft_of(place) as first, draft_of(place) as second:
        second.write_text("second")
        first.write_text("first")
        first.replace(place)
        second.replace(place)
    assert place.read_text() == "second"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_nobody_else_reads_a_secret_at_any_time(tmp_path: Path) -> None:
    place = tmp_path / "key"
    with draft_of(place, 0o600) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("s3cret")
        draft.replace(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_files_are_found_by_how_their_names_begin_and_end(tmp_path: Path) -> None:
    for name in ("[a].png.1.part", "[a].png.part", "a.png.1.part", "[a].png.1.part.json"):
        (tmp_path / name).touch()
    assert files_named(tmp_path, "[a].png.", ".part") == [tmp_path / "[a].png.1.part"]
    assert files_named(tmp_path, "b") == files_named(tmp_path / "none", "") == []


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_that_is_taken_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(place: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "as FAT says it")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    place = tmp_path / "result.png"
    with draft_of(place) as draft:
        draft.write_text("new")
        settle_if_free(draft, place)
    with pytest.raises(FileExistsError), draft_of(place) as draft:
        settle_if_free(draft, place)
    assert place.read_text() == "new"
    place.unlink()
    place.symlink_to("nowhere")
    with pytest.raises(FileExistsError), draft_of(place) as draft:
        settle_if_free(draft, place)
    assert [*tmp_path.iterdir()] == [place] and place.is_symlink()
