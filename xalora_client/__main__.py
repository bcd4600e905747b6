"""``python -m xalora_client``: the same as the command ``xalora``."""

from __future__ import annotations

from .cli import main

main()
