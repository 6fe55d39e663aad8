"""The package: what it exports, and that imports run one way."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import lazy_loader
import pytest

import lctprune

ROOT = Path(__file__).parent.parent


def test_all_is_what_can_be_imported() -> None:
    stub = ast.parse((ROOT / "lctprune" / "__init__.pyi").read_text())
    listed = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in listed)  # what a stub hands on has to be named twice
    assert lctprune.__all__ == dir(lctprune) == sorted(alias.name for alias in listed)
    for name in lctprune.__all__:
        assert getattr(lctprune, name).__name__ == name


def test_whatever_takes_a_run_takes_its_directory(tmp_path: Path) -> None:
    functions = {name: each for name in lctprune.__all__ if inspect.isfunction(each := getattr(lctprune, name))}
    values = {"network": None, "data": None, "exit": 0, "keep": "70%", "inputs": []}
    found = set()
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters.values()
        runs = {each.name: tmp_path / "none" for each in parameters if re.search(r"\bRun\b", str(each.annotation))}
        if runs:
            found.add(name)
            needed = {each.name: values[each.name] for each in parameters if each.name in values}
            with pytest.raises(lctprune.RunError, match=r"none.*run directory"):
                next(function(**needed, **runs))
    expected = {"densify", "finetune", "load_network", "measure_run", "narrow", "predict", "train_steps"}
    assert found == expected


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        _ = lctprune.nosuch


def test_pytorch_is_imported_when_a_name_needs_it() -> None:
    code = (
        "import sys, lctprune as lct\n"
        "lct.TrainConfig(), lct.DataConfig(), lct.NetworkConfig(), lct.ConfigError\n"
        "print('torch' in sys.modules)\n"
        "lct.attach_critics\n"
        "print('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False\nTrue\n"


def test_python_m_in_a_clone_runs_the_clone(tmp_path: Path) -> None:
    """Also where the package is installed elsewhere: its folders in the clone shadow that copy, all three of them."""
    clone, installed = tmp_path / "clone", tmp_path / "installed"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("lctprune", "cli", "reports"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=ignore)
        inside = installed / "lctprune" / ("" if folder == "lctprune" else folder)
        shutil.copytree(ROOT / folder, inside, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", clone)
    code = (
        "from importlib.util import find_spec\n"
        "print(*(find_spec(name).origin for name in ('lctprune', 'lctprune.cli', 'lctprune.reports')), sep='\\n')"
    )
    # -S: without what an editable install of this very checkout adds
    libraries = [str(Path(module.__file__ or "").parent.parent) for module in (pytest, lazy_loader)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *libraries])}

    def output(folder: Path, *arguments: str) -> str:
        command = [sys.executable, "-S", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = [Path(line).parent for line in output(clone, "-c", code).splitlines()]
    assert found == [clone / "lctprune", clone / "cli", clone / "reports"]
    found = [Path(line).parent for line in output(tmp_path, "-c", code).splitlines()]
    assert found == [installed / "lctprune", installed / "lctprune" / "cli", installed / "lctprune" / "reports"]
    for folder in (clone, tmp_path):
        assert output(folder, "-m", "lctprune", "--version") == f"lctprune {lctprune.__version__}\n"


def test_the_version_is_that_of_the_distribution() -> None:
    assert lctprune.__version__ == version("lctprune")


def test_every_error_is_an_lctprune_error() -> None:
    errors = [getattr(lctprune, name) for name in lctprune.__all__ if name.endswith("Error")]
    assert len(errors) > 5
    assert all(issubclass(error, lctprune.LctpruneError) for error in errors)


def test_the_library_needs_neither_the_command_line_nor_pandas() -> None:
    code = (
        "import sys, lctprune\n"
        "[getattr(lctprune, name) for name in lctprune.__all__]\n"
        "slow = ('typer', 'rich', 'pandas', 'matplotlib', 'sklearn', 'torchvision')\n"
        "print([name for name in slow if name in sys.modules])"
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
        # torch.distributed's collectives for objects unpickle what comes over a socket
        collectives = [name for name in map(ast.unparse, (call.func for call in calls)) if name.startswith("dist.")]
        assert not [name for name in collectives if name.endswith(("_object", "_object_list"))], file.name


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names
