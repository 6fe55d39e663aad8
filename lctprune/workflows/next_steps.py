"""Commands that are suggested after a training, and that work as they stand."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from lctprune.config.combined import PROGRESSIVE
from lctprune.config.metric import METRIC_NAMES, SCORE_COLUMNS, is_lower_better, score_text
from lctprune.config.stopping import best_epoch
from lctprune.data.builtin import NAMED, TORCHVISION
from lctprune.errors import BudgetError, ConfigError
from lctprune.exporting.formats import SUFFIXES
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.choice import select
from lctprune.measure.guessing import chance_note, guessed, samples_to_tell
from lctprune.measure.outputs import more_validation
from lctprune.measure.selection import Budget, main_of
from lctprune.measure.units import budget_options
from lctprune.runs import Run
from lctprune.utils.names import shell_word
from lctprune.workflows.members import DENSE, FINETUNED, NARROWED
from lctprune.workflows.sample_inputs import sample_input

USUAL = 60  # percent of the main network
LONGER = 4  # times as many epochs, where networks learned nothing
ENOUGH = 50  # epochs after which training longer is no remedy
FEW = 500  # steps of training, which are few for a deep network
RISEN = 0.01  # of the lowest loss on the validation split, above which it has risen again
CLEARLY = 0.05  # difference of two scores that is worth a note


def next_step(run: Run, candidates: Sequence[Candidate]) -> str:
    """Return a sentence with the command that comes after the training of a run."""
    if len(candidates) == 1:
        return f"Next, train critics on it, which make smaller networks: {training_of_critics(run)}"
    return f"Next, choose one under a budget: {selection(run, candidates)}"


def selection(
    run: Run, candidates: Sequence[Candidate], wanted: Sequence[int] = (), given: Budget | None = None
) -> str:
    """Return a command that selects a network of a run, under a budget that some network fits.

    Args:
        run: the run.
        candidates: its measured candidates.
        wanted: numbers of networks; where a budget selects one of them, the command has that budget.
        given: budget from the user, which comes first if it selects a wanted network, or any where none is wanted.
    """
    if given is not None:
        with suppress(BudgetError, ConfigError):
            if select(candidates, given).exit in (wanted or [each.exit for each in candidates]):
                return run.command("select", *budget_options(given.given))
    main = main_of(candidates)
    cost = _budget_cost(main)
    for candidate in (each for each in candidates if each.exit in wanted):
        limit = _percent(candidate, main, cost)
        if limit and select(candidates, Budget(**{cost: f"{limit}%"})).exit == candidate.exit:
            return _selection_within(run, cost, limit)
    return _selection_within(run, *budget_in_percent(candidates, main_of(candidates)))


def after_selection(run: Run, model: Path, *, is_inside: bool) -> str:
    """Return a sentence with the commands that come after a selection; "" where there is none.

    None predicts for built-in data: the user has no file of its kind.

    Args:
        run: the run that was selected from.
        model: the exported file.
        is_inside: whether the file is in the run, where the report finds what was selected.
    """
    words = [
        "lctprune",
        "predict",
        model.parent,
        sample_input(run),
        *(["--trust-code"] if model.name.endswith(SUFFIXES["aoti"]) else []),
    ]
    is_builtin = run.config.data is not None and run.config.data.config.name in NAMED
    steps = [] if is_builtin else [f"predict with it: {' '.join(map(shell_word, words))}"]
    steps += [f"a page to read: {run.command('report')}"] if is_inside else []
    return f"Next, {'; '.join(steps)}" if steps else ""


def after_progressive(run: Run, candidates: Sequence[Candidate], folder: Path) -> str:
    """Return a sentence with the command that comes after `progressive`; "" where there is none.

    Args:
        run: the run.
        candidates: its exits, the main network last, and then the progressive network.
        folder: folder of the exported files.
    """
    if folder != run.path / PROGRESSIVE:  # where `select` does not find it
        return after_selection(run, folder / "model.json", is_inside=False)
    *_, main, own = candidates
    limit = _percent(own, main, "flops")
    return f"Next, choose between it and the exits: {_selection_within(run, 'flops', limit or 100, '--mean-flops')}"


def selection_of_another(run: Run, candidates: Sequence[Candidate], chosen: Candidate, among: Collection[int]) -> str:
    """Return a command that selects another small network than the chosen one, and leaves that; "" where none does.

    Args:
        run: the run.
        candidates: its measured candidates.
        chosen: the candidate that was chosen.
        among: numbers of the networks that are worth choosing.
    """
    main = main_of(candidates)
    cost = _budget_cost(main)
    own, others = _percent(chosen, main, cost) or 0, []
    for limit in {value for each in candidates if (value := _percent(each, main, cost))}:
        found = select(candidates, Budget(**{cost: f"{limit}%"}))
        if found.key not in (chosen.key, main.key) and found.exit in among:
            others.append(limit)
    smaller = max((limit for limit in others if limit < own), default=None)
    limit = smaller or min(others, default=0)
    return _selection_within(run, cost, limit, "--out", f"{run.path}-{limit}") if limit else ""


def _selection_within(run: Run, cost: Cost, percent: int, *options: str) -> str:
    return run.command("select", *budget_options({cost: f"{percent}%"}), *options)


def _budget_cost(main: Candidate) -> Cost:
    return "parameters" if main.flops is None else "flops"


def _percent(candidate: Candidate, main: Candidate, cost: Cost) -> int | None:
    """Return the least whole percentage of the main network's cost that a candidate fits."""
    value = candidate.cost(cost)
    return None if value is None else math.ceil(100 * value / (main.cost(cost) or 1))


