"""One self-contained HTML page of a run: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas

from lctprune.measure.candidates import Candidate, wilson_interval
from lctprune.measure.selection import main_of, pareto_front
from lctprune.measure.units import engineering
from lctprune.reports.curves import DIAGNOSTICS, training_curves, training_figure
from lctprune.reports.explain import describe_run, explain_choice
from lctprune.reports.figures import inline_svg
from lctprune.reports.formats import percent, percent_interval
from lctprune.reports.plots import pareto_figure
from lctprune.reports.points import measured_costs
from lctprune.reports.tables import metrics_frame
from lctprune.runs import Run

METHODS = {
    "local-critic": "Trained with local critics: every exit is a network of its own.",
    "joint": "Trained by deep supervision, with the gradients of all exits: every exit is a network of its own.",
    "backprop": "Trained whole, by backpropagation.",
}
INTERVALS = {"accuracy": "Wilson's 95% interval", "R2": "the 95% interval of the normal distribution"}
UNITS = (
    "{Metric} and loss: on the validation split, with {interval}; loss is the mean per sample. "
    "FLOPs: for one sample, where 1 FLOP is one multiply or one add (one multiply-add, MAC, is 2 FLOPs). "
    "Latency: median of one call at batch {batch} on the machine that evaluated the run, with 5th and 95th percentile. "
    "Size: of weights and buffers; 1 MB is 1,000,000 bytes. "
    "Front: no other exit has at least the {metric} at no more FLOPs, and is better in one of the two."
)
AGREEMENT = (
    "On one batch of the training split, the same after every epoch. Cosine: of each group's local gradient, through "
    "its own critic, and its true one, by backpropagation through the whole network; at 1 they point the same way. "
    "Gap: the mean difference per sample between an exit's loss and the main network's, which critics learn to close. "
    "Norm: of the local gradient. The main network's last group has no critic: its cosine is 1 and its gap 0."
)
COLUMNS = ("exit", "{metric}", "loss", "FLOPs", "of main", "parameters", "size", "latency", "front")
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --muted: #5c5c5c; --page: #fff; --line: #d9d9d9; --mark: #fdeee3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --muted: #a8a8a8; --page: #17191c; --line: #3a3d42; --mark: #43301f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note { color: var(--muted); font-size: .875rem; }
.choice { border-left: 4px solid #d55e00; padding: .1rem 0 .1rem .9rem; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 600; font-size: .875rem; }
td small { color: var(--muted); display: block; }
tr.chosen { background: var(--mark); font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .5rem; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
figure svg { display: block; width: 100%; height: auto; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""


def report_page(
    run: Run,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None = None,
    budget: Mapping[str, float] | None = None,
    test: Mapping[str, Any] | None = None,
) -> str:
    """The report of one run, as the text of an HTML file.

    Args:
        run: what was trained, and its metrics.
        candidates: its exits, at least one, measured on the validation split.
        chosen: is highlighted, and the page says why it was chosen.
        budget: plain limits by "flops", "macs", "parameters" and "latency_ms".
        test: of the chosen network on the test split: `accuracy` (0 to 1), `samples`, and `main_accuracy`, that of the
            main network.

    Raises:
        ConfigError: the budget names something else, or a limit is not a positive number.
        RunError: metrics.csv holds something that is not a number.
    """
    name = run.path.resolve().name
    sections = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="note">{METHODS[run.config["training"].get("method", "local-critic")]} Report by lctprune.</p>',
        _choice(candidates, chosen, budget or {}, test),
        f"<h2>Candidates</h2>{_table(candidates, chosen)}",
        f"<h2>Accuracy and cost</h2>{_pareto(candidates, chosen, budget)}",
        f"<h2>Training</h2>{_curves(run, candidates[0].metric)}",
        f"<h2>What was trained</h2>{_facts(run)}",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)} - lctprune report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _choice(
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    budget: Mapping[str, float],
    test: Mapping[str, Any] | None,
) -> str:
    if chosen is None and test is None:
        return ""
    sentences = [] if chosen is None else explain_choice(candidates, chosen, budget)
    name = "the chosen network" if chosen is None else chosen.name
    if test is not None:
        sentences.append(_test_sentence(name, test))
    heading = "Chosen" if chosen is None else f"Chosen: {escape(chosen.name)}"
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<h2>{heading}</h2><div class="choice">{paragraphs}</div>'


def _test_sentence(name: str, test: Mapping[str, Any]) -> str:
    accuracy, samples = test["accuracy"], int(test["samples"])
    metric = test.get("metric", "accuracy")
    interval = ""
    if metric == "accuracy":  # a share of samples, which an R2 is not
        interval = f"95% interval {percent_interval(*wilson_interval(accuracy, samples))}, "
    sentence = f"Test {metric} of {name}: {percent(accuracy, 2)} ({interval}{samples:,} samples)."
    if (main := test.get("main_accuracy")) is None:
        return sentence
    points = 100 * (accuracy - main)
    return f"{sentence} The main network's: {percent(main, 2)}; the difference is {points:+.2f} percentage points."


def _table(candidates: Sequence[Candidate], chosen: Candidate | None) -> str:
    front = pareto_front(candidates, "flops")
    main, metric = main_of(candidates), candidates[0].metric
    head = "".join(f'<th scope="col">{column.format(metric=metric)}</th>' for column in COLUMNS)
    rows = []
    for candidate in candidates:
        is_chosen = chosen is not None and candidate.exit == chosen.exit
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(candidate, main, candidate in front, is_chosen))
        rows.append(f'<tr class="chosen">{cells}</tr>' if is_chosen else f"<tr>{cells}</tr>")
    samples = {candidate.samples for candidate in candidates if candidate.samples}
    counted = f"Validation samples: {', '.join(f'{count:,}' for count in sorted(samples))}. " if samples else ""
    units = UNITS.format(
        Metric=metric.capitalize(), metric=metric, interval=INTERVALS[metric], batch=candidates[0].latency_batch
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="note">{counted}{units}</p>'
    )


def _cells(candidate: Candidate, main: Candidate, on_front: bool, is_chosen: bool) -> list[str]:
    """The cells of a row, as HTML."""
    unknown = "not known"
    flops, latency = candidate.flops, candidate.latency_ms
    share = percent(flops / main.flops, 0) if flops and main.flops else unknown
    macs = f"{engineering(flops / 2)} MACs" if flops is not None else ""
    p5, p95 = candidate.latency_p5_ms, candidate.latency_p95_ms
    return [
        escape(candidate.name) + _small(escape(candidate.origin)) + _small("chosen" if is_chosen else ""),
        percent(candidate.accuracy)
        + _small(percent_interval(*candidate.accuracy_interval) if candidate.samples else ""),
        f"{candidate.loss:.3f}",
        (unknown if flops is None else engineering(flops)) + _small(macs),
        share,
        engineering(candidate.parameters),
        f"{candidate.size_bytes / 1e6:.3g} MB",
        ("not measured" if latency is None else f"{latency:.3g} ms")
        + _small("" if p5 is None or p95 is None else f"{p5:.3g} to {p95:.3g} ms"),
        "yes" if on_front else "no" if flops is not None else unknown,
    ]


def _small(text: str) -> str:
    return f"<small>{text}</small>" if text else ""


def _pareto(candidates: Sequence[Candidate], chosen: Candidate | None, budget: Mapping[str, float] | None) -> str:
    return _figures(
        [
            inline_svg(pareto_figure(candidates, chosen=chosen, budget=budget, costs=[cost]), f"pareto-{cost}")
            for cost in measured_costs(candidates)
        ],
        "Accuracy of every exit against its cost; the numbers are in the table of candidates",
    )


def _curves(run: Run, metric: str) -> str:
    metrics = metrics_frame(run)
    if metrics.empty:
        return "<p>No epoch was finished.</p>"
    curves = _curve_figures(metrics, ("val_accuracy", "train_loss"), "A curve for every exit, by epoch", metric=metric)
    return curves + _agreement(metrics)


def _agreement(metrics: pandas.DataFrame) -> str:
    measured = [quantity for quantity in DIAGNOSTICS if not training_curves(metrics, quantity).empty]
    if not measured:
        return ""
    figures = _curve_figures(metrics, measured, "Agreement with backpropagation, a curve for every group, by epoch")
    return f"<h2>Agreement with backpropagation</h2><p>{escape(AGREEMENT)}</p>{figures}"


def _curve_figures(
    metrics: pandas.DataFrame, quantities: Sequence[str], label: str, *, metric: str = "accuracy"
) -> str:
    svgs = [
        inline_svg(training_figure(metrics, quantities=[quantity], metric=metric), quantity) for quantity in quantities
    ]
    return _figures(svgs, label)


def _figures(svgs: Sequence[str], label: str) -> str:
    labelled = [svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1) for svg in svgs]
    figures = "".join(f"<figure>{svg}</figure>" for svg in labelled)
    return f'<div class="figures">{figures}</div>'


def _facts(run: Run) -> str:
    facts = "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>" for term, fact in describe_run(run).items())
    return f"<dl>{facts}</dl>"
