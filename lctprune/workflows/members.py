"""The members of a run: its own exits, and the networks added to it later, in runs of their own below it.

dense/                  the densified front: critics at further cut points, trained on the run's frozen main network
finetuned/exitK/        exit K as one network, trained further from end to end
narrowed/exitK-TARGET/  exit K as one network, with fewer channels
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lctprune.config.run import CONFIG, Origin
from lctprune.errors import NetworkError, RunError
from lctprune.measure.candidates import MAIN, exit_name
from lctprune.run_files import CHECKPOINT, tensor_shapes
from lctprune.runs import Run
from lctprune.utils.files import remove_leftovers, require_writable
from lctprune.utils.locking import locked
from lctprune.workflows.loading import LoadedRun, require_recipe

DENSE, FINETUNED, NARROWED = "dense", "finetuned", "narrowed"


class Member(NamedTuple):
    """One network of a run.

    Attributes:
        number: number of its candidate, for `--exit`.
        name: name of its candidate.
        run: the run whose checkpoint holds it: the run itself, or one below it.
        exit: its exit in that run.
        origin: description of how it came to be; empty for the exits of the run itself.
    """

    number: int
    name: str
    run: Run
    exit: int
    origin: str = ""


def members_of(run: Run | LoadedRun) -> list[Member]:
    """List the run's own exits, the main network last, and then the networks of the runs added to it.

    An added run counts if it has a finished epoch and was started from the run's present checkpoint.

    Raises:
        RunError: the run has no checkpoint, or its network was made in a program; or an added run is damaged, and
            `run.partial` is not set.
    """
    loaded = LoadedRun.of(run)
    run = loaded.run
    require_recipe(run)
    members = [Member(exit, name, run, exit) for exit, name in enumerate(exit_names(run))]
    current = loaded.checkpoint().sha256
    for added, origin in require_whole(loaded):
        if origin.checkpoint_sha256 == current and loaded.epochs_done(added):
            for exit, text in enumerate(origin.exits):
                number = origin.first_number + exit
                name = _added_name(text)
                if any(member.name == name for member in members):
                    name = f"{name} ({exit_name(number)})"
                members.append(Member(number, name, added, exit, text))
    return members


def exit_names(run: Run) -> list[str]:
    """List the names of the run's own exits; none for a network made in a program."""
    recipe = run.config.network
    if recipe is None:
        return []
    exits, places = _own_exits(run), recipe.cut_point_names or ()
    return [exit_name(exit, exits, places) for exit in range(exits)]


def trained_exits(run: Run) -> tuple[list[str], int]:
    """Return the names of the exits that a run trains, and the number of the first.

    Exits of an added run have the names and the numbers that they have among the candidates of the run that it was
    added to; the main network, which a densified front is trained beside, stands last.
    """
    origin = run.config.origin
    if origin is None:
        return exit_names(run), 0
    names = [_added_name(text) for text in origin.exits]
    return [*names, *[MAIN] * (_own_exits(run) - len(names))], origin.first_number


def _added_name(origin: str) -> str:
    """Name an added network by its place and size."""
    place = re.fullmatch(r"at (.+?)(?:, (\S+) x as wide)?", origin)
    if place is None:
        return origin
    return place[1] + (f" x{place[2]}" if place[2] else "")


def further_runs(loaded: LoadedRun) -> list[Run]:
    """List the runs added to a run that count, as `members_of` has their networks."""
    runs = {each.run.path: each.run for each in members_of(loaded) if each.run.path != loaded.run.path}
    return list(runs.values())


def member_named(run: Run | LoadedRun, text: str | None) -> Member:
    """Find a network by its number or its name; "main" is the main network.

    Args:
        run: the run.
        text: number, or name as `evaluate` shows it, such as "layer2"; None for the main network.

    Raises:
        NetworkError: there is none.
    """
    if text is not None and re.fullmatch(r"-?\d+", text):
        return member_of(run, int(text))
    name = MAIN if text is None or text.lower() == "main" else text
    members = members_of(run)
    for member in members:
        if member.name == name:
            return member
    known = ", ".join(f"{member.number} ({member.name})" for member in members)
    raise NetworkError(f"exit {text!r} does not exist; {LoadedRun.of(run).run.path} has {known}")


