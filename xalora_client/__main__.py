"""``python -m xalora_client``: runs the command ``xalora``."""

from __future__ import annotations

from .cli import main

main()
