"""Latency in the runtime that a network will be deployed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import lctprune as lct
from lctprune.cli import working
from lctprune.errors import ConfigError, RuntimeNote
from lctprune.exporting import formats
from lctprune.exporting.runtimes import tried
from lctprune.measure.runtimes import deployed, runtimes_for, time_networks

Cli = Callable[..., Any]


def test_auto_takes_the_fastest_runtime_and_says_by_how_much() -> None:
    network, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval(), torch.randn(1, 4)
    with pytest.warns(RuntimeNote, match=r"is the fastest runtime here: [01]\.\d\d of the time of") as caught:
        timed = time_networks([network], x, "auto", repeats=3)
    (note,) = caught
    assert str(note.message).startswith(timed.runtime)
    for runtime in {"onnxruntime", *runtimes_for("auto")} - {"torchscript"}:
        run = deployed(network, x, runtime)
        torch.testing.assert_close(run(x), network(x).detach())


def test_a_runtime_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes_for("auto")[:2] == ["torchscript", "onnxruntime"]
    assert runtimes_for("auto", is_cuda=True) == ["torchscript"]
    with pytest.raises(ConfigError, match=r"'tensorrt'.*torchscript, onnxruntime, openvino, inductor, auto"):
        runtimes_for("tensorrt")
    with pytest.raises(ConfigError, match="onnxruntime is measured on the CPU"):
        runtimes_for("onnxruntime", is_cuda=True)
    for extra, runtime in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        monkeypatch.setitem(formats.EXTRAS, extra, ("nosuchpackage",))
        with pytest.raises(ConfigError, match=rf"nosuchpackage.*lctprune\[{extra}\]"):
            runtimes_for(runtime)
    assert runtimes_for("auto") == ["torchscript"]  # nor inductor, whose compiler takes long


def test_inductor_needs_a_compiler_before_anything_is_measured(
    cli: Cli, table_run: Callable[..., lct.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = table_run()
    monkeypatch.setenv("CXX", "/no/such/compiler -O1")
    result = cli("evaluate", run.path, "--runtime", "inductor")
    exported = cli("export", run.path, "--format", "aoti")
    monkeypatch.setenv("CXX", "cat -A")  # any program that is there
    formats.require_compiler()
    monkeypatch.setenv("CXX", "")
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        formats.require_compiler()
    monkeypatch.undo()
    for each in (result, exported):
        assert (each.code, each.err.count("\n")) == (2, 1), each.err
        assert "C++ compiler" in each.err
        assert "CXX" in each.err
    assert not (run.path / "candidates.json").exists()
    assert not (run.path / "exports").exists()
    refused = cli("evaluate", run.path, "--runtime", "inductor", "--precision", "int8")
    assert (refused.code, "int8 does not run in inductor" in refused.err) == (2, True)


@pytest.mark.slow
def test_inductor_compiles_every_exit_and_its_package_predicts_where_it_is_trusted(
    cli: Cli, table_run: Callable[..., lct.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = table_run()
    monkeypatch.setattr(working, "SILENT_SECONDS", 0.1)
    compiled, compile = list[object](), torch._inductor.aoti_compile_and_package
    counting = lambda *given, **more: compiled.append(0) or compile(*given, **more)  # noqa: E731
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", counting)
    result = cli("select", run.path, "--runtime", "inductor", "--threads", 1, "--json")
    assert result.code == 0, result.err
    assert len(compiled) == 2  # each exit once, also the one that is exported
    assert "Compiling networks for inductor (2 of 2)" in result.err
    assert result.document["selected"]["latency_runtime"] == "inductor"
    card = json.loads(Path(result.document["description"]).read_text())
    (file,) = card["files"]
    assert (file["format"], file["file"], file["threads"]) == ("aoti", "model.aoti.pt2", 1)
    assert file["check"]["largest_difference"] < 1e-5
    assert torch.__version__ in file["compiled_for"]
    rows = run.path.parent / "t.csv"
    refused = cli("predict", result.document["model"], rows)
    assert (refused.code, "--trust-code" in refused.err) == (2, True)
    answers = [
        [each["top"] for each in cli("predict", *source, rows, "--json").document["predictions"]]
        for source in ((run.path / "selected", "--trust-code"), (run.path, "--exit", card["exit"]))
    ]
    of_file, of_run = ([each[0]["class"] for each in answer] for answer in answers)
    assert of_file == of_run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "format", "file"), [("onnxruntime", "onnx", "model.onnx"), ("openvino", "openvino", "model.xml")]
)
def test_select_decides_and_exports_in_the_runtime(
    runtime: str, format: str, file: str, cli: Cli, table_run: Callable[..., lct.Run]
) -> None:
    pytest.importorskip(runtime)
    run = table_run()
    result = cli("select", run.path, "--runtime", runtime, "--budget-latency-ms", "100", "--threads", 1, "--json")
    assert result.code == 0, result.err
    chosen = result.document["selected"]
    assert (chosen["latency_runtime"], chosen["latency_threads"], chosen["precision"]) == (runtime, 1, "float32")
    card = json.loads(Path(result.document["description"]).read_text())
    assert (card["format"], card["file"]) == (format, file)
    assert tried(format, result.document["model"], {"0": numpy.zeros((2, 3), "float32")}, 1).outputs["0"].shape[0] == 2
    measured = json.loads((run.path / "candidates.json").read_text())
    assert measured["conditions"]["runtime"] == runtime
    shown = cli("select", run.path, "--runtime", runtime, "--threads", 1).out  # read back, not measured again
    assert f"batch 1, in {runtime}, 1 thread, float32" in shown
    assert json.loads((run.path / "candidates.json").read_text()) == measured
    header, first, *_ = (run.path / "candidates.csv").read_text().splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["latency_runtime"] == runtime
    # under the usual runtime all is measured again, and the file is TorchScript
    document = cli("select", run.path, "--threads", 1, "--json").document
    assert document["selected"]["latency_runtime"] == "torchscript"
    assert document["model"].endswith("model.pt")
    left = {path.name for path in (run.path / "selected").iterdir()}
    assert left == {
        "model.pt",
        "model.safetensors",
        "model.json",
        "README.md",
    }  # no file is left that model.json does not name


def test_measurements_of_earlier_versions_are_of_torchscript(cli: Cli, table_run: Callable[..., lct.Run]) -> None:
    run = table_run()
    cli("evaluate", run.path)
    path = run.path / "candidates.json"
    document = json.loads(path.read_text())
    del document["conditions"]["runtime"]
    for each in document["candidates"]:
        for name in ("latency_runtime", "latency_threads", "precision"):
            del each[name]
    path.write_text(json.dumps(document))
    assert cli("select", run.path).code == 0
    assert json.loads(path.read_text()) == document
    document["candidates"][0]["latency_runtime"] = "=evil()"
    path.write_text(json.dumps(document))
    assert "latency_runtime is '=evil()'" in cli("select", run.path).err
