"""A Chrome or Chromium for the browser tests: prints its path, or says why there is none.

Debian's package where it may be installed, else whatever is there. No browser downloads another here.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from commands import run, say

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)


def find_browser() -> Path | None:
    """`$CHROMIUM_PATH`, else the first installed one."""
    if own := os.environ.get("CHROMIUM_PATH"):
        return Path(own)
    for command in COMMANDS:
        if found := shutil.which(command):
            return Path(found)
    return next((path for path in APPLICATIONS if path.exists()), None)


def ensure_browser() -> Path | None:
    """Find one, or install Debian's where this user may; None when neither works."""
    found = find_browser()
    may_install = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")
    if found is None and may_install:
        say("Installing Debian's chromium for the browser tests")
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        # The lists may be missing or old; an update that fails may still leave usable ones.
        run(["apt-get", "update"], check=False, quiet=True, env=environment)
        run(install, check=False, quiet=True, env=environment)
        found = find_browser()
    return found


if __name__ == "__main__":
    browser = ensure_browser()
    if browser is None:
        sys.exit("No Chrome or Chromium is installed, and none could be; CHROMIUM_PATH may name one.")
    print(browser)
