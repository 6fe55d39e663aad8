"""Tables, plots and the page of a run: the data that they show, not their pixels."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pandas
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from lctprune import Candidate, ConfigError, Run, RunError, reports
from lctprune.measure.candidates import MAIN, wilson_interval
from lctprune.measure.units import engineering, number_text
from lctprune.reports.explain import describe_run
from lctprune.reports.figures import CHOSEN, INK
from lctprune.reports.plots import MOST_LABELS
from lctprune.reports.tiles import headline_tiles

ACCURACIES = (0.842, 0.858, 0.871, 0.884)
FLOPS = (400_000_000, 639_000_000, 878_000_000, 1_109_000_000)
LATENCIES = (5.9, 8.1, 11.5, 16.2)
HOSTILE = """<script>alert('a&b', "c")<"""
VOID = {"meta", "br", "hr", "img", "input", "link"}


def make_candidates(
    accuracies: Sequence[float] = ACCURACIES,
    flops: Sequence[int | None] = FLOPS,
    latencies: Sequence[float | None] = LATENCIES,
    samples: int | None = 5000,
) -> list[Candidate]:
    return [
        Candidate(
            exit=exit,
            name="main network" if exit == len(accuracies) - 1 else f"exit {exit}",
            accuracy=accuracy,
            loss=0.5,
            flops=cost,
            macs=None if cost is None else cost // 2,
            parameters=1_000_000 * (exit + 1),
            latency_ms=latency,
            size_bytes=4_000_000 * (exit + 1),
            samples=samples,
            latency_p5_ms=latency and 0.96 * latency,
            latency_p95_ms=latency and 1.12 * latency,
        )
        for exit, (accuracy, cost, latency) in enumerate(zip(accuracies, flops, latencies, strict=True))
    ]


def many() -> list[Candidate]:
    accuracies = [0.62 + 0.28 * (1 - (1 - exit / 12) ** 2) - 0.02 * (exit % 5 == 4) for exit in range(13)]
    return make_candidates(
        accuracies, [150_000_000 + 90_000_000 * exit for exit in range(13)], [2 + 1.3 * exit for exit in range(13)]
    )


def seventeen() -> list[Candidate]:
    """Nearly all on the front and close together at its end, as after densification."""
    accuracies = (61, 65.5, 72, 78, 81.2, 83.3, 84.2, 83.8, 85.1, 85.8, 86.2, 86.6, 87.1, 87.4, 87.9, 88.4, 88.5)
    mega_flops = (48, 75, 110, 170, 240, 330, 404, 460, 520, 639, 700, 780, 878, 950, 1000, 1109, 1180)
    return make_candidates(
        [accuracy / 100 for accuracy in accuracies],
        [1_000_000 * flops for flops in mega_flops],
        [1 + flops / 70 for flops in mega_flops],
    )


CASES = {
    "four": make_candidates(),
    "one": make_candidates()[3:],
    "equally accurate": make_candidates((0.85,) * 4),
    "identical": make_candidates((0.85,) * 4, (FLOPS[0],) * 4, (5.9,) * 4),
    "few samples": make_candidates((0.93, 0.944, 0.951, 0.937), samples=144),
    "perfect": make_candidates((1.0,) * 4, samples=144),
    "samples not known": make_candidates(samples=None),
    "thirteen": many(),
    "seventeen": seventeen(),
}


@pytest.fixture(params=CASES)
def candidates(request: pytest.FixtureRequest) -> list[Candidate]:
    return CASES[request.param]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "resnet18-digits")


def make_run(path: Path, *, epochs: int = 3, model: str = "resnet18") -> Run:
    """Write a run directory as training leaves it, without the checkpoint."""
    network = {
        "model": model,
        "groups": 2,
        "split_at": None,
        "critic": "tail",
        "critic_depth": None,
        "num_outputs": 10,
        "in_channels": 1,
        "image_size": 32,
    }
    data = {
        "config": {"name": "digits", "data_dir": "data", "image_size": None, "augment": "auto", "val_fraction": 0.1},
        "classes": [str(digit) for digit in range(10)],
        "samples": {"train": 1293, "val": 144, "test": 360},
        "mean": [0.305152],
        "std": [0.323652],
    }
    config = {
        "created": "2026-11-22T10:14:43.687963+00:00",
        "command": ["lctprune", "train", model],
        "versions": {"lctprune": "0.1.0", "torch": "2.14.1"},
        "machine": {"platform": "Linux", "cpu": "AMD EPYC", "cores": 2, "threads": 2, "gpu": None},
        "network": network,
        "data": data,
        "training": {"epochs": 4, "batch_size": 128, "lr": 0.1, "precision": "bf16", "seed": 0}
        | {"matching": "0:0.5", "distill": 0.25},
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    rows = [
        {"epoch": epoch, "lr": 0.1 / epoch, "images_per_s": 69.09}
        | {
            f"exit{exit}_{name}": value
            for exit in range(2)
            for name, value in (
                ("train_loss", 2.0 / epoch),
                ("val_accuracy", 0.1 * epoch + exit / 100),
                ("val_loss", 2),
            )
        }
        for epoch in range(1, epochs + 1)
    ]
    run = Run(path)
    if rows:
        run.write_metrics(rows)
    return run


def panel(candidates: Sequence[Candidate], cost: str, *, limit: float | None = None) -> Axes:
    return reports.plot_pareto(Figure().add_subplot(), candidates, cost, limit=limit)


def legend_labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def candidates_frame_fields() -> list[str]:
    """Every field of a candidate but its answers per sample, which only candidates.json holds."""
    return [field.name for field in dataclasses.fields(Candidate) if field.name != "answers"]


def test_candidates_frame_holds_every_field_and_the_interval() -> None:
    candidates = make_candidates()
    frame = reports.candidates_frame(candidates)
    assert list(frame.columns) == [
        *candidates_frame_fields(),
        "accuracy_low",
        "accuracy_high",
        "score_low",
        "score_high",
    ]
    for row, candidate in zip(frame.to_dict("records"), candidates, strict=True):
        known = {name: None if pandas.isna(row[name]) else row[name] for name in candidates_frame_fields()}
        assert known == {name: getattr(candidate, name) for name in known}
        assert (row["accuracy_low"], row["accuracy_high"]) == wilson_interval(candidate.accuracy, 5000)


def test_candidates_frame_says_what_is_missing() -> None:
    frame = reports.candidates_frame(make_candidates(flops=(None,) * 4, latencies=(None,) * 4, samples=None))
    assert frame[["flops", "macs", "samples", "latency_ms", "latency_p5_ms", "latency_p95_ms"]].isna().all(axis=None)
    assert frame[["accuracy_low", "accuracy_high"]].to_numpy().tolist() == [[0.0, 1.0]] * 4


def test_candidates_frame_keeps_large_integers_beside_missing_ones() -> None:
    flops = 2**53 + 1  # not a float
    assert reports.candidates_frame(make_candidates(flops=(None, 1, 2, flops)))["flops"][3] == flops


def test_candidates_frame_of_no_candidates_has_the_columns() -> None:
    frame = reports.candidates_frame([])
    assert frame.empty
    assert {"exit", "accuracy_low", "samples"} <= set(frame.columns)


def test_candidates_are_read_back_from_the_csv_as_written(tmp_path: Path) -> None:
    candidates = make_candidates(latencies=(5.9, None, 11.5, 16.2))
    reports.write_candidates(candidates, tmp_path / "candidates.csv")
    with (tmp_path / "candidates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, candidate in zip(rows, candidates, strict=True):
        for name in candidates_frame_fields():
            value = getattr(candidate, name)
            assert row[name] == "" if value is None else type(value)(row[name]) == value


def test_metrics_frame_is_numbers(run: Run) -> None:
    frame = reports.metrics_frame(run)
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert all(pandas.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes)
    assert frame["exit1_val_accuracy"].tolist() == pytest.approx([0.11, 0.21, 0.31])


def test_metrics_frame_of_an_unfinished_run_is_empty(tmp_path: Path) -> None:
    assert reports.metrics_frame(make_run(tmp_path / "new", epochs=0)).empty


def test_metrics_frame_refuses_what_is_not_a_number(run: Run) -> None:
    (run.path / "metrics.csv").write_text("epoch,lr\n1,high\n")
    with pytest.raises(RunError, match=r"metrics\.csv: lr is 'high' in line 2; it must be a finite number"):
        reports.metrics_frame(run)


@pytest.mark.parametrize(
    ("accuracies", "front"),
    [
        (ACCURACIES, [True, True, True, True]),
        ((0.93, 0.944, 0.951, 0.937), [True, True, True, False]),
        ((0.85,) * 4, [True, False, False, False]),
        ((0.9, 0.8, 0.9, 0.95), [True, False, False, True]),
    ],
)
def test_pareto_points_mark_the_front(accuracies: Sequence[float], front: list[bool]) -> None:
    points = reports.pareto_points(make_candidates(accuracies), "flops")
    assert [point.on_front for point in points] == front


def test_pareto_points_are_in_order_of_cost_and_leave_out_unknown_costs() -> None:
    candidates = make_candidates(latencies=(9.0, None, 3.0, 16.2))
    points = reports.pareto_points(candidates, "latency_ms")
    assert [(point.exit, point.cost) for point in points] == [(2, 3.0), (0, 9.0), (3, 16.2)]
    assert [(point.cost_low, point.cost_high) for point in points] == [
        pytest.approx((0.96 * cost, 1.12 * cost)) for cost in (3.0, 9.0, 16.2)
    ]


def test_pareto_points_carry_wilson_intervals() -> None:
    # by hand for 90 of 100: centre (0.9 + z2/200) / (1 + z2/100), with z2 = 3.8415
    (point,) = reports.pareto_points(make_candidates((0.9,), (10,), (1.0,), samples=100), "flops")
    assert (point.low, point.high) == pytest.approx((0.82563, 0.94478), abs=1e-5)
    (unknown,) = reports.pareto_points(make_candidates((0.9,), (10,), (1.0,), samples=None), "flops")
    assert (unknown.low, unknown.high) == (None, None)


def test_an_unknown_cost_is_named() -> None:
    with pytest.raises(ConfigError, match="cost is 'watts'"):
        reports.pareto_points(make_candidates(), "watts")
    with pytest.raises(ConfigError, match="budget names watts"):
        reports.pareto_figure(make_candidates(), budget={"watts": 3.0})


@pytest.mark.parametrize("cost", ["flops", "latency_ms", "macs", "parameters"])
def test_axes_hold_all_points_and_intervals(candidates: list[Candidate], cost: str) -> None:
    ax = panel(candidates, cost)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for point in reports.pareto_points(candidates, cost):
        assert all(left < value < right for value in (point.cost, point.cost_low, point.cost_high) if value)
        assert all(bottom < value < top for value in (point.score, point.low, point.high) if value is not None)


def test_the_accuracy_axis_is_zoomed_to_the_data() -> None:
    bottom, top = panel(make_candidates(), "flops").get_ylim()
    assert bottom > 0.8
    assert top < 0.92
    ticks = [label.get_text() for label in panel(make_candidates(), "flops").get_yticklabels()]
    assert all(re.fullmatch(r"\d+(\.\d+)?%", tick) for tick in ticks)


@pytest.mark.parametrize("cost", ["flops", "latency_ms"])
def test_labels_name_every_candidate_without_overlaps(candidates: list[Candidate], cost: str) -> None:
    figure = reports.pareto_figure(candidates, chosen=candidates[0], budget={cost: 1.0}, costs=[cost])
    (ax,) = figure.axes
    labels = [child for child in ax.get_children() if isinstance(child, Annotation)]
    front = {point.name for point in reports.pareto_points(candidates, cost) if point.on_front}
    named = {candidate.name for candidate in candidates if len(candidates) <= MOST_LABELS or candidate.name in front}
    assert sorted(label.get_text() for label in labels) == sorted(named | {candidates[0].name, MAIN})
    assert len(labels) >= min(len(candidates), 16)
    boxes = [super(Annotation, label).get_window_extent() for label in labels]  # of the text, without its leader
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_of_very_many_candidates_only_those_that_matter_are_named() -> None:
    """The front, the chosen one and the main network, wherever they stand; the others are drawn without a name."""
    accuracies = [0.5 + 0.02 * (exit // 2) - 0.1 * (exit % 2) for exit in range(18)]
    costs = [100_000_000 + 50_000_000 * exit for exit in range(18)]
    candidates = make_candidates(accuracies, costs, [2.0 + exit for exit in range(18)])
    main = dataclasses.replace(candidates[5], name=MAIN)  # what was added later costs more
    candidates[5] = main
    figure = reports.pareto_figure(candidates, chosen=candidates[3], costs=["flops"])
    (ax,) = figure.axes
    names = {child.get_text() for child in ax.get_children() if isinstance(child, Annotation)}
    front = {candidate.name for candidate in candidates[::2]}
    assert names == front | {candidates[3].name, MAIN}
    assert sum(len(line.get_xdata()) for line in ax.get_lines() if line.get_marker() == "o") == 18


def test_scores_that_are_not_defined_are_plotted_all_the_same() -> None:
    undefined = [dataclasses.replace(each, score=math.nan, metric="R2") for each in make_candidates()]
    assert len(reports.pareto_figure(undefined).axes) == 2


def test_units_are_on_the_axes() -> None:
    flops, latency = reports.pareto_figure(make_candidates()).axes
    assert flops.get_xlabel() == "FLOPs per sample (1 FLOP = one multiply or one add)"
    assert latency.get_xlabel().startswith("median latency, batch 1 (ms)")
    assert "500M" in [label.get_text() for label in flops.get_xticklabels()]


def test_a_candidate_that_is_not_shown_is_named() -> None:
    ax = panel(make_candidates(latencies=(None, 8.1, 11.5, 16.2)), "latency_ms")
    assert ax.get_xlabel().endswith("not shown, as not measured: exit 0")


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        ({"flops": 9e8}, (9e8, None)),
        ({"macs": 3e8}, (6e8, None)),
        ({"macs": 3e8, "flops": 5e8, "latency_ms": 14.0}, (5e8, 14.0)),
        ({"parameters": 5e6}, (None, None)),
    ],
)
def test_the_budget_is_a_line_at_the_limit(budget: dict[str, float], limits: tuple[float | None, ...]) -> None:
    axes = reports.pareto_figure(make_candidates(), budget=budget).axes
    for ax, limit in zip(axes, limits, strict=True):
        lines = [line for line in ax.lines if str(line.get_label()).startswith("budget")]
        assert [list(line.get_xdata()) for line in lines] == ([] if limit is None else [[limit, limit]])
        assert any(label.startswith("budget: at most") for label in legend_labels(ax)) == (limit is not None)
        if limit is not None:
            (shaded,) = ax.patches
            assert shaded.get_window_extent().x0 == pytest.approx(ax.transData.transform((limit, 0))[0])


def test_a_limit_on_parameters_is_named_in_the_figure() -> None:
    figure = reports.pareto_figure(make_candidates(), budget={"parameters": 5e6}, title="a $title")
    assert [text.get_text() for text in figure.texts] == ["a $title", "budget also: at most 5M parameters"]


def test_a_limit_far_away_does_not_squeeze_the_points() -> None:
    ax = panel(make_candidates(), "flops", limit=1e12)
    assert ax.get_xlim()[1] < 2e9
    assert "budget: at most 1T FLOPs (off the axis)" in legend_labels(ax)


def test_the_chosen_one_is_highlighted() -> None:
    candidates = make_candidates()
    for ax in reports.pareto_figure(candidates, chosen=candidates[2]).axes:
        (mark,) = [line for line in ax.lines if line.get_label() == "chosen: exit 2"]
        assert to_hex(str(mark.get_color())) == CHOSEN.lower()
        assert list(mark.get_ydata()) == [0.871]


def test_panels_are_those_that_were_measured() -> None:
    assert len(reports.pareto_figure(make_candidates()).axes) == 2
    (ax,) = reports.pareto_figure(make_candidates(latencies=(None,) * 4)).axes
    assert ax.get_xlabel().startswith("FLOPs")
    (ax,) = reports.pareto_figure(make_candidates(flops=(None,) * 4)).axes
    assert ax.get_xlabel().startswith("median latency")
    (ax,) = reports.pareto_figure([]).axes
    assert [text.get_text() for text in ax.texts] == ["not measured"]


def test_training_figure_draws_every_exit(run: Run) -> None:
    metrics = reports.metrics_frame(run)
    curves = reports.training_curves(metrics, "val_accuracy")
    assert curves.columns.tolist() == [0, 1]
    for ax, quantity in zip(reports.training_figure(metrics).axes, ("val_accuracy", "train_loss"), strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
        expected = reports.training_curves(metrics, quantity)
        assert drawn == {"exit 0": expected[0].tolist(), "main network": expected[1].tolist()}
        assert [list(line.get_xdata()) for line in ax.lines] == [[1, 2, 3]] * 2


def test_training_figure_of_no_epochs_says_so() -> None:
    for ax in reports.training_figure(pandas.DataFrame()).axes:
        assert [text.get_text() for text in ax.texts] == ["no epoch was finished"]


def with_diagnostics(run: Run) -> Run:
    """Add diagnostics to the metrics of a run; at first the shallow exit's gradient was zero."""
    more = [
        {"exit0_cosine": "" if epoch == 0 else 0.2 * epoch, "exit0_gradient_norm": 1.5, "exit0_gap": 0.3}
        | {"exit1_cosine": 1.0, "exit1_gradient_norm": 2.5, "exit1_gap": 0.0}
        for epoch in range(len(run.metrics))
    ]
    run.write_metrics([{**row, **columns} for row, columns in zip(run.metrics, more, strict=True)])
    return run