def budget_in_percent(candidates: Sequence[Candidate], main: Candidate) -> tuple[Cost, int]:
    """Choose a budget that some candidate fits: 60% of the main network's FLOPs, or more where it must be.

    Args:
        candidates: measured candidates.
        main: the main network.

    Returns:
        The cost, which is the parameters where FLOPs are not known, and the limit in percent.
    """
    cost = _budget_cost(main)
    least = min(value for each in candidates if (value := _percent(each, main, cost)) is not None)
    return cost, max(USUAL, least)


def better_epoch(run: Run) -> str:
    """Say that the networks are of an earlier epoch than the last, or that one was clearly better; or else "".

    Args:
        run: a run of its own, or one that `finetune` or `narrow` added.
    """
    is_added = run.config.origin is not None
    kept = best_epoch(run.header.history or ()) if run.config.training.keep == "best" else None
    metric = METRIC_NAMES.get(run.config.training.metric, "")
    subject = f"the {'new' if is_added else 'main'} network"
    what = f"{subject} is" if is_added else "the networks are"
    of_best = f"{what} of epoch {kept} of {run.epochs_done}, the best on the validation split"
    if kept == run.epochs_done:
        return ""
    if not metric or (is_lower_better(metric) and not kept):
        return of_best if kept else ""
    scores = _of_main_network(run, SCORE_COLUMNS[metric])
    if scores is None:
        return of_best if kept else ""
    now = score_text(scores[-1], metric) if scores else ""
    if kept:
        was, whose = score_text(scores[kept - 1], metric), "its" if is_added else f"{subject}'s"
        return f"{of_best}; {whose} {metric} there was {was}, and {now} after the last epoch"
    best = max(scores, default=0.0)
    samples = run.config.data.samples.get("val", 0) if run.config.data else 0
    if not scores or best - scores[-1] < _clear_difference(best, scores[-1], samples):
        return ""
    remedy = "fewer `epochs` or a lower `lr`" if is_added else "fewer epochs, a lower learning rate or `keep=best`"
    return (
        f"{subject}'s validation {metric} was {score_text(best, metric)} after epoch {scores.index(best) + 1} "
        f"and is {now} after epoch {len(scores)}: in training, {remedy} may be better"
    )


def no_better(candidates: Sequence[Candidate], added: Run, numbers: Collection[int]) -> str:
    """Say that a fine-tuned network is no better on validation than the one that it was made from; or else "".

    Args:
        candidates: measured candidates of the run that it was added to.
        added: the run of the fine-tuned network.
        numbers: numbers of its candidates.
    """
    number = added.path.name.removeprefix("exit")
    source = next((each for each in candidates if str(each.exit) == number), None)
    new = next((each for each in candidates if each.exit in numbers), None)
    if added.path.parent.name != FINETUNED or source is None or new is None or new.merit > source.merit:
        return ""
    return (
        f"{new.name} has {score_text(new.score, new.metric)} on validation, no better than {source.name}, which it was "
        f"made from ({score_text(source.score, source.metric)}); more or fewer `epochs` or a lower `lr` may help"
    )


