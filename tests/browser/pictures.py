"""Makes the pictures of the documents and of the examples, from what the browser tests saw and photographs.

make test                            (or only tests/browser) writes .artifacts/screenshots
.venv/bin/python tests/browser/pictures.py
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comfyui"))

from harness import seed
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = REPOSITORY / ".artifacts" / "screenshots" / "0.3.75" / "current"
DOCS = REPOSITORY / "docs" / "images"
EXAMPLES = REPOSITORY / "example_workflows"
QUALITY = 88

FOR_THE_DOCUMENTS = {"sidebar-dark": "sidebar", "settings-dark": "settings"}
EXAMPLE_SIZE = (960, 640)
MARGIN = 24
UPSCALING = ("Upscale", "Submit")
SCALE = 6
GROUND = (23, 23, 24)


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, "JPEG", quality=QUALITY, optimize=True, progressive=True)


def framed(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture in the middle of one of this size."""
    picture.thumbnail((size[0] - 2 * MARGIN, size[1] - 2 * MARGIN), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", size, GROUND)
    frame.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return frame


def before_after(photograph: bytes) -> Image.Image:
    """The left half of a photograph as it is, its right half enlarged by LANCZOS."""
    with Image.open(BytesIO(photograph)) as small:
        before = small.convert("RGB").resize(EXAMPLE_SIZE, Image.Resampling.NEAREST)
        after = small.convert("RGB").resize(EXAMPLE_SIZE, Image.Resampling.LANCZOS)
    middle = EXAMPLE_SIZE[0] // 2
    before.paste(after.crop((middle, 0, *EXAMPLE_SIZE)), (middle, 0))
    before.paste((255, 255, 255), (middle - 2, 0, middle + 2, EXAMPLE_SIZE[1]))
    return before


def main() -> int | str:
    if not SHOTS.is_dir():
        return f"There are no screenshots in {SHOTS}: run the browser tests first."
    for shot, name in FOR_THE_DOCUMENTS.items():
        with Image.open(SHOTS / f"{shot}.png") as picture:
            save(picture, DOCS / f"{name}.jpg")
    for number, workflow in enumerate(sorted(EXAMPLES.glob("*.json"))):
        if workflow.stem.startswith(UPSCALING):
            small = seed.picture(number, EXAMPLE_SIZE[0] // SCALE, EXAMPLE_SIZE[1] // SCALE)
            save(before_after(small), workflow.with_suffix(".jpg"))
            continue
        with Image.open(SHOTS / f"example-{workflow.stem}-vue.png") as picture:
            save(framed(picture.convert("RGB"), EXAMPLE_SIZE), workflow.with_suffix(".jpg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
