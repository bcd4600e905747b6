"""The demo's photographs: small crops of free pictures, in the folder ``pictures`` with their licences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("pictures")


@dataclass(frozen=True)
class Photograph:
    """A picture to upscale.

    Attributes:
        path: The file.
        title: What it shows.
        credit: Who made it, and what allows its use; empty for the user's own.
        detail: The middle of the close-up, as shares of width and height.
    """

    path: Path
    title: str
    credit: str = ""
    detail: tuple[float, float] = (0.5, 0.5)


SHIPPED = (
    Photograph(FOLDER / "astronaut.png", "Eileen Collins", "NASA, public domain", (0.50, 0.42)),
    Photograph(FOLDER / "chelsea.png", "Chelsea", "Stefan van der Walt, CC0", (0.34, 0.40)),
    Photograph(FOLDER / "coffee.png", "Coffee", "Rachel Michetti, CC0", (0.66, 0.66)),
    Photograph(FOLDER / "rocket.png", "DSCOVR on Falcon 9", "SpaceX, public domain", (0.45, 0.40)),
    Photograph(FOLDER / "hubble.png", "Hubble eXtreme Deep Field", "NASA, public domain", (0.45, 0.45)),
)
