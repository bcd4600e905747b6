"""The doctor's report as text, Markdown and JSON. It holds no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._version import __version__
from ..exit_codes import ExitCode
from ..formats import printable
from ..screen import Screen
from .findings import Finding, Verdict, answers_to_questions

MARKS = {
    Verdict.OK: ("✓", "green"),
    Verdict.NOTE: ("!", "yellow"),
    Verdict.PROBLEM: ("✗", "red"),
    Verdict.NOT_ASKED: ("-", "dim"),
}

NOT_SETTLED = "not settled"


def print_finding(screen: Screen, finding: Finding) -> None:
    """Print one finding on a line."""
    mark, style = MARKS[finding.verdict]
    screen.say((f"{mark} ", style), (finding.check, "bold"), f": {finding.text}")


def print_questions(screen: Screen, findings: Sequence[Finding]) -> None:
    """Print what is settled of the points that the protocol leaves open."""
    screen.say("")
    screen.say(("What the protocol leaves open, at this network:", "bold"))
    for question, answer in answers_to_questions(findings).items():
        screen.say(f"{question.value} ", (answer or NOT_SETTLED, "" if answer else "dim"))


def markdown(url: str, day: str, findings: Sequence[Finding]) -> str:
    """The report as a Markdown document."""
    lines = [
        f"# First contact with {url}",
        "",
        f"{day}, xalora {__version__}.",
        "",
        "| check | | |",
        "|---|---|---|",
        *(f"| {each.check} | {each.verdict.value} | {_cell(each.text)} |" for each in findings),
        "",
        "| what the protocol leaves open | at this network |",
        "|---|---|",
        *(
            f"| {question.value} | {_cell(answer or NOT_SETTLED)} |"
            for question, answer in answers_to_questions(findings).items()
        ),
        "",
    ]
    return "\n".join(lines)


def document(url: str, findings: Sequence[Finding], code: ExitCode) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "workflow_url": url,
        "version": __version__,
        "findings": [
            {
                "check": each.check,
                "verdict": each.verdict.value,
                "text": each.text,
                "exit_code": int(each.code),
            }
            for each in findings
        ],
        "questions": {
            question.name.lower(): {"question": question.value, "answer": answer}
            for question, answer in answers_to_questions(findings).items()
        },
        "exit_code": int(code),
    }


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("\n", " ")
