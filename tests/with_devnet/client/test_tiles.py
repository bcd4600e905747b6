"""Large images through the devnet in tiles: seams, tasks, failures, cancels, limits, engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from photographs import SHIPPED
from PIL import Image

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    DailyLimitError,
    EngineError,
    InputImageError,
    InputTooLargeError,
    RequestRefusedError,
    ResultFormatError,
    ResultSaveError,
    TaskFailedError,
    UpscalerTask,
    Xalora,
    XaloraError,
)
from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.devnet.engines import MinerTask
from xalora_client.engines.pixels import decode_input
from xalora_client.events import FallingBack, TaskEvent, TileProgress
from xalora_client.media.png_encode import encode_png

Pixels = npt.NDArray[np.uint8]


def photograph(width: int, height: int) -> Pixels:
    """A part of a photograph."""
    with Image.open(SHIPPED[0].path) as image:
        grown = image.convert("RGB").resize((width * 2, height * 2), Image.Resampling.BICUBIC)
    return np.asarray(grown)[height // 2 : height // 2 + height, width // 2 : width // 2 + width].copy()


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(20).integers(0, 256, (height, width, channels), dtype=np.uint8)


def opened(path: Path) -> npt.NDArray[np.int16]:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int16)


def _convolved(
    pixels: npt.NDArray[np.float64], kernel: npt.NDArray[np.float64], axis: int
) -> npt.NDArray[np.float64]:
    reach, length = len(kernel) // 2, pixels.shape[axis]
    around = [(reach, reach) if side == axis else (0, 0) for side in range(3)]
    padded = np.pad(pixels, around)
    return sum(
        weight * padded.take(np.arange(place, place + length), axis) for place, weight in enumerate(kernel)
    )


class Convolution:
    """A miner's engine: a convolution that looks at ``field`` pixels across, then doubled."""

    def __init__(self, field: int, factor: int = 2) -> None:
        kernel = np.random.default_rng(field).normal(size=field)
        self._kernel = kernel / np.abs(kernel).sum()
        self._factor = factor

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        assert task.image is not None
        made = decode_input(task.image).astype(np.float64) - 0.5
        for axis in (0, 1):
            made = _convolved(made, self._kernel, axis)
        # Stretched to the whole range, so that a wrong pixel shows.
        made = np.clip(0.5 + 4 * made, 0, 1)
        return encode_png(made.repeat(self._factor, 0).repeat(self._factor, 1)), ".png"


async def off_by(tmp_path: Path, engine: Convolution, overlap: int) -> int:
    """The largest difference between an image in tiles and the same in one task, in steps of 8 bits."""
    image = noise(300, 200)
    async with Devnet(miners=4, task_seconds=0.01, engine=engine) as devnet, client_of(devnet) as client:
        await client.upscale_image(image, tmp_path / "whole.png", tile="never")
        made = await client.upscale_image(image, tmp_path / "tiles.png", tile=128, overlap=overlap)
        assert made.tiles >= 6
    return int(np.abs(opened(tmp_path / "whole.png") - opened(tmp_path / "tiles.png")).max())


def client_of(devnet: Devnet, **settings: Any) -> AsyncXalora:
    return AsyncXalora(devnet.api_key, devnet.url, journal="memory", fallback="never", **settings)


@pytest.mark.parametrize(("field", "overlap", "factor"), [(31, 32, 2), (15, 16, 4), (25, 26, 3)])
async def test_no_seam_where_the_model_sees_less_than_the_overlap(
    tmp_path: Path, field: int, overlap: int, factor: int
) -> None:
    engine = Convolution(field, factor)
    assert await off_by(tmp_path, engine, overlap) <= 1
    assert await off_by(tmp_path, engine, 0) > 20, "the test would not see a seam"


