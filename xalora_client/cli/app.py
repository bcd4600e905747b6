"""The command line: its commands and the options that precede them."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from .commands import cluster, devnet, generate, login, resume, run, settings, tasks
from .commands import workflows as workflow_commands
from .demo import command as demo_command
from .doctor import command as doctor_command
from .screen import Screen, log_to

START = "Get started"
RUN = "Run tasks"
TASKS = "Manage tasks"
LOCAL = "A network of your own"
SETUP = "Set-up"

app = typer.Typer(
    name="xalora",
    help="Upscaling, text to video and Flux LoRA images on the Xalora network of GPU miners.\n\n"
    "Enter your key with xalora login, or set XALORA_API_KEY. To try it without a key: xalora demo",
    epilog="Exit status: 0 done, 7 done by this machine instead of the network, 1 a bug of xalora, 2 usage, "
    "3 settings or key, 4 network or service, 8 no network, 5 task failed, 6 outcome of a create unknown, "
    "130 interrupted. Of several, the one that stands last here counts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Screen().say(f"xalora {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Print more; -vv prints everything. Goes before the command."
        ),
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    log_to(Screen(), verbose)


for panel, commands in {
    START: (demo_command.demo,),
    RUN: (generate.upscale, generate.txt2vid, generate.txt2img, run.run),
    TASKS: (tasks.tasks, tasks.status, resume.resume, tasks.cancel, tasks.forget),
    LOCAL: (devnet.devnet, devnet.miner),
    SETUP: (login.login, login.logout, settings.config, doctor_command.doctor),
}.items():
    for each in commands:
        app.command(rich_help_panel=panel)(each)

app.add_typer(cluster.cluster, name="cluster", rich_help_panel=LOCAL)
app.add_typer(workflow_commands.workflows, name="workflows", rich_help_panel=SETUP)
