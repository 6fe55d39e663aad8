"""Ensembles and the progressive network among the candidates of a run: chosen, exported, shown and read back."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import lctprune as lct
from lctprune.measure.answers import answers_of
from lctprune.measure.candidates import left_out
from lctprune.measure.outputs import exit_outputs, halves
from lctprune.measure.paired import pairing
from lctprune.measure.parts import Part, on_part
from lctprune.measure.selection import main_of
from lctprune.workflows.combined_candidates import with_combined
from lctprune.workflows.combined_records import combined_networks
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.selections import chosen_among, read_selection

Cli = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def _combined(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=16, val_fraction=0.5))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=3, num_outputs=3, image_size=16)
    path = tmp_path_factory.mktemp("combined") / "run"
    lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=3, batch_size=15, precision="fp32"), run_dir=path)
    return path


@pytest.fixture
def run(_combined: Path, tmp_path: Path, cli: Cli) -> lct.Run:
    """A run of 30 validation samples for which both commands have been run; the test's own copy."""
    if not (_combined / "progressive").exists():
        for command in (("ensemble", _combined), ("progressive", _combined, "--budget-flops", "95%")):
            assert cli(*command).code == 0
        lct.measure_run(_combined)
    return lct.Run(shutil.copytree(_combined, tmp_path / "run"))


def test_answers_on_a_part_are_those_of_its_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    targets, correct = torch.randint(3, (21,), generator=generator), torch.rand(2, 21, generator=generator) < 0.5
    places = torch.randperm(21, generator=generator)[:9]
    part, kept = Part.of(places, targets), places.sort().values
    for whole, expected in zip(answers_of(correct, targets), answers_of(correct[:, kept], targets[kept]), strict=True):
        assert part.answers(whole) == expected
    (other,) = answers_of(correct[:1, :20], targets[:20])
    assert part.answers(other) is None


def test_ensembles_are_candidates_that_budgets_choose(run: lct.Run, cli: Cli) -> None:
    recorded = json.loads((run.path / "ensemble" / "candidates.json").read_text())
    candidates = lct.measure_run(run)
    own = [each for each in candidates if each.combined]
    assert {each.combined for each in own} == {"ensemble"}
    assert [each.accuracy for each in own] == [each["accuracy"] for each in recorded["candidates"]]
    assert len({each.exit for each in candidates}) == len(candidates)
    main, data = main_of(candidates), run.load_data()
    network = lct.load_network(run.path)
    for each, described in zip(own, recorded["networks"], strict=True):
        together = lct.EnsembleNetwork(network, described["exits"], described["weights"])
        assert (each.flops, each.parameters) == (
            lct.count_flops(together, data.example),
            lct.count_parameters(together),
        )
        found = pairing(each, main)
        assert found is not None
        assert (found.only_first - found.only_second) / 30 == pytest.approx(each.accuracy - main.accuracy)
    least = min(own, key=lambda each: each.flops or 0)
    shown = cli("evaluate", run.path).out
    assert all(each.name in shown for each in own)
    better = dataclasses.replace(least, accuracy=1.0, score=1.0)
    others = [each for each in candidates if each is not least]
    assert lct.select([*others, better], lct.Budget(flops=least.flops)) is better
    assert lct.select([*others, better], lct.Budget(flops=(least.flops or 0) - 1)) is not better


def outranked(run: lct.Run, kind: str) -> str:
    """Make a recorded network the best of all, by its answers; return its name."""
    file = run.path / kind / "candidates.json"
    document = json.loads(file.read_text())
    own, answers = document["candidates"][0], document["answers"]
    samples = answers["samples"]
    bits = base64.b64encode(numpy.packbits(numpy.ones(samples, numpy.uint8)).tobytes()).decode()
    answers["correct"][str(own["exit"])] = bits
    own |= {"accuracy": 1.0, "score": 1.0}
    file.write_text(json.dumps(document))
    return str(own["name"])


