"""The outputs of every exit on a split, for what combines exits: leaving early, ensembles."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import Split, sample_count
from lctprune.errors import DataError, NetworkError
from lctprune.losses import class_numbers
from lctprune.measure.batch_dependence import dependences
from lctprune.measure.scores import even_batch_size, read_batches
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.transfer import sent

LEAST_SAMPLES = 20  # of a split that is divided in halves
HELD_OUT = 0.05  # by which the part of validation may differ from the setting, by rounding


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
            _require_classes(outputs[-1], true)
            counted = true >= 0
            logits.append(torch.stack(outputs).float().cpu()[:, counted.cpu()])
            targets.append(true[counted].cpu())
    if not sum(map(len, targets)):
        raise DataError("the split has no samples that count")
    return ExitOutputs(torch.cat(logits, 1), torch.cat(targets))


def _require_classes(output: Tensor, true: Tensor) -> None:
    if true.dim() != 1 or true.is_floating_point() or output.dim() != 2 or output.shape[1] < 2:
        raise NetworkError(
            "combining exits needs one class per sample, and this is a regression or has several labels (outputs of "
            f"shape {list(output.shape)}, targets of shape {list(true.shape)} and type {true.dtype}); choose one exit "
            "instead"
        )


def halves(outputs: ExitOutputs, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the samples at random; return the places of each half.

    Raises:
        DataError: there are too few samples.
    """
    samples = len(outputs.targets)
    if samples < LEAST_SAMPLES:
        raise DataError(_too_few(samples, "give more of them"))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return order[: samples // 2], order[samples // 2 :]


def _too_few(samples: int, remedy: str) -> str:
    return (
        f"validation has {samples} samples; fitting on one half and checking on the other needs at least "
        f"{LEAST_SAMPLES}: {remedy}"
    )


def more_validation(samples: int, training: int, least: int, config: DataConfig | None) -> str:
    """Say how validation gets enough samples: by a larger part of those for training, where it is such a part.

    Args:
        samples: number of validation samples.
        training: number of training samples.
        least: number of validation samples that are enough.
        config: where the data is from; None for data made in a program.
    """
    both = samples + training
    percent = math.ceil(100 * least / both) + 1  # a class more or less may round down
    if config is not None and percent <= 50 and abs(samples / both - config.val_fraction) <= HELD_OUT:
        return f"train with `val_fraction={percent / 100:g}`"
    return f"give at least {least}, as a split of their own (`val/`)"


def require_exits(network: LocalCriticNetwork, data: Data) -> None:
    """Refuse networks and data of which no exits can be combined, whatever the goal.

    Raises:
        NetworkError: there is one exit only, or the samples do not have one class each.
        DataError: validation has too few samples.
    """
    if len(network.groups) < 2:
        raise NetworkError(
            "the network has one exit only, so there is nothing to combine; train with `groups=2` or more"
        )
    inputs, true = next(data.val.batches(2))
    with evaluation_mode(network), torch.no_grad():
        _require_classes(network(sent(inputs, device_of(network))), class_numbers(true))
    if (samples := sample_count(data.val)) < LEAST_SAMPLES:
        remedy = more_validation(samples, sample_count(data.train), LEAST_SAMPLES, data.config)
        raise DataError(_too_few(samples, remedy))


def require_combinable(network: LocalCriticNetwork, data: Data) -> None:
    """Refuse networks whose exits cannot be combined sample by sample.

    Raises:
        NetworkError: there is one exit only, or an output depends on the rest of the batch; see `require_exits`.
        DataError: validation has too few samples.
    """
    require_exits(network, data)
    split = data.val
    names = {f"exit {exit}": network.subnetwork(exit) for exit in range(len(network.groups))}
    for name, clause in dependences(names, split).items():
        raise NetworkError(f"{name} {clause}; exits can be combined only where samples do not depend on each other")
