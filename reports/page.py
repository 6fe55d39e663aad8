"""Render one self-contained HTML page about a run: nothing is loaded from elsewhere.

The functions here compute what the page says as plain data; `page.html.jinja` lays it out and escapes it, `page.js`
draws plots from the same data, with Observable Plot. Without scripts the page shows the plots of matplotlib instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from lctprune.config.combined import PROGRESSIVE, ProgressiveRecord
from lctprune.data.builtin import dependence
from lctprune.data.preprocessing import Normalization
from lctprune.measure.answers import ReportAnswers
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.guessing import chance_note
from lctprune.measure.recall import ClassRecall
from lctprune.measure.rules import Rule
from lctprune.reports.answers import Card, cards, confusion, confusions, predictions_payload, reliability_payload
from lctprune.reports.candidate_table import candidate_table
from lctprune.reports.choice import choice_of
from lctprune.reports.combined import combined_points, leaving
from lctprune.reports.curves import DIAGNOSTICS, score_quantity, training_curves
from lctprune.reports.explain import describe_run
from lctprune.reports.figures import inline_svg
from lctprune.reports.formats import begun, percent
from lctprune.reports.payload import curves_payload, front_payload
from lctprune.reports.plots import pareto_figure
from lctprune.reports.points import measured_costs
from lctprune.reports.recall import recall_table
from lctprune.reports.strip import strip
from lctprune.reports.tables import metrics_frame
from lctprune.reports.tiles import headline_tiles
from lctprune.reports.trainings import Drawing, FurtherRun, compression_story, further_trainings, training_drawings
from lctprune.reports.usage import commands, hashes, usage
from lctprune.runs import Run
from lctprune.utils.names import visible

METHODS = {
    "local-critic": "Trained with local critics: every exit is a network of its own.",
    "joint": "Trained by deep supervision, with the gradients of all exits: every exit is a network of its own.",
    "backprop": "Trained whole, by backpropagation.",
}
COMPRESSED = "Compressed from a trained network: critics were trained on it, and the best networks made smaller."


def report_page(
    run: Run,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None = None,
    budget: Mapping[str, float] | None = None,
    rule: Rule | None = None,
    test: Mapping[str, Any] | None = None,
    recall: ClassRecall | None = None,
    answers: ReportAnswers | None = None,
    model_card: Mapping[str, Any] | None = None,
    checkpoint_sha256: str | None = None,
    progressive: ProgressiveRecord | None = None,
    further: Sequence[FurtherRun] = (),
    compression: Mapping[str, Any] | None = None,
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
        answers: answers of one network, and images with the answers of all, from `read_answers`.
        model_card: content of the model.json of the selected network, which is in the run's folder selected/.
        checkpoint_sha256: hash of the run's checkpoint.
        progressive: progressive network of the run, from `read_progressive`.
        further: runs that were added to it, whose training is shown too.
        compression: content of the run's compress.json, if it is a compression.

    Raises:
        ConfigError: the budget names something else, or a limit is not a positive number.
        RunError: metrics.csv holds something that is not a number.
    """
    metric, metrics = candidates[0].metric, metrics_frame(run)
    names = {each.exit: each.name for each in candidates if not each.is_reduced}
    trained = map(int, training_curves(metrics, "train_loss").columns)
    names |= {exit: names.get(exit, f"exit {exit}") for exit in trained}
    quantities = (score_quantity(metrics, metric), "train_loss")
    facts, found = describe_run(run), _answers(run, answers, candidates)
    facts.pop("command", None)
    means = ["--mean-flops"] if any(each.combined == PROGRESSIVE for each in candidates) else []
    front = front_payload(candidates, chosen, budget or {}, run.command("select", *means))
    curves = curves_payload(metrics, (*quantities, *DIAGNOSTICS), metric, names)
    trainings, further_curves = further_trainings(further, metric, len(curves))
    payload: dict[str, Any] = {
        "front": {**front, "combined": combined_points(progressive, candidates)},
        "curves": curves + further_curves,
        "reliability": found and found["reliability"],
        "predictions": found and found["predictions"],
    }
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
        heading=begun(metric),
        method=COMPRESSED if compression else METHODS[run.config.training.method],
        compression=compression_story(compression, run.config),
        tiles=headline_tiles(candidates, chosen, test),
        choice=choice_of(candidates, chosen, budget or {}, rule, test, run.class_count),
        chance=chance_note(candidates, run.class_count, chosen),
        strip=strip(candidates, chosen),
        added=any(candidate.origin for candidate in candidates),
        costs=front["costs"],
        combined=payload["front"]["combined"],
        leaving=leaving(progressive, candidates),
        pareto=_pareto(candidates, chosen, budget),
        table=candidate_table(
            candidates, chosen, further=dependence(run.config.data.config) if run.config.data else ""
        ),
        drawings=training_drawings(metrics, quantities, "Curve of every exit", metric, names),
        agreement=training_drawings(
            metrics, DIAGNOSTICS, "Agreement with backpropagation, a curve for every group", metric, names
        ),
        trainings=trainings,
        answers=found,
        recall=recall_table(recall, run, candidates, chosen) if recall else None,
        cards=_cards(run, answers, candidates),
        usage=usage(run, model_card, run.path / "selected") if model_card else None,
        commands=commands(run, model_card),
        facts={**facts, **hashes(run, model_card, checkpoint_sha256)},
        payload=htmlsafe_json_dumps(payload, dumps=_dumps),
        assets=_assets(),
    )