async def test_a_photograph_in_tiles_is_that_of_one_task(tmp_path: Path) -> None:
    image = photograph(900, 700)
    heard: list[TaskEvent] = []
    async with Devnet(miners=4, task_seconds=0.05) as devnet, client_of(devnet) as client:
        whole = await client.upscale_image(image, tmp_path / "whole.png")
        made = await client.upscale_image(image, tmp_path / "tiles.png", tile=256, on_event=heard.append)
        creates = devnet.stats()["creates"]
    assert (whole.tiles, whole.sent, whole.width, whole.height) == (1, 1, 1800, 1400)
    assert (made.tiles, made.tasks, made.sent, made.engine) == (20, 20, 20, "xalora")
    assert (made.width, made.height) == (1800, 1400)
    assert creates == 21
    assert np.abs(opened(whole.path) - opened(made.path)).max() <= 1
    told = [event for event in heard if isinstance(event, TileProgress)]
    first, last = told[0], told[-1]
    assert (first.tiles, first.tasks, first.done, first.in_flight) == (20, 20, 0, 0)
    assert (last.done, last.in_flight, last.seconds_left) == (20, 0, 0.0)
    assert max(each.in_flight for each in told) == 8


async def test_an_image_above_the_inline_limit_is_cut_and_no_request_is_larger(tmp_path: Path) -> None:
    image = noise(400, 400)
    limit = 100_000
    sizes: list[int] = []

    class Measuring(Convolution):
        def run(self, task: MinerTask) -> tuple[bytes, str]:
            sizes.append(len(task.image or b""))
            return super().run(task)

    async with (
        Devnet(miners=4, task_seconds=0.01, engine=Measuring(3)) as devnet,
        client_of(devnet, inline_limit=limit) as client,
    ):
        with pytest.raises(InputTooLargeError):
            await client.upscale_image(image, tmp_path / "never.png", tile="never")
        made = await client.upscale_image(image, tmp_path / "large.png")
        small = await client.upscale_image(image[:100, :100], tmp_path / "small.png")
    assert made.tiles == len(sizes) - 1 == 16 and small.tiles == 1
    assert max(sizes) <= limit


async def test_an_image_that_the_network_finds_too_large_is_cut_until_it_takes_the_tiles(
    tmp_path: Path,
) -> None:
    image = noise(700, 520)
    async with (
        # A tile of 256 pixels takes 262 KB in base64, one of 512 pixels a megabyte.
        Devnet(miners=4, task_seconds=0.01, largest_request=400_000) as devnet,
        client_of(devnet) as client,
    ):
        with pytest.raises(RequestRefusedError, match="HTTP 413"):
            await client.upscale_image(image, tmp_path / "large.png", tile="never")
        with pytest.raises(RequestRefusedError, match="HTTP 413"):
            await client.upscale_image(image, tmp_path / "large.png", tile=512)
        with pytest.raises(ConfigurationError, match=r"12 tasks .* and 11 are the limit"):
            await client.upscale_image(image, tmp_path / "large.png", max_tasks=11)
        assert devnet.stats()["creates"] == 0
        made = await client.upscale_image(image, tmp_path / "large.png")
        assert devnet.stats()["creates"] == made.sent == made.tiles == 12
    doubled = Image.fromarray(image).resize((1400, 1040), Image.Resampling.LANCZOS)
    assert np.abs(opened(made.path) - np.asarray(doubled)).max() <= 1


async def test_where_tiles_are_paid_for_it_is_not_cut_anew(tmp_path: Path) -> None:
    image = noise(900, 400)
    image[:, :500] = np.arange(500, dtype=np.uint8)[None, :, None]
    async with (
        Devnet(miners=1, largest_request=400_000) as devnet,
        client_of(devnet, max_in_flight=1) as client,
    ):
        with pytest.raises(RequestRefusedError, match="HTTP 413") as caught:
            await client.upscale_image(image, tmp_path / "large.png")
        assert devnet.stats()["creates"] == devnet.stats()["tasks"]["finished"] == 2
    assert "2 of 3 tiles are paid for and kept" in caught.value.money


async def test_equal_tiles_are_one_task(tmp_path: Path) -> None:
    image = np.zeros((256, 1024, 3), np.uint8)
    image[:, 900:] = photograph(124, 256)
    async with Devnet(miners=4, task_seconds=0.01) as devnet, client_of(devnet) as client:
        made = await client.upscale_image(image, tmp_path / "sky.png", tile=256)
        assert devnet.stats()["creates"] == made.tasks == made.sent
        assert made.tasks < made.tiles
        whole = await client.upscale_image(image, tmp_path / "whole.png")
    assert np.abs(opened(made.path) - opened(whole.path)).max() <= 1


