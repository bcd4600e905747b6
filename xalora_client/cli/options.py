"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..config import FallbackPolicy, IfUnknown

if TYPE_CHECKING:
    from ..tasks import WorkflowTask
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
        help="Where to write results: a file for one input, a folder for several.",
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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a task, and where its result goes."""

    output: Output = None
    force: Force = False
    as_json: AsJson = False
    engine: Annotated[
        Engine,
        typer.Option(
            help="auto: the network, then this machine as --fallback says. xalora: the network only. "
            "The others: this machine only; nothing is sent. pillow is LANCZOS, without a model.",
        ),
    ] = "auto"
    fallback: Annotated[
        FallbackPolicy | None,
        typer.Option(help="When this machine runs the task instead. Default: see xalora config."),
    ] = None
    if_unknown: Annotated[
        IfUnknown,
        typer.Option(
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

    def __post_init__(self) -> None:
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