def _of_main_network(run: Run, quantity: str) -> list[float] | None:
    """Return what was measured of the main network after each epoch; None where that is not known."""
    network = run.config.network
    if network is None:
        return None
    column = f"exit{0 if network.exit is not None else network.groups - 1}_{quantity}"
    try:
        return [float(row[column]) for row in run.metrics]
    except (KeyError, TypeError, ValueError):
        return None


def _clear_difference(one: float, other: float, samples: int) -> float:
    """Return a difference of two scores that is worth a note: `CLEARLY`, or 2 standard errors if those are more."""
    variance = sum(max(0.0, each * (1 - each)) for each in (one, other))
    return max(CLEARLY, 2 * math.sqrt(variance / samples)) if samples else CLEARLY


def like_chance(run: Run, candidates: Sequence[Candidate], chosen: Candidate | None = None) -> str:
    """Say that the chosen network, or the best, may only guess, and how the run is trained longer; or else ""."""
    note = chance_note(candidates, run.class_count, chosen)
    data, done = run.config.data, run.epochs_done
    if not note or run.is_compression or run.config.origin is not None or not done:
        return note
    subject = chosen or max(candidates, key=lambda each: each.merit)
    guess = guessed(subject, run.class_count)
    if guess > 1 / run.class_count and data and not data.config.balance_classes:
        return f"{note}; train with `balance_classes` and `metric=balanced-accuracy`, so that classes count alike"
    samples, least = subject.samples, samples_to_tell(guess)
    if samples and samples < least:
        remedy = more_validation(
            samples, data.samples.get("train", 0) if data else 0, least, data.config if data else None
        )
        return f"{note}; {samples} validation samples are too few to tell: {remedy}"
    if done >= ENOUGH or better_epoch(run) or has_additions(run) or _is_overfitted(run):
        return note
    return f"{note}; to train it longer: {run.command('resume', '--epochs', str(LONGER * done))}"


def _is_overfitted(run: Run) -> bool:
    """Tell whether the main network's loss on the validation split was clearly lower before the last epoch."""
    losses = _of_main_network(run, "val_loss")
    return losses[-1] > min(losses) + RISEN * abs(min(losses)) if losses else False


def behind_its_exits(run: Run, candidates: Sequence[Candidate]) -> str:
    """Say that the main network is clearly worse than an exit before it, as after few steps of training; else ""."""
    main, data, training = main_of(candidates), run.config.data, run.config.training
    best = max(candidates, key=lambda each: each.merit)
    steps = training.epochs * ((data.samples.get("train", 0) if data else 0) // training.batch_size)
    if best.is_main or is_lower_better(main.metric) or not 0 < steps < FEW or not main.samples:
        return ""
    if best.merit - main.merit < _clear_difference(best.merit, main.merit, main.samples):
        return ""
    return (
        f"the main network ({score_text(main.score, main.metric)}) is behind {best.name} "
        f"({score_text(best.score, best.metric)}) after {steps} steps of training, few for so deep a network; "
        "more `epochs`, a smaller `batch_size`, or `weights` to start from may help"
    )


def has_additions(run: Run) -> bool:
    """Tell whether networks were added to a run; those count as long as it is not trained further."""
    return any((run.path / folder).exists() for folder in (DENSE, FINETUNED, NARROWED))


def training_of_critics(run: Run) -> str:
    """Return the command that trains critics on the main network of a run, which stays as it is."""
    network, data, training = run.config.network, run.config.data, run.config.training
    assert network is not None and data is not None  # noqa: PT018, trained by the command line
    config = data.config
    words: list[object] = ["lctprune", "train", network.model, "--data", config.name]
    if network.model_args:
        words += ["--model-args", ",".join(f"{name}={value}" for name, value in network.model_args.items())]
    for option, value, default in (
        ("--data-dir", config.data_dir, None),
        ("--task", config.task, "classification"),
        ("--target", config.target, None),
        ("--image-size", config.image_size, None),
        ("--image-root", config.image_root, None),
        ("--max-length", config.max_length, type(config).max_length),
        ("--batch-size", training.batch_size, type(training).batch_size),
    ):
        if value != default and (option != "--data-dir" or config.name in TORCHVISION):
            words += [option, value]
    words += ["--weights", run.path, "--freeze-main"]
    return " ".join(shell_word(word) for word in words)
