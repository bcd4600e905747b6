"""A result's files as the user wants them: saved, as bytes, as a Pillow image, shown in a notebook."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import skimage
from PIL import Image, features

from xalora_client import ResultDownloadError, ResultFormatError, ResultSaveError, RunResult

PHOTO = Path(skimage.__file__).parent / "data" / "astronaut.png"
JPEG = Path(skimage.__file__).parent / "data" / "rocket.jpg"


def result(*files: Path) -> RunResult:
    return RunResult(files, "xalora", "job-1", task_id="t1")


def kept(tmp_path: Path, source: Path, name: str = "job-1-7") -> Path:
    folder = tmp_path / "kept"
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}{source.suffix}"
    place.write_bytes(source.read_bytes())
    return place


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def video(path: Path, frames: int = 5) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            picture = np.full((48, 64, 3), index * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def animation(path: Path) -> Path:
    frames = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (0, 120, 240)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    return path


def test_a_result_is_saved_under_its_own_format_byte_for_byte(tmp_path: Path) -> None:
    made = result(kept(tmp_path, PHOTO))
    (saved,) = made.save(tmp_path / "out" / "face.PNG")
    assert saved == tmp_path / "out" / "face.PNG"
    assert saved.read_bytes() == made.to_bytes() == PHOTO.read_bytes()
    assert [entry.name for entry in saved.parent.iterdir()] == ["face.PNG"]


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp", "a.tif", "a.bmp", "a.avif"])
def test_an_image_is_converted_to_what_the_suffix_names(tmp_path: Path, name: str) -> None:
    if name.endswith("avif") and "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    (saved,) = result(kept(tmp_path, PHOTO)).save(tmp_path / name)
    with Image.open(saved) as image:
        assert image.format == {"jpg": "JPEG", "tif": "TIFF"}.get(saved.suffix[1:], saved.suffix[1:].upper())
    assert np.abs(pixels(saved).astype(int) - pixels(PHOTO)).mean() < 3


def test_transparency_is_seen_on_white_where_the_format_has_none(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (saved,) = result(tmp_path / "clear.png").save(tmp_path / "a.jpg")
    assert pixels(saved).min() > 250


def test_a_folder_keeps_the_names_and_several_files_are_numbered(tmp_path: Path) -> None:
    made = result(kept(tmp_path, PHOTO, "one"), kept(tmp_path, JPEG, "two"))
    assert [path.name for path in made.save(f"{tmp_path}/new/")] == ["one.png", "two.jpg"]
    assert [path.name for path in made.save(tmp_path / "new")] == ["one.png", "two.jpg"]
    assert [path.name for path in made.save(tmp_path / "face")] == ["face.png", "face-2.jpg"]
    assert [path.name for path in made.save(tmp_path / "v1.5")] == ["v1.5.png", "v1.5-2.jpg"]
    assert [path.name for path in made.save(str(tmp_path / "face.jpg"))] == ["face.jpg", "face-2.jpg"]
    assert pixels(tmp_path / "face.jpg").shape == pixels(PHOTO).shape


def test_a_result_saved_over_itself_is_still_there(tmp_path: Path) -> None:
    made = result(kept(tmp_path, PHOTO))
    assert made.save(made.files[0].parent) == made.files
    assert made.to_bytes() == PHOTO.read_bytes()


def test_a_video_is_saved_and_is_no_image(tmp_path: Path) -> None:
    made = result(video(tmp_path / "kept.mp4"))
    (saved,) = made.save(tmp_path / "clip.mp4")
    assert saved.read_bytes() == made.to_bytes()
    with pytest.raises(ResultSaveError, match=r"can't be saved as \.png; take \.mp4"):
        made.save(tmp_path / "clip.png")
    with pytest.raises(
        ResultSaveError, match=r"as \.gif; take \.png, \.jpg, \.jpeg, \.webp, \.avif, \.tif, "
    ):
        result(kept(tmp_path, PHOTO)).save(tmp_path / "photo.gif")
    with pytest.raises(ResultFormatError, match="is a video"):
        made.pil()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "kept", "kept.mp4"]


def test_an_animation_is_saved_as_it_is_or_as_mp4(tmp_path: Path) -> None:
    made = result(animation(tmp_path / "kept.webp"))
    assert made.save(tmp_path / "a.webp")[0].read_bytes() == made.to_bytes()
    (saved,) = made.save(tmp_path / "a.mp4")
    with av.open(str(saved)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_result_as_a_pillow_image(tmp_path: Path) -> None:
    image = result(PHOTO).pil()
    assert (image.mode, image.size) == ("RGB", (512, 512))
    assert np.array_equal(np.asarray(image), pixels(PHOTO))
    Image.fromarray(np.array([[0, 65535], [257 * 9, 257]], np.uint16)).save(tmp_path / "deep.png")
    assert result(tmp_path / "deep.png").pil().convert("L").tobytes() == bytes([0, 255, 9, 1])
    with pytest.raises(IndexError):
        result(PHOTO).pil(1)


def test_what_can_not_be_written_is_told_and_stays_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ResultSaveError, match=r"can't be saved to .*paid for.*It is kept as ") as caught:
        result(kept(tmp_path, PHOTO)).save(tmp_path / "file" / "a.png")
    assert isinstance(caught.value, OSError)
    assert caught.value.task_id == "t1"
    gone = result(tmp_path / "gone.png")
    for look in (gone.to_bytes, gone.pil, lambda: gone.save(tmp_path / "b.png")):
        with pytest.raises(ResultDownloadError, match="can no longer be read"):
            look()
    assert not (tmp_path / "b.png").exists()


def test_in_output_dir_no_file_is_replaced_and_no_copy_is_made_twice(tmp_path: Path) -> None:
    made = result(kept(tmp_path, PHOTO, "one"), kept(tmp_path, PHOTO, "two"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "face.png").write_text("mine")
    first = made.saved_in(out, "face")
    assert [path.name for path in first.files] == ["face-2.png", "face-3.png"]
    assert made.saved_in(out, "face").files == first.files
    assert (out / "face.png").read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == ["face-2.png", "face-3.png", "face.png"]


def test_a_notebook_shows_images_and_videos(tmp_path: Path) -> None:
    still = result(kept(tmp_path, JPEG))
    shown = still._repr_png_()
    assert shown is not None and still._repr_html_() is None
    with Image.open(io.BytesIO(shown)) as image:
        assert (image.format, image.size) == ("PNG", (640, 427))
    clip = result(video(tmp_path / "kept.mp4"))
    assert clip._repr_png_() is None
    page = clip._repr_html_()
    assert page is not None and page.startswith("<video controls")
    data = re.search(r"data:video/mp4;base64,([^\"]+)", page)
    assert data is not None and base64.b64decode(data[1]) == clip.to_bytes()
    assert clip.video._repr_html_() == page
    assert "data:image/webp" in (result(animation(tmp_path / "a.webp"))._repr_html_() or "")
    assert (result(PHOTO, JPEG)._repr_html_() or "").count("<img") == 2
    gone = result(tmp_path / "<gone>.png")
    assert gone._repr_png_() is None and gone._repr_html_() is None


def test_a_result_is_printed_without_its_pixels_and_pickled(tmp_path: Path) -> None:
    program = (
        "import pickle, sys; from pathlib import Path; from xalora_client import RunResult;"
        "made = RunResult((Path(sys.argv[1]),), 'xalora', 'job-1'); assert made.images.shape[0] == 1;"
        "again = pickle.loads(pickle.dumps(made)); assert again == made; assert 'in_use' not in repr(made)"
    )
    subprocess.run([sys.executable, "-c", program, str(PHOTO)], check=True, timeout=60)
