"""The guide's tables of the devnet's faults have each kind, endpoint and option that the code knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from xalora_client.devnet import faults
from xalora_client.devnet.state import ENDPOINTS

GUIDE = Path(__file__).parents[3] / "docs" / "shell.md"


def test_each_kind_and_option_of_a_fault_is_in_the_guide() -> None:
    section = GUIDE.read_text(encoding="utf-8").partition("## Faults of the devnet")[2]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    named = {name for first, _ in rows for name in re.findall(r"`([a-z_]+)`", first)}
    assert named == {*get_args(faults.FaultKind), *faults._OPTIONS, *faults._SHORT_NAMES}
    places = {name for first, second in rows for name in re.findall(r"`([a-z_]+)`", second) if first}
    assert places >= {faults.RESULT, faults.UPLOAD, faults.MINER}
    assert all(f"`{endpoint}`" in section for endpoint in (*ENDPOINTS, *faults._GROUPS))
    # What the rows say of the places is what the code does.
    for kind in get_args(faults.FaultKind):
        where = next(second for first, second in rows if f"`{kind}`" in first)
        for endpoint in (faults.RESULT, faults.UPLOAD, faults.MINER):
            said = endpoint != faults.MINER if "all but" in where else f"`{endpoint}`" in where
            assert said == (endpoint in faults._WHERE[kind]), (kind, endpoint)
