"""Makes the clone's `.venv`: the package, editable, its extras and the development tools, at locked versions.

Needs the standard library only. `make` runs it where the stamp is older than what defines the environment.
"""

from __future__ import annotations

from cache import REPOSITORY, locked, make_venv, say

FOLDER = REPOSITORY / ".venv"
STAMP = FOLDER / ".installed"
TOOLS = REPOSITORY / "requirements-dev.txt"
VERSIONS = REPOSITORY / "requirements-lock.txt"
EXTRAS = "cli,s3,fast,heif,tiff,demo,waifu2x,cluster"


def main() -> None:
    newest = max(path.stat().st_mtime for path in (REPOSITORY / "pyproject.toml", TOOLS, VERSIONS))
    with locked(REPOSITORY / ".artifacts" / ".venv"):
        # Another run may have made it meanwhile.
        if not STAMP.is_file() or STAMP.stat().st_mtime <= newest:
            say(f"Installing the package and the development tools into {FOLDER}; about two minutes")
            make_venv(FOLDER, "-e", f"{REPOSITORY}[{EXTRAS}]", "-r", str(TOOLS), "-c", str(VERSIONS))
            STAMP.touch()


if __name__ == "__main__":
    main()
