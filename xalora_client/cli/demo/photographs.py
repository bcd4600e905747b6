"""The demo's photographs: those in scikit-image's wheel that are clearly free."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError


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


# Licences as scikit-image documents them at each function of skimage.data; pictures without a clear one are
# left out.
_SHIPPED = (
    ("astronaut.png", "Eileen Collins", "NASA, public domain", (0.43, 0.23)),
    ("chelsea.png", "Chelsea", "Stefan van der Walt, CC0", (0.38, 0.40)),
    ("coffee.png", "Coffee", "Rachel Michetti, CC0", (0.60, 0.68)),
    ("rocket.jpg", "DSCOVR on Falcon 9", "SpaceX, public domain", (0.55, 0.88)),
    ("hubble_deep_field.jpg", "Hubble eXtreme Deep Field", "NASA, public domain", (0.75, 0.57)),
)


def shipped_photographs() -> list[Photograph]:
    """The photographs in the installed scikit-image, which is not imported for it.

    Raises:
        ConfigurationError: It is not installed, or no longer has them.
    """
    spec = importlib.util.find_spec("skimage")
    folders = [Path(place) / "data" for place in (spec.submodule_search_locations or ())] if spec else []
    found = [
        Photograph(folder / name, title, credit, detail)
        for folder in folders
        for name, title, credit, detail in _SHIPPED
        if (folder / name).is_file()
    ]
    if not found:
        raise ConfigurationError(
            "The demo's photographs come with scikit-image, which is not installed here",
            next_step="Give pictures of your own (xalora demo photo.jpg), or: pip install scikit-image",
        )
    return found
