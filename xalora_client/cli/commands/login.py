"""``xalora login | logout``: store the API key in a file that only its user can read, and delete it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import SecretStr

from ...config import DEFAULT_WORKFLOW_URL, LOGIN, Settings, load_settings
from ...errors import AuthenticationError, NetworkError, NoMinerError
from ...key_file import login_file
from ..command import command, with_client
from ..exit_codes import ExitCode
from ..formats import short_path
from ..screen import Screen


@command
def login(
    surplus: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="The network that the key is for. Default: XALORA_WORKFLOW_URL, else the hosted one.",
            show_default=False,
        ),
    ] = None,
) -> ExitCode:
    """Store your API key, for this command, Python programs and ComfyUI; it is asked for without echo.

    From a program, give it on standard input. It is tested with a request that is free, stored in a file
    that only you can read, and used for that network alone.
    """
    if surplus:
        raise typer.BadParameter(
            "a key on the command line stays in the shell's history and is seen by other users; "
            "xalora login asks for it, or reads it from standard input"
        )
    screen = Screen()
    key = SecretStr(_asked_for())
    settings = _settings(key, url)
    consumer = settings.credentials().consumer_id
    try:
        _test(settings)
    except NoMinerError:
        pass
    except AuthenticationError as error:
        error.next_step = "Copy both halves, <consumer_id>#<api_key>. This one was not stored."
        raise
    except NetworkError as error:
        screen.warn(f"the key could not be tested. {error.what}")
    stored = login_file()
    stored.store(key, None if settings.sequencer_url == DEFAULT_WORKFLOW_URL else settings.workflow_url)
    screen.say(
        f"The key of consumer {consumer} for {settings.sequencer_url} is in {short_path(stored.path)}."
    )
    source = load_settings().sources["api_key"]
    if source != LOGIN:
        screen.warn(
            f"this key is not used here now, since another is set ({source})"
            if source != "default"
            else "this key is not used here now, since XALORA_WORKFLOW_URL chooses another network"
        )
    return ExitCode.DONE


@command
def logout() -> ExitCode:
    """Delete the stored API key."""
    stored = login_file()
    was_there = stored.forget()
    Screen().say(f"{short_path(stored.path)} is deleted." if was_there else "No key was stored.")
    return ExitCode.DONE


def _asked_for() -> str:
    """The key, from the terminal without echo, or the first line of standard input.

    Raises:
        typer.BadParameter: There is none.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        text = str(typer.prompt("API key (<consumer_id>#<api_key>)", hide_input=True, err=True))
    else:
        text = "" if sys.stdin is None else sys.stdin.readline()
    if not text.strip():
        raise typer.BadParameter("no key was given; type it, or pipe it in")
    return text.strip()


def _settings(key: SecretStr, url: str | None) -> Settings:
    """The settings for testing a key: with ``url``, else the network that the other sources choose.

    Raises:
        ConfigurationError: The key or the address is malformed. The message does not contain the key.
    """
    url = url or load_settings(api_key=key, env_files=()).settings.workflow_url
    return load_settings(api_key=key, workflow_url=url).settings


def _test(settings: Settings) -> None:
    """Ask for a miner with the key, which is free.

    Raises:
        AuthenticationError: The network refuses the key.
        NetworkError: The network can't be asked, or has no miner.
    """
    from ...journal import Journal

    with Journal(None) as journal:
        with_client(settings, journal, lambda client: client.resource_request(task_type="upscaler"))
