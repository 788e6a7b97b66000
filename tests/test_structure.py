"""The package's modules import each other in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import fedprofit

ROOT = Path(fedprofit.__file__).parent


def imports_of(path, modules):
    """Return the modules that a file imports, wherever in the file: for types and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in modules}


def test_modules_import_each_other_without_cycles():
    modules = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(("fedprofit", *path.relative_to(ROOT).with_suffix("").parts))
        modules[name.removesuffix(".__init__")] = path
    graph = {name: imports_of(path, modules) for name, path in modules.items()}
    del graph["fedprofit"]  # it exports public names, which are imported at first use
    assert sum(map(len, graph.values())) > 300, "imports were found"
    TopologicalSorter({name: used - {"fedprofit", name} for name, used in graph.items()}).prepare()
