"""Candidates in 8-bit integers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import ConfigError, NetworkError
from lctprune.exporting.formats import Format
from lctprune.exporting.quantizing import int8_format, quantized
from lctprune.measure.candidates import Candidate, candidate_of, precision_of
from lctprune.measure.quantized import calibration_samples, int8_runtimes
from lctprune.reports.payload import front_payload

Cli = Callable[..., Any]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).eval()


def exactly(model: bytes, x: Tensor) -> Tensor:
    """Compute what a quantized model says, in numbers of full precision rounded where it says so."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_weights_are_integers_by_channel(format: Format) -> None:
    pytest.importorskip("openvino" if format == "openvino" else "onnxruntime")
    net, x = network(), torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    found = quantized(net, x, format)
    model = bytes(quantized(net, x, "onnx").converted.content)
    with torch.no_grad():
        expected = net(x)
    assert 0 < (found(x) - expected).norm() < 0.05 * expected.norm()
    assert (found(x) - exactly(model, x)).norm() < 0.005 * expected.norm()  # no overflow
    torch.testing.assert_close(found(x[:1]), found(x)[:1], rtol=1e-3, atol=1e-4)  # any batch size
    assert found.size_bytes < 0.9 * sum(each.nbytes for each in net.state_dict().values())
    assert precision_of(found) == "int8"
    if format == "onnx":
        assert found.converted.content == model  # the same file each time
        graph = onnx.load_from_string(model).graph
        assert "BatchNormalization" not in {node.op_type for node in graph.node}  # folded before
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        weights = [each for each in arrays.values() if each.dtype == numpy.int8 and each.ndim > 1]
        assert len(weights) == 2
        assert all(abs(each.astype(int)).max() <= 64 for each in weights)  # 7 bits
        assert {4, 3} <= {each.size for name, each in arrays.items() if "scale" in name}  # one per output channel


def test_calibration_reads_training_samples_only() -> None:
    inputs = torch.arange(40.0)[:, None]
    first = calibration_samples(TensorSplit(inputs, torch.zeros(40, dtype=torch.long)))
    assert sorted(first.flatten().tolist()) == inputs.flatten().tolist()
    again = calibration_samples(TensorSplit(inputs, torch.zeros(40, dtype=torch.long)))
    assert torch.equal(first, again)


def test_what_runs_no_integers_is_refused() -> None:
    assert int8_runtimes("auto")[0] == "onnxruntime"
    with pytest.raises(ConfigError, match="int8 does not run in torchscript; take --runtime onnxruntime"):
        int8_runtimes("torchscript")
    assert int8_format(["onnx"]) == "onnx"
    with pytest.raises(ConfigError, match="onnx or openvino; given: pt2"):
        int8_format(["pt2"])
    with pytest.raises(ConfigError, match="given: onnx, openvino"):
        int8_format(["onnx", "openvino"])
    with pytest.raises(ConfigError, match="--with-preprocessing"):
        int8_format(["onnx"], with_preprocessing=True)


def both() -> list[Candidate]:
    costs: dict[str, Any] = {"loss": 1.0, "macs": 50, "parameters": 10, "samples": 100}
    full = [
        Candidate(exit=0, name="layer1", accuracy=0.7, flops=100, latency_ms=1.0, size_bytes=400, **costs),
        Candidate(exit=1, name="main network", accuracy=0.8, flops=100, latency_ms=2.0, size_bytes=800, **costs),
    ]
    reduced = [
        dataclasses.replace(each, name=f"{each.name}, int8", precision="int8", size_bytes=each.size_bytes // 4)
        for each in full
    ]
    return [reduced[0], full[0], reduced[1], full[1]]


def test_both_forms_of_an_exit_are_told_apart() -> None:
    candidates = both()
    assert [each.key for each in candidates] == ["0-int8", 0, "1-int8", 1]
    assert candidate_of(candidates, 0) is candidates[1]
    assert candidate_of(candidates, 0, "int8") is candidates[0]
    with pytest.raises(NetworkError, match=r"exits 0-int8, 0, 1-int8, 1"):
        candidate_of(candidates, 2)
    assert lct.select(candidates, lct.Budget(size_bytes="60%")).name == "main network, int8"
    assert lct.select(candidates, lct.Budget(size_bytes="13%")).name == "layer1, int8"
    page = front_payload(candidates, candidates[2], {}, "select")
    assert page["chosen"] == "1-int8"
    assert [each["exit"] for each in page["candidates"]] == ["0-int8", 0, "1-int8", 1]


@pytest.mark.slow
def test_int8_is_measured_chosen_and_exported(cli: Cli, table_run: Callable[..., lct.Run]) -> None:
    run = table_run()
    arguments = ("--runtime", "onnxruntime", "--precision", "int8", "--threads", 1)
    document = cli("select", run.path, *arguments, "--budget-size", "60%", "--prefer", "best", "--json").document
    names = [each["name"] for each in document["candidates"]]
    assert len(names) == 4
    assert {"main network", "main network, int8"} < set(names)
    chosen = document["selected"]
    assert chosen["precision"] == "int8"
    # the accuracy is that of the file, recomputed here on the whole validation split
    loaded = lct.load_network(run.path)
    val = lct.load_data(run.config.data.config).val
    session = onnxruntime.InferenceSession(document["model"], providers=["CPUExecutionProvider"])
    inputs, targets = next(val.batches(1000))
    outputs = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
    assert chosen["accuracy"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    with torch.no_grad():
        assert not torch.equal(outputs, loaded.subnetwork(chosen["exit"]).eval()(inputs))
    card = json.loads(Path(document["description"]).read_text())
    assert (card["precision"], card["files"][0]["precision"], card["format"]) == ("int8", "int8", "onnx")
    # read back, and shown by what reads it
    path = run.path / "candidates.json"
    measured = path.read_text()
    assert "float32 and int8" in cli("select", run.path, *arguments).out
    assert path.read_text() == measured
    cli("select", run.path, *arguments, "--budget-size", "60%")
    assert cli("report", run.path).code == 0
    assert '"chosen":"' in (run.path / "report.html").read_text()
    assert "int8" in (run.path / "candidates.csv").read_text()
    # another form, from the same measurements
    exported = cli("export", run.path, "--exit", 0, "--precision", "int8", "--format", "onnx", "--json").document
    card = json.loads(Path(exported["description"]).read_text())
    assert card["validation"]["name"].endswith(", int8")
    assert path.read_text() == measured
    # measured without, the choice of before is not among them
    assert cli("evaluate", run.path).code == 0
    assert cli("report", run.path).code == 0
    # a damaged record
    changed = json.loads(measured)
    changed["candidates"][0]["parameters"] += 1
    path.write_text(json.dumps(changed))
    assert "parameters of" in cli("select", run.path, *arguments).err
