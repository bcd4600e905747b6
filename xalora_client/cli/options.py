"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..config import FallbackPolicy, IfUnknown, Settings
from ..media.picture_formats import PictureFormat
from .destinations import Output as OutputChoice
from .screen import Screen
from .standard_streams import check_stdout

if TYPE_CHECKING:
    from ..tasks import WorkflowTask
    from .destinations import Destination
    from .job_runner import RunCall

Engine: TypeAlias = Literal["auto", "xalora", "comfyui", "torch", "ncnn", "pillow"]
"""What runs a task: the network and then this machine, the network, or one engine of this machine."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Where results go: an existing folder, or a path that ends in /, is a folder; else the file of "
        "one result, and - standard output. Its suffix chooses the format: .png, .jpg, .webp, .avif, .tif; "
        ".mp4 or .webp of a video.",
    ),
]
AsLines = Annotated[
    bool,
    typer.Option("--jsonl", help="Print each event as a line of JSON on stdout, and nothing else."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", "-n", help="Say what would be sent, reused and skipped, and send and write nothing."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        help="How long to wait; the task runs on afterwards. Default: see xalora config.",
    ),
]


def _picture_format(name: str) -> PictureFormat:
    found = PictureFormat.of_suffix(f".{name}")
    if found is None:
        known = ", ".join(each.value for each in PictureFormat)
        raise typer.BadParameter(f"{name!r} is no format of pictures; there are {known}.")
    return found


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """The format of pictures."""

    format: Annotated[
        PictureFormat | None,
        typer.Option(
            parser=_picture_format,
            metavar="FORMAT",
            help="The format of pictures: png, jpg, webp, avif or tif. Default: by the suffix of -o, else as "
            "they come.",
            show_default=False,
        ),
    ] = None
    quality: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=100, help="Quality of JPG, WebP and AVIF.", show_default=False),
    ] = None

    def output(self, path: str | None, suffixes: Sequence[str]) -> OutputChoice:
        """Where results go, and in which format.

        Args:
            suffixes: What the name of a result's file may end in.
        """
        return OutputChoice(path, self.format, self.quality, suffixes)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a task, and where its result goes."""

    output: Output = None
    force: Force = False
    as_json: AsJson = False
    as_lines: AsLines = False
    dry_run: DryRun = False
    engine: Annotated[
        Engine,
        typer.Option(
            metavar="ENGINE",
            help="auto: the network, then this machine as --fallback says. xalora: the network only. "
            "comfyui, torch, ncnn, pillow: this machine only; nothing is sent. pillow is LANCZOS, without a "
            "model.",
        ),
    ] = "auto"
    fallback: Annotated[
        FallbackPolicy | None,
        typer.Option(
            metavar="POLICY",
            help="When this machine runs the task instead: never, when_unavailable, on_any_failure, "
            "local_only. Default: see xalora config.",
        ),
    ] = None
    if_unknown: Annotated[
        IfUnknown,
        typer.Option(
            metavar="ACTION",
            help="If the outcome of an earlier create of the same task is unknown: stop (exit 6), resend it "
            "under the same job id, or forget it and pay for a new task.",
        ),
    ] = "stop"
    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Pay for a new task, even if an earlier result of it is kept.")
    ] = False
    timeout: Timeout = None
    network_timeout: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", min=1, help="After this time the network cancels the task."),
    ] = None

    def screen(self, destinations: Iterable[Destination] = ()) -> Screen:
        """The screen for these options and destinations.

        Raises:
            typer.BadParameter: Standard output can't take all that goes there.
        """
        stream = any(each.is_stream for each in destinations)
        if stream and not self.dry_run:
            check_stdout(document=self.as_json or self.as_lines)
        return Screen(json=self.as_json, lines=self.as_lines, stream=stream and not self.dry_run)

    def asks_network(self, settings: Settings) -> bool:
        """Whether the network may be asked for the task, which needs a key."""
        policy = self.fallback or settings.fallback
        return self.engine == "xalora" or (self.engine == "auto" and policy != "local_only")

    def __post_init__(self) -> None:
        if self.as_json and self.as_lines:
            raise typer.BadParameter("--json and --jsonl exclude each other")
        implied = "never" if self.engine == "xalora" else "local_only"
        if self.engine != "auto" and self.fallback not in (None, implied):
            raise typer.BadParameter(f"--engine {self.engine} excludes --fallback {self.fallback}")

    def call(self, task: WorkflowTask) -> RunCall:
        """The call that runs a task with these options."""
        from ..client import HostOptions

        match self.engine:
            case "auto" | "xalora":
                return lambda client, on_event: client.run(
                    task,
                    reuse=client.settings.reuse and not self.no_reuse,
                    if_unknown=self.if_unknown,
                    timeout=self.timeout,
                    fallback="never" if self.engine == "xalora" else self.fallback,
                    on_event=on_event,
                    host=HostOptions(delivers=True),
                )
            case engine:
                from ..engines.fallback import run_locally

                return lambda client, on_event: run_locally(
                    task, client.settings, reason=f"--engine {engine}", engine=engine, on_event=on_event
                )
