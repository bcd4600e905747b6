"""One task's end tells the others of its kind when to look."""

from __future__ import annotations

from collections.abc import Sequence

from xalora_client.polling.durations import HISTORY_LENGTH, PastRun
from xalora_client.polling.task_kind import AGAIN_AFTER, OLDEST, TOGETHER_SECONDS, Siblings

RUN = PastRun(5.0, 5.0)


class Task:
    """Remembers what it was asked to do."""

    def __init__(self, *, willing: bool = True) -> None:
        self.willing = willing
        self.asked: list[tuple[float, ...]] = []

    def ask_now(self, again_after: Sequence[float]) -> bool:
        if self.willing:
            self.asked.append(tuple(again_after))
        return self.willing


def siblings_of(*tasks: Task) -> Siblings:
    siblings = Siblings()
    for task in tasks:
        siblings.joined(task)
    return siblings


def test_an_end_has_the_oldest_of_the_others_looked_at_once() -> None:
    first, second, third = Task(), Task(), Task()
    siblings_of(first, second, third).ended(second, RUN, 100.0)
    assert (first.asked, second.asked, third.asked) == ([()], [], [])


def test_one_that_keeps_its_own_pace_is_passed_over() -> None:
    fixed, free, ended = Task(willing=False), Task(), Task()
    siblings_of(fixed, free, ended).ended(ended, RUN, 100.0)
    assert free.asked == [()]


def test_a_crowd_of_thousands_is_not_searched_at_every_end() -> None:
    crowd = [Task(willing=False) for _ in range(OLDEST)]
    beyond, ended = Task(), Task()
    siblings_of(*crowd, beyond, ended).ended(ended, RUN, 100.0)
    assert beyond.asked == []


def test_where_tasks_end_together_the_next_is_looked_at_again() -> None:
    tasks = [Task() for _ in range(4)]
    siblings = siblings_of(*tasks)
    siblings.ended(tasks[0], RUN, 100.0)
    siblings.ended(tasks[1], RUN, 100.0 + TOGETHER_SECONDS / 2)
    assert tasks[2].asked == [AGAIN_AFTER]
    siblings.ended(tasks[2], RUN, 200.0)
    assert tasks[3].asked == [()]


def test_who_has_left_is_not_asked() -> None:
    gone, ended = Task(), Task()
    siblings = siblings_of(gone, ended)
    siblings.left(gone)
    siblings.left(gone)
    siblings.ended(ended, None, 100.0)
    assert gone.asked == []


def test_durations_are_learned_latest_first_and_no_longer_than_useful() -> None:
    five, six, seven, eight = (PastRun(seconds, seconds) for seconds in (5.0, 6.0, 7.0, 8.0))
    siblings = Siblings([five, six])
    known = siblings.past_runs
    siblings.ended(Task(), seven, 100.0)
    siblings.ended(Task(), None, 101.0)
    assert known == [seven, five, six]
    for _ in range(2 * HISTORY_LENGTH):
        siblings.ended(Task(), eight, 102.0)
    assert known == [eight] * HISTORY_LENGTH
