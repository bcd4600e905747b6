"""One task's end tells the others of its kind when to look."""

from __future__ import annotations

from collections.abc import Sequence

from xalora_client.polling.durations import HISTORY_LENGTH, PastRun
from xalora_client.polling.task_kind import AGAIN_AFTER, OLDEST, TOGETHER_SECONDS, TaskKind

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


def kind_of(*tasks: Task) -> TaskKind:
    kind = TaskKind()
    for task in tasks:
        kind.joined(task)
    return kind


def test_an_end_has_the_oldest_of_the_others_looked_at_once() -> None:
    first, second, third = Task(), Task(), Task()
    kind_of(first, second, third).ended(second, RUN, 100.0)
    assert (first.asked, second.asked, third.asked) == ([()], [], [])


def test_one_that_keeps_its_own_pace_is_passed_over() -> None:
    fixed, free, ended = Task(willing=False), Task(), Task()
    kind_of(fixed, free, ended).ended(ended, RUN, 100.0)
    assert free.asked == [()]


def test_a_crowd_of_thousands_is_not_searched_at_every_end() -> None:
    crowd = [Task(willing=False) for _ in range(OLDEST)]
    beyond, ended = Task(), Task()
    kind_of(*crowd, beyond, ended).ended(ended, RUN, 100.0)
    assert beyond.asked == []


def test_where_tasks_end_together_the_next_is_looked_at_again() -> None:
    tasks = [Task() for _ in range(4)]
    kind = kind_of(*tasks)
    kind.ended(tasks[0], RUN, 100.0)
    kind.ended(tasks[1], RUN, 100.0 + TOGETHER_SECONDS / 2)
    assert tasks[2].asked == [AGAIN_AFTER]
    kind.ended(tasks[2], RUN, 200.0)
    assert tasks[3].asked == [()]


def test_who_has_left_is_not_asked() -> None:
    gone, ended = Task(), Task()
    kind = kind_of(gone, ended)
    kind.left(gone)
    kind.left(gone)
    kind.ended(ended, None, 100.0)
    assert gone.asked == []


def test_durations_are_learned_latest_first_and_no_longer_than_useful() -> None:
    five, six, seven, eight = (PastRun(seconds, seconds) for seconds in (5.0, 6.0, 7.0, 8.0))
    kind = TaskKind([five, six])
    known = kind.past_runs
    kind.ended(Task(), seven, 100.0)
    kind.ended(Task(), None, 101.0)
    assert known == [seven, five, six]
    for _ in range(2 * HISTORY_LENGTH):
        kind.ended(Task(), eight, 102.0)
    assert known == [eight] * HISTORY_LENGTH
