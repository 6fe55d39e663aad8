"""Find, measure and export ensembles of a run's exits.

ensemble/model.pt    the ensemble as one TorchScript file
ensemble/model.json  how to feed it, which exits it asks with which weights, how good it is

All that were measured stand in candidates.json beside it, for `select`: see `combined_records`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from lctprune.ensembles import EnsembleNetwork
from lctprune.errors import NetworkError
from lctprune.exporting.writing import convert, write_exported
from lctprune.measure.answers import answers_of
from lctprune.measure.candidates import Candidate, ScoredExit, measure_costs
from lctprune.measure.ensembling import Ensemble, ensembles
from lctprune.measure.outputs import exit_outputs, halves, require_combinable
from lctprune.measure.paired import mcnemar
from lctprune.measure.scores import ExitScores
from lctprune.measure.selection import main_of, pareto_front
from lctprune.workflows.combined_candidates import ensemble_exits
from lctprune.workflows.combined_card import write_card
from lctprune.workflows.combined_records import Several, write_combined
from lctprune.workflows.deployment import scored_members
from lctprune.workflows.exported_files import COMPARED_SAMPLES
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import exit_names, members_of, next_number
from lctprune.workflows.model_card import candidate_record
from lctprune.workflows.progressive_fitting import exit_costs


class Found(NamedTuple):
    """The ensembles of a run that are worth measuring.

    Attributes:
        candidates: every exit, the networks added to the run, then the ensembles; each has a number of its own.
        ensembles: ensembles by the number of their candidate.
        tried: number of ensembles whose accuracy and FLOPs were compared.
    """

    candidates: list[Candidate]
    ensembles: dict[int, Ensemble]
    tried: int


def find_ensembles(loaded: LoadedRun, *, latency_batch: int = 1) -> Found:
    """Evaluate every subset of the run's own exits on the validation split, and measure those that may be chosen.

    Left out are ensembles that another ensemble beats: by accuracy, with no more FLOPs; and those whose weights leave
    an exit out. Networks that were added to the run are measured beside the exits, and join no ensemble: they do not
    share all layers with the others.

    Args:
        loaded: run of at least two exits, of a classification with one class per sample.
        latency_batch: samples per timed call.

    Raises:
        NetworkError: the exits cannot be combined, or their FLOPs are not known; or every ensemble leaves an exit out.
        DataError: there are too few samples.
    """
    network, data = loaded.network(), loaded.data
    require_combinable(network, data)
    outputs = exit_outputs(network, data.val)
    costs = exit_costs(network, data.example)
    tried = ensembles(outputs, halves(outputs, loaded.run.config.training.seed), costs)
    names = exit_names(loaded.run)
    whole = [each for each in tried if not each.is_smaller]
    kept = [each for each in whole if not any(_beats(other, each) for other in whole)]
    if not kept:
        raise NetworkError(
            "no ensemble helps: whichever exits answer together, the weights that fit best leave one of them out; take "
            f"one network: {loaded.run.command('select')}"
        )
    correct = torch.cat([outputs.correct, torch.stack([each.correct for each in kept])])
    log_probabilities = outputs.logits.double().log_softmax(2)
    losses = -log_probabilities[:, torch.arange(len(outputs.targets)), outputs.targets].mean(1)
    scores = ExitScores(
        accuracy=correct.double().mean(1).tolist(),
        loss=[*losses.tolist(), *(each.loss for each in kept)],
        samples=len(outputs.targets),
        answers=answers_of(correct, outputs.targets),
    )
    exits = [ScoredExit(exit, name, network.subnetwork(exit), scores, exit) for exit, name in enumerate(names)]
    added = [each for each in members_of(loaded) if each.run.path != loaded.run.path]
    exits += scored_members(added, loaded, latency_batch, "accuracy")
    numbered = dict(enumerate(kept, start=next_number(loaded)))
    for position, (number, each) in enumerate(numbered.items(), start=len(names)):
        together = EnsembleNetwork(network, each.exits, each.weights).eval()
        name = " + ".join(names[exit] for exit in each.exits)
        origin = "weights fitted on validation" if each.is_fitted else "plain sum"
        exits.append(ScoredExit(number, name, together, scores, position, origin))
    candidates = measure_costs(exits, data.example, latency_batch=latency_batch)
    return Found(candidates, numbered, len(tried))


def _beats(other: Ensemble, each: Ensemble) -> bool:
    """Tell whether an ensemble is better in accuracy or FLOPs and worse in neither; the loss decides a tie."""
    theirs = (int(other.correct.sum()), -other.flops)
    own = (int(each.correct.sum()), -each.flops)
    if theirs == own:
        return other.loss < each.loss
    return theirs[0] >= own[0] and theirs[1] >= own[1]


def on_front(found: Found) -> list[Candidate]:
    """Return the ensembles that are on the common front with the exits."""
    return [each for each in pareto_front(found.candidates) if each.exit in found.ensembles]


def best_exit(found: Found, chosen: Candidate) -> Candidate:
    """Return the run's own exit with the best accuracy on validation among those of no more FLOPs than an ensemble."""
    own = [each for each in found.candidates if each.exit not in found.ensembles and not each.origin]
    return max((each for each in own if (each.flops or 0) <= (chosen.flops or 0)), key=lambda each: each.merit)