async def test_transparency_stays(tmp_path: Path) -> None:
    image = noise(300, 200, 4)
    async with Devnet(miners=4, task_seconds=0.01) as devnet, client_of(devnet) as client:
        whole = await client.upscale_image(image, tmp_path / "whole.png")
        made = await client.upscale_image(image, tmp_path / "tiles.png", tile=128)
    assert opened(made.path).shape == (400, 600, 4)
    assert np.abs(opened(made.path) - opened(whole.path)).max() <= 1


async def test_a_file_keeps_its_date_and_author(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x0132] = "Ada", "2026:11:30 10:00:00"
    Image.fromarray(photograph(300, 200)).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    async with Devnet(miners=4, task_seconds=0.01) as devnet, client_of(devnet) as client:
        made = await client.upscale_image(tmp_path / "photo.jpg", tmp_path / "large.png", tile=128)
    with Image.open(made.path) as image:
        assert image.getexif()[0x013B] == "Ada"


# --- money ---


async def test_above_the_limit_nothing_is_sent(tmp_path: Path) -> None:
    async with Devnet() as devnet, client_of(devnet) as client:
        with pytest.raises(ConfigurationError, match=r"needs 6 tasks \(6 of 6 tiles differ\), and 5 are"):
            await client.upscale_image(photograph(500, 300), tmp_path / "large.png", tile=256, max_tasks=5)
        assert devnet.stats()["creates"] == 0
    assert not list(tmp_path.iterdir())


async def test_the_limit_counts_new_tasks_alone(tmp_path: Path) -> None:
    image, heard = photograph(500, 300), list[TaskEvent]()
    async with Devnet(miners=4, task_seconds=0.01) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url, daily_tasks=4) as client:
            with pytest.raises(DailyLimitError):
                await client.upscale_image(image, tmp_path / "large.png", tile=256)
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            with pytest.raises(
                ConfigurationError, match=r"needs 2 tasks \(6 of 6 tiles differ, 4 of them need"
            ):
                await client.upscale_image(image, tmp_path / "large.png", tile=256, max_tasks=1)
            await client.upscale_image(
                image, tmp_path / "large.png", tile=256, max_tasks=2, on_event=heard.append
            )
        assert devnet.stats()["creates"] == 6
    assert isinstance(heard[0], TileProgress)
    assert (heard[0].tasks, heard[0].to_send) == (6, 2)


async def test_a_limit_of_the_day_stops_and_the_same_call_goes_on(tmp_path: Path) -> None:
    image = photograph(500, 300)
    async with Devnet(task_seconds=0.01) as devnet:
        key, url, state = devnet.api_key, devnet.url, tmp_path / "state"
        async with AsyncXalora(key, url, state_dir=state, daily_tasks=4) as client:
            with pytest.raises(DailyLimitError, match="limit of 4 tasks") as caught:
                await client.upscale_image(image, tmp_path / "large.png", tile=256)
            assert caught.value.money == (
                "4 of 6 tiles are paid for and kept; the same again sends only the others."
            )
        async with AsyncXalora(key, url, state_dir=state) as client:
            made = await client.upscale_image(image, tmp_path / "large.png", tile=256)
            assert devnet.stats()["creates"] == made.sent == 6


async def test_a_tile_that_fails_is_sent_again(tmp_path: Path) -> None:
    async with (
        Devnet(miners=1, task_seconds=0.01, faults=["miner:failed:n=2"]) as devnet,
        client_of(devnet, max_in_flight=1) as client,
    ):
        made = await client.upscale_image(photograph(500, 200), tmp_path / "large.png", tile=256)
    assert made.resent == (1,) and made.sent == made.tasks + 1


async def test_a_tile_that_fails_for_good_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    image = photograph(500, 300)
    async with (
        Devnet(miners=1, task_seconds=0.01, faults=["miner:failed:n=3,4,5"]) as devnet,
        client_of(devnet, max_in_flight=1) as client,
    ):
        with pytest.raises(TaskFailedError, match="Tile 3 of the image 3 times: ") as caught:
            await client.upscale_image(image, tmp_path / "large.png", tile=256)
        assert "2 of 6 tiles are paid for and kept; the same again sends only the others." in str(
            caught.value
        )
        assert not list(tmp_path.iterdir()), "nothing half is left"
        before = devnet.stats()["creates"]
        await client.upscale_image(image, tmp_path / "large.png", tile=256)
        assert devnet.stats()["creates"] - before == 4


