"""Choose the batch size at which networks are scored: small, as they are used, where outputs depend on the batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from lctprune.data.splits import Split
from lctprune.errors import NetworkWarning
from lctprune.utils.batches import CAUSES, SAMPLES, batch_dependence, runs_alone
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.steps import stepping


def dependences(networks: Mapping[str, nn.Module], split: Split) -> dict[str, str]:
    """Find the networks whose outputs depend on the rest of the batch, in evaluation mode.

    Args:
        networks: networks by their names.
        split: samples, of which the first ones are compared.

    Returns:
        For the name of each such network a clause, as `batch_dependence` gives it.
    """
    found = {}
    samples = next((inputs for inputs, _ in split.batches(SAMPLES)), None)
    what = "Checking whether outputs depend on the batch"
    for name, network in stepping(networks.items(), lambda _: what, count=len(networks)):
        if samples is not None:
            with evaluation_mode(network), torch.no_grad():
                clause = batch_dependence(network, samples.to(device_of(network)))
            if clause is not None:
                found[name] = clause
    return found


def scoring_batch(found: Mapping[str, str], *, latency_batch: int, batch_size: int = 256) -> int:
    """Return the samples per batch for scores: those of a latency's call where an output depends on the batch.

    Args:
        found: networks whose outputs depend on the batch, from `dependences`.
        latency_batch: samples per call of a latency.
        batch_size: samples per batch otherwise, and where a network does not run on one sample.
    """
    is_possible = latency_batch > 1 or all(map(runs_alone, found.values()))
    return latency_batch if found and is_possible else batch_size


def warn_of_batch_dependence(found: Mapping[str, str], *, latency_batch: int) -> None:
    """Warn of networks whose outputs depend on the batch; without such networks do nothing.

    Args:
        found: such networks, from `dependences`.
        latency_batch: samples per call of a latency.

    Warns:
        NetworkWarning: there are such networks.
    """
    for clause in dict.fromkeys(found.values()):
        name, *alike = [each for each in found if found[each] == clause]
        others = f" (and {len(alike)} more)" if alike else ""
        if latency_batch > 1 or all(map(runs_alone, found.values())):
            consequence = f"scores are of batches of {latency_batch}, as latencies are"
        else:
            consequence = "scores are of large batches" + ("" if runs_alone(clause) else ", and latencies are missing")
        warnings.warn(f"{name}{others} {clause}: {consequence} ({CAUSES})", NetworkWarning, stacklevel=3)
