"""Write down a training every so many steps: metrics.jsonl, and events for TensorBoard."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.errors import ConfigError, RunError
from lctprune.runs import Run
from lctprune.training.group_trainer import step_settings
from lctprune.training.progress import Progress
from lctprune.utils.files import write_atomically

LINES, EVENTS = "metrics.jsonl", "tensorboard"  # a file and a folder of the run


def require_tensorboard(config: TrainConfig) -> None:
    """Refuse a training that writes for TensorBoard where that is not installed.

    Raises:
        ConfigError: it is not.
    """
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("`tensorboard` needs the package tensorboard: pip install 'lctprune[tensorboard]'")


def logged(steps: Iterator[Progress], run: Run, config: ResolvedTrainConfig) -> Iterator[Progress]:
    """Pass progress on; write a line every `config.log_every` steps, and one for every epoch.

    A line of a step has the learning rate, the mean training loss of each exit in the epoch so far, and the speed; that
    of an epoch has what is measured on the validation split, too. Lines after the checkpoint that a resumed training
    begins with are removed.

    Raises:
        RunError: the file cannot be written.
    """
    file = run.path / LINES
    header = run.header
    begun = (header.epoch + 1, header.step)
    with _written(file):
        if file.exists():
            write_atomically(file, "".join(f"{line}\n" for line in _lines_until(file, begun)).encode())
    events = _event_writer(run) if config.tensorboard else None
    try:
        for progress in steps:
            is_epoch = progress.val_loss is not None
            if is_epoch or progress.step % config.log_every == 0:
                figures = _figures(progress, config)
                with _written(file), file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(figures) + "\n")
                if events is not None:
                    _add(events, figures, progress)
            yield progress
    finally:
        if events is not None:
            events.close()


def _figures(progress: Progress, config: ResolvedTrainConfig) -> dict[str, Any]:
    position = (progress.epoch - 1) * progress.steps + progress.step - 1
    figures: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": progress.step,
        "lr": step_settings(position, progress.epochs * progress.steps, config).lr,
        "images_per_s": round(progress.images_per_s, 2),
        "train_loss": progress.losses,
    }
    if progress.val_loss is not None:
        figures |= {"metric": progress.metric}
        figures |= {name: getattr(progress, name) for name in ("val_loss", "val_accuracy", "val_score")}
    return {name: _finite(value) for name, value in figures.items()}


def _finite(value: Any) -> Any:
    """Return numbers that are not finite, which JSON does not have, as None."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _lines_until(file: Path, begun: tuple[int, int]) -> Iterator[str]:
    """Yield the whole lines up to a position: epoch, from 1, and steps taken of it."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            figures = json.loads(line)
            is_before = (int(figures["epoch"]), int(figures["step"])) <= begun
        except (ValueError, KeyError, TypeError):
            continue
        if is_before:
            yield line


@contextmanager
def _written(file: Path) -> Iterator[None]:
    """Turn an error of the system inside the block into one that names the file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{file} cannot be written ({error.strerror})") from error


def _event_writer(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / EVENTS))


def _add(events: Any, figures: dict[str, Any], progress: Progress) -> None:
    position = (progress.epoch - 1) * progress.steps + progress.step
    for name, value in figures.items():
        if isinstance(value, float):
            events.add_scalar(name, value, position)
        elif isinstance(value, list):
            for exit, each in enumerate(value):
                if each is not None:
                    events.add_scalar(f"{name}/exit{exit}", each, position)
