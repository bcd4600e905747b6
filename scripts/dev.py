"""What the Makefile runs: `python3 scripts/dev.py COMMAND`. Needs the standard library only.

This file keeps to syntax that old Pythons read, so that they can say what is wrong.
"""

import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 13)


def _other_python() -> "str | None":
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        # Found is not enough: version managers leave names about that start nothing.
        if (
            found
            and subprocess.call([found, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
        ):
            return found
    return None


def main() -> "int | str":
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        other = _other_python()
        if other is None:
            return "Python 3.10 to 3.13 is needed; {} is {}.{}. Name another: make PYTHON=...".format(
                sys.executable, *sys.version_info[:2]
            )
        os.execv(other, [other, *sys.argv])

    from commands import CommandError
    from tasks import run_task

    try:
        return run_task(sys.argv[1:])
    except CommandError as error:
        return str(error)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
