"""The loop over epochs of one process: steps, evaluation, and what rank 0 writes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lctprune.config.history import Row
from lctprune.config.stopping import BEST_SO_FAR, has_stopped
from lctprune.config.training import ResolvedTrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import STOPPED, LctpruneError, TrainingError, TrainingInterrupted, first_line
from lctprune.losses import Loss
from lctprune.measure.counting import Counting
from lctprune.runs import Run
from lctprune.training.compilation import compilation
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.distributed.process_group import is_spoken_for
from lctprune.training.epoch_report import agreement_columns, chunks, epoch_report, mark_best, metrics_row
from lctprune.training.finiteness import failure, not_finite, reason_in_batch, reason_in_split
from lctprune.training.group_trainer import step_settings
from lctprune.training.keeping import Keeper
from lctprune.training.progress import Progress
from lctprune.training.reading import LossReader, measured, prepared_on
from lctprune.training.stage import Stage

NO_MEMORY = "can't allocate memory"  # in PyTorch's error where the host's is full, which has no type of its own
TINY = 1e-9  # in place of a count of 0


class Plan(NamedTuple):
    """The facts of a training that rank 0 broadcasts to all processes."""

    training: dict[str, Any]  # a resolved configuration, as config.json records it
    steps: int  # per epoch
    epochs_done: int
    is_regression: bool
    begun: tuple[Any, ...] = ()  # number of steps taken of the next epoch, and the sums of losses over them
    counting: Counting = Counting()  # which samples count in the mean losses
    distance: str = ""  # of outputs, by which critics distil: softened, squared, the loss


def train_epochs(
    stage: Stage,
    pipeline: Pipeline,
    data: Data | None,
    run: Run | None,
    plan: Plan,
    config: ResolvedTrainConfig,
    *,
    validation_loss: Loss | None = None,
) -> Iterator[Progress]:
    """Train a stage, evaluate after each epoch (by default by `default_loss`) and, in rank 0, write the run.

    Diagnostics examine one training batch after every epoch: the first that `config.seed` shuffles, augmented.
    """
    if data is not None and stage.replicas == 1:  # further replicas get their parts from the host
        data = dataclasses.replace(
            data, train=prepared_on(data.train, config.device), val=prepared_on(data.val, config.device)
        )
    keeper = Keeper(config.checkpoint_every, decides=pipeline.is_first)
    stage.is_due = lambda step: step % config.accumulate == 0 and keeper.is_due(step)
    with keeper.listening() if pipeline.is_first or not is_spoken_for() else nullcontext():
        yield from _epochs(stage, pipeline, data, run, plan, config, keeper, validation_loss)


def _epochs(
    stage: Stage,
    pipeline: Pipeline,
    data: Data | None,
    run: Run | None,
    plan: Plan,
    config: ResolvedTrainConfig,
    keeper: Keeper,
    validation_loss: Loss | None,
) -> Iterator[Progress]:
    examined = (
        next(data.train.shuffled(config.batch_size, seed=config.seed), None) if data and config.diagnostics else None
    )
    rows = run.rows_to_continue() if run else []
    for epoch in range(plan.epochs_done, config.epochs):
        torch.manual_seed(_epoch_seed(config.seed, epoch))
        progress = None
        begun = plan.begun if epoch == plan.epochs_done else ()
        for progress in _train_epoch(stage, data, config, epoch, plan, begun):
            yield progress
            is_due = stage.keeps or (pipeline.is_alone and stage.is_due(progress.step))
            if is_due and progress.step < plan.steps:  # the last one's is that of the epoch
                _keep(stage, pipeline, run, epoch, progress.step, rows)
                _end_step(pipeline, keeper, run)
        if progress is None:
            raise TrainingError("the training split has no samples")
        with _explained(epoch, progress.step - 1):
            report = epoch_report(stage, pipeline, data, validation_loss)
        tensors = pipeline.collect(stage)
        if report is None or tensors is None or run is None or data is None:
            ends = config.patience and pipeline.broadcast()
            _end_step(pipeline, keeper, run)
            if ends:
                return
            continue
        for exit, value in not_finite(report.val_loss, stage.first_exit):
            reason = reason_in_split("validation", data.val, config.batch_size, config.lr)
            raise failure(exit, value, epoch, progress.step - 1, reason, where=", on the validation split")
        position = epoch * plan.steps + progress.step - 1
        lr = step_settings(position, config.epochs * plan.steps, config).lr
        with _explained(epoch, progress.step - 1):
            agreements = stage.agreement(*examined) if examined else []
        rows.append(
            metrics_row(epoch + 1, report, lr=lr, images_per_s=progress.images_per_s) | agreement_columns(agreements)
        )
        mark_best(rows, report.metric)
        run.write_checkpoint(epoch + 1, tensors, rows=rows)
        if config.keep == "best" and rows[-1].get(BEST_SO_FAR):
            run.write_best(epoch + 1, tensors)  # until it is there, the checkpoint is taken for it
        run.write_metrics(rows)  # last, as it can be restored from the checkpoint
        ends = config.patience and pipeline.broadcast(has_stopped(rows, config.patience, report.metric))
        if ends:
            run.end_at(epoch + 1)
        _end_step(pipeline, keeper, run)
        del tensors  # the whole network's; with several processes, this one shall hold its own only
        yield dataclasses.replace(progress, **report._asdict())
        if ends:
            return


def _keep(stage: Stage, pipeline: Pipeline, run: Run | None, epoch: int, step: int, rows: Sequence[Row]) -> None:
    """Write a checkpoint within an epoch, of all processes after the same step."""
    stage.flush_critic_update()
    notes = pipeline.gather({"totals": stage.totals()})
    tensors = pipeline.collect(stage)
    if notes is None or tensors is None or run is None:
        return
    lines = []
    for line in chunks(notes, len(notes) // pipeline.replicas):
        *earlier, last = (each["totals"] for each in line)
        lines.append([value for each in earlier for value in each[:-1]] + last)
    totals = [statistics.fmean(values) for values in zip(*lines, strict=True)]
    run.write_checkpoint(epoch, tensors, rows=rows, step=step, totals=totals)


def _end_step(pipeline: Pipeline, keeper: Keeper, run: Run | None) -> None:
    """Go on after a checkpoint, unless rank 0 was asked to stop.

    Raises:
        TrainingInterrupted: a signal asked to stop; in all processes.
    """
    keeper.written()
    if name := pipeline.tell(keeper.wish):
        raise TrainingInterrupted(f"{STOPPED}{name}, after a checkpoint{f' in {run.path}' if run else ''}")


def _train_epoch(
    stage: Stage, data: Data | None, config: ResolvedTrainConfig, epoch: int, plan: Plan, begun: Sequence[Any] = ()
) -> Iterator[Progress]:
    steps, counting = plan.steps, Counting(*plan.counting)
    # the last sum is of the fractions of samples that count
    first, total = (begun[0], stage.own_totals(begun[1])) if begun else (0, torch.zeros(len(stage.trainers) + 1))
    seconds, samples = 0.0, 0
    reader = LossReader(config.device)

    def totals() -> list[float]:
        _read(reader, stage, total, epoch, steps, config.lr, every=True)
        return total.tolist()

    stage.totals = totals
    stage.train_mode()
    start = time.perf_counter()
    split = data.train if data else None
    start_index = first if stage.links.previous is not None else 0  # what is skipped below is not sent on
    batches = stage.batches(split, seed=_epoch_seed(config.seed, epoch))
    for index, (inputs, targets) in enumerate(batches, start=start_index):
        if index < first:  # taken before the training was interrupted
            continue
        position = epoch * steps + index
        settings = step_settings(position, config.epochs * steps, config)
        with config.autocast(), compilation(config), _explained(epoch, index):
            losses = stage.step(inputs, targets, settings)
            reader.add(index, measured(losses, counting.fraction(targets)), (inputs, targets))
            _read(reader, stage, total, epoch, steps, config.lr, every=index + 1 >= steps)
        samples += len(targets)
        seconds = time.perf_counter() - start
        yield Progress(
            epoch=epoch + 1,
            epochs=config.epochs,
            step=index + 1,
            steps=steps,
            losses=stage.known_means,
            images_per_s=samples * stage.replicas / seconds,
            seconds_left=seconds / (index + 1 - first) * (config.epochs * steps - position - 1),
        )
    with config.autocast(), compilation(config), _explained(epoch, steps - 1):
        _read(reader, stage, total, epoch, steps, config.lr, every=True)
        stage.flush_critic_update()
    if config.accumulate > 1:
        for trainer in stage.trainers:
            trainer.drop_gradients()


def _read(reader: LossReader, stage: Stage, total: Tensor, epoch: int, steps: int, lr: float, *, every: bool) -> None:
    """Add the losses that have come from the device to their total, and look at each.

    Raises:
        TrainingError: a loss is not finite.
    """
    for index, values, batch in reader.ready(every=every):
        for exit, value in not_finite(values[:-1].tolist(), stage.first_exit):
            is_received, is_first = stage.links.source is not None, epoch * steps + index == 0
            raise failure(
                exit,
                value,
                epoch,
                index,
                reason_in_batch(*batch, lr=lr, is_received=is_received, is_first_step=is_first),
            )
        total += values
        stage.means = (total[:-1] / total[-1].clamp(min=TINY)).tolist()


@contextmanager
def _explained(epoch: int, step: int) -> Iterator[None]:
    """Turn what a network raises inside the block into a `TrainingError` of one line."""
    try:
        yield
    except LctpruneError:
        raise
    except (MemoryError, RuntimeError, ValueError, IndexError, AssertionError) as error:
        where, reason = f"epoch {epoch + 1}, step {step + 1} failed", first_line(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY in reason:
            raise TrainingError(
                f"{where}, the memory is full ({reason}); give a smaller `batch_size`, or `recompute=auto`, or "
                "`processes` on other devices, which hold a part of the network each"
            ) from error
        raise TrainingError(f"{where}: {reason}") from error


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch
