"""How images are cut: every pixel covered, weights that sum to 1, rows that are complete, bounded memory."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xalora_client.errors import ConfigurationError
from xalora_client.media.inputs import prepare_image
from xalora_client.tiles.blending import BAND, Blending
from xalora_client.tiles.plan import (
    ALIGNED,
    TILE,
    Side,
    TilePlan,
    distinct,
    plan_of,
    scaled,
    side_of_tiles,
    smaller_side,
)

sides = st.integers(1, 3000)
factors = st.sampled_from(
    [Fraction(1), Fraction(3, 2), Fraction(2), Fraction(5, 4), Fraction(3), Fraction(4)]
)


@st.composite
def plans(draw: st.DrawFn, longest: int = 3000) -> tuple[TilePlan, int]:
    """A plan, and the longest side that a tile may have."""
    overlap = draw(st.sampled_from([0, 1, 2, 7, 8, 16, 31, 32, 64]))
    tile = draw(st.integers(max(64, 4 * overlap), 1024))
    width, height = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    return plan_of(width, height, tile, overlap), tile


def all_sides(plan: TilePlan) -> tuple[Side, Side]:
    return plan.across, plan.down


@given(plans())
@example((plan_of(2049, 1), TILE))
def test_the_parts_of_a_side_cover_it_once_and_none_is_too_long(drawn: tuple[TilePlan, int]) -> None:
    plan, tile = drawn
    for side in all_sides(plan):
        inside = [pixel for part in side.parts for pixel in range(part.first, part.last)]
        assert inside == list(range(side.length))
        for part in side.parts:
            assert 0 <= part.start <= part.first < part.last <= part.stop <= side.length
            assert part.stop - part.start <= tile
            assert part.first % ALIGNED == 0
            assert part.start in (0, part.first - side.overlap)
            assert part.stop in (side.length, part.last + side.overlap)


@given(plans(), factors)
def test_weights_sum_to_one_and_count_only_where_a_tile_is_sure(
    drawn: tuple[TilePlan, int], factor: Fraction
) -> None:
    plan, _ = drawn
    for side in all_sides(plan):
        total = np.zeros(scaled(side.length, factor))
        for number, part in enumerate(side.parts):
            weights = side.weights(number, factor)
            start = scaled(part.start, factor)
            total[start : start + len(weights)] += weights
            counts = np.flatnonzero(weights)
            first, last = start + counts[0], start + counts[-1] + 1
            begin, end = side.counting(number, factor)
            assert begin <= first and last <= end
            assert start <= begin and end <= start + len(weights)
            # Half the overlap from where the tile was cut, less what rounding to pixels of the result takes.
            sure = side.overlap / 2 * factor - 1
            assert part.start == 0 or first - part.start * factor >= sure
            assert part.stop == side.length or part.stop * factor - last >= sure
        assert np.abs(total - 1).max() < 1e-5


@given(plans(300), st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(2)]), st.integers(0, 2**32 - 1))
def test_what_was_cut_is_put_together_again_in_bands(
    drawn: tuple[TilePlan, int], factor: Fraction, seed: int
) -> None:
    plan, _ = drawn
    width, height = (scaled(side.length, factor) for side in all_sides(plan))
    whole = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blending = Blending(plan, factor, 3)
    bands = []
    for number, down in enumerate(plan.down.parts):
        tiles = [
            whole[
                scaled(down.start, factor) : scaled(down.stop, factor),
                scaled(across.start, factor) : scaled(across.stop, factor),
            ]
            for across in plan.across.parts
        ]
        bands += list(blending.rows(number, tiles))
        assert sum(map(len, bands)) == plan.down.complete(number, factor)
    assert max(map(len, bands)) <= BAND
    assert np.array_equal(np.concatenate(bands), whole)


@given(plans(), factors)
def test_rows_are_kept_of_two_rows_of_tiles_at_most(drawn: tuple[TilePlan, int], factor: Fraction) -> None:
    """The memory bound: one row of tiles, and of the row before what the two share."""
    plan, tile = drawn
    side = plan.down
    for number, part in enumerate(side.parts):
        kept = scaled(part.stop, factor) - side.complete(number, factor)
        assert kept <= 2 * side.overlap * factor + 1
        assert scaled(part.stop, factor) - scaled(part.start, factor) <= tile * factor + 1


@given(sides, sides)
def test_an_image_that_fits_in_a_tile_is_one(width: int, height: int) -> None:
    assert plan_of(width, height, 3000).count == 1


def test_equal_parts_not_full_tiles_and_a_rest() -> None:
    plan = plan_of(2100, 100, 2048)
    assert [(part.first, part.last) for part in plan.across.parts] == [(0, 1048), (1048, 2100)]
    assert plan.count == plan.columns == 2


@pytest.mark.parametrize(("tile", "overlap"), [(63, 0), (0, 0), (-5, 0), (128, 33), (256, -1)])
def test_tiles_that_can_not_be_made_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigurationError, match="can't be made"):
        plan_of(1000, 1000, tile, overlap)


@pytest.mark.parametrize(
    ("limit", "channels", "side"),
    [(None, 3, TILE), (20 * 2**20, 3, TILE), (20 * 2**20, 4, TILE), (3_000_000, 3, 989), (90_000, 4, 148)],
)
def test_the_side_follows_the_limit_of_a_request(limit: int | None, channels: int, side: int) -> None:
    assert side_of_tiles(None, limit, channels) == side
    assert side_of_tiles(128, limit, channels) == 128


@pytest.mark.parametrize(("limit", "channels"), [(60_000, 3), (90_000, 4), (1_000_000, 3)])
def test_a_tile_of_noise_fits_in_a_request(limit: int, channels: int) -> None:
    side = side_of_tiles(None, limit, channels)
    noise = np.random.default_rng(3).integers(0, 256, (side, side, channels), dtype=np.uint8)
    assert 0.9 * limit < len(prepare_image(noise).data) <= limit


@pytest.mark.parametrize(
    ("side", "limit"), [(None, 1000), (None, 40_000), (2048, 3_000_000), (990, 3_000_000)]
)
def test_tiles_that_may_not_fit_in_a_request_are_refused(side: int | None, limit: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"more than the {limit} bytes of XALORA_INLINE_LIMIT"
    ) as told:
        side_of_tiles(side, limit, 3)
    # Of tiles that can't be made nothing is said.
    assert ("tiles of at most 989 pixels" in told.value.next_step) == (limit == 3_000_000)


def test_a_store_takes_any_tile() -> None:
    assert side_of_tiles(5000, None, 3) == 5000


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((200, 100), Fraction(2)),
        ((400, 200), Fraction(4)),
        ((150, 75), Fraction(3, 2)),
        ((125, 63), Fraction(5, 4)),
        ((100, 100), None),
        ((1024, 1024), None),
        ((0, 0), None),
    ],
)
def test_the_factor_of_a_result(size: tuple[int, int], factor: Fraction | None) -> None:
    assert plan_of(100, 50).factor(0, *size) == factor


def test_equal_tiles_are_one_task() -> None:
    assert distinct(["sky", "sky", "tree", "sky"]) == {"sky": 0, "tree": 2}


def test_smaller_tiles_than_those_that_were_refused() -> None:
    assert smaller_side(plan_of(5000, 4000, 2048)) == 1024
    assert smaller_side(plan_of(900, 700, 2048)) == 512
    assert smaller_side(plan_of(5000, 4000, 600)) == 512
    assert smaller_side(plan_of(5000, 4000, 256)) is None
    assert smaller_side(plan_of(200, 100, 2048)) is None
    # Borders lie on multiples of eight: the parts need not be as large as they may.
    assert smaller_side(plan_of(2056, 2056, 2048)) == 1024
