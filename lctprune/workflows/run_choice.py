"""Choose a run where none is named."""

from __future__ import annotations

import datetime
import itertools
from contextlib import suppress
from pathlib import Path

from lctprune.config.run import CONFIG, RUNS
from lctprune.errors import RunError
from lctprune.runs import Run
from lctprune.workflows.members import added_runs
from lctprune.workflows.model_card import MODEL_CARD, SELECTED


def newest_run(folder: str | Path = RUNS, *, model: str | None = None, data_path: str | Path | None = None) -> Run:
    """Find the run below `folder` that was created last of those trained to their end; else the last with an epoch.

    Args:
        folder: parent of the run directories.
        model: name of the user's own function that built the network; see `Run`.
        data_path: present location of the run's data; see `Run`.

    Raises:
        RunError: no run has a finished epoch.
    """
    done = [(run, done) for run, done in runs_below(folder) if done]
    if not done:
        raise RunError(f"there is no run below {folder}/; train one with lctprune train resnet, or give its directory")
    path = next((run.path for run, epochs in done if not is_unfinished(run, epochs)), done[0][0].path)
    return Run(path, model=model, data_path=data_path)


def newest_unfinished(folder: str | Path = RUNS) -> Path:
    """Find the run below `folder` that was created last of those that are not trained to their end.

    So is a run to which something was added that is not trained to its end.

    Raises:
        RunError: there is none.
    """
    for run, done in runs_below(folder):
        with suppress(RunError):  # what is damaged is said where the run is named
            if is_unfinished(run, done) or unfinished_addition(run):
                return run.path
    raise RunError(f"there is no unfinished run below {folder}/; name a run and `epochs` to train it longer")


def unfinished_addition(run: Run) -> Run | None:
    """Return a run that was added to a run and is not trained to its end."""
    return next((added for added, _ in added_runs(run) if not added.is_finished), None)


def is_unfinished(run: Run, done: int) -> bool:
    """Tell whether a run is not trained to its end, or the compression that began it chose no network yet.

    Args:
        run: the run.
        done: number of its finished epochs.
    """
    return done < run.config.training.epochs or (run.is_compression and not (run.path / SELECTED / MODEL_CARD).exists())


def newer_unfinished(run: Run) -> list[tuple[Run, int]]:
    """List the unfinished runs beside a run that were created after it, with the number of their finished epochs."""
    others = itertools.takewhile(lambda each: each[0].path != run.path, runs_below(run.path.parent))
    return [(other, done) for other, done in others if is_unfinished(other, done)]


def runs_below(folder: str | Path = RUNS) -> list[tuple[Run, int]]:
    """List the runs below a folder, the one created last first, with the number of their finished epochs."""
    found = []
    for config in Path(folder).glob(f"*/{CONFIG}"):
        with suppress(RunError):  # a directory that is not a run, or of another version
            run = Run(config.parent)
            _ = run.config.training  # which may not be readable
            found.append((run, run.epochs_done))
    return sorted(found, key=lambda each: _created(each[0]), reverse=True)


def _created(run: Run) -> float:
    """Return the time of creation in seconds since 1970; 0 where it is not known."""
    try:
        return datetime.datetime.fromisoformat(run.config.created).timestamp()
    except ValueError:
        return 0.0
