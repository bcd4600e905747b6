"""The workers that are there, and what each can run. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Offer:
    """What a worker can run.

    Attributes:
        miner_id: Machine and GPU, for people.
        engine: Its engine.
        workflows: Names of definitions.
        lacking: Why it can't run the others, by name.
    """

    miner_id: str
    engine: str
    workflows: frozenset[str]
    lacking: Mapping[str, str]


@dataclass
class Workforce:
    """Offers by slot.

    Attributes:
        offers: The workers that are there.
        tasks: The task that each busy one runs, by slot.
        problems: What keeps machines from working, for the cluster's owner.
    """

    offers: dict[str, Offer] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def miner_for(self, workflow: str) -> tuple[str, bool] | None:
        """A worker that can run a workflow, idle if possible, and whether it is idle."""
        able = [
            (offer.miner_id, slot not in self.tasks)
            for slot, offer in self.offers.items()
            if workflow in offer.workflows
        ]
        return max(able, key=lambda one: one[1], default=None)

    def why_not(self, workflow: str) -> str | None:
        """Why no worker can run a workflow; None where one can."""
        if self.miner_for(workflow) is not None:
            return None
        if not self.offers:
            return f"No machine of this cluster is ready to run {workflow} now"
        reasons: dict[str, list[str]] = {}
        for offer in self.offers.values():
            reasons.setdefault(offer.lacking.get(workflow, "not asked yet"), []).append(offer.miner_id)
        told = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in reasons.items())
        return f"No machine of this cluster can run {workflow} now ({told})"

    def rivals(self, workflow: str) -> frozenset[str]:
        """The workflows whose tasks wait for the same workers, itself among them."""
        shared = (offer.workflows for offer in self.offers.values() if workflow in offer.workflows)
        return frozenset({workflow}).union(*shared)
