"""The advanced inputs that all nodes share, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..xalora_client.errors import InvalidTaskError
from ..xalora_client.tasks import MAX_SEED
from .execution.node_run import RunOptions
from .host.compat import io, with_options

MAX_SECONDS = 7 * 24 * 3600
FROM_SETTINGS = "from settings"
POLICIES = (FROM_SETTINGS, "never", "when_unavailable", "on_any_failure", "local_only")


def advanced(socket: io.Input) -> io.Input:
    """The same input, which the frontend shows only when it is asked for more."""
    return with_options(socket, advanced=True)


def task_inputs() -> list[io.Input]:
    """The base options of a task. The key is none of them, see :mod:`.host.keyfile`."""
    return [
        advanced(
            io.String.Input(
                "workflow_id",
                default="",
                optional=True,
                tooltip="Which workflow of the network runs the task. Empty: the network's own choice.",
            )
        ),
        advanced(
            io.Int.Input(
                "timeout_seconds",
                default=0,
                min=0,
                max=MAX_SECONDS,
                optional=True,
                tooltip="The network cancels the task after this many seconds. 0: it never does.",
            )
        ),
        advanced(
            io.String.Input(
                "consumer_id",
                default="",
                optional=True,
                tooltip="Consumer that pays, instead of the one in your key. Empty: the key's own.",
            )
        ),
        advanced(
            io.String.Input(
                "job_id_prefix",
                default="",
                optional=True,
                tooltip="Beginning of the task's job id in your account: letters, digits, _ . and -",
            )
        ),
    ]


def wait_inputs() -> list[io.Input]:
    """How long the node waits."""
    return [
        advanced(
            io.Int.Input(
                "wait_timeout",
                default=0,
                min=0,
                max=MAX_SECONDS,
                optional=True,
                tooltip="Seconds this node waits for a task; the task itself runs on. 0: as in the settings.",
            )
        )
    ]


def batch_inputs() -> list[io.Input]:
    """How many tasks at a time."""
    return [
        advanced(
            io.Int.Input(
                "max_in_flight",
                default=0,
                min=0,
                max=256,
                optional=True,
                tooltip="Tasks of this node in the network at the same time. 0: as in the settings.",
            )
        )
    ]


def money_inputs() -> list[io.Input]:
    """What may be sent again."""
    return [
        advanced(
            io.Boolean.Input(
                "reuse",
                default=True,
                optional=True,
                tooltip="Take a kept result of the same work, or a task that is already under way. "
                "Off: each run sends a new task, which is paid for, except where a failed run has left one "
                "behind.",
            )
        ),
        advanced(
            io.Combo.Input(
                "if_unknown",
                options=["stop", "resend", "forget"],
                default="stop",
                optional=True,
                tooltip="An earlier request of the same work went out and its outcome was never learned. "
                "stop: say so. resend: send it again under the same job id. forget: pay for a new one.",
            )
        ),
    ]


def fallback_inputs() -> list[io.Input]:
    """When this machine takes over."""
    return [
        advanced(
            io.Combo.Input(
                "fallback",
                options=list(POLICIES),
                default=FROM_SETTINGS,
                optional=True,
                tooltip="When this machine does the work instead of the network.",
            )
        ),
        advanced(
            io.Int.Input(
                "queue_limit",
                default=0,
                min=0,
                max=MAX_SECONDS,
                optional=True,
                tooltip="Seconds a task may wait in the network's queue before this machine takes over. "
                "0: as in the settings.",
            )
        ),
    ]


def task_options(widgets: Mapping[str, Any]) -> dict[str, Any]:
    """The base options among a node's widgets, as tasks take them: what is empty or 0 is left out."""
    names = ("workflow_id", "timeout_seconds", "consumer_id", "job_id_prefix")
    values = {name: widgets.get(name) for name in names}
    return {
        name: value.strip() if isinstance(value, str) else value
        for name, value in values.items()
        if value and str(value).strip()
    }


def run_options(widgets: Mapping[str, Any]) -> RunOptions:
    """How the node's tasks are run."""
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
    """Whether a video's frames are wanted."""
    return io.Boolean.Input(
        "decode_frames",
        default=True,
        optional=True,
        tooltip="Decode the frames for the IMAGE output. Off: no memory is spent on them, and the VIDEO "
        "output is all there is.",
    )


def checked_prompt(prompt: str) -> str:
    """The prompt, if there is one.

    Raises:
        InvalidTaskError: It is empty.
    """
    if not prompt.strip():
        raise InvalidTaskError("The prompt is empty", next_step="Write what the result shall show.")
    return prompt


__all__ = ["MAX_SEED", "seed_input", "seeds_from"]


def seed_input() -> io.Input:
    """The ``seed`` widget, with ComfyUI's control after each run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip="The same seed and inputs give the same result.",
    )


def seeds_from(seed: int, count: int) -> list[int]:
    """``count`` seeds: ``seed``, ``seed + 1``, and so on; after the largest comes 0."""
    return [(seed + offset) % (MAX_SEED + 1) for offset in range(count)]
