"""Every import of ComfyUI's own modules stands here; the rest of the pack knows them through this one.

Written against 0.3.48 to 0.3.75. Facts the pack leans on:

- `/interrupt` only sets a flag. The first caller of `throw_exception_if_processing_interrupted` (any bar,
  any node about to start) takes the flag away from everybody else, hence `interrupt_count`.
- A `CancelledError` that leaves a node whose prompt goes on kills ComfyUI's worker thread for good: `execute`
  catches `Exception` only. `bridge` sees to it that none does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

try:
    from comfy_api.latest import ComfyExtension, InputImpl, io
    from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, is_link
    from comfy_execution.utils import get_executing_context
except ImportError as error:
    raise ImportError(
        "ComfyUI-Xalora needs ComfyUI 0.3.48 or newer (its V3 node interface is missing here). "
        "Update ComfyUI and start it again."
    ) from error

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.model_management import InterruptProcessingException
from server import PromptServer

import nodes

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "ComfyExtension",
    "ExecutionBlocker",
    "GraphBuilder",
    "InputImpl",
    "InterruptProcessingException",
    "ProgressBar",
    "base_directory",
    "device_name",
    "executing_list_index",
    "executing_prompt_id",
    "input_directory",
    "installed_models",
    "interrupt_count",
    "interrupted",
    "io",
    "is_link",
    "node_infos",
    "on_interrupt",
    "output_directory",
    "pack_directory",
    "progress_bar",
    "prompt_server",
    "running_prompt_ids",
    "running_server",
    "schema",
    "send_progress_text",
    "system_user_directory",
    "temp_directory",
    "user_directory",
    "with_options",
]

InputT = TypeVar("InputT")

SYSTEM_USER = "xalora"

_NO_TAGS = str.maketrans("<>", "\u2039\u203a")


# --- interrupting -----------------------------------------------------------------------------------------


class _InterruptCounter:
    """Counts what `/interrupt` asks for, whoever takes the flag away afterwards.

    With a synchronous node beside a waiting one, the synchronous node's next progress step consumes the
    flag and ends the prompt; the waiting node only sees a `CancelledError`, as after a failure elsewhere. The
    count tells the two apart. ComfyUI has no event for it, so its one setter is wrapped, and keeps working.
    """

    def __init__(self) -> None:
        self.count = 0
        self.listeners: list[Callable[[], None]] = []
        self._set_flag = comfy.model_management.interrupt_current_processing
        comfy.model_management.interrupt_current_processing = self._count_and_set

    def _count_and_set(self, value: bool = True) -> None:
        if value:
            self.count += 1
        self._set_flag(value)
        if value:
            for listener in self.listeners:
                listener()

    def set_again(self) -> None:
        """Give back a flag that was consumed on the way, for the other nodes of the prompt that poll it."""
        self._set_flag(True)


_interrupts = _InterruptCounter()


def interrupted() -> bool:
    """Whether the user has asked to stop the running prompt. Does not clear the request."""
    return bool(comfy.model_management.processing_interrupted())


def interrupt_count() -> int:
    """How often the user has asked to stop since ComfyUI started: compare two readings around an `await`."""
    return _interrupts.count


def on_interrupt(listener: Callable[[], None]) -> None:
    """Have `listener` called, on any thread, whenever the user asks to stop. It must not block or raise."""
    _interrupts.listeners.append(listener)


def executing_prompt_id() -> str:
    """The prompt whose node is executing here, empty outside of one."""
    context = get_executing_context()
    return context.prompt_id if context is not None else ""


def executing_list_index() -> int:
    """Which element of list inputs the executing node is at; 0 where they are no lists."""
    context = get_executing_context()
    return (context.list_index if context is not None else None) or 0


def running_prompt_ids() -> set[str]:
    """The prompts that have begun and not ended."""
    running, _ = prompt_server().prompt_queue.get_current_queue()
    return {item[1] for item in running}


# --- progress ---------------------------------------------------------------------------------------------


class ProgressBar:
    """ComfyUI's bar on one node, from any thread. Unlike the original it never swallows a request to stop."""

    def __init__(self, total: float, node_id: str) -> None:
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def update_absolute(
        self,
        value: float,
        total: float | None = None,
        preview: tuple[str, Image.Image, int | None] | None = None,
    ) -> None:
        """Set the bar to `value` of `total`; `preview` is `("JPEG" | "PNG", picture, longest side or None)`.

        After a request to stop, nothing is drawn and nothing is raised: see `interrupted`.
        """
        if interrupted():
            return
        try:
            self._bar.update_absolute(value, total, preview)
        except InterruptProcessingException:
            # The request arrived just now and the bar has cleared it: other nodes still have to see it.
            _interrupts.set_again()
        except RuntimeError as error:
            # ComfyUI goes over its nodes' states while the prompt's thread adds one; the next step shows it.
            if "changed size during iteration" not in str(error):
                raise


