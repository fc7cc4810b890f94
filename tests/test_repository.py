"""What the repository promises on its configs, weights, rooms and workflow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import singleout
from singleout.config import load_config
from singleout.train.config import TrainConfig

ROOT = Path(__file__).parent.parent
RUNS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/paper/*_common.yaml")])


@pytest.mark.parametrize("path", RUNS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.steps > 0
    assert path.read_text().startswith("#"), "says its command, hours, machine and score"


def test_packaged_weights_are_small() -> None:
    folder = Path(singleout.__file__).parent / "builtin"
    sizes = {
        part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file())
        for part in ("encoder", "extractor")
    }
    assert 0 < sizes["encoder"] <= 40e6
    assert sizes["extractor"] > 0
    assert sum(sizes.values()) <= 80e6


def test_hosted_ci_runs_the_commands_of_this_machine() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, "is executable"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == singleout.__version__


def rooms() -> list[set[str]]:
    """The rooms of the table in docs/architecture.md, row by row."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text[text.index("| room of") : text.index("`train` uses `evaluate`")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms that a module of the package imports, at any place of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("singleout."):
                yield name.split(".")[1]


@pytest.mark.parametrize("number", range(len(rooms())), ids=lambda n: ", ".join(sorted(rooms()[n])))
def test_a_room_imports_only_the_rooms_above_it(number: int) -> None:
    package = Path(singleout.__file__).parent
    allowed = set().union(*rooms()[:number])
    for room in rooms()[number]:
        modules = [*package.glob(f"{room}.py"), *package.glob(f"{room}/**/*.py")]
        assert modules or room == "builtin"
        for path in modules:
            assert set(imported_rooms(path)) - {room} <= allowed, path


def test_every_room_is_in_the_table() -> None:
    package = Path(singleout.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in package.glob("*/__init__.py")} | {"builtin"}
    assert set().union(*rooms()) == modules | folders


def module_imports(package: Path) -> dict[str, set[str]]:
    """Modules of the package that each module imports, in functions too.

    Imports for type checkers alone do not run, and do not count.
    """
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path
        for path in package.glob("**/*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}

    def imported(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in paths else str(node.module)
        for child in ast.iter_child_nodes(node):
            yield from imported(child)

    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    return {name: {*imported(tree)} & paths.keys() - {name} for name, tree in trees.items()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = module_imports(Path(singleout.__file__).parent)
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
