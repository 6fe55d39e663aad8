"""What the page computes for its plots and its answers, without a browser."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch

import lctprune as lct
from lctprune import reports
from lctprune.config.combined import Figures, Leaves, ProgressiveRecord
from lctprune.measure.answers import NetworkAnswers, Picture, ReportAnswers
from lctprune.measure.selection import Budget
from lctprune.reports.answers import confusions, data_uri, predictions_payload
from lctprune.reports.curves import spread
from lctprune.reports.payload import front_payload

HOSTILE = "</script><!--<img src=x onerror=alert(1)>\u202e"


def candidate(exit: int, name: str, accuracy: float, flops: int | None, latency: float | None = 1.0) -> lct.Candidate:
    return lct.Candidate(
        exit=exit,
        name=name,
        accuracy=accuracy,
        loss=1.0,
        flops=flops,
        macs=flops and flops // 2,
        parameters=100 + (37 * exit) % 50,
        latency_ms=latency,
        size_bytes=400 + exit,
        samples=100,
    )


FOUR = [
    candidate(0, "layer1", 0.5, 29, 0.7),
    candidate(1, "layer2", 0.5, 31, None),
    candidate(2, "layer3", 0.9, None, 2.1),
    candidate(3, "main network", 0.8, 100, 1.3),
]


@pytest.mark.parametrize("cost", ["flops", "latency_ms", "parameters"])
def test_every_step_of_the_slider_is_what_select_chooses(cost: str) -> None:
    steps = {each["name"]: each["steps"] for each in front_payload(FOUR, None, {}, "lctprune select")["costs"]}[cost]
    assert [step["percent"] for step in steps[:100]] == list(range(1, 101))
    for step in steps:
        budget = Budget(**({cost: f"{step['percent']}%"} if step["percent"] else {}))  # type: ignore[arg-type]
        try:
            expected = lct.select(FOUR, budget).exit
        except lct.BudgetError:
            expected = None
        assert step["exit"] == expected, step
        assert not step["percent"] or step["limit"] == budget.limits(FOUR[3])[cost]


def test_a_limit_on_macs_is_drawn_as_flops() -> None:
    (flops, *_) = front_payload(FOUR, FOUR[0], {"macs": 20.0}, "")["costs"]
    assert flops["limit"] == 40


def network_answers(targets: list[int], answers: list[int]) -> NetworkAnswers:
    true, said = torch.tensor(targets), torch.tensor(answers)
    return NetworkAnswers(exit=1, split="test", targets=true, answers=said, confidence=torch.full((len(true),), 0.5))


def page_with(trained: lct.Run, answers: ReportAnswers, classes: list[str]) -> str:
    config = trained.config.to_dict()
    config["data"]["classes"] = classes
    (trained.path / "config.json").write_text(json.dumps(config))
    return reports.report_page(lct.Run(trained.path), FOUR, answers=answers)


def test_names_of_classes_stay_text(trained: lct.Run) -> None:
    picture = Picture(torch.zeros(3, 8, 8), 0, {0: 1, 3: 0}, {0: 0.6, 3: 0.7})
    answers = ReportAnswers(network=network_answers([0, 1, 2], [0, 2, 2]), pictures=[picture])
    text = page_with(trained, answers, [HOSTILE, f"{HOSTILE}2", "c"])
    assert text.count("</script>") == 4
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert html.unescape(text).count(HOSTILE[:-1]) >= 5  # two headings, two rows, a card
    assert "layer1 60%" in text
    assert "On the test split, 3 samples, of which 66.67% are classified correctly" in text


def test_of_many_classes_the_most_frequent_confusions_are_listed() -> None:
    table = confusions(network_answers([3, 3, 3, 4, 5, 6], [7, 7, 3, 4, 8, 6]), [f"class {n}" for n in range(30)])
    assert table is not None
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["class 3", "class 7", "2 of 3"],
        ["class 5", "class 8", "1 of 1"],
    ]


def test_many_predictions_are_thinned_out() -> None:
    values = torch.arange(2001.0)
    found = predictions_payload(
        NetworkAnswers(exit=0, split="test", targets=values, answers=values + 1, confidence=None)
    )
    assert found is not None
    assert found["samples"] == 2001
    assert len(found["points"]) <= 500
    assert all(point["answer"] == point["target"] + 1 for point in found["points"])


@pytest.mark.parametrize(("shape", "kind", "side"), [((1, 8, 8), "png", 8), ((3, 224, 112), "jpeg", 48)])
def test_pictures_are_small(shape: tuple[int, ...], kind: str, side: int) -> None:
    source, width = data_uri(torch.rand(shape), None)
    assert source.startswith(f"data:image/{kind};base64,")
    assert width == side
    assert len(source) < 10_000


def test_names_at_the_ends_of_curves_keep_apart() -> None:
    assert spread([], 10) == []
    assert spread([5.0, 100.0], 10) == [5.0, 100.0]
    found = spread([3.0, 2.0, 1.0, 50.0], 10)
    assert [b - a for a, b in zip(sorted(found), sorted(found)[1:], strict=False)] >= [10, 10]
    assert sorted(range(4), key=found.__getitem__) == [2, 1, 0, 3]


def test_a_title_says_which_run_and_which_data(trained: lct.Run) -> None:
    data = Path(trained.config.data.config.name).name  # type: ignore[union-attr]
    assert re.fullmatch(rf"{data}, \d+ validation samples", reports.validation_data(trained))


def test_no_legend_names_a_front_that_is_not_drawn() -> None:
    two = [candidate(0, "layer1", 0.9, 10), candidate(1, "main network", 0.8, 20)]
    labels = [
        [text.get_text() for text in reports.pareto_figure(two, chosen=chosen).axes[0].get_legend().get_texts()]
        for chosen in (two[0], None)
    ]
    assert "Pareto front" not in labels[0]
    assert "Pareto front" in labels[1]


def test_a_progressive_network_is_a_point_beside_the_front(trained: lct.Run) -> None:
    figures = Figures(samples=50, accuracy=0.76, main_accuracy=0.78, mean_flops=40.0, shares=(0.25, 0.75))
    exits = (Leaves(name="layer1"), Leaves(name=HOSTILE))
    early = ProgressiveRecord(exits=exits, checked_on=figures, test=figures, trained_with={})
    page = reports.report_page(trained, FOUR, progressive=early)
    payload = json.loads(re.findall(r'id="report-data">(.*?)</script>', page, re.DOTALL)[0])
    (point,) = payload["front"]["combined"]
    assert (point["name"], point["score"], point["costs"]) == ("progressive", 0.76, {"flops": 40.0})
    assert "mean 40 FLOPs (40% of main)" in point["lines"]
    bars = re.findall(r'<li><span>(.*?)</span><div style="--share: ([\d.]+)"></div><b>(.*?)</b>', page)
    assert [(float(share), text) for _, share, text in bars] == [(0.25, "25.0%"), (0.75, "75.0%")]
    assert "&lt;/script&gt;" in bars[1][0]
    without = reports.report_page(trained, FOUR)
    assert "Triangle: samples" in page
    assert "Leaving early" not in without
    assert "Triangle: samples" not in without


def test_a_compression_and_added_networks_are_told(trained: lct.Run) -> None:
    stage = {"stage": "round 1", "what": "layer1 <b>, narrowed", "networks": 2, "passes": 3.72, "cost": 2.79}
    record = {"budget": {"flops": 2e6}, "unit": "epochs of the main network", "plan": [stage]}
    further = [reports.FurtherRun(folder="narrowed/a", run=trained, names=["small", "smaller", "smallest"])]
    page = reports.report_page(trained, FOUR, compression=record, further=further)
    assert "was to get to 2M FLOPs" in page
    cells = "<td>layer1 &lt;b&gt;, narrowed</td><td>2</td><td>3.72</td><td>2.79</td>"
    assert f'<th scope="row">round 1</th>{cells}' in page
    assert "<h3>narrowed/a</h3>" in page
    payload = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
    names = [each["name"] for curves in payload["curves"] for each in curves["series"]]
    assert names.count("small") == 2  # accuracy and loss
    assert sorted(map(int, re.findall(r'data-curves="(\d+)"', page))) == [*range(len(payload["curves"]))]
    without = reports.report_page(trained, FOUR)
    assert not any(text in without for text in ("How it was compressed", "networks that were added</h2>"))
