"""Render one self-contained HTML page about a run: no script, nothing loaded from elsewhere.

The functions here compute what the page says as plain data; `page.html.jinja` lays it out and escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lctprune.config.metric import is_lower_better, score_text
from lctprune.measure.candidates import Candidate, wilson_interval
from lctprune.measure.recall import ClassRecall
from lctprune.measure.rules import Rule
from lctprune.measure.selection import main_of, pareto_front
from lctprune.measure.units import engineering, latency_conditions
from lctprune.reports.curves import DIAGNOSTICS, QUANTITIES, score_quantity, training_curves, training_figure
from lctprune.reports.explain import describe_run, explain_choice
from lctprune.reports.figures import inline_svg
from lctprune.reports.formats import percent, percent_interval
from lctprune.reports.grid import Cell, Row, Table
from lctprune.reports.plots import pareto_figure
from lctprune.reports.points import measured_costs
from lctprune.reports.recall import recall_table
from lctprune.reports.tables import metrics_frame
from lctprune.reports.tiles import headline_tiles, main_score, own_score
from lctprune.runs import Run
from lctprune.utils.names import visible

METHODS = {
    "local-critic": "Trained with local critics: every exit is a network of its own.",
    "joint": "Trained by deep supervision, with the gradients of all exits: every exit is a network of its own.",
    "backprop": "Trained whole, by backpropagation.",
}
WILSON, NORMAL = "Wilson's 95% interval", "the 95% interval of the normal distribution"
UNITS = (
    "{Scores}: on the validation split, with {interval}; loss is the mean per sample. "
    "FLOPs: per sample, where 1 FLOP is one multiply or one add (one multiply-add, MAC, is 2 FLOPs). "
    "Latency: median of one call at batch {batch} in {conditions}, on the machine that evaluated the run, with 5th and "
    "95th percentile. "
    "Size: of weights and buffers; 1 MB is 1,000,000 bytes. "
    "Front: no other exit is at least as good in {metric} at no more FLOPs, and better in one of the two."
)
COLUMNS = ("exit", "{metric}", "loss", "FLOPs", "of main", "parameters", "size", "latency", "front")
UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen network, and sentences that say why it was chosen and how it does on the test split."""

    heading: str
    sentences: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, and what it shows for readers who do not see it."""

    label: str
    svg: Markup


def report_page(
    run: Run,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None = None,
    budget: Mapping[str, float] | None = None,
    rule: Rule | None = None,
    test: Mapping[str, Any] | None = None,
    recall: ClassRecall | None = None,
) -> str:
    """Render the report of one run as the text of an HTML file.

    Args:
        run: run directory with the configuration and the metrics.
        candidates: exits of the network, at least one, measured on the validation split.
        chosen: candidate to highlight; the page says why it was chosen.
        budget: plain limits by "flops", "macs", "parameters", "latency_ms" and "size_bytes".
        rule: rule by which the candidate was chosen.
        test: results of the chosen network on the test split: `metric`, `score` (by default `accuracy`), `samples`, and
            `main_score` (by default `main_accuracy`), that of the main network.
        recall: recall of each class on the validation split, if it was measured.

    Raises:
        ConfigError: the budget names something else, or a limit is not a positive number.
        RunError: metrics.csv holds something that is not a number.
    """
    metric, metrics = candidates[0].metric, metrics_frame(run)
    environment = Environment(
        loader=PackageLoader("lctprune.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.jinja").render(
        name=run.path.resolve().name,
        heading=_begun(metric),
        method=METHODS[run.config.training.method],
        tiles=headline_tiles(candidates, chosen, test),
        choice=_choice(candidates, chosen, budget or {}, rule, test),
        table=_table(candidates, chosen),
        recall=recall_table(recall, run, candidates, chosen) if recall else None,
        pareto=_pareto(candidates, chosen, budget),
        curves=_curves(metrics, (score_quantity(metrics, metric), "train_loss"), "Curve of every exit", metric),
        agreement=_curves(metrics, DIAGNOSTICS, "Agreement with backpropagation, a curve for every group", metric),
        facts=describe_run(run),
    )


def _shown(value: object) -> object:
    """Write out the hidden characters of every text that the template is given; markup is the page's own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _choice(
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    budget: Mapping[str, float],
    rule: Rule | None,
    test: Mapping[str, Any] | None,
) -> Choice | None:
    if chosen is None and test is None:
        return None
    sentences = [] if chosen is None else explain_choice(candidates, chosen, budget, rule)
    if test is not None:
        sentences.append(_test_sentence("the chosen network" if chosen is None else chosen.name, test))
    return Choice(heading="Chosen" if chosen is None else f"Chosen: {chosen.name}", sentences=sentences)