async def test_a_cancel_ends_soon_and_what_came_is_kept(tmp_path: Path) -> None:
    image = photograph(900, 700)
    async with Devnet(miners=4, task_seconds=0.3) as devnet, client_of(devnet) as client:
        some = asyncio.Event()

        def note(event: TaskEvent) -> None:
            if isinstance(event, TileProgress) and event.done >= 6:
                some.set()

        running = asyncio.ensure_future(
            client.upscale_image(image, tmp_path / "large.png", tile=256, on_event=note)
        )
        await asyncio.wait({running, asyncio.ensure_future(some.wait())}, return_when="FIRST_COMPLETED")
        began = monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert monotonic() - began < 3
        assert not list(tmp_path.iterdir())
        finished = devnet.stats()["tasks"]["finished"]
        assert finished >= 6
        before = devnet.stats()["creates"]
        made = await client.upscale_image(image, tmp_path / "large.png", tile=256)
        assert devnet.stats()["creates"] - before <= made.tasks - 6


async def test_a_full_disk_lets_paid_tiles_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph(500, 300)

    def full(*_: Any) -> Callable[[Pixels], None]:
        def write(rows: Pixels) -> None:
            raise OSError(28, "No space left on device")

        return write

    async with Devnet(miners=2, task_seconds=0.01) as devnet, client_of(devnet) as client:
        with monkeypatch.context() as patch:
            patch.setattr("xalora_client.tiles.upscaling.open_rows", full)
            with pytest.raises(ResultSaveError, match="No space left") as caught:
                await client.upscale_image(image, tmp_path / "large.png", tile=256, max_in_flight=6)
        assert "paid for and kept" in caught.value.money
        made = await client.upscale_image(image, tmp_path / "large.png", tile=256)
        assert made.sent == devnet.stats()["creates"] == made.tasks


# --- engines ---


async def test_without_a_network_this_machine_makes_all_tiles(tmp_path: Path) -> None:
    image = photograph(500, 300)
    nowhere = AsyncXalora(
        "me#key",
        "http://127.0.0.1:9",
        journal="memory",
        upscale_model="lanczos",
        fallback="when_unavailable",
        state_dir=tmp_path / "state",
        max_retries=0,
    )
    async with nowhere as client:
        told: list[TaskEvent] = []
        made = await client.upscale_image(image, tmp_path / "here.png", tile=256, on_event=told.append)
        (taken_over,) = [event for event in told if isinstance(event, FallingBack)]
        assert taken_over.engine == "pillow" and "can't be reached" in str(taken_over.error)
        named = await client.upscale_image(image, tmp_path / "named.png", tile=256, engine="pillow")
        with pytest.raises(XaloraError, match="can't be reached"):
            await client.upscale_image(image, tmp_path / "never.png", tile=256, fallback="never")
    assert (made.engine, made.sent, named.engine, named.sent) == ("pillow", 0, "pillow", 0)
    assert np.array_equal(opened(made.path), opened(named.path))


async def test_tiles_of_two_engines_are_not_mixed(tmp_path: Path) -> None:
    async with (
        Devnet(miners=1, task_seconds=0.01, faults=["miner:failed:n=2,3,4"]) as devnet,
        client_of(devnet, upscale_model="lanczos", state_dir=tmp_path / "state") as client,
    ):
        with pytest.raises(TaskFailedError, match="Tile 2 of"):
            await client.upscale_image(
                photograph(500, 200),
                tmp_path / "large.png",
                tile=256,
                max_in_flight=1,
                fallback="on_any_failure",
            )


@pytest.mark.parametrize("side", [64, 100])
async def test_a_workflow_that_gives_another_shape_is_told(tmp_path: Path, side: int) -> None:
    class Square:
        def run(self, task: MinerTask) -> tuple[bytes, str]:
            return encode_png(np.zeros((side, side, 3), np.uint8)), ".png"

    async with Devnet(miners=1, task_seconds=0.01, engine=Square()) as devnet, client_of(devnet) as client:
        with pytest.raises(ResultFormatError, match="another shape than the tile's") as caught:
            await client.upscale_image(photograph(500, 200), tmp_path / "large.png", tile=256)
    assert "paid for" in caught.value.money


