"""Read the answers of a run's networks: all answers of one network, and the samples on which networks disagree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lctprune.data.splits import Split
from lctprune.measure.answers import NetworkAnswers, Picture, ReportAnswers
from lctprune.measure.batch_dependence import scoring_batch
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.scores import even_batch_size
from lctprune.measure.target_kinds import as_classes, kind_of
from lctprune.utils.modules import device_of
from lctprune.utils.transfer import sent
from lctprune.workflows.combined_candidates import combined_of
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import Member, members_of

COMBINED_BATCH = 256  # samples of a batch for a network of several exits, whose outputs do not depend on it
MOST_PICTURES = 12  # samples that are kept with their inputs
SPLITS: dict[Literal["val", "test"], str] = {"val": "validation", "test": "test"}  # and their names for people


def read_answers(
    loaded: LoadedRun, candidates: Sequence[Candidate], exit: int, *, split: Literal["val", "test"] = "val"
) -> ReportAnswers:
    """Run one network on a split, and every network of the run on its validation images.

    That is one pass over each split that is needed. Memory holds three numbers per sample, one batch and
    `MOST_PICTURES` images.

    Args:
        loaded: run with its data and networks.
        candidates: candidates of the run.
        exit: number of the candidate whose answers are kept.
        split: split that this network answers on; the pictures are of the validation split.

    Raises:
        NetworkError: there is no such candidate.
        DataError: the data cannot be read.
        RunError: the data has changed, or a network cannot be loaded.
    """
    numbers = {candidate.exit for candidate in candidates}
    members = [member for member in members_of(loaded) if member.number in numbers]
    subject = candidate_of(candidates, exit)
    chosen = [member for member in members if member.number == subject.exit]
    has_pictures = _has_pictures(loaded)
    gallery, log = _Gallery(), _Log(loaded, exit, split)
    if subject.combined:
        for targets, output in _combined_outputs(loaded, subject, getattr(loaded.data, split)):
            log.add(targets, output)
    elif split == "test" or not has_pictures:
        for _, targets, outputs in _outputs(loaded, chosen, getattr(loaded.data, split), candidates):
            log.add(targets, outputs[exit])
    if has_pictures:
        for inputs, targets, outputs in _outputs(loaded, members, loaded.data.val, candidates):
            gallery.add(inputs, targets, outputs)
            if split == "val" and not subject.combined:
                log.add(targets, outputs[exit])
    return ReportAnswers(network=log.result(), pictures=gallery.pictures)


def _has_pictures(loaded: LoadedRun) -> bool:
    recipe, classes = loaded.run.config.network, loaded.data.classes
    is_image = recipe is not None and recipe.features is None and recipe.vocabulary is None
    return is_image and bool(classes) and loaded.data.example.shape[1] in (1, 3)


def _outputs(
    loaded: LoadedRun, members: Sequence[Member], split: Split, candidates: Sequence[Candidate]
) -> Iterator[tuple[Tensor, Tensor, dict[int, Tensor]]]:
    """Yield each batch with the outputs by the number of the candidate; networks of one run share their groups."""
    dependent = {each.name: each.batch_dependence for each in candidates if each.batch_dependence}
    size = scoring_batch(dependent, latency_batch=candidates[0].latency_batch)
    networks: list[tuple[list[Member], Callable[[Tensor], Sequence[Tensor]]]] = []
    for _, together in itertools.groupby(members, key=lambda member: member.run.path):
        group = list(together)
        network = loaded.network(group[0].run)
        networks.append((group, network.exits if len(group) > 1 else _alone(network.subnetwork(group[0].exit))))
    device = device_of(loaded.network())
    with torch.no_grad():
        for inputs, targets in split.batches(even_batch_size(split, size)):
            outputs = {}
            for group, exits in networks:
                found = exits(sent(inputs, device))
                for member in group:
                    outputs[member.number] = found[member.exit if len(group) > 1 else 0].float().cpu()
            yield inputs, targets, outputs


def _combined_outputs(loaded: LoadedRun, subject: Candidate, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the targets of each batch and the outputs of a network of several exits."""
    network = combined_of(loaded, subject).several.network(loaded.network())
    with torch.no_grad():
        for inputs, targets in split.batches(even_batch_size(split, COMBINED_BATCH)):
            yield targets, network(sent(inputs, device_of(network))).float().cpu()


def _alone(network: nn.Module) -> Callable[[Tensor], Sequence[Tensor]]:
    """Make a network that has no deeper groups than it needs look as one with several exits."""
    return lambda inputs: [network(inputs)]


class _Log:
    """Collects the answers of one network."""

    def __init__(self, loaded: LoadedRun, exit: int, split: Literal["val", "test"]) -> None:
        self._loaded, self._exit, self._split = loaded, exit, split
        self._is_known: bool | None = None
        self._columns: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(self, targets: Tensor, output: Tensor) -> None:
        if self._is_known is None:
            kind = kind_of(output.shape[1:], targets, None)
            self._of_classes = kind in ("classes", "probabilities") and output.dim() == 2
            self._is_known = self._of_classes or (kind == "numbers" and output[0].numel() == 1)
        if not self._is_known:
            return
        if self._of_classes:
            true = as_classes(targets, output.shape[1])
            confidence, answers = output.softmax(1).max(1)
            counted = true >= 0
            self._columns.append((true[counted], answers[counted], confidence[counted]))
        else:
            statistics = self._loaded.data.target_normalization
            mean, std = (statistics.mean[0], statistics.std[0]) if statistics else (0.0, 1.0)
            self._columns.append(
                (targets.flatten().double() * std + mean, output.flatten().double() * std + mean, None)
            )

    def result(self) -> NetworkAnswers | None:
        if not self._columns:
            return None
        targets, answers, confidence = zip(*self._columns, strict=True)
        return NetworkAnswers(
            exit=self._exit,
            split=SPLITS[self._split],
            targets=torch.cat(targets),
            answers=torch.cat(answers),
            confidence=torch.cat(confidence) if self._of_classes else None,
        )


class _Gallery:
    """Keeps the images with the most different answers; among those with as many, the first."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Picture]] = []  # number of different answers, most first

    def add(self, inputs: Tensor, targets: Tensor, outputs: Mapping[int, Tensor]) -> None:
        some = next(iter(outputs.values()))
        if some.dim() != 2:
            return
        true = as_classes(targets, some.shape[1])
        confidence, answers = torch.stack([output.softmax(1) for output in outputs.values()]).max(2)  # [exits, batch]
        ordered = answers.sort(0).values
        different = (ordered[1:] != ordered[:-1]).sum(0)
        for index in different.masked_fill(true < 0, -1).argsort(descending=True, stable=True)[:MOST_PICTURES].tolist():
            if true[index] < 0 or (len(self._kept) == MOST_PICTURES and different[index] <= self._kept[-1][0]):
                break
            picture = Picture(
                inputs[index].clone(),
                int(true[index]),
                dict(zip(outputs, answers[:, index].tolist(), strict=True)),
                dict(zip(outputs, confidence[:, index].tolist(), strict=True)),
            )
            self._kept.append((int(different[index]), picture))
            self._kept.sort(key=lambda each: -each[0])  # stable
            del self._kept[MOST_PICTURES:]

    @property
    def pictures(self) -> list[Picture]:
        return [picture for _, picture in self._kept]
