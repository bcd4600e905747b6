"""One task's end tells the others of its kind when to look."""

from __future__ import annotations

from collections.abc import Sequence

from xalora_client.siblings import AGAIN_AFTER, HISTORY_LENGTH, OLDEST, TOGETHER_SECONDS, Siblings


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
    siblings_of(first, second, third).ended(second, 5.0, 100.0)
    assert (first.asked, second.asked, third.asked) == ([()], [], [])


def test_one_that_keeps_its_own_pace_is_passed_over() -> None:
    fixed, free, ended = Task(willing=False), Task(), Task()
    siblings_of(fixed, free, ended).ended(ended, 5.0, 100.0)
    assert free.asked == [()]


def test_a_crowd_of_thousands_is_not_searched_at_every_end() -> None:
    crowd = [Task(willing=False) for _ in range(OLDEST)]
    beyond, ended = Task(), Task()
    siblings_of(*crowd, beyond, ended).ended(ended, 5.0, 100.0)
    assert beyond.asked == []


def test_where_tasks_end_together_the_next_is_looked_at_again() -> None:
    tasks = [Task() for _ in range(4)]
    siblings = siblings_of(*tasks)
    siblings.ended(tasks[0], 5.0, 100.0)
    siblings.ended(tasks[1], 5.0, 100.0 + TOGETHER_SECONDS / 2)
    assert tasks[2].asked == [AGAIN_AFTER]
    siblings.ended(tasks[2], 5.0, 200.0)
    assert tasks[3].asked == [()]


def test_who_has_left_is_not_asked() -> None:
    gone, ended = Task(), Task()
    siblings = siblings_of(gone, ended)
    siblings.left(gone)
    siblings.left(gone)
    siblings.ended(ended, None, 100.0)
    assert gone.asked == []


def test_durations_are_learned_latest_first_and_no_longer_than_useful() -> None:
    siblings = Siblings([5.0, 6.0])
    known = siblings.past_seconds
    siblings.ended(Task(), 7.0, 100.0)
    siblings.ended(Task(), None, 101.0)
    assert known == [7.0, 5.0, 6.0]
    for _ in range(2 * HISTORY_LENGTH):
        siblings.ended(Task(), 8.0, 102.0)
    assert known == [8.0] * HISTORY_LENGTH
