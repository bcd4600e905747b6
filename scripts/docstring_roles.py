"""A griffe extension: the roles and literal blocks of docstrings as Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod|exc):`~?\.*([\w.]+)`")
_LITERAL = re.compile(r"^::\n|::$", re.MULTILINE)


def as_markdown(text: str) -> str:
    """``:meth:`run` `` as code, and ``::`` before a block as a colon."""
    return _LITERAL.sub(lambda mark: "" if mark[0].endswith("\n") else ":", _ROLE.sub(r"`\1`", text))


class Roles(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