def _test_sentence(name: str, test: Mapping[str, Any]) -> str:
    score, samples = own_score(test), int(test["samples"])
    metric = test.get("metric", "accuracy")
    if score is None:
        return f"Test {metric} of {name} is not defined on these {samples:,} samples."
    interval = ""
    if metric == "accuracy":  # a fraction of samples
        interval = f"95% interval {percent_interval(*wilson_interval(score, samples))}, "
    sentence = f"Test {metric} of {name}: {score_text(score, metric, 2)} ({interval}{samples:,} samples)."
    if (main := main_score(test)) is None:
        return sentence
    difference = f"{score - main:+.4g}" if is_lower_better(metric) else f"{100 * (score - main):+.2f} percentage points"
    return f"{sentence} The main network's: {score_text(main, metric, 2)}; the difference is {difference}."


def _table(candidates: Sequence[Candidate], chosen: Candidate | None) -> Table:
    front = pareto_front(candidates, "flops")
    main, metric = main_of(candidates), candidates[0].metric
    rows = []
    for candidate in candidates:
        is_chosen = chosen is not None and candidate.exit == chosen.exit
        rows.append(Row(cells=_cells(candidate, main, candidate in front, is_chosen), chosen=is_chosen))
    samples = {candidate.samples for candidate in candidates if candidate.samples}
    counted = f"Validation samples: {', '.join(f'{count:,}' for count in sorted(samples))}. " if samples else ""
    units = UNITS.format(
        Scores=_begun(metric) + ("" if metric == "loss" else " and loss"),
        metric=metric,
        interval=WILSON if metric == "accuracy" else NORMAL,
        batch=candidates[0].latency_batch,
        conditions=latency_conditions(candidates),
    )
    columns = [column.format(metric=metric) for column in COLUMNS if metric != "loss" or column != "loss"]
    return Table(columns=columns, rows=rows, note=counted + units)


def _begun(text: str) -> str:
    """Write a metric's name as it begins a sentence."""
    return text if text == "mAP" else text[0].upper() + text[1:]


def _cells(candidate: Candidate, main: Candidate, on_front: bool, is_chosen: bool) -> list[Cell]:
    """Return the cells of a candidate's row, in the order of `COLUMNS`."""
    score = score_text(candidate.score, candidate.metric)
    flops, latency = candidate.flops, candidate.latency_ms
    p5, p95 = candidate.latency_p5_ms, candidate.latency_p95_ms
    low, high = candidate.score_interval
    as_loss = is_lower_better(candidate.metric)
    bounds = f"{low:.4g} to {high:.4g}" if as_loss else percent_interval(low, high)
    interval = [bounds] if candidate.samples else []
    names = [*([candidate.origin] if candidate.origin else []), *(["chosen"] if is_chosen else [])]
    return [
        Cell(candidate.name, names),
        Cell(score, interval),
        *([] if as_loss else [Cell(f"{candidate.loss:.3f}")]),
        Cell(UNKNOWN) if flops is None else Cell(engineering(flops), [f"{engineering(flops / 2)} MACs"]),
        Cell(percent(flops / main.flops, 0) if flops and main.flops else UNKNOWN),
        Cell(engineering(candidate.parameters)),
        Cell(f"{candidate.size_bytes / 1e6:.3g} MB"),
        Cell(
            "not measured" if latency is None else f"{latency:.3g} ms",
            [] if p5 is None or p95 is None else [f"{p5:.3g} to {p95:.3g} ms"],
        ),
        Cell("yes" if on_front else "no" if flops is not None else UNKNOWN),
    ]


def _pareto(
    candidates: Sequence[Candidate], chosen: Candidate | None, budget: Mapping[str, float] | None
) -> list[Drawing]:
    drawings = []
    for cost in measured_costs(candidates):
        figure = pareto_figure(candidates, chosen=chosen, budget=budget, costs=[cost])
        kind = "latency" if cost == "latency_ms" else "FLOPs"
        metric = _begun(candidates[0].metric)
        label = f"{metric} of every exit against its {kind}; the numbers are in the table of candidates"
        drawings.append(Drawing(label=label, svg=inline_svg(figure, f"pareto-{cost}")))
    return drawings


def _curves(metrics: pandas.DataFrame, quantities: Sequence[str], label: str, metric: str) -> list[Drawing]:
    """Draw the quantities that the run measured, one figure per quantity."""
    return [
        Drawing(
            label=f"{label}, by epoch: {QUANTITIES[quantity].format(metric=metric)}",
            svg=inline_svg(training_figure(metrics, quantities=[quantity], metric=metric), quantity),
        )
        for quantity in quantities
        if not training_curves(metrics, quantity).empty
    ]
