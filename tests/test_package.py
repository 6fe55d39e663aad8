"""The package: what it exports, and that imports run one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lctprune

ROOT = Path(__file__).parent.parent


def test_all_is_what_can_be_imported() -> None:
    public = {name for name, value in vars(lctprune).items() if name[0] != "_" and not isinstance(value, type(ast))}
    assert set(lctprune.__all__) == public
    assert lctprune.__all__ == sorted(lctprune.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert lctprune.__version__ == version("lctprune")


def test_every_error_is_an_lctprune_error() -> None:
    errors = [getattr(lctprune, name) for name in lctprune.__all__ if name.endswith("Error")]
    assert len(errors) > 5
    assert all(issubclass(error, lctprune.LctpruneError) for error in errors)


def test_the_library_needs_neither_the_command_line_nor_pandas() -> None:
    code = (
        "import sys, lctprune\n"
        "print([name for name in ('typer', 'rich', 'pandas', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("lctprune", {"typer", "rich", "pandas", "matplotlib", "lctprune.cli", "lctprune.reports"}),
        ("reports", {"typer", "rich", "lctprune.cli"}),
    ],
)
def test_imports_run_one_way(folder: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        if file.name == "__main__.py":  # python -m lctprune is the command line
            continue
        for name in imported(file):
            assert not any(name == other or name.startswith(f"{other}.") for other in forbidden), (file.name, name)


@pytest.mark.parametrize("folder", ["lctprune", "reports"])
def test_the_library_never_prints(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), file.name


def test_no_pickle_is_loaded() -> None:
    for file in [*ROOT.glob("lctprune/**/*.py"), *ROOT.glob("reports/*.py"), *ROOT.glob("cli/*.py")]:
        assert not {"pickle", "joblib", "dill"} & imported(file), file.name
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        for call in (call for call in calls if ast.unparse(call.func) == "torch.load"):
            assert "weights_only=True" in ast.unparse(call), file.name


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names
