"""Runs the checks of `make test` in stages, and prints one summary of them.

pytest-xdist runs a stage's tests in several processes; their outcomes are read from pytest's JUnit file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import comfyui_install
from cache import REPOSITORY, say
from chromium import ensure_browser, find_browser

PYTHON = Path(sys.executable)
REPORTS = REPOSITORY / ".artifacts" / "reports"
SLOWEST = 20

# More failures than this are not chance.
RUN_AGAIN_AT_MOST = 5

# In the order of pytest's own closing line.
OUTCOMES = ("failed", "passed", "skipped", "error")


@dataclass
class Result:
    """A stage's outcome: `counts` by pytest's names, each test's seconds, `note` where nothing is counted."""

    counts: Counter[str] = field(default_factory=Counter)
    durations: list[tuple[float, str]] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not (self.counts["failed"] or self.counts["error"])


Stage = Callable[[], Result]


def install() -> Result:
    """What tests need beside the clone's own environment."""
    comfyui_install.install()
    ensure_browser()
    return Result(note="done")


def lint() -> Result:
    """Style and types."""
    subprocess.run(["make", "--no-print-directory", "--keep-going", "lint"], cwd=REPOSITORY, check=True)
    return Result(note="clean")


def quick() -> Result:
    """Tests that need the clone's own environment only. They wait most of the time, so many run at once."""
    return run_twice("quick", "unit", "with_devnet", "chaos", options=("-n6", "--dist=worksteal"))


def cluster() -> Result:
    """Tests of a cluster with a real Ray, the short ones; each starts some twenty processes."""
    return run_twice("cluster", "with_ray", options=())


def torch() -> Result:
    """Tests in ComfyUI's environment, which has torch."""
    return run_pytest("torch", ["with_torch"], python=comfyui_install.cached_install().python)


def comfyui(name: str = "comfyui", given: Path | None = None) -> Result:
    """Tests in a real ComfyUI, one for each process."""
    return run_twice(name, "comfyui", options=("-n3", "--dist=worksteal"), variables=_named(given))


def browser(name: str = "browser", given: Path | None = None) -> Result:
    """Tests in a real browser, in two processes: one for each frontend."""
    if find_browser() is None:
        return Result(note="LEFT OUT: no Chrome or Chromium here, and none could be installed")
    return run_twice(name, "browser", options=("-n2",), variables=_named(given))


def further_stages() -> dict[str, Stage]:
    """The tests of a ComfyUI and of its pages, for each one that `XALORA_TEST_COMFYUI` names."""
    stages: dict[str, Stage] = {}
    if not comfyui_install.further():
        left_out = Result(note="LEFT OUT: XALORA_TEST_COMFYUI names no further ComfyUI")
        return {"further ComfyUI": lambda: left_out}
    for given in comfyui_install.further():
        label = re.sub(r"(?i)^comfyui-?|\.(tar\.\w+|tgz|zip)$", "", given.name) or str(given)
        for stage in (comfyui, browser):
            name = f"{stage.__name__} {label}"
            stages[name] = partial(stage, name, given)
    return stages


def _named(given: Path | None) -> dict[str, str]:
    """The variables by which tests find a further ComfyUI."""
    if given is None:
        return {}
    found = comfyui_install.install_further(given)
    return {"COMFYUI_PATH": str(found.path), "COMFYUI_PYTHON": str(found.python)}


def stages(quick_only: bool) -> dict[str, Stage]:
    """What to run, by name, in order."""
    always: tuple[Stage, ...] = (lint, quick)
    named = always if quick_only else (install, *always, cluster, torch, comfyui, browser)
    return {stage.__name__: stage for stage in named} | ({} if quick_only else further_stages())


def run_stages(stages: Mapping[str, Stage]) -> dict[str, Result]:
    """Run the stages one after another, whatever fails."""
    results = {}
    for name, stage in stages.items():
        say(f"== {name}")
        began = time.monotonic()
        try:
            result = stage()
        except (OSError, LookupError, subprocess.CalledProcessError) as error:
            say(str(error))
            result = Result(Counter(error=1), note=str(error).splitlines()[0])
        result.seconds = time.monotonic() - began
        results[name] = result
    return results


