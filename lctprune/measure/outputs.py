"""The outputs of every exit on a split, for what combines exits: leaving early, ensembles."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.data.splits import Split
from lctprune.errors import DataError, NetworkError
from lctprune.losses import class_numbers
from lctprune.measure.batch_dependence import dependences
from lctprune.measure.scores import even_batch_size, read_batches
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.transfer import sent

LEAST_SAMPLES = 20  # of a split that is divided in halves


class ExitOutputs(NamedTuple):
    """Outputs of every exit on the samples of a split.

    Attributes:
        logits: [exits, n, classes], float32, on the CPU.
        targets: true classes, [n].
    """

    logits: Tensor
    targets: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether each exit has each sample right, [exits, n]."""
        return self.logits.argmax(2) == self.targets

    def at(self, samples: Tensor) -> ExitOutputs:
        """Return those of some samples, by their places."""
        return ExitOutputs(self.logits[:, samples], self.targets[samples])


def exit_outputs(network: LocalCriticNetwork, split: Split, *, batch_size: int = 256) -> ExitOutputs:
    """Compute the outputs of every exit, in evaluation mode, in one pass over a split.

    Args:
        network: network on any device; its mode is put back.
        split: samples of one class each; those with a negative class do not count.
        batch_size: samples per batch.

    Raises:
        DataError: the split has no samples that count.
        NetworkError: the outputs are not logits of classes, or the targets no class numbers.
    """
    device = device_of(network)
    logits, targets = [], []
    with evaluation_mode(network), torch.no_grad():
        for inputs, true in read_batches(split, even_batch_size(split, batch_size)):
            outputs = network.exits(sent(inputs, device))
            true = class_numbers(true)
            if true.dim() != 1 or true.is_floating_point() or outputs[-1].dim() != 2 or outputs[-1].shape[1] < 2:
                raise NetworkError(
                    "combining exits needs one class per sample, and this is a regression or has several labels "
                    f"(outputs of shape {list(outputs[-1].shape)}, targets of shape {list(true.shape)} and type "
                    f"{true.dtype}); choose one exit instead"
                )
            counted = true >= 0
            logits.append(torch.stack(outputs).float().cpu()[:, counted.cpu()])
            targets.append(true[counted].cpu())
    if not sum(map(len, targets)):
        raise DataError("the split has no samples that count")
    return ExitOutputs(torch.cat(logits, 1), torch.cat(targets))


def halves(outputs: ExitOutputs, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the samples at random; return the places of each half.

    Raises:
        DataError: there are too few samples.
    """
    samples = len(outputs.targets)
    if samples < LEAST_SAMPLES:
        raise DataError(
            f"validation has {samples} samples; fitting on one half and checking on the other needs at least "
            f"{LEAST_SAMPLES}: train with a larger --val-fraction"
        )
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return order[: samples // 2], order[samples // 2 :]


def require_combinable(network: LocalCriticNetwork, split: Split) -> None:
    """Refuse networks whose exits cannot be combined sample by sample.

    Raises:
        NetworkError: there is one exit only, or an output depends on the rest of the batch.
    """
    if len(network.groups) < 2:
        raise NetworkError(
            "the network has one exit only, so there is nothing to combine; train with --groups 2 or more"
        )
    names = {f"exit {exit}": network.subnetwork(exit) for exit in range(len(network.groups))}
    for name, clause in dependences(names, split).items():
        raise NetworkError(f"{name} {clause}; exits can be combined only where samples do not depend on each other")
