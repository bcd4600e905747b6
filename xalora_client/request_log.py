"""The log that the setting ``log`` asks for (``XALORA_LOG=debug``): each request, on standard error."""

from __future__ import annotations

import logging

LOGGER = "xalora_client"

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def write_log(level: str) -> None:
    """Write the package's log to standard error from this level on.

    Where the program has given the log handlers of its own, these get it and nothing is added.
    """
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