def export_ensemble(loaded: LoadedRun, found: Found, chosen: Candidate, folder: Path | None) -> dict[str, Any]:
    """Measure an ensemble on the test split, which is read once, and write it into a folder, if there is one.

    Args:
        loaded: the run.
        found: its ensembles.
        chosen: the ensemble to export.
        folder: output folder, for `model.pt` and `model.json`.

    Returns:
        What was found, as plain JSON values.

    Raises:
        ExportError: the file would not do what the network does, or cannot be written.
    """
    network, ensemble, names = loaded.network(), found.ensembles[chosen.exit], exit_names(loaded.run)
    test = exit_outputs(network, loaded.data.test)
    probabilities = test.logits.double().softmax(2)[list(ensemble.exits)]
    weights = torch.tensor(ensemble.weights, dtype=torch.double)

    def correct(of: torch.Tensor) -> torch.Tensor:
        return torch.einsum("e,enc->nc", of, probabilities).argmax(1) == test.targets

    own, best = correct(weights), best_exit(found, chosen)
    theirs = test.correct[best.exit]
    only_ensemble, only_exit = int((own & ~theirs).sum()), int((theirs & ~own).sum())
    record = {
        "exits": ensemble_exits(loaded, ensemble.exits, ensemble.weights),
        "is_fitted": ensemble.is_fitted,
        "validation": {**candidate_record(chosen), "plain_sum_accuracy": ensemble.sum_accuracy},
        "test": {
            "samples": len(test.targets),
            "accuracy": own.double().mean().item(),
            "plain_sum_accuracy": correct(torch.full_like(weights, 1 / len(weights))).double().mean().item(),
            "exit_accuracies": dict(zip(names, test.correct.double().mean(1).tolist(), strict=True)),
            "best_exit": {
                "exit": best.exit,
                "name": best.name,
                "only_ensemble": only_ensemble,
                "only_exit": only_exit,
                "p_value": mcnemar(only_ensemble, only_exit),
            },
        },
    }
    if folder is not None:
        samples, _ = next(loaded.data.val.batches(COMPARED_SAMPLES))
        together = EnsembleNetwork(network, ensemble.exits, ensemble.weights).eval()
        (content,) = convert(together, samples, ["torchscript"], dependence=None)
        write_exported(folder / "model.pt", content)
        write_card(loaded, record, folder)
        candidates = [each for each in found.candidates if each.exit in found.ensembles]
        networks = [(each, _several(found.ensembles[each.exit])) for each in candidates]
        write_combined(loaded, folder, networks, main_ms=main_of(found.candidates).latency_ms)
    return record


def _several(ensemble: Ensemble) -> Several:
    return Several(exits=ensemble.exits, weights=ensemble.weights, is_fitted=ensemble.is_fitted)
