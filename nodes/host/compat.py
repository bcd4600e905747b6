"""ComfyUI's own modules: the only file of the pack that imports them, for versions 0.3.75 to 0.33.

The pack relies on two facts:

- `/interrupt` only sets a flag. The first caller of `throw_exception_if_processing_interrupted` (any progress
  bar, any node about to start) clears it for everybody else; hence `interrupt_count`.
- A `CancelledError` that leaves a node of a running prompt ends ComfyUI's worker thread, because `execute`
  catches `Exception` only. `bridge` lets none through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

try:
    from comfy_api.latest import ComfyExtension, InputImpl, io
    from comfy_execution.graph_utils import ExecutionBlocker
    from comfy_execution.utils import get_executing_context
except ImportError as error:
    raise ImportError(
        "ComfyUI-Xalora needs ComfyUI 0.3.75 or newer (its V3 node interface is missing here). "
        "Update ComfyUI and start it again."
    ) from error

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args as arguments
from comfy.model_management import InterruptProcessingException
from server import PromptServer

import nodes

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "ComfyExtension",
    "ExecutionBlocker",
    "InputImpl",
    "InterruptProcessingException",
    "io",
]

InputT = TypeVar("InputT")

SYSTEM_USER = "xalora"

# --- interrupting -----------------------------------------------------------------------------------------


class _InterruptCounter:
    """Counts the user's interrupts, whoever clears the flag afterwards.

    When a synchronous node runs beside a waiting one, its next progress step clears the flag and ends the
    prompt; the waiting node only sees a `CancelledError`, as after a failure elsewhere. The count tells the
    two apart. ComfyUI has no event for an interrupt, so its setter of the flag is wrapped.
    """

    def __init__(self) -> None:
        self.count = 0
        self.listeners: list[Callable[[], None]] = []
        self.set_flag = comfy.model_management.interrupt_current_processing
        comfy.model_management.interrupt_current_processing = self._count_and_set

    def _count_and_set(self, value: bool = True) -> None:
        if value:
            self.count += 1
        self.set_flag(value)
        if value:
            for listener in self.listeners:
                listener()


_interrupts = _InterruptCounter()


def interrupted() -> bool:
    """Whether the user has pressed cancel for the running prompt. Does not clear the flag."""
    return bool(comfy.model_management.processing_interrupted())


def interrupt_count() -> int:
    """How often the user has pressed cancel since ComfyUI started; compare it before and after an `await`."""
    return _interrupts.count


def on_interrupt(listener: Callable[[], None]) -> None:
    """Call `listener`, on any thread, whenever the user presses cancel. It must not block or raise."""
    _interrupts.listeners.append(listener)


def executing_prompt_id() -> str:
    """The prompt of the executing node, empty outside of one."""
    context = get_executing_context()
    return context.prompt_id if context is not None else ""


def executing_list_index() -> int:
    """The element of list inputs that the executing node is at; 0 where there are no lists."""
    context = get_executing_context()
    return (context.list_index if context is not None else None) or 0


def running_prompt_ids() -> set[str]:
    """Ids of the prompts that have started and not ended."""
    return {item[1] for item in _running_prompts()}


def _running_prompts() -> list[Any]:
    # Not `get_current_queue`, which copies every queued prompt.
    return list(prompt_server().prompt_queue.currently_running.values())


# --- progress ---------------------------------------------------------------------------------------------


class ProgressBar:
    """ComfyUI's bar on one node of the running prompt. Unlike the original it never clears an interrupt.

    It calls the bar's hook itself: from 2026 on, the original drops a value that comes less than 0.1 s after
    another, and never sends it later.

    Args:
        total: The value at the end.
        node_id: The node.
    """

    def __init__(self, total: float, node_id: str) -> None:
        self._total = total
        self._node_id = node_id
        self._hook = comfy.utils.ProgressBar(total, node_id=node_id).hook

    def update_absolute(
        self,
        value: float,
        total: float | None = None,
        preview: tuple[str, Image.Image, int | None] | None = None,
    ) -> None:
        """Set the bar to `value` of `total`; `preview` is `("JPEG" | "PNG", picture, longest side or None)`.

        After an interrupt nothing is drawn and nothing is raised; see `interrupted`.
        """
        if interrupted() or self._hook is None:
            return
        if total is not None:
            self._total = total
        try:
            self._hook(min(value, self._total), self._total, preview, node_id=self._node_id)
        except InterruptProcessingException:
            # The interrupt came just now, and the bar has cleared the flag that other nodes poll.
            _interrupts.set_flag(True)
        except RuntimeError as error:
            # ComfyUI iterates over its nodes' states while the prompt's thread adds one; the next update
            # works.
            if "changed size during iteration" not in str(error):
                raise


LINE_EVENT = "xalora.line"


class Viewer(NamedTuple):
    """Who sees a prompt run: its browser, and the frontend's id of its workflow, where they are known."""

    client_id: str | None
    workflow_id: str | None


