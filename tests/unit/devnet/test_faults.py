"""Faults as data: text form, ordinals, probabilities."""

from __future__ import annotations

import pytest

from xalora_client.devnet.faults import Fault, FaultPlan


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("task_create:503:p=0.1", Fault("status", "task_create", probability=0.1, status=503)),
        (
            "task_create:429:retry_after=2:n=1",
            Fault("status", "task_create", nth=(1,), status=429, retry_after=2.0),
        ),
        ("task_create:drop_after:n=3,5", Fault("drop_after", "task_create", nth=(3, 5))),
        ("result:truncate", Fault("truncate", "result")),
        ("consumer:delay:seconds=0.25:times=2", Fault("delay", "consumer", seconds=0.25, times=2)),
        ("*:drop_before:p=0.05", Fault("drop_before", "*", probability=0.05)),
        ("miner:death:n=4", Fault("death", "miner", nth=(4,))),
    ],
)
def test_text_form_round_trips(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task_create", "endpoint:kind"),
        ("task_create:explode", "kind: Input should be"),
        ("nowhere:delay", "can't happen at 'nowhere'"),
        ("task_create:truncate", "only at: result"),
        ("result:death", "only at: miner"),
        ("task_create:503:p=2", "less than or equal to 1"),
        ("task_create:503:p=often", "probability: Input should be a valid number"),
        ("task_create:503:n=0", "greater than or equal to 1"),
        ("task_create:503:p=0.5:n=1", "not both"),
        ("task_create:200", "status: Input should be greater than or equal to 400"),
        ("task_create:delay:seconds=-1", "seconds: Input should be greater than or equal to 0"),
        ("task_create:delay:minutes=1", "'minutes=1'"),
        ("task_create:delay:0.5", "'0.5'"),
    ],
)
def test_an_invalid_fault_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + says.replace(".", r"\.")):
        Fault.parse(text)


def draws(plan: FaultPlan, endpoint: str, times: int) -> list[list[str]]:
    return [sorted(plan.draw(endpoint)) for _ in range(times)]


def test_ordinals_count_matching_requests_only() -> None:
    plan = FaultPlan(["task_create:drop_after:n=2,4"])
    plan.draw("task_cancel")
    assert draws(plan, "task_create", 5) == [[], ["drop_after"], [], ["drop_after"], []]
    assert plan.hits["drop_after"] == 2


def test_groups_share_one_count() -> None:
    plan = FaultPlan(["consumer:503:n=2"])
    assert plan.draw("task_create") == {}
    assert plan.draw("miner_request") == {}
    assert plan.draw("task_result_query").keys() == {"status"}


def test_the_group_of_all_endpoints_excludes_miners() -> None:
    plan = FaultPlan(["*:delay"])
    assert plan.draw("result").keys() == {"delay"}
    assert plan.draw("upload").keys() == {"delay"}
    assert plan.draw("miner") == {}


def test_the_same_seed_gives_the_same_faults() -> None:
    faults = ["task_create:503:p=0.3", "task_create:drop_before:p=0.3"]
    first, again, other = (draws(FaultPlan(faults, seed), "task_create", 200) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_faults_draws_do_not_depend_on_other_faults() -> None:
    alone = FaultPlan(["task_create:503:p=0.3"], seed=5)
    joined = FaultPlan(["task_create:503:p=0.3", "task_create:delay:p=0.5"], seed=5)
    lucky = [["status"] if "status" in hits else [] for hits in draws(joined, "task_create", 100)]
    assert draws(alone, "task_create", 100) == lucky


def test_a_probability_holds_roughly_and_a_limit_exactly() -> None:
    plan = FaultPlan(["task_create:503:p=0.1"], seed=3)
    hits = sum(bool(plan.draw("task_create")) for _ in range(5000))
    assert 400 < hits < 600
    limited = FaultPlan(["task_create:503:p=0.5:times=3"], seed=3)
    assert sum(bool(limited.draw("task_create")) for _ in range(500)) == 3


def test_several_kinds_may_hit_one_request() -> None:
    plan = FaultPlan(["task_create:delay:seconds=0.1", "task_create:drop_after"])
    assert plan.draw("task_create").keys() == {"delay", "drop_after"}


def test_cleared_and_added() -> None:
    plan = FaultPlan(["task_create:503"])
    plan.clear()
    assert plan.draw("task_create") == {}
    plan.add("task_create:drop_before:n=1")
    assert plan.draw("task_create").keys() == {"drop_before"}