def test_training_figure_draws_diagnostics(run: Run) -> None:
    metrics = reports.metrics_frame(with_diagnostics(run))
    assert reports.training_curves(metrics, "gap").to_numpy().tolist() == [[0.3, 0.0]] * 3
    assert reports.training_curves(metrics, "gradient_norm").columns.tolist() == [0, 1]
    cosine, gap = reports.training_figure(metrics, quantities=("cosine", "gap")).axes
    assert [list(line.get_ydata()) for line in cosine.lines] == [
        pytest.approx([math.nan, 0.2, 0.4], nan_ok=True),
        [1.0] * 3,
    ]
    assert [line.get_label() for line in gap.lines] == ["exit 0", "main network"]
    assert "cosine" in cosine.get_ylabel()


def test_training_figure_of_what_was_not_measured_says_so(run: Run) -> None:
    metrics = reports.metrics_frame(run)
    assert reports.training_curves(metrics, "cosine").empty
    for ax in reports.training_figure(metrics, quantities=("cosine", "gap")).axes:
        assert [text.get_text() for text in ax.texts] == ["not measured"]
    with pytest.raises(ConfigError, match="quantity is 'speed'"):
        reports.training_curves(metrics, "speed")


def test_the_page_shows_diagnostics_where_there_are_any(run: Run) -> None:
    candidates = make_candidates()
    without = Page(reports.report_page(run, candidates))
    page = Page(reports.report_page(with_diagnostics(run), candidates))
    assert page.tags.count("svg") == without.tags.count("svg") + 3
    assert len(page.ids) == len(set(page.ids))
    for expected in ("Agreement with backpropagation", "at 1 they point the same way", "which critics learn to close"):
        assert expected in page.text
        assert expected not in without.text


