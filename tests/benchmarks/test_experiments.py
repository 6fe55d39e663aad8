"""The experiments among the benchmark scripts: how variants are compared."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module


def test_variants_are_compared_by_seed(script: Callable[[str], ModuleType]) -> None:
    ablation = script("ablation")
    accuracies = {
        (ablation.DEFAULT, "0"): "0.5 0.6",
        (ablation.DEFAULT, "1"): "0.7 0.8",
        ("joint", "0"): "0.51 0.63",
        ("joint", "1"): "0.72 0.8",
        ("backprop", "1"): "0.78",
        ("alone 0", "1"): "0.75",
        ("3 groups", "1"): "0.1 0.2 0.3",
    }
    rows = [{"variant": name, "seed": seed, "accuracies": text} for (name, seed), text in accuracies.items()]
    found = ablation.differences(rows)
    assert found.keys() == {"joint", "backprop", "alone 0"}
    assert found["joint"] == [pytest.approx((1.5, 0.5, 2)), pytest.approx((1.5, 1.5, 2))]
    assert found["backprop"][0][0] == pytest.approx(-2)
    assert found["alone 0"][0][0] == pytest.approx(5)
    assert math.isnan(found["backprop"][0][1])