def run_twice(
    name: str, *folders: str | Path, options: Sequence[str], variables: Mapping[str, str] | None = None
) -> Result:
    """Run the tests of some folders, then those that fail once more, one after another; the note names them.

    Many tests share the machine, so that one may be late by chance.
    """
    cache = ("-o", f"cache_dir={REPOSITORY / '.artifacts' / 'pytest' / name.replace(' ', '-')}")
    first = run_pytest(name, folders, *cache, *options, variables=variables)
    if not 0 < first.counts["failed"] + first.counts["error"] <= RUN_AGAIN_AT_MOST:
        return first
    say(f"== {name}: what failed, again")
    only_those = ("--last-failed", "--last-failed-no-failures=none")
    again = run_pytest(f"{name} again", folders, *cache, *only_those, variables=variables)
    passed = again.counts["passed"]
    if again.counts["error"] or not passed:
        return first
    names = ", ".join(test.rpartition("::")[2] for _, test in again.durations)
    first.counts = Counter(
        failed=again.counts["failed"],
        passed=first.counts["passed"] + passed,
        skipped=first.counts["skipped"] + again.counts["skipped"],
    )
    first.note = f"{passed} passed only when run again, of {names}"
    return first


def run_pytest(
    name: str,
    folders: Sequence[str | Path],
    *options: str,
    python: Path = PYTHON,
    variables: Mapping[str, str] | None = None,
) -> Result:
    """Run the tests of some folders in `tests`; pytest's exit status counts where its report is silent."""
    report = REPORTS / f"{name.replace(' ', '-')}.xml"
    report.unlink(missing_ok=True)
    command: list[str | Path] = [python, "-m", "pytest", f"--junit-xml={report}", "-qq", *options]
    paths = [REPOSITORY / "tests" / folder for folder in folders]
    # Another Python does not have the package installed.
    found_by = {} if python == PYTHON else {"PYTHONPATH": str(REPOSITORY)}
    environment = {**os.environ, **found_by, **(variables or {})}
    status = subprocess.call([*command, *paths], cwd=REPOSITORY, env=environment)
    result = read_report(report) if report.is_file() else Result()
    if status != 0 and result.good:
        result.counts["error"] += 1
        result.note = f"pytest ended with exit status {status}"
    return result


def read_report(path: Path) -> Result:
    """What a JUnit file of pytest's says."""
    (suite,) = ElementTree.parse(path).iter("testsuite")
    names = ("tests", "failures", "errors", "skipped")
    total, failed, error, skipped = (int(suite.attrib[name]) for name in names)
    counts = Counter(failed=failed, passed=total - failed - error - skipped, skipped=skipped, error=error)
    tests = [(float(case.attrib["time"]), "{classname}::{name}".format(**case.attrib)) for case in suite]
    return Result(counts, tests)


def summarize(results: dict[str, Result]) -> int:
    """Print the slowest tests, a line for each stage, and pytest's closing line; returns the exit status."""
    durations = sorted((test for result in results.values() for test in result.durations), reverse=True)
    if durations:
        _rule(f"slowest {SLOWEST} tests")
        for seconds, test in durations[:SLOWEST]:
            print(f"{seconds:7.2f}s {test}")
    _rule("summary")
    width = max(8, *map(len, results))
    for name, result in results.items():
        verdict = "ok" if result.good else "FAILED"
        told = "; ".join(filter(None, (in_words(result.counts), result.note)))
        print(f"{verdict:<6}  {name:<{width}}  {result.seconds:6.1f} s  {told}")
    counts = sum((result.counts for result in results.values()), Counter[str]())
    seconds = sum(result.seconds for result in results.values())
    clock = time.strftime(" (%-H:%M:%S)", time.gmtime(seconds)) if seconds >= 60 else ""
    _rule(f"{in_words(counts) or 'no tests ran'} in {seconds:.2f}s{clock}")
    return 0 if all(result.good for result in results.values()) else 1


def in_words(counts: Counter[str]) -> str:
    """`3 failed, 40 passed`, as pytest says it."""
    words = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    return ", ".join(words) + ("s" if counts["error"] > 1 else "")


def _rule(title: str) -> None:
    print(f" {title} ".center(80, "="), flush=True)


if __name__ == "__main__":
    # Programs start many hundred times: what they import is compiled once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(summarize(run_stages(stages(quick_only="--quick" in sys.argv))))
