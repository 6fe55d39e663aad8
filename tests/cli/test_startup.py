"""Help, version and wrong usage come at once: PyTorch is not imported for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "sklearn", "numpy")
COMMANDS = ("train", "resume", "select", "evaluate", "report", "export", "densify", "finetune", "inspect", "models")
CODE = f"""
import atexit, sys
atexit.register(lambda: print("imported", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr))
from lctprune.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("--version",), 0),
        *(((command, "--help"), 0) for command in COMMANDS),
        (("trian", "resnet"), 2),
        (("train", "resnet", "--epoch", "2"), 2),
        (("train", "resnet", "width=8"), 2),
        (("train", "resnet19"), 2),
        (("train", "timm/resnet19"), 2),
        (("compress", "resnet19", "--weights", "default"), 2),
        (("inspect", "resnet19"), 2),
        (("train", "resnet", "--method", "backprob"), 2),
        (("train", "resnet", "--groups", "2", "--split-at", "layer1"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_no_heavy_package_is_imported(arguments: tuple[str, ...], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("imported []\n")
