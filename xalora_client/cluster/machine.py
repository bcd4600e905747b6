"""What a machine lends to the cluster: its name, engine and slots, in a file that its workers read."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..errors import ConfigurationError
from ..files import write_private

MACHINE_VARIABLE = "XALORA_CLUSTER_MACHINE"
"""In the environment of a machine's Ray: the path of its file."""

RESOURCE = "xalora_machine_"
"""Ray's resource that pins workers to a machine is this and the machine's name."""

EngineName = Literal["comfyui", "torch", "ncnn", "pillow"]
ENGINES: dict[str, EngineName] = {name: name for name in get_args(EngineName)}
PROXIES = ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")
"""Variables that Ray's head process has other values of than its user."""


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        name: Unique in the cluster; part of a task's ``miner_id``.
        engine: What runs the tasks.
        slots: Workers without a GPU; with GPUs there is one for each.
        folder: For the files of ComfyUI and its log.
        comfyui: The folder of a ComfyUI, for that engine.
        python: The Python that runs it.
        model: See the setting ``upscale_model``.
        environment: The user's values of :data:`PROXIES`; None where one is not set.
    """

    name: str
    engine: EngineName
    slots: int
    folder: str
    comfyui: str | None = None
    python: str | None = None
    model: str | None = None
    environment: dict[str, str | None] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        return RESOURCE + self.name

    @property
    def uses_gpus(self) -> bool:
        """Whether each of its GPUs gets a worker."""
        return self.engine in ("comfyui", "torch")

    def write(self, path: Path) -> None:
        """Keep it in a file that only its user can read."""
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def of_this_process(cls) -> Machine:
        """The machine of a worker's process."""
        return cls(**json.loads(Path(os.environ[MACHINE_VARIABLE]).read_text(encoding="utf-8")))


def chosen_engine(comfyui: Path | None, model: str | None) -> EngineName:
    """The best engine that a machine has: a ComfyUI, a model file for torch, or ncnn.

    Raises:
        ConfigurationError: It has none of them.
    """
    from ..engines.ncnn.models import DEFAULT, is_ncnn_file, lacking

    if comfyui is not None:
        return "comfyui"
    is_file = model is not None and "." in Path(model).name
    if is_file and not is_ncnn_file(Path(str(model))) and importlib.util.find_spec("torch") is not None:
        return "torch"
    if not lacking(DEFAULT):
        return "ncnn"
    raise ConfigurationError(
        "This machine has no engine",
        money="",
        next_step='Give --comfyui PATH, or pip install "xalora[ai]", or --engine pillow for LANCZOS.',
    )


def python_of(comfyui: Path) -> Path | None:
    """The Python of a ComfyUI's own environment; None where it has none.

    Raises:
        ConfigurationError: The folder has no ComfyUI.
    """
    if not (comfyui / "main.py").is_file():
        raise ConfigurationError(
            f"There is no ComfyUI in {comfyui}: it has no main.py",
            money="",
            next_step="Give the folder that has it.",
        )
    found = (comfyui / folder / "bin" / "python" for folder in (".venv", "venv"))
    return next((python for python in found if python.exists()), None)
