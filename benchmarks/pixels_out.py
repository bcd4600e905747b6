"""Float pixels to PNG: ours, against what ComfyUI does when it saves an image, and Pillow's defaults.

2048x2048 RGB float32 in memory to an encoded PNG. ComfyUI runs its own `SaveImage` node on its own Python
and writes to a memory file system; the others give bytes. Every contestant is a warm process of its own;
rounds in turn, medians; ratios are medians over pairs of a round. Peak is what the process takes beyond its
input.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _peers import as_comfyui, comfyui, comfyui_environment
from _report import Report
from _worker import Round, Worker, in_turn, middle, ratio, serve, started

ROUNDS = 9
KINDS = ("pieces", "enlarged", "with noise")
RAM = Path("/dev/shm")


# --- contestants, each in a process of its own ---


def prepare_ours(arguments: Sequence[str]) -> Callable[[], Round]:
    source, kind = arguments[:2]
    if "without isal" in arguments:
        sys.modules["isal"] = None  # type: ignore[assignment]
    import io

    import numpy as np
    from PIL import Image

    from xalora_client.media import png_encode

    assert (png_encode.isal_zlib is None) == ("without isal" in arguments)
    pixels = np.load(source)[kind]
    png_encode.encode_png(pixels[:256])

    def run() -> Round:
        return {"bytes": len(png_encode.encode_png(pixels))}

    decoded = np.asarray(Image.open(io.BytesIO(png_encode.encode_png(pixels))))
    wrong = _wrong(decoded, pixels)
    return lambda: {**run(), **wrong}


def prepare_comfyui(arguments: Sequence[str]) -> Callable[[], Round]:
    source, kind, folder = arguments
    as_comfyui()
    import folder_paths
    import numpy as np
    import torch
    from PIL import Image

    from nodes import SaveImage

    folder_paths.set_output_directory(folder)
    pixels = np.load(source)[kind]
    images = torch.from_numpy(pixels)[None]
    SaveImage().save_images(images[:, :256])
    wrong: Round = {}

    def run() -> Round:
        saved = SaveImage().save_images(images)["ui"]["images"][0]
        path = Path(folder, saved["subfolder"], saved["filename"])
        size = path.stat().st_size
        if not wrong:
            wrong.update(_wrong(np.asarray(Image.open(path)), pixels))
        path.unlink()
        return {"bytes": size, **wrong}

    run()
    return run


def prepare_pillow(arguments: Sequence[str]) -> Callable[[], Round]:
    source, kind = arguments
    import io

    import numpy as np
    from PIL import Image

    pixels = np.load(source)[kind]

    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    wrong = _wrong(np.asarray(Image.open(io.BytesIO(encode()))), pixels)
    return lambda: {"bytes": len(encode()), **wrong}


def _wrong(decoded: Any, pixels: Any) -> Round:
    """How far the file is from the pixels: the largest distance in steps of 1/255, and the share off by more
    than rounding must be."""
    distance = abs(decoded.astype("float64") - pixels * 255.0)
    return {"error": float(distance.max()), "off": float((distance > 0.5001).mean())}


WORKERS = {"ours": prepare_ours, "comfyui": prepare_comfyui, "pillow": prepare_pillow}


# --- the comparison ---


def main() -> None:
    from _media import photographs

    script = str(Path(__file__).resolve())
    report = Report(
        "pixels_out", "Float pixels to PNG, 2048x2048", " ".join((__doc__ or "").split("\n\n")[1].split())
    )
    taken: dict[str, dict[str, list[Round]]] = {}
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        import numpy as np

        source = str(Path(folder, "pixels.npz"))
        np.savez(source, **photographs())
        install = comfyui()
        for kind in KINDS:
            workers = {
                "ours, with isal": Worker(script, "ours", source, kind),
                "ours, zlib alone": Worker(script, "ours", source, kind, "without isal"),
                "ComfyUI SaveImage": Worker(
                    script, "comfyui", source, kind, folder, python=install.python, env=comfyui_environment()
                ),
                "Pillow, defaults": Worker(script, "pillow", source, kind),
            }
            with started(workers) as ready:
                taken[kind] = in_turn(ready, ROUNDS)

    rows = []
    for kind, by_name in taken.items():
        peer = by_name["ComfyUI SaveImage"]
        for name, rounds in by_name.items():
            rows.append(
                [
                    f"{kind}: {name}",
                    f"{1000 * middle(rounds):.0f}",
                    f"{ratio(peer, rounds):.1f}x",
                    f"{middle(rounds, 'bytes') / 1e6:.2f}",
                    f"{middle(rounds, 'bytes') / middle(peer, 'bytes'):.3f}",
                    f"{max(one['peak_mb'] for one in rounds):.0f}",
                    f"{rounds[0]['error']:.2f}",
                    f"{100 * rounds[0]['off']:.0f} %",
                ]
            )
    columns = ["photograph: by", "ms", "speed against ComfyUI", "MB", "size against ComfyUI"]
    report.table([*columns, "peak over input, MB", "largest error, 1/255", "pixels off"], rows)

    for kind, by_name in taken.items():
        fast, slow, peer = (
            by_name[name] for name in ("ours, with isal", "ours, zlib alone", "ComfyUI SaveImage")
        )
        size = middle(fast, "bytes") / middle(peer, "bytes")
        report.target(f"{kind}: speed with isal", ratio(peer, fast), 15, at_least=True, unit="x")
        report.target(f"{kind}: size with isal", size, 1.15, unit="x")
        report.target(f"{kind}: speed with zlib alone", ratio(peer, slow), 8, at_least=True, unit="x")
    peak = max(one["peak_mb"] for by_name in taken.values() for one in by_name["ours, with isal"])
    report.target("peak over the input, with isal", peak, 30, unit=" MB")
    for kind, by_name in taken.items():
        report.bars(kind, {name: 1000 * middle(rounds) for name, rounds in by_name.items()}, "ms")
    report.raw(rounds=taken)
    report.finish()


if __name__ == "__main__" and not serve(WORKERS):
    main()
