"""All networks of a run: its exits, and what was added to it later, which stands in runs of their own below it.

dense/                  critics at further places, trained on the run's main network, which stays as it is
finetuned/exitK/        exit K as one network, trained on end to end
"""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.errors import NetworkError, RunError
from lctprune.measure.candidates import MAIN
from lctprune.runs import CHECKPOINT, CONFIG, Run
from lctprune.utils.files import sha256
from lctprune.workflows.loading import require_recipe

DENSE, FINETUNED = "dense", "finetuned"


class Member(NamedTuple):
    """One network of a run's family.

    Attributes:
        number: of its candidate, for `--exit`.
        name: of its candidate.
        run: whose checkpoint holds it: the run itself, or one below it.
        exit: which of the exits of that run.
        origin: how it came to be; empty for the exits of the run itself.
    """

    number: int
    name: str
    run: Run
    exit: int
    origin: str = ""


def family(run: Run) -> list[Member]:
    """The run's own exits, the main network last of them, and then what was added; of added runs only those with a
    finished epoch that were begun from the checkpoint that the run has now.

    Raises:
        RunError: the run has no checkpoint, or its network was made in a program.
    """
    exits = _own_exits(run)
    members = [Member(exit, MAIN if exit == exits - 1 else f"exit {exit}", run, exit) for exit in range(exits)]
    current = checkpoint_hash(run)
    for added in added_runs(run):
        origin = added.config["origin"]
        if origin["checkpoint_sha256"] == current and added.epochs_done:
            members += [
                Member(origin["first_number"] + exit, f"exit {origin['first_number'] + exit}", added, exit, text)
                for exit, text in enumerate(origin["exits"])
            ]
    return members


def member_of(run: Run, number: int) -> Member:
    """The network with that number.

    Raises:
        NetworkError: there is none.
    """
    members = family(run)
    for member in members:
        if member.number == number:
            return member
    known = ", ".join(str(member.number) for member in members)
    raise NetworkError(f"exit {number} does not exist; {run.path} has exits {known}")


def origin_record(run: Run, exits: list[str]) -> dict[str, Any]:
    """What an added run remembers of where it comes from.

    Args:
        run: to which it is added.
        exits: how each of its networks came to be.
    """
    taken = [added.config["origin"] for added in added_runs(run)]
    ends = [_own_exits(run), *(origin["first_number"] + len(origin["exits"]) for origin in taken)]
    return {"checkpoint_sha256": checkpoint_hash(run), "first_number": max(ends), "exits": exits}


def begun_below(run: Run, folder: Path, *, resume: bool) -> Run | None:
    """The added run in `folder`, if it is to be resumed; None if it is to be begun, also where one failed before it had
    finished an epoch.

    Raises:
        RunError: networks cannot be added to this run, there is something in the folder already, or nothing that can be
            resumed.
    """
    if "origin" in run.config:
        raise RunError(f"{run.path} was itself added to a run; give the run that it stands in")
    if not resume:
        if [entry.name for entry in folder.glob("*")] == [CONFIG]:  # it failed in its first epoch
            (folder / CONFIG).unlink()
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} exists: that was begun before; go on with --resume, or remove it to begin anew")
        return None
    try:
        begun = Run(folder, model=run.model)
    except RunError as error:
        raise RunError(f"there is nothing to resume in {folder}; leave out --resume") from error
    if "origin" not in begun.config:
        raise RunError(f"{folder} holds a run of its own, which was not added to {run.path}; move it away")
    if begun.config["origin"]["checkpoint_sha256"] != checkpoint_hash(run):
        raise RunError(f"{folder} was begun from another checkpoint of {run.path}; remove it, and begin anew")
    return begun


def notes(run: Run) -> list[str]:
    """What there is to say of the added runs that are not finished, or left out of the family, and of a run that is an
    added one itself; a sentence each.

    Raises:
        RunError: the run has no checkpoint.
    """
    if "origin" in run.config:
        return [f"{run.path} was added to the run that it stands in, which has all networks"]
    said = []
    current = checkpoint_hash(run)
    for added in added_runs(run):
        done, epochs = added.epochs_done, added.config["training"]["epochs"]
        if added.config["origin"]["checkpoint_sha256"] != current:
            said.append(f"{added.path} was begun from another checkpoint of {run.path} and is left out; remove it")
        elif done < epochs:
            said.append(f"{added.path} stands at epoch {done} of {epochs}{'' if done else ' and is left out'}")
    return said


def added_runs(run: Run) -> list[Run]:
    """Runs below a run, in the order in which they were begun."""
    added = []
    for folder in (run.path / DENSE, *(run.path / FINETUNED).glob("*")):
        with suppress(RunError):  # not begun, or somebody else's
            added.append(Run(folder, model=run.model))
    begun = [each for each in added if "origin" in each.config]
    return sorted(begun, key=lambda each: each.config["origin"]["first_number"])


def _own_exits(run: Run) -> int:
    require_recipe(run)
    recipe = run.config["network"]
    return 1 if recipe.get("exit") is not None else int(recipe.get("groups", 1))


def checkpoint_hash(run: Run) -> str:
    """SHA-256 of a run's checkpoint.

    Raises:
        RunError: it has none.
    """
    try:
        state = (run.path / CHECKPOINT).stat()
        return _hash_of(run.path.absolute() / CHECKPOINT, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise RunError(f"{run.path} has no {CHECKPOINT}: no epoch was finished; train it with --resume") from error


@functools.cache
def _hash_of(path: Path, mtime_ns: int, size: int) -> str:
    """Once for each state of the file, which is large and asked for again and again."""
    return sha256(path)
