"""Makes the pictures of the documents and of the examples, from screenshots and photographs.

make test                            (or only tests/browser) writes .artifacts/screenshots
.venv/bin/python tests/browser/pictures.py

Where there are no screenshots, the examples' pictures alone are made.
"""

from __future__ import annotations

import json
import sys
import textwrap
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comfyui"))

from harness import seed
from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = REPOSITORY / ".artifacts" / "screenshots" / "0.3.75" / "current"
DOCS = REPOSITORY / "docs" / "images"
EXAMPLES = REPOSITORY / "example_workflows"
QUALITY = 88

FOR_THE_DOCUMENTS = {"sidebar-dark": "sidebar", "settings-dark": "settings"}
EXAMPLE_SIZE = (960, 640)
MARGIN = 72
SCALE = 6
GROUND, INK, ACCENT = (23, 23, 24), (240, 240, 240), (11, 140, 233)
LETTER = 64
LETTERS_IN_A_LINE = 25

# The number of the photograph. An example without one shows its prompt: nothing here can make that.
PHOTOGRAPHS = {
    "Submit and collect later": 2,
    "Upscale a batch": 3,
    "Upscale a video": 1,
    "Upscale an image": 4,
    "Upscale between local steps": 5,
}


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, "JPEG", quality=QUALITY, optimize=True, progressive=True)


def prompt_of(workflow: Path) -> str:
    """The text of the example's node."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    (node,) = (node for node in nodes if node["type"].startswith("XaloraTextTo"))
    return str(node["widgets_values"][0])


def card(prompt: str) -> Image.Image:
    """A prompt, in letters that can be read in a list."""
    picture = Image.new("RGB", EXAMPLE_SIZE, GROUND)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 14, EXAMPLE_SIZE[1]), fill=ACCENT)
    text = textwrap.fill(prompt, LETTERS_IN_A_LINE, max_lines=6, placeholder=" …")
    draw.multiline_text((MARGIN, MARGIN), text, INK, ImageFont.load_default(LETTER), spacing=24)
    return picture


def before_after(photograph: bytes) -> Image.Image:
    """The left half of a photograph as it is, its right half enlarged by LANCZOS."""
    with Image.open(BytesIO(photograph)) as small:
        before = small.convert("RGB").resize(EXAMPLE_SIZE, Image.Resampling.NEAREST)
        after = small.convert("RGB").resize(EXAMPLE_SIZE, Image.Resampling.LANCZOS)
    middle = EXAMPLE_SIZE[0] // 2
    before.paste(after.crop((middle, 0, *EXAMPLE_SIZE)), (middle, 0))
    before.paste((255, 255, 255), (middle - 2, 0, middle + 2, EXAMPLE_SIZE[1]))
    return before


def main() -> None:
    for shot, name in FOR_THE_DOCUMENTS.items():
        if (SHOTS / f"{shot}.png").is_file():
            with Image.open(SHOTS / f"{shot}.png") as picture:
                save(picture, DOCS / f"{name}.jpg")
    for workflow in sorted(EXAMPLES.glob("*.json")):
        number = PHOTOGRAPHS.get(workflow.stem)
        if number is None:
            save(card(prompt_of(workflow)), workflow.with_suffix(".jpg"))
        else:
            small = seed.picture(number, EXAMPLE_SIZE[0] // SCALE, EXAMPLE_SIZE[1] // SCALE)
            save(before_after(small), workflow.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