def member_of(run: Run | LoadedRun, number: int) -> Member:
    """Find the network with that number.

    Raises:
        NetworkError: there is none.
    """
    members = members_of(run)
    for member in members:
        if member.number == number:
            return member
    known, path = ", ".join(str(member.number) for member in members), LoadedRun.of(run).run.path
    raise NetworkError(f"exit {number} does not exist; {path} has exits {known}")


def new_origin(
    loaded: LoadedRun, exits: list[str], *, distill: float | None = None, views: int | None = None
) -> Origin:
    """Describe where networks come from that are about to be added to a run; numbers once given are not given again.

    Args:
        loaded: the run to which they are added.
        exits: description of how each of them came to be.
        distill: weight of the distance to the main network's outputs; see `Origin`.
        views: number of passes after which these repeat; see `Origin`.
    """
    return Origin(
        checkpoint_sha256=loaded.checkpoint().sha256,
        first_number=next_number(loaded),
        exits=tuple(exits),
        distill=distill,
        views=views,
    )


def next_number(loaded: LoadedRun) -> int:
    """Return the first number that no network of a run has or had, those of an earlier checkpoint included.

    Raises:
        RunError: an added run is damaged, see `require_whole`.
    """
    return max([_own_exits(loaded.run), *(origin.next_number for _, origin in require_whole(loaded))])


def run_to_resume(loaded: LoadedRun, folder: Path, *, resume: bool) -> Run | None:
    """Open the added run in `folder` to resume it, or check that a new one can be started there.

    Args:
        loaded: run that something is added to.
        folder: directory of the added run.
        resume: whether to resume; otherwise the folder of a run that failed in its first epoch is cleared.

    Returns:
        The added run; None if a new one is to be started.

    Raises:
        RunError: nothing can be added to this run, or `folder` already holds something, or holds nothing to resume, or
            cannot be written to.
    """
    run = loaded.run
    if run.config.origin is not None:
        raise RunError(f"{run.path} was itself added to a run; give the run that it stands in")
    require_writable(folder, f"copy {run.path} to where you may write, and give that")
    if not resume:
        _clear_unfinished(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} exists: that {_how_far(folder)} remove it to begin anew")
        return None
    try:
        resumed = Run(folder, model=run.model)
    except RunError as error:
        raise RunError(f"there is nothing to resume in {folder}; leave out `resume`") from error
    if resumed.config.origin is None:
        raise RunError(f"{folder} holds a run of its own, which was not added to {run.path}; move it away")
    if resumed.config.origin.checkpoint_sha256 != loaded.checkpoint().sha256:
        raise RunError(f"{folder} was begun from another checkpoint of {run.path}; remove it, and begin anew")
    return resumed


def _how_far(folder: Path) -> str:
    with suppress(RunError):
        if Run(folder).is_finished:
            return "is trained to its end;"
    return "was begun before; go on with `resume`, or"


def _clear_unfinished(folder: Path) -> None:
    """Clear the folder of a run that failed, or was killed, in its first epoch."""
    if any(not entry.name.startswith((f".{CONFIG}.", f".{CHECKPOINT}.", CONFIG)) for entry in folder.glob("*")):
        return
    if (folder / CONFIG).exists():
        with locked(folder / CONFIG, str(folder)):  # or it is in its first epoch now
            (folder / CONFIG).unlink()
    for name in (CONFIG, CHECKPOINT):
        remove_leftovers(folder, name)


