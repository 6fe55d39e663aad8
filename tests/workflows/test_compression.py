"""From trained weights to an exported network within a budget: in one go, interrupted anywhere, or not at all."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.config.compression import CompressConfig
from lctprune.data.wrapped_split import PartSplit
from lctprune.measure.units import amount
from lctprune.measure.unscored import unscored
from lctprune.workflows import compression_stages
from lctprune.workflows.compression import begin_compression
from lctprune.workflows.compression_plan import Passes, parts_known, passes_for, planned, searched, tuning_passes
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.compression_stages import Compressed, Compression
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import further_runs, members_of, trained_exits

Cli = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::lctprune.errors.DataWarning", "ignore::lctprune.errors.NetworkWarning")
OPTIONS = {"epochs": 3, "candidates": 2, "shares": (0.2, 0.1, 0.2, 0.5), "importance": "magnitude", "views": 1}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """Weights of a network that was trained for an epoch, without critics."""
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=1, num_outputs=3, image_size=8)
    network = lct.build_network(recipe)
    path = tmp_path_factory.mktemp("given")
    config = lct.TrainConfig(method="backprop", epochs=1, batch_size=18, precision="fp32", device="cpu")
    lct.train(network, data, config, run_dir=path / "run")
    torch.save(network.main_state_dict(), path / "weights.pt")
    return path / "weights.pt"


Begin = Callable[..., Compression]


@pytest.fixture
def begin(given: Path, image_folder: Path, tmp_path: Path) -> Begin:
    def begin(
        budget: dict[str, Any] | None = None, *, resume: bool = False, name: str = "run", **other: Any
    ) -> Compression:
        return begin_compression(
            lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=2),
            lct.DataConfig(name=str(image_folder), image_size=8),
            lct.Budget(**(budget or {"flops": "50%"})),
            weights=given,
            config=CompressConfig(**{**OPTIONS, **other}),
            training=lct.TrainConfig(batch_size=18, precision="fp32", device="cpu"),
            out=tmp_path / name,
            resume=resume,
        )

    return begin


def trained(compression: Compression) -> Compression:
    for stage in compression.stages():
        for _ in stage.session.steps():
            pass
    return compression


def finished(compression: Compression) -> Compressed:
    return trained(compression).finish()


def checkpoints(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("checkpoint.safetensors")}


@pytest.mark.slow
def test_the_report_tells_the_stages_and_the_training_of_every_added_network(begin: Begin, cli: Cli) -> None:
    run = finished(begin()).run
    result = cli("report", run.path)
    assert result.code == 0, result.err
    page = (run.path / "report.html").read_text()
    record = json.loads((run.path / "compress.json").read_text())
    assert f"was to get to {amount(record['budget']['flops'], 'flops')}" in page
    for stage in record["plan"]:
        assert f'<th scope="row">{stage["stage"]}</th><td>{stage["what"]}</td>' in page
    payload = json.loads(re.search(r'id="report-data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    added = further_runs(LoadedRun(run))
    assert {each.path.parent.name for each in added} >= {"narrowed"}
    for each in added:
        assert f"<h3>{each.path.relative_to(run.path)}" in page
        losses = [row["exit0_train_loss"] for row in each.metrics]
        names = trained_exits(each)[0]
        drawn = {curve["name"]: curve["values"] for curves in payload["curves"] for curve in curves["series"]}
        assert pytest.approx(drawn[names[0]]) == [float(loss) for loss in losses]
    places = [int(place) for place in re.findall(r'data-curves="(\d+)"', page)]
    assert sorted(places) == [*range(len(payload["curves"]))]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize("stops_after", [[None], pytest.param([0, 1, None], marks=pytest.mark.slow)])  # steps
def test_stopped_in_each_training_and_resumed_it_comes_to_the_same(
    begin: Begin, tmp_path: Path, stops_after: list[int | None]
) -> None:
    begun = begin(name="whole")
    main = lct.count_flops(lct.build_network(begun.run.config.network), torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]
    result = finished(begun)
    assert result.limits == {"flops": main / 2}
    assert result.chosen.flops is not None
    assert result.chosen.flops <= main / 2
    fitting = [each for each in result.candidates if (each.flops or 0) <= main / 2]
    assert result.chosen.accuracy == max(each.accuracy for each in fitting)
    assert max(each.flops or 0 for each in fitting if "narrowed" in each.origin) > 0.9 * main / 2
    assert result.spent == pytest.approx(3)
    assert result.deployment.model is not None
    x = torch.randn(2, 3, 8, 8)
    assert torch.jit.load(result.deployment.model)(x).shape == (2, 3)
    whole = checkpoints(result.run.path)
    stops, is_done, names = 0, False, dict.fromkeys(["critics"])
    while not is_done:
        compression, is_done = begin(resume=stops > 0), True
        done = compression.done
        for stage in itertools.islice(compression.stages(), 1):
            names[stage.name] = None
            assert done == [name for name in names if name != stage.name]
            for _ in itertools.islice(stage.session.steps(), stops_after[stops % len(stops_after)]):
                pass
            stops, is_done = stops + 1, False
    assert stops == len(stops_after) * len(whole)
    assert done == [line.stage for line in compression.plan]
    again = compression.finish()
    assert checkpoints(tmp_path / "run") == whole
    assert (again.chosen.name, again.spent) == (result.chosen.name, result.spent)
    for other in ({"candidates": 3}, {"views": 2}):
        with pytest.raises(lct.RunError, match="other settings"):
            begin(resume=True, **other)
    path = tmp_path / "run" / "compress.json"
    document = json.loads(path.read_text())
    assert read_record(path) == document
    earlier = {name: value for name, value in document["config"].items() if name not in ("views", "steps")}
    rounds = [[{name: value for name, value in each.items() if name != "limits"} for each in document["rounds"][0]]]
    path.write_text(json.dumps({**document, "config": earlier, "rounds": rounds}))
    read = read_record(path)  # of a version that did not repeat passes, and narrowed in one step
    assert (read["config"]["views"], read["config"]["steps"]) == (0, 1)
    assert read["rounds"] == document["rounds"][:1]
    for changed in (
        *({**document, name: value} for name in document for value in (None, 1e308, "x", [{}], [[[]]])),
        *({name: document[name] for name in document if name != left_out} for left_out in document),
        {**document, "rounds": [[{**document["rounds"][0][0], "folder": "narrowed/../../outside"}]]},
        {**document, "rounds": [[{**document["rounds"][0][0], "part": 0}]]},
    ):
        path.write_text(json.dumps(changed))
        if changed.get("unit") not in ("x",):
            with pytest.raises(lct.RunError, match=r"compress\.json.* restore|compress\.json.* does not fit"):
                read_record(path)


@pytest.mark.parametrize("shares", [(0.2, 0, 0.8), pytest.param((0.2, 0.1, 0.1, 0.1, 0.5), marks=pytest.mark.slow)])
def test_the_best_candidate_is_narrowed_in_steps(begin: Begin, tmp_path: Path, shares: tuple[float, ...]) -> None:
    budget, settings = {"flops": "25%", "parameters": "70%"}, {"steps": 3, "shares": shares, "candidates": 1}
    run = trained(compression := begin(budget, name="whole", **settings)).run
    document = json.loads((run.path / "compress.json").read_text())
    steps = [entrants[0] for entrants in document["rounds"][len(shares) - 3 :]]
    assert [each["limits"] is None for each in steps] == [False, False, True]
    costs = {
        member.name: unscored(lct.load_network(member.run).subnetwork(member.exit), torch.zeros(1, 3, 8, 8))
        for member in members_of(run)
    }
    main = costs["main network"]
    for step, each in enumerate(steps[:2], start=1):
        expected = {"flops": (main.flops or 0) * 0.25 ** (step / 3), "parameters": main.parameters * 0.7 ** (step / 3)}
        assert each["limits"] == pytest.approx(expected)
    first, second, third = [cost for name, cost in costs.items() if name.startswith("main network, narrowed")][-3:]
    assert [name.rpartition(" in ")[2] for name in costs if "steps" in name] == ["2 steps", "3 steps"]
    assert 0.9 < compression.limits.excess(third) <= 1 < compression.limits.excess(second)
    assert compression.limits.excess(second) < compression.limits.excess(first)
    assert [line["stage"] for line in document["plan"]][-3:] == ["step 1", "step 2", "step 3"]
    assert sum(line["cost"] for line in document["plan"]) == pytest.approx(3, rel=1e-3)
    assert compression.spent == pytest.approx(3, rel=1e-3)
    assert len({round(each["cost"], 6) for each in steps}) == 1
    if len(shares) == 3:
        return
    again = begin(budget, **settings)
    while stage := next(again.stages(), None):  # each training begun as if the one before had ended in a kill
        for _ in stage.session.steps():
            pass
        again = begin(budget, resume=True, **settings)
    assert checkpoints(tmp_path / "run") == checkpoints(run.path)


@pytest.mark.parametrize(("most", "steps"), [(math.inf, 3), (0.0, 1)])
def test_a_network_that_a_mild_cut_ruins_is_narrowed_at_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, most: float, steps: int
) -> None:
    monkeypatch.setattr(compression_stages, "MOST_DAMAGE", most)
    compression = trained(begin({"flops": "25%"}, shares=(0.2, 0, 0.8), candidates=1))
    document = json.loads((compression.run.path / "compress.json").read_text())
    assert len(document["rounds"]) == steps
    assert any("even a mild cut leaves" in note for note in compression.notes) is (steps == 1)
    assert compression.spent == pytest.approx(3, rel=1e-3)


def test_a_budget_that_nothing_can_fit_is_refused_before_training(
    begin: Begin, cli: Cli, given: Path, image_folder: Path, tmp_path: Path
) -> None:
    for cost, limit in (("flops", 201), ("parameters", 101)):
        with pytest.raises(
            lct.BudgetError, match=r"nearest is .*, narrowed: [\d.]+k? \w+ is (over|[\d.]+ times) the limit"
        ) as refused:
            begin({cost: limit})
        (least,) = re.findall(rf"with `Budget\({cost}='(\S+)'\)` it fits", str(refused.value))
        assert begin({cost: least}, name=cost).plan
    arguments = (
        "--weights",
        given,
        "--data",
        image_folder,
        "--image-size",
        8,
        "--model-args",
        "width=4",
        "--groups",
        2,
    )
    result = cli("compress", "vgg-lct", *arguments, "--budget-params", 3, "--out", tmp_path / "run", "--json")
    without = cli("compress", "vgg-lct", "--weights", "none.pt", "--data", "none")  # said before others are looked for
    assert (without.code, "needs a budget; give one, such as --budget-flops 50%" in without.err) == (2, True)
    assert result.code == 3
    assert json.loads(result.out)["exit_code"] == 3
    assert "nearest" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ({"flops": "100%"}, {}, "fits the budget as it is"),
        ({"flops": "half"}, {}, "'half'"),
        ({"flops": "50%"}, {"epochs": 0}, "epochs is 0"),
        ({"flops": "50%"}, {"shares": (0.5, 0.2)}, "shares is"),
        ({"flops": "50%"}, {"shares": (0.5, 0.2, 0.2)}, "add up to 1"),
        ({"flops": "50%"}, {"candidates": 0}, "candidates is 0"),
        ({"flops": "50%"}, {"lr": -1.0}, "lr is -1"),
        ({"flops": "50%"}, {"distill": 1.5}, "distill is 1.5"),
        ({"flops": "50%"}, {"importance": "luck"}, "importance is 'luck'"),
        ({"flops": "50%"}, {"views": -1}, "views is -1"),
        ({"flops": "50%"}, {"steps": 0}, "steps is 0"),
    ],
)
def test_wrong_settings_write_nothing(
    begin: Begin, tmp_path: Path, budget: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(lct.ConfigError, match=message):
        begin(budget, **options)
    assert not (tmp_path / "run").exists()


def test_the_plan_spends_the_whole_budget() -> None:
    config = CompressConfig(epochs=10, views=0, candidates=3, shares=(0.05, 0.02, 0.1, 0.13, 0.7))
    plan = planned(config, critics=0.5, further=0.8, fraction=0.5, pass_steps=1)
    assert [line.networks for line in plan] == [1, 1, 3, 2, 1]
    assert sum(line.cost for line in plan) == pytest.approx(10)
    for line, per_pass in zip(plan, (0.5, 0.8, *(0.5 + 1 / 3,) * 3), strict=True):
        assert line.networks * line.passes * per_pass == pytest.approx(line.cost, rel=1e-3)
    without = planned(config, critics=0.5, further=None, fraction=0.5, pass_steps=1)
    assert sum(line.cost for line in without) == pytest.approx(10)
    assert passes_for(1.2, per_pass=0.5) == (3, pytest.approx(0.8), 1.2)


def test_candidates_are_compared_only_where_training_tells_them_apart() -> None:
    plans = [
        planned(CompressConfig(epochs=10), critics=0.5, further=0.8, fraction=0.25, pass_steps=steps)
        for steps in (100, 400)
    ]
    assert [searched(plan) for plan in plans] == [[], [2]]
    stages = [[line.stage for line in plan] for plan in plans]
    assert [names[:3] for names in stages] == [["critics", "step 1", "step 2"], ["critics", "densify", "round 1"]]
    assert [sum(line.cost for line in plan) for plan in plans] == [pytest.approx(10, rel=1e-3)] * 2
    as_given = CompressConfig(epochs=10, shares=CompressConfig().divided)
    plan = planned(as_given, critics=0.5, further=0.8, fraction=0.25, pass_steps=100)
    assert [(line.stage, line.cost) for line in plan] == [(line.stage, line.cost) for line in plans[1]]
    straight = planned(as_given, critics=0.5, further=0.8, fraction=0.7, pass_steps=400)
    assert ([line.stage for line in straight[2:]], searched(straight)) == (["round 1", "round 2"], [2])


@pytest.mark.parametrize(("cost", "distill", "passes"), [(6, 0.5, 20), (1.75, 0.5, 3), (0.5, 0.5, 0.857), (6, 0, 24)])
def test_after_repeated_passes_the_teacher_costs_nothing(cost: float, distill: float, passes: float) -> None:
    """The first 3 passes of a network of a quarter cost 1/4 + 1/3 each, further ones 1/4."""
    found = tuning_passes(cost, [0.25], CompressConfig(views=3, distill=distill))
    assert (found.epochs * found.part, found.cost) == (pytest.approx(passes, rel=1e-3), cost)
    plans = [
        planned(CompressConfig(views=views), critics=0.5, further=None, fraction=0.1, pass_steps=1) for views in (0, 3)
    ]
    assert plans[0][-1].passes < plans[1][-1].passes
    assert plans[0][-1].cost == plans[1][-1].cost


def test_the_teacher_is_paid_for_once_by_all_trainings() -> None:
    """Two networks of a tenth: 1.5 passes of each, of which the teacher knows one half of the first."""
    config = CompressConfig(views=2)
    cost = 2 * 1.5 * 0.1 + (0.75 - 0.5 + 0.75) / 3
    found = tuning_passes(cost, [0.1, 0.1], config, known=[0.5])
    assert (found.epochs, found.part, found.cost) == (2, pytest.approx(0.75), cost)
    assert parts_known([found, Passes(1, 0.9, 1.0)], 2) == [0.9, pytest.approx(0.75)]
    assert tuning_passes(1.0, [0.1], config, known=[1.0, 1.0]).passes == pytest.approx(10)
    assert tuning_passes(1.0, [0.1], CompressConfig(views=0), known=[]).passes == pytest.approx(1 / (0.1 + 1 / 3))


def test_a_part_of_a_split_is_another_one_in_every_epoch(data: lct.Data) -> None:
    part = PartSplit(data.train, 0.4, 10)
    first, second = ([x for x, _ in part.shuffled(10, seed=seed)] for seed in (0, 1))
    assert len(first) == len(second) == 4
    assert part.samples == 40
    assert not torch.equal(torch.cat(first), torch.cat(second))
    whole = [x for x, _ in data.train.shuffled(10, seed=0)]
    assert all(torch.equal(*pair) for pair in zip(first, whole[:4], strict=True))
    assert PartSplit(data.train, 0.001, 10).samples == 10


def test_a_recurrent_network_in_memory_is_cut_in_depth_only(tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(model="gru", model_args={"width": 8, "layers": 3}, features=3, steps=4, num_outputs=2)
    inputs = torch.randn(48, 4, 3, generator=torch.Generator().manual_seed(0))
    split = lct.TensorSplit(inputs, (inputs.mean((1, 2)) > 0).long())
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b"))
    torch.save(lct.build_network(recipe).main_state_dict(), tmp_path / "weights.pt")
    result = lct.compress(
        recipe,
        data,
        lct.Budget(flops="70%"),
        weights=tmp_path / "weights.pt",
        config=lct.CompressConfig(**{**OPTIONS, "epochs": 1}),  # type: ignore[arg-type]
        training=lct.TrainConfig(batch_size=16, device="cpu"),
        out=tmp_path / "run",
    )
    notes = json.loads((tmp_path / "run" / "compress.json").read_text())["notes"]
    assert notes
    assert all("recurrent layer" in note for note in notes)
    assert not any("narrowed" in each.origin for each in result.candidates)
    assert any("fine-tuned" in each.origin for each in result.candidates)
    assert (result.chosen.flops or 0) <= result.limits["flops"]


@pytest.mark.slow
def test_what_it_says_to_do_next_works_as_it_is_printed(given: Path, image_folder: Path, tmp_path: Path) -> None:
    begun = [sys.executable, "-m", "lctprune"]
    command = ["compress", "vgg-lct", "--weights", str(given), "--data", str(image_folder), "--image-size", "8"]
    command += ["--model-args", "width=4", "--groups", "2", "--batch-size", "18", "--epochs", "6"]
    run = tmp_path / "a run"
    command += ["--budget-flops", "50%", "--out", str(run)]
    process = subprocess.Popen([*begun, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(run.glob("narrowed/*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert "; to go on" in error.splitlines()[-1], error
    (go_on,) = re.findall("; to go on: lctprune (.*)", error)
    assert process.returncode == 130
    assert shlex.split(go_on) == ["resume", str(run)]
    refused = subprocess.run([*begun, *shlex.split(go_on), "--epochs", "9"], capture_output=True, text=True)
    assert (refused.returncode, "keeps its plan; leave out --epochs" in refused.stderr) == (2, True)
    done = subprocess.run([*begun, *shlex.split(go_on)], check=True, capture_output=True, text=True)
    assert "\nAlready done: critics" in done.stderr
    before = done.stdout.strip().splitlines()[0].removeprefix("Chosen: ").removesuffix(", an exit of the network")
    suggested = re.findall("another budget: lctprune (.*)", done.stdout)
    for select in suggested or [shlex.join(["select", str(run), "--budget-flops", limit]) for limit in ("60%", "99%")]:
        selected = subprocess.run([*begun, *shlex.split(select), "--json"], check=True, capture_output=True, text=True)
        document = json.loads(selected.stdout)
        assert Path(document["model"]).exists()
        assert (document["selected"]["name"] != before) is bool(suggested)  # without one, every budget chooses the same
    card = (run / "selected" / "model.json").read_bytes()
    again = subprocess.run([*begun, *shlex.split(go_on)], check=True, capture_output=True, text=True)
    assert "is compressed to its end already" in again.stderr
    assert (run / "selected" / "model.json").read_bytes() == card  # the choice stays
