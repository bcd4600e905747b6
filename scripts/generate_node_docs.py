"""Generates the nodes' English texts and the reference part of their help pages from the nodes' schemas.

    python scripts/generate_node_docs.py   start ComfyUI, read the schemas, write the files that differ

`locales/en/nodeDefs.json` and the pages of workflow nodes in `web/docs` are generated whole. Any other node's
page keeps its title and introduction; everything from the heading "Inputs" on is generated. A node without a
page gets one. `tests/comfyui/test_nodes_schema.py` fails where a file differs from the schemas.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache import REPOSITORY

NODE_DEFS = Path("locales", "en", "nodeDefs.json")
HELP_PAGES = Path("web", "docs")
PACK = "ComfyUI-Xalora"
WORKFLOW_NODE = "XaloraWorkflow_"

REFERENCE_HEADING = "\n## Inputs\n"

WORKFLOW_INTRODUCTION = """
Its inputs come from the workflow definition `{name}`, and the network runs the workflow of that name. When
the network can't, or `fallback` is `local_only`, the node expands into the definition's own graph on this
machine.
"""

FALLBACK_SECTION = """
## When this machine takes over

`fallback` decides:

- **from settings**: as in Settings > Xalora.
- **never**: not at all; the node fails with the network's reason.
- **when_unavailable**: without a connection or a miner, after service errors, or after a long wait.
- **on_any_failure**: also when a task failed, was canceled, or took too long.
- **local_only**: always; nothing is sent.

A missing or rejected key is always an error, and a lost answer is left to you: open the task in the Xalora
tab. A task that is still open is canceled first; if its result arrives all the same, the node uses it. When
the graph is queued again, the network is asked again.
"""


def generated_files(object_info: Mapping[str, Any]) -> dict[Path, str]:
    """The text of each generated file, by its path in the repository.

    Args:
        object_info: ComfyUI's answer to ``GET /object_info``.
    """
    nodes = {name: info for name, info in sorted(object_info.items()) if PACK in info["python_module"]}
    if not nodes:
        raise SystemExit("ComfyUI has no node of this pack: it failed to load, see ComfyUI's log")
    texts = {name: _texts(info) for name, info in nodes.items()}
    files = {NODE_DEFS: json.dumps(texts, indent=2, ensure_ascii=False) + "\n"}
    for name, info in nodes.items():
        page = HELP_PAGES / f"{name}.md"
        files[page] = _introduction(name, REPOSITORY / page, info) + _reference(info)
    return files


def _inputs(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of each input, by name."""
    sections = (info["input"].get("required", {}), info["input"].get("optional", {}))
    return {name: spec[1] for section in sections for name, spec in section.items()}


def _outputs(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and tooltip of each output."""
    return zip(info["output_name"], info["output_tooltips"], strict=True)


def _texts(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, options in _inputs(info).items()
        },
        "outputs": {
            str(index): {"name": name, "tooltip": tooltip}
            for index, (name, tooltip) in enumerate(_outputs(info))
        },
    }


def _introduction(name: str, page: Path, info: Mapping[str, Any]) -> str:
    if page.is_file() and not name.startswith(WORKFLOW_NODE):
        return page.read_text(encoding="utf-8").partition(REFERENCE_HEADING)[0]
    text = f"# {info['display_name']}\n\n{info['description']}\n"
    if name.startswith(WORKFLOW_NODE):
        text += WORKFLOW_INTRODUCTION.format(name=name.removeprefix(WORKFLOW_NODE))
    return text


def _reference(info: Mapping[str, Any]) -> str:
    inputs = _inputs(info)
    simple = {name: options for name, options in inputs.items() if not options.get("advanced")}
    advanced = {name: options for name, options in inputs.items() if options.get("advanced")}
    # Lists, not tables: ComfyUI shows the page in a panel too narrow for columns.
    text = REFERENCE_HEADING + _list(simple)
    if advanced:
        text += "\n## Advanced inputs\n" + _list(advanced)
    text += "\n## Outputs\n\n" + "".join(f"- **{name}**: {tooltip}\n" for name, tooltip in _outputs(info))
    return text + (FALLBACK_SECTION if "fallback" in inputs else "")


def _list(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"- **{name}**{_default(options)}: {_sentence(options)}\n" for name, options in inputs.items()]
    return "\n" + "".join(lines)


def _default(options: Mapping[str, Any]) -> str:
    default = options.get("default", "")
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f" (default `{shown}`)" if shown else ""


def _sentence(options: Mapping[str, Any]) -> str:
    return f"{options['tooltip'].removesuffix('.')}."


def main() -> None:
    # The tests' own harness: it finds ComfyUI and starts it with the pack in folders of its own.
    sys.path.insert(0, str(REPOSITORY / "tests" / "comfyui"))
    harness = importlib.import_module("harness")
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.ComfyUI(harness.find_install(), Path(folder)) as comfyui,
    ):
        files = generated_files(comfyui.object_info())
    for path, text in files.items():
        target = REPOSITORY / path
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