def notes(run: Run | LoadedRun) -> list[str]:
    """List what a user should know of added runs: those unfinished or left out, or that the run is an added one itself.

    Returns:
        Clauses for a note, without a full stop.

    Raises:
        RunError: the run has no checkpoint.
    """
    loaded = LoadedRun.of(run)
    run = loaded.run
    if run.config.origin is not None:
        return [f"{run.path} was added to the run that it stands in, which has all networks"]
    whole, damaged = _examined(loaded)
    found = [f"{each}; it is left out" for each in damaged]
    current = loaded.checkpoint().sha256
    for added, origin in whole:
        done, epochs = loaded.epochs_done(added), added.config.training.epochs
        if origin.checkpoint_sha256 != current:
            found.append(f"{added.path} was begun from another checkpoint of {run.path} and is left out; remove it")
        elif done < epochs:
            found.append(f"{added.path} stands at epoch {done} of {epochs}{'' if done else ' and is left out'}")
    return found


def added_runs(run: Run | LoadedRun) -> list[tuple[Run, Origin]]:
    """List the runs that were added to a run, in the order in which they were started, with their origins."""
    return _examined(LoadedRun.of(run))[0]


def require_whole(run: Run | LoadedRun) -> list[tuple[Run, Origin]]:
    """Return `added_runs`, unless there are damaged ones, and the run is not to be used without these.

    Raises:
        RunError: an added run is damaged, and `run.partial` is not set.
    """
    loaded = LoadedRun.of(run)
    whole, damaged = _examined(loaded)
    if damaged and not loaded.run.partial:
        more = f" (and {len(damaged) - 1} more)" if damaged[1:] else ""
        raise RunError(
            f"{damaged[0]}{more}; restore it, or remove its folder (evaluate, select, report, export and compare do "
            "without it, with `partial`)"
        )
    return whole


def _examined(loaded: LoadedRun) -> tuple[list[tuple[Run, Origin]], list[str]]:
    """Open the runs that were added to a run.

    Returns:
        The whole ones with their origins, in the order in which they were started; and of each of the others its
        folder and what is wrong.
    """
    run = loaded.run
    found, damaged, taken = [], [], {*range(_own_exits(run))}
    for folder in (run.path / DENSE, *_folders(run.path / FINETUNED), *_folders(run.path / NARROWED)):
        if not (folder.is_dir() and any(os.path.lexists(folder / name) for name in (CONFIG, CHECKPOINT))):
            continue  # no run, or something else
        try:
            added = Run(folder, model=run.model)
            if (origin := added.config.origin) is None:
                if folder.name == DENSE or re.fullmatch(r"exit\d+", folder.name):
                    raise RunError(f"{folder / CONFIG}: origin is missing")
                continue
            _require_sound(added, origin, current=loaded.checkpoint().sha256)
            if taken & {*range(origin.first_number, origin.next_number)}:
                raise RunError(f"{folder / CONFIG}: origin.first_number is {origin.first_number}, which is taken")
            taken |= {*range(origin.first_number, origin.next_number)}
            found.append((added, origin))
        except RunError as error:
            damaged.append(f"{folder}, which was added to {run.path}, is damaged: {error}")
    return sorted(found, key=lambda each: each[1].first_number), damaged


def _folders(path: Path) -> list[Path]:
    return sorted(path.glob("*"))


def _require_sound(added: Run, origin: Origin, *, current: str) -> None:
    """Raise a `RunError` if an added run of the run's present checkpoint is not what its files say."""
    recipe, _ = require_recipe(added), added.config.training
    header, own = added.header, _own_exits(added)
    named = own if recipe.exit is not None else own - 1  # in a densified front the main network is the run's own
    if len(origin.exits) != named:
        raise RunError(f"{added.path / CONFIG}: origin.exits has {len(origin.exits)} names; it must have {named}")
    if not header.epoch and not header.step and added.metrics:
        raise RunError(f"{added.path / CHECKPOINT} is missing")
    if origin.checkpoint_sha256 == current and header.epoch:
        tensor_shapes(added.kept_file)


def _own_exits(run: Run) -> int:
    recipe = require_recipe(run)
    return 1 if recipe.exit is not None else recipe.groups
