"""The user's prices, and the limit of a day."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from xalora_client import ConfigurationError, load_settings
from xalora_client.errors import DailyLimitError
from xalora_client.prices import DailyLimit, Sent, cost_of, cost_text, midnight_before, parse_prices, price_of

PRICES = {"upscaler": Decimal("0.02"), "3": Decimal("0.05"), "txt2vid": Decimal("1")}


@pytest.mark.parametrize(
    ("text", "prices"),
    [
        ("", {}),
        ("upscaler=0.02", {"upscaler": Decimal("0.02")}),
        (" upscaler = 0.02 ; 3=.05,, txt2vid=1 ", PRICES),
        ("a=b=0", {"a=b": Decimal(0)}),
    ],
)
def test_prices_are_read(text: str, prices: dict[str, Decimal]) -> None:
    assert parse_prices(text) == prices


@pytest.mark.parametrize("text", ["upscaler", "upscaler=", "=1", "a=-1", "a=nan", "a=inf", "a=1 EUR", "0.05"])
def test_what_is_no_price_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="XALORA_PRICES"):
        load_settings(env_files=[], prices=text)


def test_a_workflows_own_price_comes_before_that_of_its_type() -> None:
    assert price_of({**PRICES, "txt2img": Decimal(9)}, "txt2img", "3") == Decimal("0.05")
    assert price_of(PRICES, "txt2vid", "1") == Decimal(1)
    assert price_of(PRICES, "txt2img", None) is None


def test_a_sum_is_told_with_two_digits_or_what_it_has() -> None:
    sent = [Sent("upscaler", None, 40), Sent("txt2img", "3", 24), Sent("sketch", None, 5)]
    assert cost_text(cost_of(PRICES, sent) or Decimal(0)) == "2.00"
    assert cost_of(PRICES, [Sent("sketch", None, 5)]) is None
    assert [cost_text(Decimal(each)) for each in ("0.125", "3", "0.1", "1E+2")] == [
        "0.125",
        "3.00",
        "0.10",
        "100.00",
    ]


def test_midnight_is_this_machines() -> None:
    now = datetime(2026, 3, 4, 15, 30).timestamp()
    assert datetime.fromtimestamp(midnight_before(now)) == datetime(2026, 3, 4)


def test_a_limit_names_its_setting() -> None:
    limit = DailyLimit(tasks=3, cost=Decimal("0.10"), prices=PRICES)
    limit.check([Sent("upscaler", None, 2)], "upscaler", None)
    with pytest.raises(DailyLimitError, match="XALORA_DAILY_TASKS"):
        limit.check([Sent("upscaler", None, 2), Sent("sketch", None, 1)], "upscaler", None)
    with pytest.raises(DailyLimitError, match="XALORA_DAILY_COST"):
        limit.check([Sent("txt2img", "3", 2)], "upscaler", None)
    with pytest.raises(DailyLimitError, match="no price for sketch"):
        limit.check([], "sketch", None)
    assert not DailyLimit(prices=PRICES).is_set