def test_a_chosen_ensemble_is_exported_and_shown(run: lct.Run, image_folder: Path, cli: Cli) -> None:
    document = json.loads((run.path / "candidates.json").read_text())
    for each in document["candidates"]:  # so that the ensemble is the only choice
        each |= {"accuracy": 0.0, "score": 0.0}
    document["answers"]["correct"] = dict.fromkeys(document["answers"]["correct"], "AAAAAA==")
    (run.path / "candidates.json").write_text(json.dumps(document))
    before = (run.path / "ensemble" / "candidates.json").read_text()
    name = outranked(run, "ensemble")
    found = cli("select", run.path, "--json").document
    assert (found["selected"]["name"], found["selected"]["combined"]) == (name, "ensemble")
    assert all(each["p_value"] < 0.05 for each in found["against_selected"] if each["exit"] < 3)
    folder = run.path / "selected"
    card = json.loads((folder / "model.json").read_text())
    exits, weights = ([each[key] for each in card["exits"]] for key in ("exit", "weight"))
    together = lct.EnsembleNetwork(lct.load_network(run.path), exits, weights).eval()
    x, y = next(run.load_data().test.batches(18))
    with torch.no_grad():
        outputs = together(x)
    torch.testing.assert_close(torch.jit.load(folder / "model.pt")(x), outputs, rtol=1e-3, atol=1e-3)
    accuracy = (outputs.argmax(1) == y).double().mean().item()
    assert card["test"]["accuracy"] == found["test_accuracy"] == pytest.approx(accuracy)
    assert not (folder / "model.safetensors").exists()
    assert f"ensemble: {name}" in (folder / "README.md").read_text()
    (by_file, by_run) = (
        [each.top for each in lct.predict(source, [image_folder / "test"], exit=exit)]
        for source, exit in ((folder, None), (run.path, name))
    )
    for ours, theirs in zip(by_file, by_run, strict=True):
        assert dict(ours) == pytest.approx(dict(theirs), abs=1e-3)
    assert cli("report", run.path).code == 0
    page = (run.path / "report.html").read_text()
    assert f"Chosen: {name}" in page
    payload = json.loads(re.findall(r'id="report-data">(.*?)</script>', page, re.DOTALL)[0])["front"]
    assert payload["chosen"] == payload["costs"][0]["steps"][-1]["exit"] == found["selected"]["exit"]
    selection = read_selection(run)
    assert selection is not None
    assert chosen_among(lct.measure_run(run), selection) is not None
    (run.path / "ensemble" / "candidates.json").write_text(before)
    assert chosen_among(lct.measure_run(run), selection) is None  # no network has these figures any more


def test_the_progressive_network_takes_part_where_limits_may_hold_in_the_mean(
    run: lct.Run, image_folder: Path, cli: Cli
) -> None:
    name = outranked(run, "progressive")
    plain = cli("select", run.path, "--json")
    assert "left out: progressive" in plain.err
    assert "with --mean-flops it takes part" in plain.err
    assert plain.document["selected"]["combined"] != "progressive"
    limit = next(each.candidate.flops for each in combined_networks(LoadedRun(run)) if each.part)
    shown = cli("select", run.path, "--mean-flops", "--budget-flops", limit)
    assert f"→  {name}" in re.sub(r"→ +\d* *", "→  ", shown.out)
    assert "mean" in shown.out
    assert "means over samples. All accuracies are of the 15 samples" in shown.out
    assert "in the mean of samples" in shown.out
    folder = run.path / "selected"
    card = json.loads((folder / "model.json").read_text())
    assert (card["combined"], card["mean_flops"], card["budget"]) == ("progressive", True, {"flops": limit})
    recorded = json.loads((run.path / "progressive" / "model.json").read_text())
    for key in ("exits", "goal", "fitted_on", "test", "checked_on"):
        assert card[key] == recorded[key]
    assert "| FLOPs, mean per sample |" in (folder / "README.md").read_text()
    x, _ = next(run.load_data().test.batches(18))
    own, again = (torch.jit.load(run.path / below / "model.pt").leave(x) for below in ("progressive", "selected"))
    torch.testing.assert_close(own, again)
    expected = [dict(each.top) for each in lct.predict(folder, [image_folder / "test"])]
    found = lct.predict(run, [image_folder / "test"], exit="progressive")
    assert [dict(each.top) for each in found] == [pytest.approx(each, abs=1e-3) for each in expected]
    assert cli("report", run.path).code == 0
    page = (run.path / "report.html").read_text()
    payload = json.loads(re.findall(r'id="report-data">(.*?)</script>', page, re.DOTALL)[0])["front"]
    assert payload["command"].endswith("--mean-flops")
    assert payload["combined"] == []
    assert payload["costs"][0]["steps"][-1]["exit"] == payload["chosen"]
    assert "mean per sample" in page