async def test_a_tile_in_another_size_is_scaled_and_told(tmp_path: Path) -> None:
    class Uneven(Convolution):
        def run(self, task: MinerTask) -> tuple[bytes, str]:
            assert task.image is not None
            is_first = np.array_equal(decode_input(task.image)[0, 0], image[0, 0] / np.float32(255))
            return (Convolution(1, 2) if is_first else Convolution(1, 3)).run(task)

    image = photograph(500, 200)
    async with Devnet(miners=1, task_seconds=0.01, engine=Uneven(1)) as devnet, client_of(devnet) as client:
        made = await client.upscale_image(image, tmp_path / "large.png", tile=256)
    assert (made.width, made.height) == (1000, 400)
    assert made.notes == (f"{made.tiles - 1} tiles came in another size and were scaled to the first's.",)


# --- bad inputs ---


@pytest.mark.parametrize(
    ("image", "output", "options", "error", "words"),
    [
        ("missing.png", "large.png", {}, InputImageError, "can't be opened"),
        ("text.png", "large.png", {}, InputImageError, "can't be used"),
        ("https://example.org/photo.png", "large.png", {}, InputImageError, "A URL was given"),
        (np.zeros((0, 5, 3), np.uint8), "large.png", {}, InputImageError, "no pixels"),
        (np.zeros((300, 300, 3), np.uint8), "large.jpg", {}, ConfigurationError, "as PNG or TIFF"),
        (np.zeros((300, 300, 3), np.uint8), "", {}, ConfigurationError, "is a folder"),
        ("photo.png", "photo.png", {}, ConfigurationError, "the image itself"),
        ("photo.png", "text.png/large.png", {}, ConfigurationError, "can't be made"),
        ("photo.png", "large.png", {"overlap": 100}, ConfigurationError, "can't be made"),
        ("photo.png", "large.png", {"max_in_flight": 0}, ConfigurationError, "at least 1"),
        ("photo.png", "large.png", {"output_dir": "."}, ConfigurationError, "not to output_dir"),
        ("photo.png", "large.png", {"tile": 5000}, ConfigurationError, "more than the .* bytes of XALORA_IN"),
    ],
)
async def test_what_can_not_be_done_is_told_before_anything_is_sent(
    tmp_path: Path, image: Any, output: str, options: Any, error: type[XaloraError], words: str
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(photograph(300, 200)).save(tmp_path / "photo.png")
    given = image if not isinstance(image, str) or "://" in image else tmp_path / image
    async with Devnet() as devnet, client_of(devnet) as client:
        with pytest.raises(error, match=words):
            await client.upscale_image(given, tmp_path / output, **{"tile": 128, **options})
        assert devnet.stats()["creates"] == 0


def test_the_blocking_client_and_its_progress(tmp_path: Path) -> None:
    told: list[TaskEvent] = []
    with (
        DevnetThread(miners=4, task_seconds=0.01) as devnet,
        Xalora(devnet.api_key, devnet.url, journal="memory") as client,
    ):
        made = client.upscale_image(
            photograph(500, 300), tmp_path / "large.tif", tile="always", on_event=told.append
        )
        assert made.tiles == 1
        made = client.upscale_image(photograph(500, 300), tmp_path / "large.tif", tile=256)
    assert opened(made.path).shape == (600, 1000, 3)
    assert isinstance(told[0], TileProgress) and told[0].tasks == 1


async def test_an_image_that_is_one_task_has_any_format(tmp_path: Path) -> None:
    async with Devnet(miners=1, task_seconds=0.01) as devnet, client_of(devnet) as client:
        made = await client.upscale_image(photograph(100, 80), tmp_path / "small.jpg")
        again = await client.upscale_image(photograph(100, 80), tmp_path / "again.png", reuse=True)
        task = UpscalerTask(image=photograph(100, 80))
        assert (await client.run(task, reuse=True)).reused, "the same task as by run"
    assert (made.width, made.height, made.sent, again.sent) == (200, 160, 1, 0)
    with Image.open(made.path) as image:
        assert image.format == "JPEG"


async def test_an_engine_that_is_missing_is_told(tmp_path: Path) -> None:
    async with Devnet() as devnet, client_of(devnet, state_dir=tmp_path / "state") as client:
        with pytest.raises(EngineError):
            await client.upscale_image(
                photograph(300, 200), tmp_path / "large.png", tile=128, engine="comfyui"
            )
