"""Candidates in 8-bit integers and in 16 bits."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import lctprune as lct
from lctprune.config.runtime import Precision, parse_precisions
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import ConfigError, ExportError, NetworkError, ReducedNote, RuntimeNote
from lctprune.exporting.formats import SUFFIXES, Format
from lctprune.exporting.reducing import FORMATS_OF, HALF, reduced, require_precision
from lctprune.exporting.writing import Converted
from lctprune.measure.candidates import Candidate, ScoredExit, candidate_of, precision_of
from lctprune.measure.reduced import calibration_samples, reduced_runtimes, with_reduced
from lctprune.measure.scores import score_exits
from lctprune.reports.payload import front_payload
from lctprune.workflows.deployment import measure_run

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
    pytest.importorskip("nncf" if format == "openvino" else "onnxruntime")
    net, x = network(), torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    found = reduced(net, x, format, "int8")
    with torch.no_grad():
        expected = net(x)
    assert 0 < (found(x) - expected).norm() < 0.05 * expected.norm()
    torch.testing.assert_close(found(x[:1]), found(x)[:1], rtol=1e-3, atol=1e-4)  # any batch size
    assert found.size_bytes < 0.9 * sum(each.nbytes for each in net.state_dict().values())
    assert precision_of(found) == "int8"
    again = reduced(net, x, format, "int8").converted
    assert found.converted.weights == again.weights  # the same file each time
    if format == "onnx":
        model = bytes(found.converted.content)
        assert again.content == model
        assert (found(x) - exactly(model, x)).norm() < 0.005 * expected.norm()  # no overflow
        graph = onnx.load_from_string(model).graph
        assert "BatchNormalization" not in {node.op_type for node in graph.node}  # folded before
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        weights = [each for each in arrays.values() if each.dtype == numpy.int8 and each.ndim > 1]
        assert len(weights) == 2
        assert all(abs(each.astype(int)).max() <= 64 for each in weights)  # 7 bits
        assert {4, 3} <= {each.size for name, each in arrays.items() if "scale" in name}  # one per output channel
        return
    weights = openvino_weights(found.converted)
    assert sorted(len(each) for each in weights) == [3, 4]  # one row per output channel
    assert all(56 <= abs(each.astype(int)).max() <= 64 for rows in weights for each in rows)  # 7 bits, used by each


def openvino_weights(converted: Converted) -> list[NDArray[Any]]:
    """Return the weights in 8-bit integers of a pair of OpenVINO's files."""
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(bytes(converted.content), bytes(converted.weights or b""))
    constants = [each for each in model.get_ops() if each.get_type_name() == "Constant"]
    return [each.data for each in constants if each.data.dtype == numpy.int8 and each.data.ndim > 1]


def test_int8_for_openvino_needs_its_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find_spec(name))
    assert "openvino" not in reduced_runtimes("auto", ["int8"])
    assert "openvino" in reduced_runtimes("auto", ["bf16"])
    words = r"openvino in int8 needs nncf, not installed here: pip install 'lctprune\[openvino\]'"
    with pytest.raises(ConfigError, match=words):
        reduced_runtimes("openvino", ["int8"])
    with pytest.raises(ConfigError, match=words):
        require_precision(["openvino"], "int8")
    require_precision(["openvino"], "bf16")


@pytest.mark.slow
def test_quantizing_reports_nothing_and_leaves_the_environment_as_it_was() -> None:
    pytest.importorskip("nncf")
    code = (
        "import os, sys; from lctprune.exporting.openvino_model import _nncf; before = dict(os.environ); _nncf(); "
        "from nncf.telemetry.wrapper import telemetry; from unittest.mock import MagicMock; "
        "print(isinstance(telemetry, MagicMock), dict(os.environ) == before, 'nncf.torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True", "False"]


def test_calibration_reads_training_samples_only() -> None:
    inputs = torch.arange(40.0)[:, None]
    first = calibration_samples(TensorSplit(inputs, torch.zeros(40, dtype=torch.long)))
    assert sorted(first.flatten().tolist()) == inputs.flatten().tolist()
    again = calibration_samples(TensorSplit(inputs, torch.zeros(40, dtype=torch.long)))
    assert torch.equal(first, again)


