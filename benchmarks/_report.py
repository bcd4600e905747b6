"""One benchmark's outcome: a table on stdout, and the same with its numbers and chart in `results/`."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
OURS, PEER, LIMIT = "#2563eb", "#9ca3af", "#dc2626"

Panel = Callable[[Any], None]


@dataclass
class Report:
    """Fill it, then `finish()`. Results are shown, not judged: a missed target ends with exit status 0 too.

    Args:
        name: Of the script and of the files in `results/`.
        title: What was measured.
        method: How, in a few sentences.
        command: What measures it, where that is not the script without more.
    """

    name: str
    title: str
    method: str
    command: str = ""
    _tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    _targets: list[tuple[str, float, float, bool, str]] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _panels: list[Panel] = field(default_factory=list)
    _raw: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._load_before = _load()
        print(f"\n== {self.title}", file=sys.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        self._tables.append((caption, list(columns), [list(row) for row in rows]))

    def target(
        self, what: str, value: float, limit: float, *, at_least: bool = False, unit: str = ""
    ) -> None:
        """A figure that the project has set itself; `at_least` where more is better."""
        self._targets.append((what, value, limit, at_least, unit))

    def note(self, text: str) -> None:
        """Something that a reader has to know: what was left out, what disturbed."""
        self._notes.append(text)

    def panel(self, draw: Panel) -> None:
        """One part of the chart, drawn on a matplotlib Axes."""
        self._panels.append(draw)

    def bars(self, title: str, values: Mapping[str, float], unit: str, limit: float | None = None) -> None:
        """A panel of bars; those whose label begins with "ours" stand out."""

        def draw(axes: Any) -> None:
            labels = list(values)
            colours = [OURS if label.startswith("ours") else PEER for label in labels]
            drawn = axes.barh(labels, [values[label] for label in labels], color=colours)
            axes.bar_label(
                drawn, [f"{values[label]:#.3g}".rstrip(".") for label in labels], padding=3, fontsize=8
            )
            axes.margins(x=0.12)
            axes.invert_yaxis()
            axes.set_title(title, fontsize=10)
            axes.set_xlabel(unit, fontsize=8)
            if limit is not None:
                axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1)

        self.panel(draw)

    def raw(self, **figures: Any) -> None:
        """Every round's figures, for the JSON file."""
        self._raw.update(figures)

    def finish(self) -> None:
        """Print and write everything."""
        text = self._markdown()
        print(text, flush=True)
        RESULTS.mkdir(exist_ok=True)
        drawn = self._draw()
        if drawn:
            text += f"\n![{self.title}]({self.name}.png)\n"
        (RESULTS / f"{self.name}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"{self.name}.json").write_text(
            json.dumps(self._json(), indent=1) + "\n", encoding="utf-8"
        )

    # --- parts ---

    def _facts(self) -> dict[str, str]:
        return {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "machine": machine(),
            "load": f"{self._load_before:.1f} before, {_load():.1f} after, {os.cpu_count()} cores",
            "took": f"{time.monotonic() - self._began:.0f} s",
            "command": self.command or f"python benchmarks/{self.name}.py",
        }

    def _markdown(self) -> str:
        lines = [f"# {self.title}", "", self.method, ""]
        lines += [f"- {name}: {value}" for name, value in self._facts().items()]
        if self._load_before > 0.5:
            lines.append("- others were at work on this machine: only ratios within this run mean something")
        for caption, columns, rows in self._tables:
            lines += ["", *([f"**{caption}**", ""] if caption else [])]
            lines += [_row(columns), _row(["---"] + ["---:"] * (len(columns) - 1)), *map(_row, rows)]
        if self._targets:
            lines += ["", _row(["target", "limit", "measured", ""]), _row(["---", "---:", "---:", "---"])]
            lines += map(_row, map(_target_row, self._targets))
        if self._notes:
            lines += ["", *[f"- {note}" for note in self._notes]]
        return "\n".join(lines) + "\n"

    def _json(self) -> dict[str, Any]:
        tables = [
            {"caption": caption, "columns": columns, "rows": rows} for caption, columns, rows in self._tables
        ]
        targets = [
            {"what": what, "value": value, "limit": limit, "at_least": at_least, "unit": unit}
            for what, value, limit, at_least, unit in self._targets
        ]
        return {
            **self._facts(),
            "title": self.title,
            "tables": tables,
            "targets": targets,
            "notes": self._notes,
            "raw": self._raw,
        }

    def _draw(self) -> bool:
        if not self._panels:
            return False
        try:
            import matplotlib
        except ImportError:
            print("No chart: pip install -r benchmarks/requirements.txt", file=sys.stderr)
            return False
        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, len(self._panels), figsize=(5.2 * len(self._panels), 3.4), squeeze=False, layout="constrained"
        )
        for place, draw in zip(axes[0], self._panels, strict=True):
            place.spines[["top", "right"]].set_visible(False)
            place.tick_params(labelsize=8)
            draw(place)
        figure.suptitle(self.title, fontsize=11)
        figure.savefig(RESULTS / f"{self.name}.png", dpi=120, metadata={"Software": None})
        pyplot.close(figure)
        return True


def machine() -> str:
    """Processor, system and Python, without anything that names this very computer."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    system = f"{platform.system()} {platform.machine()}"
    return f"{processor}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _target_row(target: tuple[str, float, float, bool, str]) -> list[str]:
    what, value, limit, at_least, unit = target
    met = value >= limit if at_least else value <= limit
    sign = ">=" if at_least else "<="
    return [what, f"{sign} {limit:g}{unit}", f"{value:#.3g}".rstrip(".") + unit, "met" if met else "MISSED"]