def viewer() -> Viewer:
    """The viewer of the running prompt."""
    running = _running_prompts()
    workflow_id = workflow_id_of(running[0][3].get("extra_pnginfo")) if running else None
    return Viewer(prompt_server().client_id, workflow_id)


def send_line(text: str, node_id: str, to: Viewer | None = None) -> None:
    """Show one line of text on the node `node_id`, by default to the viewer of the running prompt.

    The pack's own event and not ComfyUI's progress text, which some frontends drop at the prompt's end, and
    some renderers never show. It names the workflow: in another one, the same id is another node.
    """
    to = to or viewer()
    event = {"node_id": node_id, "text": text, "graph": to.workflow_id}
    prompt_server().send_sync(LINE_EVENT, event, to.client_id)


def workflow_id_of(extra_pnginfo: Any) -> str | None:
    """The frontend's id of a prompt's workflow; None where the prompt does not carry it."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    found = workflow.get("id") if isinstance(workflow, dict) else None
    return found if isinstance(found, str) else None


def prompt_server() -> PromptServer:
    """ComfyUI's server: `.routes`, `.send_sync(event, data, client_id or None)`, `.client_id`."""
    return PromptServer.instance


def running_server() -> PromptServer | None:
    """ComfyUI's server; None where a tool loads the nodes without one."""
    return getattr(PromptServer, "instance", None)


def is_multi_user() -> bool:
    """Whether this ComfyUI has several users."""
    return bool(arguments.multi_user)


def own_port() -> int | None:
    """The port that this ComfyUI serves; None before it does."""
    port = getattr(running_server(), "port", None)
    return port if isinstance(port, int) else None


# --- schemas ----------------------------------------------------------------------------------------------


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` with the fields that this ComfyUI knows.

    An unknown field (`search_aliases`, from 0.11) would keep the whole pack from loading.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def with_options(socket: InputT, **options: Any) -> InputT:
    """Add options that the input's constructor does not take in every version, such as `advanced`."""
    socket.extra_dict = {**(getattr(socket, "extra_dict", None) or {}), **options}  # type: ignore[attr-defined]
    return socket


def node_infos(class_types: Iterable[str]) -> dict[str, Any]:
    """`input`, `output` and `output_node` of the known ones of these classes, as in `GET /object_info`."""
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
    """The device that ComfyUI computes on: `cuda:0`, `mps`, `cpu`."""
    return str(comfy.model_management.get_torch_device())


# --- files ----------------------------------------------------------------------------------------------


def pack_directory() -> Path:
    """This pack's own folder."""
    return Path(__file__).resolve().parents[2]


def base_directory() -> Path:
    """ComfyUI's base folder: `--base-directory`, else the folder of its `main.py`."""
    return Path(folder_paths.base_path)


def temp_directory() -> Path:
    """ComfyUI's temp folder, emptied when it starts and stops. May not exist yet."""
    return Path(folder_paths.get_temp_directory())


def user_directory() -> Path:
    return Path(folder_paths.get_user_directory())


def system_user_directory() -> Path:
    """A folder that ComfyUI does not serve, for the key file: `<user folder>/__xalora`. May not exist yet.

    Versions without system users use the same folder, so that an update finds the key. They serve only
    folders of registered users, whose ids they choose themselves.
    """
    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory(SYSTEM_USER))
    return user_directory() / f"__{SYSTEM_USER}"


def installed_models(folder: str) -> list[str]:
    """File names in one of ComfyUI's model folders, such as `upscale_models`."""
    return list(folder_paths.get_filename_list(folder))