def test_what_does_not_have_a_precision_is_refused() -> None:
    assert reduced_runtimes("auto", ["int8"])[0] == "onnxruntime"
    assert reduced_runtimes("auto", ["bf16"])[0] == "torchscript"
    for precisions, runtime, message in (
        (["int8"], "torchscript", "int8 does not run in torchscript; take `runtime=onnxruntime` or openvino"),
        (["bf16", "int8"], "torchscript", r"int8 does not run in torchscript.*\(extras: lctprune\[onnx\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            reduced_runtimes(runtime, precisions)
    assert parse_precisions(["fp16, int8", "fp32"]) == ("int8", "fp16")
    with pytest.raises(ConfigError, match=r"'int4'.*fp32, int8, bf16, fp16"):
        parse_precisions("int8,int4")
    with pytest.raises(ConfigError, match=r"'int4'.*fp32, int8, bf16, fp16"):
        require_precision(["onnx"], "int4")
    with pytest.raises(ConfigError, match="pt2 has no int8; formats that do: onnx, openvino"):
        require_precision(["onnx", "pt2"], "int8")
    with pytest.raises(ConfigError, match="state-dict has no bf16"):
        require_precision(["state-dict"], "bf16")
    with pytest.raises(ConfigError, match="`with_preprocessing`"):
        require_precision(["onnx"], "int8", with_preprocessing=True)


@pytest.mark.slow
def test_a_network_becomes_onnx_once_for_all_its_precisions_and_runtimes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("nncf")
    exports, export = list[object](), torch.onnx.export

    def counted(*given: Any, **options: Any) -> Any:
        exports.append(given)
        return export(*given, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    net = lct.LocalCriticNetwork([nn.Sequential(nn.Linear(4, 3))], [])
    inputs = torch.randn(8, 4)
    split = TensorSplit(inputs, torch.arange(8) % 3)
    exits = [ScoredExit(0, "main network", net.subnetwork(0).eval(), score_exits(net, split), 0)]
    with caplog.at_level("INFO", "lctprune.steps"), pytest.warns(RuntimeNote):
        found = with_reduced(exits, ["int8", "bf16"], inputs, split, "auto")
    assert [precision_of(each.network) for each in found.exits] == ["int8", "bf16", "float32"]
    assert len(exports) == 1
    steps = [line for line in caplog.messages if line.startswith("Converting main network")]
    assert steps[0] == "Converting main network to int8 for onnxruntime (1 of 4)"
    assert steps[-1] == "Converting main network to bf16 for openvino (4 of 4)"


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
    with pytest.raises(NetworkError, match="exit 0-bf16 does not exist"):
        candidate_of(candidates, 0, "bf16")
    assert lct.select(candidates, lct.Budget(size_bytes="60%")).name == "main network, int8"
    assert lct.select(candidates, lct.Budget(size_bytes="13%")).name == "layer1, int8"
    page = front_payload(candidates, candidates[2], {}, "select")
    assert page["chosen"] == "1-int8"
    assert [each["exit"] for each in page["candidates"]] == ["0-int8", 0, "1-int8", 1]


def bare(format: Format, file: Path) -> Callable[[Tensor], Tensor]:
    """Open a file with nothing but its runtime."""
    if format == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            loaded: Callable[[Tensor], Tensor] = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
            return loaded
    if format == "pt2":
        program: Callable[[Tensor], Tensor] = torch.export.load(str(file)).module()
        return program
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    openvino = pytest.importorskip("openvino")
    model = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(model(x.numpy())[0])


def test_export_reduces_the_exit_that_is_wanted_alone(
    cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path
) -> None:
    run = table_run()
    options = ("--exit", 0, "--precision", "bf16", "--out", tmp_path / "out", "--json")
    document = cli("export", run.path, *options).document
    card = json.loads(Path(document["description"]).read_text())
    assert (card["exit"], card["precision"]) == (0, "bf16")
    assert card["main_network"]["validation"]["exit"] == 1
    assert not (run.path / "candidates.json").exists()  # which would hold all
    alone = measure_run(run, precision="bf16", only=0, keep=False)
    assert [each.key for each in alone] == ["0-bf16", 0, 1]
    assert [each.is_main for each in alone] == [False, False, True]


@pytest.mark.parametrize(
    ("precision", "format"),
    [
        pytest.param(each, format, marks=() if format == "torchscript" else pytest.mark.slow)
        for each in ("bf16", "fp16")
        for format in FORMATS_OF[each]
    ],
)
def test_files_of_16_bits_take_and_give_float32(precision: Precision, format: Format, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if format == "openvino" else "torch")
    net, x = network(), torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    file = tmp_path / f"model{SUFFIXES[format]}"
    lct.export(net, x, file, format=format, precision=precision)
    run = bare(format, file)
    with torch.no_grad():
        outputs, expected = run(x), net(x)
        assert outputs.dtype == torch.float32
        step = torch.finfo(HALF[precision]).eps * expected.abs().max()
        assert 0 < (outputs - expected).abs().max() < 4 * step
        torch.testing.assert_close(run(x[:3]), outputs[:3], rtol=0, atol=float(step))
    found = reduced(net, x, format, precision)
    assert found.size_bytes < 0.6 * lct.size_bytes(net)
    assert torch.equal(found(x), outputs)
    assert (precision_of(found), precision_of(net)) == (precision, "float32")


def test_what_16_bits_cannot_hold_is_not_exported(tmp_path: Path) -> None:
    x = torch.ones(4, 2)
    large = nn.Sequential(nn.Linear(2, 2)).eval()
    nn.init.constant_(large[0].weight, 1e5)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="fp16 file differs from the network by up to inf"):
        lct.export(large, x, tmp_path / "m.pt", precision="fp16")
    assert lct.export(large, x, tmp_path / "b.pt", precision="bf16").is_file()
    assert [each.name for each in tmp_path.iterdir()] == ["b.pt"]


class InFloat32(nn.Module):
    """Adds a constant of float32, which 16 bits do not multiply with."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, [batch, features]."""
        return x @ torch.eye(x.shape[1])


def test_exits_without_a_form_are_named_and_others_stay() -> None:
    torch.manual_seed(0)
    groups = [nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Sequential(InFloat32(), nn.Linear(6, 3))]
    net = lct.LocalCriticNetwork(groups, [nn.Linear(6, 3)])
    inputs = torch.randn(40, 4)
    split = TensorSplit(inputs, torch.arange(40) % 3)
    with pytest.warns(ReducedNote, match=r"left out in [bfp]+16: main network \(.*dtype") as caught:
        candidates = lct.evaluate(net, split, inputs[:1], latency_repeats=2, precision="bf16,fp16")
    assert len(caught) == 2
    assert [each.key for each in candidates] == ["0-bf16", "0-fp16", 0, 1]
    with torch.no_grad():
        for each in candidates[:2]:
            half = net.subnetwork(0).eval()
            run = reduced(half, inputs, "torchscript", "bf16" if each.precision == "bf16" else "fp16")
            right = (run(inputs).argmax(1) == torch.arange(40) % 3).float().mean()
            assert each.accuracy == pytest.approx(right.item())
    assert candidates[0].size_bytes * 2 == candidates[2].size_bytes
    assert candidates[0].latency_ms is not None
    with pytest.raises(ConfigError, match=r"train=data\.train"):
        lct.evaluate(net, split, inputs[:1], runtime="onnxruntime", precision="int8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "runtime", "format"),
    [("int8", "onnxruntime", "onnx"), ("fp16", "openvino", "openvino"), ("bf16", "torchscript", "torchscript")],
)
def test_a_reduced_exit_is_measured_chosen_exported_and_predicts(
    precision: str, runtime: str, format: Format, cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path
) -> None:
    pytest.importorskip("openvino" if format == "openvino" else "torch")
    run = table_run()
    arguments = ("--runtime", runtime, "--precision", precision, "--threads", 1)
    document = cli("select", run.path, *arguments, "--budget-size", "60%", "--prefer", "best", "--json").document
    names = [each["name"] for each in document["candidates"]]
    assert len(names) == 4
    assert {"main network", f"main network, {precision}"} < set(names)
    chosen = document["selected"]
    assert chosen["precision"] == precision
    # the accuracy is that of the file, recomputed here on the whole validation split
    loaded = lct.load_network(run.path)
    val = lct.load_data(run.config.data.config).val
    inputs, targets = next(val.batches(1000))
    outputs = bare(format, Path(document["model"]))(inputs)
    assert chosen["accuracy"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    with torch.no_grad():
        assert not torch.equal(outputs, loaded.subnetwork(chosen["exit"]).eval()(inputs))
    card = json.loads(Path(document["description"]).read_text())
    assert (card["precision"], card["files"][0]["precision"], card["format"]) == (precision, precision, format)
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,c\n0.5,-0.5,1\n")
    assert len(cli("predict", document["model"], rows, "--json").document["predictions"]) == 1
    # read back, and shown by what reads it
    path = run.path / "candidates.json"
    measured = path.read_text()
    assert f"float32, {precision}" in cli("select", run.path, *arguments).out
    assert path.read_text() == measured
    cli("select", run.path, *arguments, "--budget-size", "60%")
    assert cli("report", run.path).code == 0
    assert '"chosen":"' in (run.path / "report.html").read_text()
    assert precision in (run.path / "candidates.csv").read_text()
    # another form, from the same measurements
    exported = cli("export", run.path, "--exit", 0, "--precision", precision, "--format", format, "--json").document
    card = json.loads(Path(exported["description"]).read_text())
    assert card["validation"]["name"].endswith(f", {precision}")
    assert path.read_text() == measured
    # measured without, the choice of before is not among them
    assert cli("evaluate", run.path).code == 0
    assert cli("report", run.path).code == 0
    # a damaged record
    changed = json.loads(measured)
    changed["candidates"][0]["parameters"] += 1
    path.write_text(json.dumps(changed))
    assert "parameters of" in cli("select", run.path, *arguments).err
