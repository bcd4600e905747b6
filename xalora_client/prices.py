"""What tasks cost by the user's own prices, and the limit of a day. No I/O.

The network publishes no prices, so none is built in: a sum is the user's own estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BeforeValidator

from .errors import DailyLimitError

Prices = dict[str, Decimal]
"""The price of a task, by workflow id or task type; a workflow's own price comes first."""


@dataclass(frozen=True)
class Sent:
    """How many tasks of one workflow were sent; not priced where they cost nothing."""

    task_type: str
    workflow_id: str | None
    count: int
    is_priced: bool = True


def parse_prices(value: Any) -> Any:
    """Prices from text such as ``upscaler=0.02, 3=0.05``; an empty text is none.

    Raises:
        ValueError: The text has another form, or a price is below 0.
    """
    if not isinstance(value, str):
        return value
    prices: Prices = {}
    for entry in filter(None, (part.strip() for part in value.replace(";", ",").split(","))):
        name, found, text = entry.rpartition("=")
        try:
            price = Decimal(text.strip())
        except InvalidOperation:
            price = Decimal(-1)
        if not found or not name.strip() or not price.is_finite() or price < 0:
            raise ValueError(f"{entry!r} is not of the form workflow=price, such as upscaler=0.02")
        prices[name.strip()] = price
    return prices


PriceTable = Annotated[Prices, BeforeValidator(parse_prices)]


def price_of(prices: Mapping[str, Decimal], task_type: str, workflow_id: str | None) -> Decimal | None:
    """The price of one task; None where the user has entered none."""
    found = prices.get(workflow_id) if workflow_id is not None else None
    return found if found is not None else prices.get(task_type)


def cost_of(prices: Mapping[str, Decimal], sent: Iterable[Sent]) -> Decimal | None:
    """What these tasks cost; None where no price is known for any of them."""
    known = [
        price * one.count
        for one in sent
        if one.is_priced and (price := price_of(prices, one.task_type, one.workflow_id)) is not None
    ]
    return sum(known, Decimal(0)) if known else None


def cost_text(cost: Decimal) -> str:
    """A sum with two digits after the point, or as many as it has: ``2.00``, ``0.125``."""
    return str(cost if -cost.as_tuple().exponent > 2 else cost.quantize(Decimal("0.01")))  # type: ignore[operator]


def sums(prices: Mapping[str, Decimal], sent: Iterable[Sent]) -> dict[str, Any]:
    """These tasks as JSON: ``tasks``, how many, and their ``cost`` as text, None where no price is known."""
    every = list(sent)
    cost = cost_of(prices, every)
    return {"tasks": sum(one.count for one in every), "cost": None if cost is None else cost_text(cost)}


def midnight_before(now: float) -> float:
    """The last midnight of this machine's clock, in Unix seconds."""
    return datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


@dataclass(frozen=True)
class DailyLimit:
    """How much may be sent from midnight to midnight; None is no limit.

    Args:
        tasks: Number of tasks.
        cost: Their cost by the prices.
        prices: The user's prices.
        unpriced: Hosts of networks whose tasks do not count.
    """

    tasks: int | None = None
    cost: Decimal | None = None
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    unpriced: tuple[str, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self.tasks is not None or self.cost is not None

    def check(self, today: Iterable[Sent], task_type: str, workflow_id: str | None) -> None:
        """Check that one more task may be sent.

        Raises:
            DailyLimitError: It may not. Nothing was sent.
        """
        sent = [one for one in today if one.is_priced]
        if self.tasks is not None and sum(one.count for one in sent) >= self.tasks:
            raise DailyLimitError(
                f"Today's limit of {self.tasks} task{'' if self.tasks == 1 else 's'} is reached",
                next_step="Raise XALORA_DAILY_TASKS, or wait until tomorrow.",
            )
        if self.cost is None:
            return
        price = price_of(self.prices, task_type, workflow_id)
        if price is None:
            raise DailyLimitError(
                f"There is a limit on today's cost, and no price for {workflow_id or task_type}",
                next_step="Enter its price in XALORA_PRICES, or remove XALORA_DAILY_COST.",
            )
        if (cost_of(self.prices, sent) or Decimal(0)) + price > self.cost:
            raise DailyLimitError(
                f"Today's limit of {cost_text(self.cost)} is reached",
                next_step="Raise XALORA_DAILY_COST, or wait until tomorrow.",
            )
