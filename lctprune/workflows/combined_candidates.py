"""Networks of several exits among the candidates of a run: ensembles, and if that is asked the progressive network."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from lctprune.config.metric import score_text
from lctprune.errors import ConfigError, NetworkError, RunError, RunWarning
from lctprune.measure.candidates import Candidate
from lctprune.measure.parts import on_part
from lctprune.measure.selection import main_of
from lctprune.measure.units import amount
from lctprune.utils.environment import machine
from lctprune.workflows.combined_records import CombinedNetwork, combined_networks
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import Member, exit_names, member_named

SAME_SPEED = 1.2  # by which factor the main network may have taken another time, for two latencies to be compared


def with_combined(
    loaded: LoadedRun, candidates: Sequence[Candidate], *, mean_flops: bool = False, any_latency: bool = False
) -> list[Candidate]:
    """Add the run's recorded networks of several exits to its measured candidates.

    Ensembles are compared on all validation samples, each by weights that were not fitted on it. Costs of the
    progressive network are means, and its thresholds were fitted on half of the samples, so it is added only if that
    is asked for, and then all candidates are compared on the other half.

    Args:
        loaded: the run.
        candidates: its measured candidates.
        mean_flops: whether limits of FLOPs and latency may hold in the mean, for the progressive network.
        any_latency: whether latencies may be of other conditions than those of the candidates.

    Raises:
        RunError: there is no progressive network, or it cannot be compared with the candidates.
        ConfigError: the latencies of the candidates are of another runtime than the progressive network's.
    """
    found = combined_networks(loaded)
    if candidates[0].metric != "accuracy":
        if found:
            warnings.warn(
                f"networks of several exits are compared by accuracy, and {loaded.run.path} by "
                f"{candidates[0].metric}; they are left out",
                RunWarning,
                stacklevel=3,
            )
        found = []
    main = main_of(candidates)
    own = [_beside(each, main, any_latency=any_latency) for each in found if each.part is None]
    if not mean_flops:
        return [*candidates, *own]
    progressive = next((each for each in found if each.part is not None), None)
    if progressive is None or progressive.part is None:
        raise RunError(
            f"{loaded.run.path} has no progressive network to compare by mean FLOPs; "
            f"{loaded.run.command('progressive', '--max-drop', '1')} makes one{_recorded(loaded)[1]}"
        )
    if (runtime := candidates[0].latency_runtime) != "torchscript":
        raise ConfigError(
            f"a progressive network runs in TorchScript, and these latencies are of {runtime}; leave out `runtime`, or "
            "`mean_flops`"
        )
    early = _beside(progressive, main, any_latency=any_latency)
    return [*on_part([*candidates, *own], progressive.part), early]


def _beside(each: CombinedNetwork, main: Candidate, *, any_latency: bool) -> Candidate:
    """Return its candidate, without its latency where that was not measured as those of the others were.

    It was not if the main network took another time beside it: then one of the two was measured on a busy machine.
    """
    own = each.candidate
    conditions = own.latency_runtime, own.latency_batch, own.latency_threads
    is_same = conditions == (main.latency_runtime, main.latency_batch, main.latency_threads)
    if is_same and main.latency_ms and each.main_ms and (any_latency or dict(each.conditions) == machine()):
        slower = max(main.latency_ms, each.main_ms) / min(main.latency_ms, each.main_ms)
        if slower <= SAME_SPEED:
            return own
    return dataclasses.replace(
        own,
        latency_ms=None,
        latency_p5_ms=None,
        latency_p95_ms=None,
        latency_low_ms=None,
        latency_high_ms=None,
        latency_batch=main.latency_batch,
        latency_runtime=main.latency_runtime,
        latency_threads=main.latency_threads,
    )


def network_named(loaded: LoadedRun, text: str | None) -> Member | CombinedNetwork:
    """Find a network of a run by its number or its name: see `member_named`, or one of several exits.

    Raises:
        NetworkError: there is none.
    """
    try:
        return member_named(loaded, text)
    except NetworkError as error:
        found, left_out = _recorded(loaded)
        for each in found:
            if text in (each.candidate.name, str(each.candidate.exit)):
                return each
        known = ", ".join(f"{each.candidate.exit} ({each.candidate.name})" for each in found)
        further = f"{known and f', and of several exits {known}'}{left_out}"
        if not further:
            raise
        raise NetworkError(f"{error}{further}") from error


def _recorded(loaded: LoadedRun) -> tuple[list[CombinedNetwork], str]:
    """Return the recorded networks of several exits, without a warning, and which were left out, for an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        found = combined_networks(loaded)
    return found, "".join(f"; {each.message}" for each in caught)


def ensemble_exits(loaded: LoadedRun, exits: Sequence[int], weights: Sequence[float]) -> list[dict[str, Any]]:
    """Describe the exits of an ensemble for a model card."""
    names = exit_names(loaded.run)
    return [{"exit": exit, "name": names[exit], "weight": weight} for exit, weight in zip(exits, weights, strict=True)]


def own_weights(loaded: LoadedRun) -> dict[str, Any]:
    """Name the run's checkpoint, for a model card."""
    return {"checkpoint_sha256": loaded.checkpoint().sha256, **loaded.epochs}


def combined_of(loaded: LoadedRun, candidate: Candidate) -> CombinedNetwork:
    """Return the recorded network of a candidate.

    Raises:
        NetworkError: it is not in the run any more.
    """
    for each in combined_networks(loaded):
        if each.candidate.exit == candidate.exit and each.candidate.name == candidate.name:
            return each
    raise NetworkError(f"{candidate.name} is not in {loaded.run.path} any more; select again")


def has_progressive(loaded: LoadedRun) -> bool:
    """Tell whether a progressive network is recorded that can take part; see `with_combined`."""
    return bool(left_out_means(loaded))


def left_out_means(loaded: LoadedRun) -> str:
    """Say what the run's progressive network is, which is left out where limits may not hold in the mean; else ""."""
    found = [each.candidate for each in _recorded(loaded)[0] if each.part is not None]  # what is left out was said
    if not found or loaded.run.config.training.metric not in ("auto", "accuracy"):
        return ""
    own = found[0]
    return (
        f"left out: {own.name} ({score_text(own.score, own.metric)} on {own.samples} validation samples that it was "
        f"not fitted on, a mean of {amount(own.flops or 0, 'flops')} per sample); with `mean_flops` it takes part"
    )
