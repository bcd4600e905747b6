"""Import rules between the packages of the client, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import xalora_client
from xalora_client import errors

ROOT = Path(xalora_client.__file__).parent
MODULES = {
    ".".join(("xalora_client", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
HTTP = ("aiohttp", "http", "httpx", "obstore", "requests", "urllib.request", "urllib3", "websocket")


def imports_in(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module named in an import statement, or the package's own name where the name is no module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            start = parents[: len(parents) - node.level + is_package] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in MODULES else source


class _AtImport(ast.NodeTransformer):
    """Drops what does not run when the module is imported: functions, and blocks for type checkers."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return None

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node.orelse
        return self.generic_visit(node)


def imports_of(module: str, *, at_import: bool = False) -> set[str]:
    path = MODULES[module]
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    if at_import:
        tree = _AtImport().visit(tree)
    return set(imports_in(tree, module, is_package=path.name == "__init__.py")) - {module, "xalora_client"}


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("xalora_client", ("nodes",)),
        ("xalora_client.media", (*HTTP, "xalora_client.network", "xalora_client.transfer")),
        ("xalora_client.polling", (*HTTP, "xalora_client.jobs", "xalora_client.journal")),
        ("xalora_client.engines", ("xalora_client.devnet", "xalora_client.cluster")),
        ("xalora_client.serving", ("xalora_client.devnet", "xalora_client.cluster", "xalora_client.client")),
        ("xalora_client.cluster", ("xalora_client.devnet", "xalora_client.client")),
        ("xalora_client.workflows", (*HTTP, "xalora_client.network", "xalora_client.engines")),
    ],
)
def test_a_package_imports_nothing_it_must_not(package: str, forbidden: tuple[str, ...]) -> None:
    broken = {
        f"{module} imports {name}"
        for module in MODULES
        if within(module, (package,))
        for name in imports_of(module)
        if within(name, forbidden)
    }
    assert not broken


def test_polling_has_no_module_elsewhere() -> None:
    assert not [module for module in MODULES if "poll" in module and ".polling" not in module]


def test_imports_form_no_cycle() -> None:
    graph = {module: imports_of(module, at_import=True) & MODULES.keys() for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_every_error_is_imported_from_the_package() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in classes if name.endswith("Error")} <= set(xalora_client.__all__)