def test_all_are_compared_on_the_samples_that_thresholds_were_not_fitted_on(run: lct.Run) -> None:
    whole, half = lct.measure_run(run), lct.measure_run(run, mean_flops=True)
    outputs = exit_outputs(lct.load_network(run.path), run.load_data().val)
    held_out = outputs.at(halves(outputs, run.config.training.seed)[1])
    assert [each.accuracy for each in half[:3]] == pytest.approx(held_out.correct.double().mean(1).tolist())
    assert [each.samples for each in half] == [15] * (len(whole) + 1)
    assert all(each.loss != each.loss for each in half)
    record = json.loads((run.path / "progressive" / "model.json").read_text())
    early = half[-1]
    assert (early.combined, early.accuracy) == ("progressive", record["checked_on"]["accuracy"])
    assert early.flops == round(record["checked_on"]["mean_flops"])
    found = pairing(early, half[2])
    assert found is not None
    assert (found.only_first - found.only_second) / 15 == pytest.approx(early.accuracy - half[2].accuracy)
    assert pairing(early, whole[2]) is None
    with pytest.raises(lct.RunError, match="not recorded which of these validation samples stage"):
        on_part([dataclasses.replace(whole[0], answers=None)], Part(30, "", b"", ""))


@pytest.mark.slow
def test_both_in_onnx(run: lct.Run, cli: Cli) -> None:
    own = combined_networks(LoadedRun(run))[0]
    for exit, folder, file in (
        (own.candidate.exit, own.folder, "model.onnx"),
        ("progressive", "progressive", "stage0.onnx"),
    ):
        document = cli("export", run.path, "--exit", exit, "--format", "onnx", "--json").document
        assert document["model"] == str(run.path / "exports" / folder / file)
        assert (run.path / "exports" / folder / "model.json").exists()


def test_what_has_no_such_export_is_refused(run: lct.Run, cli: Cli) -> None:
    own = combined_networks(LoadedRun(run))[0]
    for options, words in (
        (("--format", "state-dict"), "a state dict holds one exit"),
        (("--format", "onnx", "--precision", "int8"), "full precision only; leave out --precision"),
        (("--exit", "progressive", "--format", "pt2"), "format pt2 has no decisions inside"),
        (("--exit", "progressive", "--with-preprocessing"), "and no pixels; leave out --with-preprocessing"),
    ):
        refused = cli("export", run.path, "--exit", own.candidate.name, *options)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    unknown = cli("export", run.path, "--exit", "layer9")
    assert (unknown.code, f"{own.candidate.exit} ({own.candidate.name})" in unknown.err) == (1, True)


