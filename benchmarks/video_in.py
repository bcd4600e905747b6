"""A downloaded video, and images, to the array a graph works on, against what ComfyUI core does.

121 frames of 1280x720 H.264 to float32 `[121, 720, 1280, 3]` (1338 MB). ComfyUI runs its own
`VideoFromFile.get_components`, and for images its own `LoadImage`, on its own Python. Every contestant is a
warm process of its own; rounds in turn, medians; ratios are medians over pairs of a round. Peak is what the
process takes beyond what it had before, over the size of the array it returns. Memory is touched before,
since a virtual machine's is slow at first use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from _peers import as_comfyui, comfyui, comfyui_environment
from _report import Report
from _worker import Round, Worker, in_turn, middle, ratio, serve, started, touch_memory

VIDEO_ROUNDS = 9
IMAGE_ROUNDS = 9
FRAMES, HEIGHT, WIDTH = 121, 720, 1280
RANGE = (60, 76)


# --- contestants, each in a process of its own ---


def prepare_our_video(arguments: Sequence[str]) -> Callable[[], Round]:
    path, *span = arguments
    start, stop = (int(span[0]), int(span[1])) if span else (0, None)
    from xalora_client.media.video import open_video

    open_video(path).frames(0, 4)

    def run() -> Round:
        frames = open_video(path).frames(start, stop)
        return {"frames": len(frames), "array_mb": frames.nbytes / 1e6}

    return run


def prepare_comfyui_video(arguments: Sequence[str]) -> Callable[[], Round]:
    path, short = arguments
    as_comfyui()
    from comfy_api.latest import InputImpl

    InputImpl.VideoFromFile(short).get_components()

    def run() -> Round:
        images = InputImpl.VideoFromFile(path).get_components().images
        assert images.dtype.itemsize == 4
        return {"frames": images.shape[0], "array_mb": images.numel() * 4 / 1e6}

    return run


def prepare_our_image(arguments: Sequence[str]) -> Callable[[], Round]:
    from xalora_client.media.images import decode_images

    path = Path(arguments[0])
    decode_images([path])
    return lambda: {"array_mb": decode_images([path]).nbytes / 1e6}


def prepare_comfyui_image(arguments: Sequence[str]) -> Callable[[], Round]:
    path = Path(arguments[0])
    as_comfyui()
    import folder_paths

    from nodes import LoadImage

    folder_paths.set_input_directory(str(path.parent))
    LoadImage().load_image(path.name)

    def run() -> Round:
        image, _ = LoadImage().load_image(path.name)
        return {"array_mb": image.numel() * 4 / 1e6}

    return run


WORKERS = {
    "our video": prepare_our_video,
    "comfyui video": prepare_comfyui_video,
    "our image": prepare_our_image,
    "comfyui image": prepare_comfyui_image,
}


# --- the comparison ---


def main() -> None:
    from _media import write_clip, write_images

    script = str(Path(__file__).resolve())
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("video_in", "Results to arrays: H.264 and images", method)
    taken: dict[str, dict[str, list[Round]]] = {}
    install, env = comfyui(), comfyui_environment()
    with tempfile.TemporaryDirectory() as folder:
        clip = str(write_clip(Path(folder, "clip.mp4"), FRAMES, WIDTH, HEIGHT))
        short = str(write_clip(Path(folder, "short.mp4"), 4, WIDTH, HEIGHT))
        video = {
            "ours": Worker(script, "our video", clip),
            "ComfyUI core": Worker(script, "comfyui video", clip, short, python=install.python, env=env),
        }
        with started(video) as ready:
            touch_memory()
            taken["video, 121 frames"] = in_turn(ready, VIDEO_ROUNDS)
        part = {"ours": Worker(script, "our video", clip, *map(str, RANGE))}
        with started(part) as ready:
            name = f"video, frames {RANGE[0]}-{RANGE[1] - 1} of it"
            taken[name] = in_turn(ready, VIDEO_ROUNDS)
        for kind, path in write_images(Path(folder)).items():
            images = {
                "ours": Worker(script, "our image", str(path)),
                "ComfyUI core": Worker(script, "comfyui image", str(path), python=install.python, env=env),
            }
            with started(images) as ready:
                taken[f"{kind}, 2048x2048"] = in_turn(ready, IMAGE_ROUNDS)

    rows = []
    for what, by_name in taken.items():
        for name, rounds in by_name.items():
            peer = by_name.get("ComfyUI core")
            array = middle(rounds, "array_mb")
            peak = max(float(one["peak_mb"]) for one in rounds)
            rows.append(
                [
                    f"{what}: {name}",
                    f"{middle(rounds):.3f}",
                    f"{ratio(peer, rounds):.2f}x" if peer else "",
                    f"{peak:.0f}",
                    f"{peak / array:.3f}x",
                ]
            )
    report.table(["what: by", "s", "speed against ComfyUI", "peak, MB", "peak / array"], rows)

    whole = taken["video, 121 frames"]
    assert all(one["frames"] == FRAMES for rounds in whole.values() for one in rounds)
    peak = max(one["peak_mb"] / one["array_mb"] for one in whole["ours"])
    speed = ratio(whole["ComfyUI core"], whole["ours"])
    report.target("video: speed", speed, 2, at_least=True, unit="x")
    report.target("video: peak over the array's size", peak, 1.05, unit="x")
    report.bars("121 frames, 720p", {name: middle(rounds) for name, rounds in whole.items()}, "s")
    peaks = {name: max(one["peak_mb"] for one in rounds) for name, rounds in whole.items()}
    report.bars("peak memory", peaks, "MB", limit=whole["ours"][0]["array_mb"])
    images = {
        f"{name}, {what.split(',')[0]}": 1000 * middle(rounds)
        for what, by_name in taken.items()
        if "2048" in what
        for name, rounds in by_name.items()
    }
    report.bars("images, 2048x2048", images, "ms")
    report.raw(rounds=taken)
    report.finish()


if __name__ == "__main__" and not serve(WORKERS):
    main()
