"""Upscaling a photograph on this machine: ncnn, torch with the same weights, ComfyUI's node, and LANCZOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests" / "with_torch")]

import numpy as np  # noqa: E402
from _peers import as_comfyui, comfyui, comfyui_environment  # noqa: E402
from _worker import Round, Worker, in_turn, middle, ratio, serve, started  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

SIDE, FACTOR = 64, 4
MEGAPIXELS = (SIDE * FACTOR) ** 2 / 1e6
ROUNDS = 3
MODELS = ("realesrgan-x4plus", "waifu2x-photo", "realesr-animevideov3")
THREADS = 1
"""Several threads wait for each other, which beside other programs says nothing of the engines."""

Prepared = Callable[[], "Round | None"]


def photograph() -> np.ndarray:
    """The middle of one of the demo's photographs, float32 ``[64, 64, 3]`` in 0..1."""
    from xalora_client.cli.demo.photographs import FOLDER

    with Image.open(FOLDER / "chelsea.png") as image:
        start = (image.width - SIDE) // 2
        middle_part = image.crop((start, start, start + SIDE, start + SIDE))
        return np.asarray(middle_part.convert("RGB"), np.float32) / 255


def _saved(path: str, made: np.ndarray) -> None:
    Image.fromarray(np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)).save(path)


def prepare_ncnn(arguments: Sequence[str]) -> Prepared:
    """Arguments: the result's path, the model."""
    from xalora_client.engines.ncnn.engine import upscaled
    from xalora_client.engines.ncnn.upscaler import upscaler

    path, model = arguments
    made_by, image = upscaler(model, THREADS), photograph()  # type: ignore[arg-type]
    return lambda: _saved(path, upscaled(made_by, image, (SIDE * FACTOR, SIDE * FACTOR)))


def prepare_torch(arguments: Sequence[str]) -> Prepared:
    """Arguments: the result's path, the weights."""
    import torch

    from xalora_client.engines.torch import TorchUpscaler

    torch.set_num_threads(THREADS)
    path, weights = arguments
    made_by = TorchUpscaler(Path(weights), device="cpu", overlap=64, half=False)
    image = photograph()
    return lambda: _saved(path, made_by.upscale(image))


def prepare_comfyui(arguments: Sequence[str]) -> Prepared:
    """Arguments: the result's path, the weights, ComfyUI's folder."""
    path, weights, folder = arguments
    image = photograph()
    # ComfyUI's folder has to come before the clone's, which has a `nodes` too.
    sys.path.insert(0, folder)
    as_comfyui()
    import folder_paths
    import torch
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader

    torch.set_num_threads(THREADS)
    folder_paths.add_model_folder_path("upscale_models", str(Path(weights).parent))
    loader: Any = UpscaleModelLoader
    (model,) = _outputs(loader, "load_model", Path(weights).name)
    batch = torch.from_numpy(image)[None]

    def run() -> None:
        (made,) = _outputs(ImageUpscaleWithModel, "upscale", model, batch)
        _saved(path, made[0].numpy())

    return run


def _outputs(node: Any, name: str, *inputs: Any) -> Any:
    """What a node of either of ComfyUI's interfaces returns."""
    if hasattr(node, "execute"):
        return node.execute(*inputs).args
    return getattr(node(), name)(*inputs)


def prepare_lanczos(arguments: Sequence[str]) -> Prepared:
    """Arguments: the result's path."""
    from xalora_client.engines.pixels import lanczos_enlarged

    (path,) = arguments
    image = photograph()
    return lambda: _saved(path, lanczos_enlarged(image, (SIDE * FACTOR, SIDE * FACTOR)) / 255)


WORKERS = {
    "ncnn": prepare_ncnn,
    "torch": prepare_torch,
    "comfyui": prepare_comfyui,
    "lanczos": prepare_lanczos,
}


def main() -> None:
    from _report import Report

    from xalora_client.engines.ncnn.models import lacking, tried

    report = Report(
        "engines",
        "Upscaling a photograph four times on the processor",
        f"A photograph of {SIDE} x {SIDE} pixels to {SIDE * FACTOR} x {SIDE * FACTOR}, one thread each, "
        f"models loaded before; each engine in a process of its own, in turn, medians of {ROUNDS} rounds. "
        "torch and ComfyUI have the same weights of realesrgan-x4plus as ncnn, converted.",
    )
    with TemporaryDirectory(prefix="xalora-bench-") as folder:
        made = Path(folder)
        workers: dict[str, Worker] = {}

        def add(label: str, name: str, *arguments: str, **options: Any) -> None:
            workers[label] = Worker(__file__, name, str(made / f"{label}.png"), *arguments, **options)

        for model in MODELS:
            if reason := lacking(model):
                report.note(f"Left out: {reason}")
            else:
                add(f"ours: ncnn {model}", "ncnn", model)
        peer, env, weights = comfyui(), comfyui_environment(), made / "x4plus.pth"
        _convert(peer.python, tried("realesrgan-x4plus").param.with_suffix(""), weights)
        theirs: dict[str, Any] = {"python": peer.python, "env": env}
        add("ours: torch realesrgan-x4plus", "torch", str(weights), **theirs)
        add("ComfyUI realesrgan-x4plus", "comfyui", str(weights), str(peer.path), **theirs)
        add("LANCZOS", "lanczos")
        with started(workers):
            rounds = in_turn(workers, ROUNDS)
        _tell(report, rounds)
        _strip({label: made / f"{label}.png" for label in workers}, HERE / "results" / "engines-strip.jpg")
    report.note("The pictures, 1:1: ![a detail by each engine](engines-strip.jpg)")
    report.finish()


def _convert(python: Path, stem: Path, weights: Path) -> None:
    import subprocess

    program = HERE.parent / "tests" / "with_torch" / "ncnn_weights.py"
    subprocess.run([python, program, stem, weights], check=True)


def _tell(report: Any, rounds: dict[str, list[Round]]) -> None:
    best = rounds["ours: ncnn realesrgan-x4plus"]
    rows, seconds = [], {}
    for label, taken in rounds.items():
        seconds[label] = middle(taken) / MEGAPIXELS
        peak = max(float(one["peak_mb"]) for one in taken)
        figures = seconds[label], middle(taken, "cpu") / MEGAPIXELS, ratio(taken, best)
        rows.append([label, *(f"{figure:#.3g}" for figure in figures), f"{peak:.0f}"])
    columns = ["engine", "s per output megapixel", "processor s", "time over ncnn x4plus", "peak memory, MB"]
    report.table(columns, rows)
    report.bars("seconds per output megapixel", seconds, "s")
    report.raw(rounds=rounds)


def _strip(pictures: dict[str, Path], path: Path) -> None:
    """A detail of each result in pixels of the result, with its name."""
    detail, caption = 240, 22
    strip = Image.new("RGB", (detail * len(pictures), detail + caption), "white")
    draw = ImageDraw.Draw(strip)
    for number, (label, picture) in enumerate(pictures.items()):
        with Image.open(picture) as image:
            strip.paste(image.crop((8, 8, 8 + detail, 8 + detail)), (number * detail, caption))
        draw.text((number * detail + 4, 5), label.removeprefix("ours: "), "black")
    path.parent.mkdir(exist_ok=True)
    strip.save(path, quality=90)


if __name__ == "__main__" and not serve(WORKERS):
    main()