def _dumps(payload: object, **options: Any) -> str:
    return json.dumps(payload, allow_nan=False, separators=(",", ":"), **options)


def _assets() -> dict[str, Markup]:
    """Read the style and the scripts, which are the page's own and not escaped."""
    folder = files("lctprune.reports")
    names = {
        "css": "page.css",
        "js": "page.js",
        "charts": "charts.js",
        "d3": "vendor/d3.min.js",
        "plot": "vendor/plot.umd.min.js",
    }
    return {key: Markup((folder / name).read_text(encoding="utf-8")) for key, name in names.items()}


def _answers(run: Run, answers: ReportAnswers | None, candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """Return what the page says of the answers of one network; None where they are not known."""
    if answers is None or answers.network is None or run.config.data is None:
        return None
    network, classes = answers.network, run.config.data.classes
    right = ""
    if network.confidence is not None:
        fraction = float((network.targets == network.answers).double().mean())
        right = f", of which {percent(fraction, 2)} are classified correctly"
    return {
        "name": candidate_of(candidates, network.exit).name,
        "split": network.split,
        "samples": f"{len(network.targets):,}",
        "score": right,
        "confusion": confusion(network, classes),
        "confusions": confusions(network, classes),
        "reliability": reliability_payload(network),
        "predictions": predictions_payload(network),
    }


def _cards(run: Run, answers: ReportAnswers | None, candidates: Sequence[Candidate]) -> list[Card]:
    if answers is None or not answers.pictures or run.config.data is None:
        return []
    data = run.config.data
    normalization = Normalization(data.mean, data.std) if data.mean else None
    return cards(answers.pictures, candidates, data.classes, normalization)


def _shown(value: object) -> object:
    """Write out the hidden characters of every text that the template is given; markup is the page's own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _pareto(
    candidates: Sequence[Candidate], chosen: Candidate | None, budget: Mapping[str, float] | None
) -> list[Drawing]:
    drawings = []
    for cost in measured_costs(candidates):
        figure = pareto_figure(candidates, chosen=chosen, budget=budget, costs=[cost])
        kind = "latency" if cost == "latency_ms" else "FLOPs"
        metric = begun(candidates[0].metric)
        label = f"{metric} of every exit against its {kind}; the numbers are in the table of candidates"
        drawings.append(Drawing(label=label, svg=inline_svg(figure, f"pareto-{cost}")))
    return drawings
