"""The memory layout of TorchScript files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modules import Function
from torch import nn

from lctprune.exporting import layouts
from lctprune.exporting.layouts import in_fastest_layout
from lctprune.workflows.exported_files import Checked, export_files


def convolutions(end: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), end, nn.Linear(144, 3)).eval()


@pytest.mark.parametrize(
    ("end", "gain", "least", "expected"),
    [
        (nn.Flatten(), torch.inf, 0.0, "channels_last"),  # whatever is faster
        (nn.Flatten(), 0.0, 0.0, "contiguous"),
        (nn.Flatten(), torch.inf, torch.inf, "contiguous"),  # too short to matter
        (Function(lambda x: x.view(x.shape[0], -1)), torch.inf, 0.0, "contiguous"),  # a view that fails otherwise
    ],
)
def test_the_layout_with_less_time_is_taken_and_does_the_same(
    end: nn.Module, gain: float, least: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "GAIN", gain)
    monkeypatch.setattr(layouts, "NOTICEABLE_MS", least)
    network, x = convolutions(end), torch.randn(3, 2, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = in_fastest_layout(network, x, x[:1])
    assert found.layout == expected
    last = [x.contiguous(memory_format=torch.channels_last)] if expected == "channels_last" else []
    with torch.no_grad():
        for batch in (x, x[:1], *last):
            torch.testing.assert_close(found.scripted(batch), network(batch))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert network[0].weight.is_contiguous()  # type: ignore[index, union-attr, operator]


def test_other_inputs_have_no_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "NOTICEABLE_MS", 0.0)
    x = torch.randn(3, 4)
    assert in_fastest_layout(nn.Linear(4, 3), x, x).layout is None


def test_the_record_of_a_file_names_its_layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layouts, "GAIN", torch.inf)
    monkeypatch.setattr(layouts, "NOTICEABLE_MS", 0.0)
    targets = torch.arange(6) % 3
    checked = Checked(samples=torch.randn(6, 2, 8, 8), targets=targets, all_targets=targets, metric="auto")
    (record,) = export_files(convolutions(nn.Flatten()), tmp_path, ["torchscript"], checked)
    assert (record["memory_layout"], record["precision"]) == ("channels_last", "float32")