def progress_bar(total: float, node_id: str) -> ProgressBar:
    """A bar from 0 to `total` on the node `node_id` of the running prompt."""
    return ProgressBar(total, node_id)


def send_progress_text(text: str, node_id: str) -> None:
    """Show one line of text on the node `node_id`, to the browser that queued the running prompt."""
    server = prompt_server()
    # Older frontends take it for HTML, newer ones for text, and what miners say is part of it.
    server.send_progress_text(text.translate(_NO_TAGS), node_id, server.client_id)


def prompt_server() -> PromptServer:
    """ComfyUI's server: `.routes`, `.send_sync(event, data, client_id or None)`, `.client_id`."""
    return PromptServer.instance


def running_server() -> PromptServer | None:
    """ComfyUI's server; None where a tool has loaded the nodes without one."""
    return getattr(PromptServer, "instance", None)


# --- schemas ----------------------------------------------------------------------------------------------


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` of the fields that this ComfyUI knows.

    An unknown field (`search_aliases`, from 0.11) would otherwise keep the whole pack from loading.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def with_options(socket: InputT, **options: Any) -> InputT:
    """Add options to an input that its constructor does not take in every version: `advanced`, `rawLink`."""
    socket.extra_dict = {**(getattr(socket, "extra_dict", None) or {}), **options}  # type: ignore[attr-defined]
    return socket


def node_infos(class_types: Iterable[str]) -> dict[str, Any]:
    """What `GET /object_info` says of these node classes: `input`, `output`, `output_node`; unknown ones are
    left out."""
    infos: dict[str, Any] = {}
    for class_type in set(class_types):
        node_class = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        if node_class is None:
            continue
        if hasattr(node_class, "GET_NODE_INFO_V1"):
            infos[class_type] = node_class.GET_NODE_INFO_V1()
        else:
            infos[class_type] = {
                "input": node_class.INPUT_TYPES(),
                "output": list(node_class.RETURN_TYPES),
                "output_node": bool(getattr(node_class, "OUTPUT_NODE", False)),
            }
    return infos


def device_name() -> str:
    """What ComfyUI computes on: `cuda:0`, `mps`, `cpu`."""
    return str(comfy.model_management.get_torch_device())


# --- files ----------------------------------------------------------------------------------------------


def pack_directory() -> Path:
    """This pack's own folder."""
    return Path(__file__).resolve().parents[2]


def base_directory() -> Path:
    """ComfyUI's base folder: `--base-directory`, else the folder of its `main.py`."""
    return Path(folder_paths.base_path)


def input_directory() -> Path:
    return Path(folder_paths.get_input_directory())


def output_directory() -> Path:
    return Path(folder_paths.get_output_directory())


def temp_directory() -> Path:
    """Emptied by ComfyUI whenever it starts and stops; may not exist yet."""
    return Path(folder_paths.get_temp_directory())


def user_directory() -> Path:
    return Path(folder_paths.get_user_directory())


def system_user_directory() -> Path:
    """A folder that ComfyUI serves to nobody, for the key file. May not exist yet.

    `<user folder>/__xalora`, in versions without system users too: those serve folders of users they have
    registered, and make up the ids themselves. So the key is found again after an update.
    """
    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory(SYSTEM_USER))
    return user_directory() / f"__{SYSTEM_USER}"


def installed_models(folder: str) -> list[str]:
    """File names in one of ComfyUI's model folders: `upscale_models`, `diffusion_models`, ..."""
    return list(folder_paths.get_filename_list(folder))
