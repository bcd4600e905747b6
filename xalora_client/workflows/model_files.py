"""Model files of a graph's loaders: their folders, and the choice of an installed one for "auto"."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".pkl")

# Input of a core loader -> folder under ComfyUI's models/.
_FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "vae_name": "vae",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "style_model_name": "style_models",
}
_FOLDERS_BY_CLASS = {
    "UpscaleModelLoader": "upscale_models",
    "CLIPVisionLoader": "clip_vision",
}

LORA_INPUT = "lora_name"
"""The input of core's loaders that names a LoRA."""

_DOUBLING = re.compile(r"(?<![0-9])(2x|x2)(?![0-9])", re.IGNORECASE)
_QUADRUPLING = re.compile(r"(?<![0-9])(4x|x4)(?![0-9])", re.IGNORECASE)


def model_folder(class_type: str, input_name: str) -> str | None:
    """The folder under ComfyUI's ``models/`` that a core loader reads, None for other classes."""
    return _FOLDERS_BY_CLASS.get(class_type) or _FOLDERS.get(input_name)


def is_model_file(name: object) -> bool:
    """Whether a value is the name of a model file."""
    return isinstance(name, str) and name.lower().endswith(_MODEL_SUFFIXES)


def lora_file(name: str) -> str:
    """A LoRA's file name: the suffix may be left out, as with the public miner."""
    return name if is_model_file(name) or not name.strip() else f"{name}.safetensors"


def pick_installed(installed: Sequence[str]) -> str | None:
    """The file for "auto", None where nothing is installed.

    Among upscalers a 2x model comes before a 4x one (the result is 2x, at a quarter of the cost), and both
    before the rest; then by name, so that the choice is stable.
    """

    def rank(name: str) -> tuple[int, str]:
        if _DOUBLING.search(name):
            return 0, name
        return (1 if _QUADRUPLING.search(name) else 2), name

    return min(installed, key=rank, default=None)
