"""Fine-tune one exit of a run: train it end to end, as a network of its own, with the main network as its teacher."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lctprune.data.dataset import Data
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run, as_run
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import FINETUNED, member_of
from lctprune.workflows.session import Session
from lctprune.workflows.taught import begin_taught, load_alone


def finetune(
    run: str | Path | Run,
    exit: int,
    *,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    resume: bool = False,
) -> Run:
    """Fine-tune one exit of a run end to end, by backpropagation through all of its layers.

    The run stays as it is. The fine-tuned exit is kept in a run of its own, `finetuned/exitK/` below the given run,
    whose candidates then include it.

    Args:
        run: run with a finished epoch, or its directory.
        exit: number of the candidate.
        data: data to train on, with the default loss; by default the run's own. Its samples may differ, but not its
            classes, words, columns or normalisation.
        epochs: passes over the training split, by default 1.
        lr: peak learning rate; by default a fifth of the run's, or that of a run which trained given weights.
        distill: weight of the distance to the main network's outputs in the loss (in classification softened by a
            temperature of 4), 0 to 1, by default 0.5; the rest is the loss of the labels.
        resume: whether to continue from the last whole epoch, by default with the settings of the start.

    Returns:
        The added run.

    Raises:
        ConfigError: a value is out of range.
        NetworkError: there is no such exit.
        RunError: this exit was fine-tuned already, or its fine-tuning was started with other settings; or the run
            cannot be loaded; or `data` has other classes, words, columns or normalisation.
    """
    session = begin_finetuning(as_run(run), exit, data=data, epochs=epochs, lr=lr, distill=distill, resume=resume)
    for _ in session.steps():
        pass
    return session.opened


def begin_finetuning(
    run: Run,
    exit: int,
    *,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    resume: bool = False,
    **changes: Any,
) -> Session:
    """Load one exit as a network of its own and open the added run. See `finetune`."""
    loaded = LoadedRun(run)
    member = member_of(loaded, exit)

    def alone(_: Run | None, __: Data) -> LocalCriticNetwork:
        return load_alone(loaded, member)

    return begin_taught(
        loaded,
        run.path / FINETUNED / f"exit{exit}",
        described(member.name),
        alone,
        data=data,
        epochs=epochs,
        lr=lr,
        distill=distill,
        resume=resume,
        **{"batch_norm": "train", **changes},  # statistics that stay do not follow weights that move so fast
    )


def described(name: str) -> str:
    """Describe how a fine-tuned network came to be: `X, fine-tuned`, `X, fine-tuned twice` or `X, fine-tuned 3 times`.

    Args:
        name: name of the network that is fine-tuned, which may have been before.
    """
    again = re.fullmatch(r"(.+?)((?:, fine-tuned)+)(?: (twice|\d+ times))?(?: \(exit \d+\))?", name)
    if again is None:
        return f"{name}, fine-tuned"
    before = {"": "1", "twice": "2"}.get(again[3] or "", again[3])
    times = int(before.removesuffix(" times")) + again[2].count(",")
    return f"{again[1]}, fine-tuned {'twice' if times == 2 else f'{times} times'}"
