"""Go on with a run that was interrupted, or train it longer, by the settings that it recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lctprune.data.load import relocated
from lctprune.errors import ConfigError, RunError
from lctprune.run_files import CHECKPOINT
from lctprune.runs import Run
from lctprune.workflows.compression_schedule import COMPRESSION
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.finetuning import begin_finetuning
from lctprune.workflows.loading import recorded_training, require_executable, require_recipe
from lctprune.workflows.members import DENSE, NARROWED
from lctprune.workflows.narrowing import resume_narrowing
from lctprune.workflows.session import Session
from lctprune.workflows.session_settings import SessionSettings


def resumed_settings(run: Run, *, epochs: int | None = None, data: Path | None = None) -> SessionSettings:
    """Return the settings of a session that goes on with a run from its last epoch.

    Args:
        run: run, with the name of the user's own function if one builds the network.
        epochs: new number of epochs in all. Learning rate and ramps go on as in a training of so many epochs.
        data: present location of the data, if it has moved.

    Raises:
        ConfigError: `epochs` is not more than the run has.
        RunError: the run's network or data was made in a program, or the run was added to another one, or is of another
            version.
    """
    recipe, training = require_recipe(run), recorded_training(run)
    require_executable(run)
    if run.config.origin is not None:
        raise RunError(
            f"{run.path} was added to another run; go on with lctprune densify, narrow or finetune, and `resume`"
        )
    if run.config.data is None:
        raise RunError(f"{run.path} was trained on data made in a program; go on there: lct.train(..., resume=True)")
    done = run.epochs_done
    if epochs is not None and epochs <= done:
        raise ConfigError(f"epochs is {epochs}, and {run.path} has {done} already; give more than that")
    config = run.config.data.config
    return SessionSettings(
        network=recipe,
        data=config if data is None else relocated(config, data),
        training=training if epochs is None else dataclasses.replace(training, epochs=epochs),
        weights=None if (run.path / CHECKPOINT).exists() else recipe.weights,  # the checkpoint has what became of them
        out=run.path,
        resume=True,
        extend=epochs is not None,
        dense="--dense" in run.config.command and epochs is None,
    )


def resume_added(added: Run, *, model: str | None = None, data: Path | None = None) -> tuple[Run, Session]:
    """Go on with a run that was added to another one.

    Args:
        added: densified front or fine-tuned exit, in its place below the other run.
        model: name of the user's own function that built the network; see `Run`.
        data: present location of the data, if it has moved.

    Returns:
        The run that it was added to, and the session.
    """
    path = added.path.resolve()
    owner_path = path.parent if path.name == DENSE else path.parents[1]
    owner = Run(owner_path, model=model, data_path=data)
    require_no_compression(owner)
    if path.name == DENSE:
        return owner, begin_dense(owner, resume=True)
    if path.parent.name == NARROWED:
        return owner, resume_narrowing(owner, path)
    return owner, begin_finetuning(owner, int(path.name.removeprefix("exit")), resume=True)


def require_no_compression(run: Run) -> None:
    """Refuse what was added to a run by a compression, which goes on as a whole.

    Raises:
        RunError: a compression began the run; the message names the command, or the call where a program began it.
    """
    if began_as_compression(run):
        command = run.command("resume") if run.is_compression else "lct.compress(..., resume=True) in its program"
        raise RunError(f"{run.path} was begun by a compression; to go on: {command}")


def began_as_compression(run: Run) -> bool:
    """Tell whether a compression began a run, if only just: it may have been killed before it wrote its plan."""
    return run.is_compression or (run.path / COMPRESSION).exists()


def lacks_critics(run: Run) -> bool:
    """Tell whether a run was begun with `--dense`, and its further critics were not begun yet."""
    return "--dense" in run.config.command and not (run.path / DENSE).exists()


def started_with(run: Run, option: str) -> int:
    """Return the number that an option had in the command that began a run; 1 without the option."""
    for word, following in zip(run.config.command, (*run.config.command[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            number = value if equals else following
            return int(number) if number.isdigit() else 1
    return 1
