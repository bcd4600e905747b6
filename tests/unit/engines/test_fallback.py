"""Results of this machine's own engines do not pile up."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from xalora_client import AsyncXalora, EngineError, UpscalerTask
from xalora_client.engines.fallback import make_room


def test_the_oldest_go_first_and_the_newest_stays_even_over_the_limit(tmp_path: Path) -> None:
    files = []
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / f"{name}.png"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
        files.append(path)
    new, older, oldest = files
    make_room(tmp_path, 250, ["new"])
    assert (new.exists(), older.exists(), oldest.exists()) == (True, True, False)
    make_room(tmp_path, 10, ["new"])
    assert (new.exists(), older.exists()) == (True, False)


def task(seed: int) -> UpscalerTask:
    return UpscalerTask(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


async def test_results_in_hand_stay_whatever_the_limit() -> None:
    async with AsyncXalora(results_limit=1, fallback="local_only") as client:
        outcomes = await client.run_many([task(seed) for seed in range(4)])
        files = [outcome.unwrap().files[0] for outcome in outcomes]
        assert all(file.exists() for file in files)
        del outcomes
        gc.collect()
        last = await client.run(task(4))
        assert last.files[0].exists()
        assert not any(file.exists() for file in files)


async def test_a_folder_that_cannot_be_written_is_an_error_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with AsyncXalora(state_dir=tmp_path / "file" / "state", fallback="local_only") as client:
        with pytest.raises(EngineError, match="Not a directory"):
            await client.run(task(1))
        outcomes = await client.run_many([task(1), task(2)])
        assert all(isinstance(outcome.error, EngineError) for outcome in outcomes)
