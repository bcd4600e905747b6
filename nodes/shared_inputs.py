"""The inputs that nodes share, and the task and run options read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..xalora_client.errors import InvalidTaskError
from ..xalora_client.tasks import MAX_SEED
from .execution.task_loop import RunOptions
from .host.compat import io, with_options

MAX_SECONDS = 7 * 24 * 3600
FROM_SETTINGS = "from settings"
POLICIES = (FROM_SETTINGS, "never", "when_unavailable", "on_any_failure", "local_only")


def advanced(socket: io.Input) -> io.Input:
    """The same input, which the frontend hides until the user asks for advanced inputs."""
    return with_options(socket, advanced=True)


def _text(name: str, tooltip: str) -> io.Input:
    return advanced(io.String.Input(name, default="", optional=True, tooltip=tooltip))


def number(
    name: str, tooltip: str, *, default: int = 0, maximum: int = MAX_SECONDS, step: int = 1
) -> io.Input:
    """An optional whole number; 0 leaves it to the settings, the network or the workflow."""
    return io.Int.Input(name, default=default, min=0, max=maximum, step=step, optional=True, tooltip=tooltip)


def _choice(name: str, choices: Sequence[str], tooltip: str) -> io.Input:
    """A choice, the first by default."""
    return advanced(
        io.Combo.Input(name, options=list(choices), default=choices[0], optional=True, tooltip=tooltip)
    )


def task_inputs() -> list[io.Input]:
    """The options of every task. The key is not among them; see :mod:`.host.keyfile`."""
    return [
        _text("workflow_id", "Workflow that the network runs for the task. Empty: the network's choice."),
        advanced(
            number("timeout_seconds", "The network cancels the task after this many seconds. 0: never.")
        ),
        _text("consumer_id", "Consumer that pays, in place of the one in your key. Empty: the key's own."),
        _text(
            "job_id_prefix",
            "Beginning of the task's job id in your account: letters, digits, _ . and -",
        ),
    ]


def wait_inputs() -> list[io.Input]:
    """How long the node waits."""
    tooltip = "Seconds this node waits for a task; the task itself continues. 0: as in the settings."
    return [advanced(number("wait_timeout", tooltip))]


def batch_inputs() -> list[io.Input]:
    """How many tasks the node has open at a time."""
    tooltip = "Tasks of this node in the network at the same time. 0: as in the settings."
    return [advanced(number("max_in_flight", tooltip, maximum=256))]


def money_inputs() -> list[io.Input]:
    """What the node reuses, and what it sends again."""
    return [
        advanced(
            io.Boolean.Input(
                "reuse",
                default=True,
                optional=True,
                tooltip="Use the kept result of an identical task, or wait for one that is still open. "
                "Off: each run sends and pays for a new task, unless a failed run has left one open.",
            )
        ),
        _choice(
            "if_unknown",
            ("stop", "resend", "forget"),
            "An earlier request for an identical task was sent, and its outcome is unknown. "
            "stop: raise an error. resend: send it again under the same job id. forget: pay for a new task.",
        ),
    ]


def run_inputs() -> list[io.Input]:
    """The inputs of a node that runs tasks: those of the tasks, waiting, money and fallback."""
    return [
        *task_inputs(),
        *wait_inputs(),
        *money_inputs(),
        _choice("fallback", POLICIES, "When this machine does the task in place of the network."),
        advanced(
            number(
                "queue_limit",
                "Seconds a task may wait in the network's queue before this machine takes over. "
                "0: as in the settings.",
            )
        ),
    ]


def task_options(widgets: Mapping[str, Any]) -> dict[str, Any]:
    """The task options among a node's widgets, without those that are empty or 0."""
    names = ("workflow_id", "timeout_seconds", "consumer_id", "job_id_prefix")
    values = {name: widgets.get(name) for name in names}
    return {
        name: value.strip() if isinstance(value, str) else value
        for name, value in values.items()
        if value and str(value).strip()
    }


def run_options(widgets: Mapping[str, Any]) -> RunOptions:
    """The run options among a node's widgets."""
    policy = widgets.get("fallback", FROM_SETTINGS)
    return RunOptions(
        wait_timeout=widgets.get("wait_timeout") or None,
        max_in_flight=widgets.get("max_in_flight") or None,
        reuse=widgets.get("reuse", True),
        if_unknown=widgets.get("if_unknown", "stop"),
        fallback=None if policy == FROM_SETTINGS else policy,
        queue_limit=widgets.get("queue_limit") or None,
    )


def decode_frames_input() -> io.Input:
    """Whether to decode a video's frames."""
    return advanced(
        io.Boolean.Input(
            "decode_frames",
            default=True,
            optional=True,
            tooltip="Decode the frames for the IMAGE output. Off: they take no memory, and only the VIDEO "
            "output is available.",
        )
    )


def checked_prompt(prompt: str) -> str:
    """The same prompt, after a check that it is not empty.

    Raises:
        InvalidTaskError: It is empty.
    """
    if not prompt.strip():
        raise InvalidTaskError("The prompt is empty", next_step="Describe what the result is to show.")
    return prompt


def seed_input() -> io.Input:
    """The ``seed`` widget, with ComfyUI's control after generate."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip="The same seed and inputs give the same result.",
    )


def seeds_from(seed: int, count: int) -> list[int]:
    """``count`` seeds: ``seed``, ``seed + 1``, and so on; the largest is followed by 0."""
    return [(seed + offset) % (MAX_SEED + 1) for offset in range(count)]
