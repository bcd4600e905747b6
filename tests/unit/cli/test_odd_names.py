"""Names and files as folders may hold them: names of two lines, pipes, links that lead nowhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from xalora_client.cli.image_arguments import existing_inputs
from xalora_client.cli.screen import Screen
from xalora_client.errors import InputImageError


def test_a_line_stays_one_whatever_a_file_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    screen, name = Screen(), "a\n✓ b.png -> forged.png\x1b[2J"
    screen.say(f"{name} -> ", (name, "bold"))
    screen.note(name)
    screen.warn(name)
    screen.error(InputImageError(f"{name} can't be read", next_step="Leave it out."), name)
    said = capsys.readouterr()
    assert [len(text.splitlines()) for text in said] == [1, 3]
    assert "\x1b[2J" not in said.out + said.err and "a\N{REPLACEMENT CHARACTER}✓ b.png" in said.out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_read_where_it_is_named_and_left_out_of_a_folder(tmp_path: Path) -> None:
    pipe, photo, gone = (tmp_path / name for name in ("pipe.png", "photo.png", "gone.png"))
    os.mkfifo(pipe)
    photo.write_bytes(b"")
    gone.symlink_to("nowhere.png")
    folder = existing_inputs([str(tmp_path)], recursive=True)
    assert folder.sources == (str(gone), str(photo))
    assert set(folder.below) == {str(gone), str(photo)} and set(folder.unreadable) == {str(gone)}
    assert existing_inputs([str(pipe)]).sources == (str(pipe),)
