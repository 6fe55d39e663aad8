"""Predict: from raw inputs to classes with probabilities, or to numbers in the units of the target."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lctprune.data.raw_inputs import RawInput, as_batches, list_inputs, read_inputs
from lctprune.errors import NetworkWarning, RunError, first_line
from lctprune.runs import Run
from lctprune.utils.batches import CAUSES, SAMPLES, batch_dependence, runs_alone
from lctprune.workflows.predictors import Predictor, open_predictor

BATCH = 64  # samples per call
TOP = 5  # classes that are named


class Prediction(NamedTuple):
    """What a network says of one raw input.

    Attributes:
        source: file of the input.
        line: line in the file, from 1; None for an image, or a whole file that cannot be read.
        top: most probable classes with their probabilities, the most probable first; empty in a regression.
        values: predicted numbers, in the units of the target; empty for classes.
        problem: why there is no answer; "" where there is one.
    """

    source: str
    line: int | None
    top: tuple[tuple[str, float], ...] = ()
    values: tuple[float, ...] = ()
    problem: str = ""


def predict(
    source: str | Path | Run,
    inputs: Sequence[str | Path],
    *,
    exit: str | int | None = None,
    top: int = TOP,
    model: str | None = None,
    trust_code: bool = False,
) -> list[Prediction]:
    """Predict classes, or numbers, for image files, files of texts or tables, with an exported file or a run.

    Inputs are prepared as validation samples were, by model.json beside the file or by the run.

    Args:
        source: exported file, or its folder; or a run, or its directory.
        inputs: image files and folders of images; files with one text per line; or files of rows.
        exit: number or name of the run's exit; by default the main network.
        top: number of classes to name.
        model: name of the user's own function that built the network, `package.module:callable`; see `Run`.
        trust_code: whether to load a package of Inductor (.aoti.pt2), which is machine code: only if you made it.

    Returns:
        One prediction per image, line or row, in order; those that could not be read have a `problem`.

    Raises:
        RunError: there is no such file or run, or what is recorded of it is missing or damaged.
        ExportError: the file cannot be opened.
        NetworkError: there is no such exit.
        ConfigError: `exit` is given for a file, the runtime of the file is not installed, or it is machine code, and
            not to be trusted, or for another machine.
    """
    predictor = open_predictor(source, exit=None if exit is None else str(exit), model=model, trust_code=trust_code)
    listing = list_inputs([*map(str, inputs)], predictor.expected)
    return list(predictions(predictor, read_inputs(listing, predictor.expected), top=top))


def predictions(predictor: Predictor, items: Iterable[RawInput], *, top: int = TOP) -> Iterator[Prediction]:
    """Yield a prediction for each raw input, in order, with a problem in place of an answer where there is none.

    Args:
        predictor: the network.
        items: raw inputs.
        top: number of classes to name.

    Raises:
        RunError: the outputs are not those of the recorded classes.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, so that samples are taken one by one.
    """
    remaining, size = iter(items), BATCH
    first = list(itertools.islice(remaining, SAMPLES))
    if is_dependent := _depends(predictor, first):
        size = 1
    chunks = itertools.chain([first] if not is_dependent else ([each] for each in first), _chunks(remaining, size))
    for chunk in chunks:
        answers: list[Prediction | None] = [
            Prediction(item.source, item.line, problem=item.problem) if item.tensor is None else None for item in chunk
        ]
        for indices, inputs in as_batches(chunk, predictor.expected, predictor.length):
            for index, (outputs, problem) in zip(indices, _outputs(predictor, inputs), strict=True):
                item = chunk[index]
                where = item.source if item.line is None else f"{item.source}, line {item.line}"
                answer = Prediction(item.source, item.line, problem=f"{where}: {problem}")
                answers[index] = answer if outputs is None else _answer(answer, outputs, predictor, top)
        yield from (each for each in answers if each is not None)


def prediction_record(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain JSON values."""
    place = {"input": prediction.source} | ({} if prediction.line is None else {"line": prediction.line})
    if prediction.problem:
        return place | {"problem": prediction.problem}
    if prediction.top:
        return place | {"top": [{"class": name, "probability": value} for name, value in prediction.top]}
    return place | {"values": list(prediction.values)}


def _chunks(items: Iterator[RawInput], size: int) -> Iterator[list[RawInput]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _depends(predictor: Predictor, items: Sequence[RawInput]) -> bool:
    """Tell whether samples get other outputs alone than in a batch; such networks are measured one by one, too."""
    for _, inputs in as_batches(items, predictor.expected, predictor.length):
        try:
            clause = batch_dependence(predictor.network, inputs)
        except Exception:  # whatever the runtime raises, of which each sample will tell
            return False
        if clause is not None and runs_alone(clause):
            warnings.warn(
                f"the network {clause}, so samples are taken one by one ({CAUSES})", NetworkWarning, stacklevel=3
            )
            return True
    return False


def _outputs(predictor: Predictor, inputs: Tensor) -> list[tuple[Tensor | None, str]]:
    """Return the outputs of each sample, [outputs], or why there are none."""
    try:
        outputs = predictor.network(inputs).float()
    except Exception as error:  # whatever the runtime raises
        if len(inputs) > 1:  # it may be of one sample only
            return [each for sample in inputs for each in _outputs(predictor, sample[None])]
        return [(None, f"the network fails on an input of shape {[*inputs.shape]} ({first_line(error)[:200]})")]
    outputs = outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]
    wanted = len(predictor.classes) or len(predictor.output.mean) or outputs.shape[1]
    if outputs.shape != (len(inputs), wanted):
        what = "classes" if predictor.classes else "numbers to predict"
        raise RunError(
            f"{predictor.source} gives outputs of {[*outputs.shape[1:]]} per sample, and {wanted} {what} are recorded; "
            "export it again"
        )
    is_finite = outputs.isfinite().all(1).tolist()
    return [
        (row, "") if fine else (None, "its outputs are not finite")
        for row, fine in zip(outputs, is_finite, strict=True)
    ]


def _answer(place: Prediction, outputs: Tensor, predictor: Predictor, top: int) -> Prediction:
    if not predictor.classes:
        values, statistics = outputs.double(), predictor.output
        if statistics.mean:
            values = values * torch.tensor(statistics.std).double() + torch.tensor(statistics.mean).double()
        if not values.isfinite().all():
            return place._replace(problem=f"{place.problem}its outputs are not finite in the units of the target")
        return place._replace(values=tuple(values.tolist()), problem="")
    probabilities = outputs if predictor.gives_probabilities else outputs.softmax(0)
    best = probabilities.sort(descending=True, stable=True)
    chosen = zip(best.indices[:top].tolist(), best.values[:top].tolist(), strict=True)
    return place._replace(top=tuple((predictor.classes[index], value) for index, value in chosen), problem="")