def test_what_is_not_known_or_does_not_fit_is_left_out(run: lct.Run, cli: Cli) -> None:
    loaded = LoadedRun(run)
    exits = [each for each in lct.measure_run(run) if not each.combined]
    now = main_of(exits).latency_ms
    assert now is not None
    file = run.path / "ensemble" / "candidates.json"
    document = json.loads(file.read_text())
    for factor, batch, is_known in ((1.1, 1, True), (1.3, 1, False), (1.0, 2, False)):
        file.write_text(json.dumps(document | {"main_latency_ms": factor * now}))
        found = with_combined(loaded, [dataclasses.replace(each, latency_batch=batch) for each in exits])
        own = [each for each in found if each.combined]
        assert {each.latency_ms is not None for each in own} == {is_known}
        assert ("whose latency_ms was not measured" in left_out(found, ["latency_ms"])) is not is_known
    other = [dataclasses.replace(each, latency_runtime="onnxruntime") for each in exits]
    with pytest.raises(lct.ConfigError, match="leave out `runtime`, or `mean_flops`"):
        with_combined(loaded, other, mean_flops=True)
    with pytest.warns(lct.RunWarning, match="compared by accuracy, and .* by macro F1"):
        assert with_combined(loaded, [dataclasses.replace(each, metric="macro F1") for each in exits]) != found
    shutil.rmtree(run.path / "progressive")
    missing = cli("select", run.path, "--mean-flops")
    assert (missing.code, "has no progressive network" in missing.err) == (1, True)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("ensemble", {"checkpoint_sha256": "0" * 64}, "of an earlier checkpoint"),
        ("ensemble", {"networks": []}, "networks has 0 entries"),
        ("ensemble", {"example_shape": [0]}, r"example_shape is \[0\]"),
        ("ensemble", {"candidates": [{"parameters": 1}]}, "parameters of .* is 1, and the network's is"),
        ("ensemble", {"networks": [{"exits": [0, 7]}]}, "other networks than the run"),
        ("ensemble", {"networks": [{"weights": [2.0]}]}, "weights are"),
        ("ensemble", {"candidates": [{"accuracy": 2.0}]}, "accuracy is 2.0"),
        ("progressive", {"networks": [{"thresholds": [7.0]}]}, "threshold"),
        ("progressive", {"part": None}, "on a part of validation"),
        ("progressive", {"part": {"taken": "AAAA"}}, "part.taken is not base64 of 30 bits"),
    ],
)
def test_damaged_records_are_left_out_with_a_note(kind: str, change: Any, words: str, run: lct.Run) -> None:
    file = run.path / kind / "candidates.json"
    document = json.loads(file.read_text())
    for name, value in change.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            document[name][0] |= value[0]
        elif isinstance(value, dict):
            document[name] |= value
        else:
            document[name] = value
    file.write_text(json.dumps(document))
    with pytest.warns(lct.RunWarning, match=words):
        found = combined_networks(LoadedRun(run))
    assert {each.candidate.combined for each in found} == {"ensemble", "progressive"} - {kind}


def test_what_was_edited_is_not_exported(run: lct.Run, cli: Cli, tmp_path: Path) -> None:
    file = run.path / "progressive" / "candidates.json"
    document = json.loads(file.read_text())
    document["networks"][0]["thresholds"] = [0.0 for _ in document["networks"][0]["thresholds"]]
    file.write_text(json.dumps(document))
    refused = cli("export", run.path, "--exit", "progressive", "--out", tmp_path / "out")
    assert (refused.code, "not what was recorded of it" in refused.err) == (1, True), refused.err
    assert not (tmp_path / "out").exists()
    file.write_text("{}")
    missing = cli("export", run.path, "--exit", "progressive")
    assert (missing.code, "nothing in it is a candidate" in missing.err) == (1, True), missing.err
    file.unlink()
    file = run.path / "ensemble" / "candidates.json"
    document = json.loads(file.read_text())
    document["networks"][0] |= {"is_fitted": False, "weights": [0.9, *document["networks"][0]["weights"][1:]]}
    file.write_text(json.dumps(document))
    with pytest.warns(lct.RunWarning, match="a plain sum of unlike weights"):
        assert combined_networks(LoadedRun(run)) == []


def test_what_is_said_after_progressive_works(run: lct.Run, cli: Cli, tmp_path: Path) -> None:
    said = cli("progressive", run.path, "--budget-flops", "95%", "--threads", 1).out
    verdict = r"\S+.*, with a test accuracy of [\d.]+%: (as accurate as|better than|worse than) leaving early\."
    pattern = rf"At the same mean FLOPs, the best exit by validation is {verdict}( The best on test is {verdict})?"
    assert any(re.fullmatch(pattern, line) for line in said.splitlines())
    *_, last = said.splitlines()
    words = last.removeprefix("Next, choose between it and the exits: lctprune ").split()
    assert words[:2] == ["select", str(run.path)]
    chosen = cli(*words, "--threads", 1)
    assert chosen.code == 0, chosen.err
    own = next(each for each in lct.measure_run(run, mean_flops=True) if each.combined == "progressive")
    limits = lct.Budget(flops=words[words.index("--budget-flops") + 1]).limits(main_of(lct.measure_run(run)))
    assert limits.excess(own) <= 1
    elsewhere = cli("progressive", run.path, "--budget-flops", "95%", "--out", tmp_path / "out", "--threads", 1).out
    assert f"\nNext, predict with it: lctprune predict {tmp_path / 'out'} " in elsewhere
