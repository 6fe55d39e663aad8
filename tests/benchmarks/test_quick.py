"""Every benchmark script runs in its --quick form, and prints the rows that it promises."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lctprune as lct

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
HAS_PRUNING = importlib.util.find_spec("torch_pruning") is not None  # of the extra `bench`
HAS_TIMM = importlib.util.find_spec("timm") is not None
PEERS = ["lctprune", "fine-tuned", "joint", "pruned", "truncated", "narrower"]
COMPRESSED = ["compress", "torch-pruning", "scratch", "plain head", "compress, exits", "compress, narrowed"]

EQUAL = 6 if lct.TrainConfig().resolved().precision == "fp32" else 12  # settings: in this machine's precision and fp32

# of each script: further options, and how lines of what it prints begin
QUICK: dict[str, tuple[list[str], list[str]]] = {
    "ablation": (
        ["--out", "ablation.csv"],
        ["variant", "backprop ", "distill 0:0.5 ", "alone 0 ", "2 groups ", "blocks 2 ", "points more than"],
    ),
    "compress": (
        ["--device", "cpu", "--out", "compress.json", *([] if HAS_PRUNING else ["--ways", "published"])],
        [
            *("data: ", "| 100% | published | as given"),
            *(f"| 50% | {way} |" for way in COMPRESSED if HAS_PRUNING),
        ],
    ),
    "finetuning": (
        ["--optimizers", "adamw"],
        ["before: ", "| `adamw` | 3e-05 |", "| `adamw` | 0.0001 |", "| `adamw` | 0.0003 |"],
    ),
    "gpu": (
        ["--device", "cpu", "--out", "gpu.json", "--processes", "2"],
        [
            *('pytest -m gpu: {"passed": 1', 'ResNet-18 at 16x16, batch 8, eager: {"n": 2', 'loader: {"images_per_s"'),
            *(f'{method}: {{"steps": 2' for method in ("local-critic", "joint", "backprop")),
            *(f'{method}, seed 0: {{"epochs": 1' for method in ("local-critic", "joint", "backprop")),
            *('ResNet-18 at 16x16: {"n": 3', 'objectives: {"code": 0'),
        ],
    ),
    "int8_openvino": (
        [],
        [f"mlp, {form}: accuracy " for form in ("full precision", "by ONNX Runtime", "by NNCF")],
    ),
    "loading": (
        ["--no-loaders"] if not HAS_TIMM else [],
        [
            *("8 JPEG files, the first of 500x375", "one thread, decoding", "torchvision ", "Pillow, draft "),
            *(("loaders, 1 workers", "timm ", "lctprune ", "no loader ") if HAS_TIMM else ()),
            *("packed, 1 workers", "tar ", "parquet "),
        ],
    ),
    "paper": (
        ["--out", "runs"],
        [
            *("BP ", "LC (1)", "LC (3)", "LC (5)", *(f"LC (3), period {period}" for period in (2, 3, 4, 5))),
            *(f"{method} sub {number}" for method in ("BP", "LC") for number in (1, 2, 3)),
            *("ensemble 1 ", "ensemble 1+2 ", "ensemble 1+2+3 ", "ensemble 1+2+3+main "),
        ],
    ),
    "peers": (
        ["--out", "runs", *([] if HAS_PRUNING else ["--parts", *(part for part in PEERS if part != "pruned")])],
        [
            *("lctprune ", "lctprune, added ", "lctprune, fine-tuned ", "joint ", "truncated "),
            *(["Torch-Pruning "] if HAS_PRUNING else []),
            "test accuracy of lctprune less",
        ],
    ),
    "pipeline": (
        [],
        [
            *(f"2 processes: {EQUAL} of {EQUAL} settings", "steps/s", "GPipe, 1 microbatches", "1F1B, 4 microbatches"),
            *(f"local critics, {critic}, {where}" for critic in ("pooled", "tail") for where in ("1 p", "2 p", "all")),
            *("DistributedDataParallel", "memory of", "backpropagation, 1 process ", "2 processes  ", "predicted"),
            *("10 Gbit/s", "100 Gbit/s"),
        ],
    ),
    "runtimes": (
        [],
        [f"LSTM, batch {batch}: TorchScript 1.00, ONNX Runtime " for batch in (1, 32)],
    ),
    "sequences": (
        [],
        [f"{model:12} {method}" for model in ("lstm", "transformer") for method in ("2 groups", "backprop")],
    ),
    "step": ([], ["time per step", "peak bytes", "growth of peak RSS", "backprop ", "tail ", "pooled ", "loader"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", list(QUICK))
def test_the_quick_form_prints_its_rows(script: str, tmp_path: Path) -> None:
    options, rows = QUICK[script]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{script}.py"), "--quick", *options],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    missing = [row for row in rows if not any(line.startswith(row) for line in lines)]
    assert not missing, done.stdout


def test_every_script_has_a_quick_form() -> None:
    scripts = {path.stem for path in SCRIPTS.glob("*.py") if "--quick" in path.read_text(encoding="utf-8")}
    assert scripts - {"common", "gpu_parts"} == set(QUICK)
