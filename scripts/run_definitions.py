"""Runs the shipped definitions that need large models, with random weights, on a real ComfyUI on this CPU.

    python run_definitions.py [definition ...]

It takes the ComfyUI of the tests, or the one in `COMFYUI_PATH` (with `COMFYUI_PYTHON`). In a copy of it three
depths are cut, which a loader can't tell from the weights. Copy and weights (5 GB) stay in the cache. Each
definition gets a server of its own, since they take up to 10 GB of memory.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache import REPOSITORY, cache_folder, fingerprint, incomplete, say
from comfyui_install import Install, find_install
from PIL import Image
from random_models import BUILDERS, VERSION

from xalora_client.engines.comfyui import ComfyUIEngine
from xalora_client.errors import EngineError
from xalora_client.media.video import open_video
from xalora_client.workflows import WorkflowCatalog

SIZE = {"width": 256, "height": 256}
RUNS: dict[str, dict[str, Any]] = {
    "flux-lora": {"prompt": "a red bicycle", "lora_name": "gecko", "width": 512, "height": 512, "steps": 2},
    "hunyuan-fp8": {"prompt": "a red bicycle", **SIZE, "length": 5, "steps": 1},
    "mochi-fp8": {"prompt": "a red bicycle", **SIZE, "length": 16, "steps": 1},
}
FILES = {
    "flux-lora": ("flux1-dev", "gecko", "t5xxl_fp8_e4m3fn", "clip_l", "ae"),
    "hunyuan-fp8": (
        *("hunyuan_video_t2v_720p_bf16", "llava_llama3_fp8_scaled", "clip_l"),
        "hunyuan_video_vae_bf16",
    ),
    "mochi-fp8": ("mochi_preview_fp8_scaled", "t5xxl_fp8_e4m3fn_scaled", "mochi_vae"),
}

# Depths that are constants of ComfyUI: of Mochi, of Llama and of T5.
CUTS = (
    (
        "comfy/model_detection.py",
        r'(dit_config\["image_model"\] = "mochi_preview"\s+dit_config\["depth"\] = )48',
        1,
    ),
    ("comfy/text_encoders/llama.py", r"(class Llama2Config:.*?num_hidden_layers: int = )32", 4),
    ("comfy/text_encoders/t5_config_xxl.json", r'("num_layers": )24', 1),
)


def main() -> None:
    # The tests' own harness starts the server.
    sys.path.insert(0, str(REPOSITORY / "tests" / "comfyui"))
    names = sys.argv[1:] or list(RUNS)
    install = find_install()
    version = ".".join(map(str, install.version))
    short = _with_cut_depths(install, version)
    print(
        f"| ComfyUI {version} | size | frames | steps | seconds | file |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for name in names:
        print(f"| {_run(name, short)} |", flush=True)


def _with_cut_depths(install: Install, version: str) -> Install:
    """A copy of a ComfyUI in the cache whose depths are cut.

    Raises:
        LookupError: It has no such constant.
    """
    folder = cache_folder() / f"comfyui-short-{version}-{fingerprint(repr(CUTS))}"
    with incomplete(folder) as missing:
        if missing:
            shutil.copytree(install.path, folder, dirs_exist_ok=True, ignore=_left_out(install.path))
            for name, pattern, depth in CUTS:
                path = folder / name
                text = path.read_text(encoding="utf-8")
                cut, count = re.subn(pattern, rf"\g<1>{depth}", text, count=1, flags=re.DOTALL)
                if not count:
                    raise LookupError(f"{name} of ComfyUI {version} has no depth like {pattern}")
                path.write_text(cut, encoding="utf-8")
    return Install(folder, install.python)


def _left_out(top: Path) -> Callable[[str, list[str]], set[str]]:
    """What of a ComfyUI is not copied: the user's own folders."""
    own = {"models", "output", "input", "temp", "user", "custom_nodes", ".git", ".venv", "venv"}
    return lambda folder, names: {"__pycache__"} | (own if Path(folder) == top else set())


def _run(name: str, install: Install) -> str:
    """Run one definition; gives a row of the table."""
    files = [each for each in BUILDERS if Path(each).stem in FILES[name]]
    models = cache_folder() / f"random-models-{VERSION}"
    writer = Path(__file__).with_name("random_models.py")
    say(f"{name}: writing what is missing of its weights into {models}")
    subprocess.run([install.python, writer, install.path, models, *files], check=True)
    values = RUNS[name]
    bound = WorkflowCatalog.load().get(name).bind(values)
    with tempfile.TemporaryDirectory(prefix="xalora-definitions-") as temporary:
        base = Path(temporary)
        (base / "models").symlink_to(models)
        with importlib.import_module("harness").ComfyUI(install, base) as comfyui:
            say(f"{name}: running on {comfyui.url}")
            began = time.monotonic()
            try:
                run = ComfyUIEngine(comfyui.url).run(bound, {}, base / "result")
            except EngineError:
                say(comfyui.logs()[-4000:])
                raise
            seconds = time.monotonic() - began
        (file, *_) = run.files
        return f"{name} | {_measures(file)} | {values['steps']} | {seconds:.0f} | {file.suffix[1:]}"


def _measures(file: Path) -> str:
    """Size and number of frames of a result, for the table."""
    if file.suffix == ".mp4":
        video = open_video(file)
        return f"{video.width}x{video.height} | {video.frame_count}"
    with Image.open(file) as image:
        return f"{image.width}x{image.height} | {getattr(image, 'n_frames', 1)}"


if __name__ == "__main__":
    main()