def test_files_are_the_same_when_written_twice(tmp_path: Path) -> None:
    first = reports.save_figure(reports.pareto_figure(make_candidates()), tmp_path / "a" / "pareto.v1")
    second = reports.save_figure(reports.pareto_figure(make_candidates()), tmp_path / "b" / "pareto.v1")
    assert [path.name for path in first] == ["pareto.v1.png", "pareto.v1.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(first[1])


def test_figures_leave_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        reports.save_figure(reports.pareto_figure(make_candidates()), tmp_path / "other")
    assert dict(matplotlib.rcParams) == before
    reports.save_figure(reports.pareto_figure(make_candidates()), tmp_path / "usual")
    assert (tmp_path / "other.svg").read_bytes() == (tmp_path / "usual.svg").read_bytes()


class Page(HTMLParser):
    """What is in a page, and that its elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.data = json.loads(re.findall(r"report-data\">(.*?)</script>", text)[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [tag] if tag not in VOID else []
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src", "srcset", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open = self.open if tag in VOID else self.open[:-1]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["script"]:
            self.text += data


def test_the_page_is_self_contained(run: Run) -> None:
    candidates = make_candidates()
    text = reports.report_page(run, candidates, chosen=candidates[2], budget={"flops": 9e8})
    page = Page(text)
    assert page.tags.count("svg") == 4
    assert page.tags.count("script") == 4  # the data, two of the library, and the page's own
    assert not {"link", "iframe", "object", "image"} & set(page.tags)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"@import|url\((?!#)", text[: text.index("<script")])


def test_the_page_says_what_was_measured_and_why_one_was_chosen(run: Run) -> None:
    candidates = make_candidates()
    text = Page(
        reports.report_page(
            run,
            candidates,
            chosen=candidates[2],
            budget={"flops": 9e8},
            test={"accuracy": 0.869, "samples": 10_000, "main_accuracy": 0.881},
        )
    ).text
    low, high = wilson_interval(0.869, 10_000)
    for expected in (
        "most accurate (validation accuracy 87.1%) of the 3 of 4 candidates that fit the budget (at most 900M FLOPs)",
        "It costs 878M FLOPs (limit 900M FLOPs)",
        f"Test accuracy of exit 2: 86.90% (95% interval {100 * low:.1f} to {100 * high:.1f}%, 10,000 samples)",
        "The main network's: 88.10%; the difference is -1.20 percentage points",
        "1 FLOP is one multiply or one add",
        "639M",
        "8.1 ms",
        "resnet18, 2 layer groups",
        "samples: train 1,293, val 144, test 360",
        "3 of 4",
        "a ramp from 0 to 0.5 over training (0: critics learn from the labels only",
        "0.25 (0: critics learn from losses only",
        "bf16",
        "AMD EPYC",
    ):
        assert expected in text


def test_the_page_names_a_cheaper_one_that_is_no_worse(run: Run) -> None:
    candidates = make_candidates((0.842, 0.868, 0.871, 0.884))
    text = Page(reports.report_page(run, candidates, chosen=candidates[2], budget={"flops": 9e8})).text
    assert "do not show a cheaper one to be worse" in text
    assert "exit 1, validation accuracy 86.8%, 639M FLOPs" in text


@pytest.mark.parametrize(
    ("exit", "expected"),
    [
        (3, "As measured now it does not fit the budget (at most 900M FLOPs)"),
        (0, "It is not the most accurate now"),
    ],
)
def test_the_page_does_not_make_up_a_reason(run: Run, exit: int, expected: str) -> None:
    candidates = make_candidates()
    assert expected in reports.report_page(run, candidates, chosen=candidates[exit], budget={"flops": 9e8})


def test_the_page_escapes_every_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / HOSTILE.replace("/", ""), model=HOSTILE)
    candidates = [dataclasses.replace(candidate, name=HOSTILE) for candidate in make_candidates()]
    test = {"accuracy": 0.8, "samples": 360, "main_accuracy": 0.9}
    text = reports.report_page(run, candidates, chosen=candidates[1], budget={"latency_ms": 9.0}, test=test)
    page = Page(text)
    assert page.tags.count("script") == text.count("<script") == text.count("</script") == 4
    assert page.text.count(HOSTILE) >= 6  # title, heading, choice, table, model, command
    assert {each["name"] for each in page.data["front"]["candidates"]} == {HOSTILE}


def test_the_page_escapes_what_the_run_recorded(run: Run) -> None:
    config = run.config.to_dict()
    config["machine"] |= {"cpu": HOSTILE}
    config["data"]["config"] |= {"name": HOSTILE}
    config["data"]["classes"] = [HOSTILE, "other"]
    (run.path / "config.json").write_text(json.dumps(config))
    candidates = [dataclasses.replace(candidate, origin=HOSTILE) for candidate in make_candidates()]
    text = reports.report_page(Run(run.path), candidates)
    assert text.count("<script") == 4
    assert Page(text).text.count(HOSTILE) == 4 + 2  # a note per candidate, and two facts


def test_the_page_starts_with_headline_numbers(run: Run) -> None:
    candidates = make_candidates()
    test = {"accuracy": 0.869, "samples": 10_000, "main_accuracy": 0.881}
    tiles = headline_tiles(candidates, candidates[2], test)
    assert [tile.value for tile in tiles] == ["86.9%", "79%", "75%", "71%"]  # 878/1109, 3/4 and 11.5/16.2
    assert "test accuracy of exit 2, main network 88.1%" in tiles[0].label
    assert "878M of 1.11G" in tiles[1].label
    assert [tile.value for tile in headline_tiles(candidates, None, None)] == ["88.4%", "1.11G", "4M", "16.2 ms"]
    text = Page(reports.report_page(run, candidates, chosen=candidates[2], test=test)).text
    assert all(tile.label in text for tile in tiles)


def test_facts_are_written_for_people(run: Run) -> None:
    config = run.config.to_dict()
    config["machine"] |= {"threads": 1}
    config["command"] = ["/home/me/venv/bin/lctprune", "train"]
    (run.path / "config.json").write_text(json.dumps(config))
    facts = describe_run(Run(run.path))
    assert facts["machine"] == "AMD EPYC, 2 cores, 1 thread"
    assert facts["started"] == "2026-11-22 10:14 UTC"
    assert facts["command"] == "lctprune train"


def test_figures_on_the_page_take_its_colours(run: Run) -> None:
    page = reports.report_page(run, make_candidates())
    figures = page[page.index("<svg") :]
    assert not {INK.lower(), "#ffffff"} & set(re.findall(r"#[0-9a-f]{6}", figures))
    defined = set(re.findall(r"(--\w+):", page))
    assert {"--ink", "--page"} <= set(re.findall(r"var\((--\w+)\)", figures)) <= defined


def test_the_page_of_a_run_with_nothing_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare", epochs=0)
    unknown = {"network": None, "data": None, "training": {}, "machine": None, "command": None}
    (run.path / "config.json").write_text(json.dumps(run.config.to_dict() | unknown))
    run = Run(run.path)
    candidates = make_candidates(flops=(None,) * 4, latencies=(None,) * 4, samples=None)
    text = Page(reports.report_page(run, candidates)).text
    for expected in ("No epoch was finished", "made in a program", "not known", "not measured"):
        assert expected in text
    assert "None" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012346, "0.01235"), (9999.96, "10,000"), (16_541.2, "16,540"), (-2e6, "-2,000,000"), (1e30, "1e+30")],
)
def test_numbers_without_powers_of_ten(value: float, text: str) -> None:
    assert number_text(value) == text


def test_a_difference_of_r2_is_a_number(run: Run) -> None:
    candidates = [dataclasses.replace(each, metric="R2", score=0.8) for each in make_candidates()]
    test = {"metric": "R2", "score": 0.5673, "main_score": 0.57, "accuracy": None, "samples": 360}
    text = Page(reports.report_page(run, candidates, chosen=candidates[1], test=test)).text
    assert "the difference is -0.0027." in text
    assert "percentage points" not in text
    assert "classifier" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (999_999, "1M"), (4e8, "400M"), (1.109e9, "1.11G"), (2.5e13, "25T")],
)
def test_engineering_notation(value: float, text: str) -> None:
    assert engineering(value) == text
