"""Export a network to files of several formats, each checked as its user will run it, before any is written."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.errors import DataError, DataWarning, ExportError, NetworkWarning
from lctprune.exporting.comparing import BATCHES, compared_batches, difference, repeated, require_close
from lctprune.exporting.formats import RUNTIMES, SUFFIXES, WEIGHTS_SUFFIX, Format
from lctprune.exporting.reducing import HALF, ReducedNetwork, require_alike
from lctprune.exporting.reopening import reopened
from lctprune.exporting.writing import Converted, convert, size_notes, write_exported
from lctprune.measure.candidates import precision_of
from lctprune.measure.scores import ScoreSheet
from lctprune.network import LocalCriticNetwork
from lctprune.utils.batches import runs_alone
from lctprune.utils.modules import evaluation_mode
from lctprune.workflows.model_card import MODEL_CARD, known

COMPARED_SAMPLES = 64  # validation samples that a file is compared on
FILES = {f"model{suffix}" for suffix in (*SUFFIXES.values(), WEIGHTS_SUFFIX)}  # names of the files
TIMED = "timed"  # the batch that is timed


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What files are compared on, and how.

    Attributes:
        samples: validation samples, [batch, ...].
        targets: their targets.
        all_targets: all targets of the split, which tell their kind.
        metric: setting of the metric.
        dependence: clause that says how outputs depend on the rest of the batch; empty where they do not.
        latency_batch: samples per timed call.
        logits: function from outputs to those that metrics take; by default they are.
        apart: whether a file is opened in a new process, with nothing but its own runtime.
    """

    samples: Tensor
    targets: Tensor
    all_targets: Tensor
    metric: str
    dependence: str = ""
    latency_batch: int = 1
    logits: Callable[[Tensor], Tensor] = lambda outputs: outputs
    apart: bool = False


def export_files(
    network: nn.Module,
    folder: Path,
    formats: Sequence[Format],
    checked: Checked,
    *,
    names: Mapping[str, str] | None = None,
    forms: Sequence[ReducedNetwork] = (),
    ready: Sequence[Converted] = (),
) -> list[dict[str, Any]]:
    """Write a network to files `model` with the suffixes of the formats; all of them, or none where one is not right.

    Args:
        network: traceable module.
        folder: output folder.
        formats: formats of the files.
        checked: what files are compared on.
        names: names of tensors in the format state-dict.
        forms: the network in a reduced precision, for each format; without any the files are in its own.
        ready: contents of the files of the first formats, where they exist already.

    Returns:
        What the model card says of each file.

    Raises:
        ConfigError: an extra is not installed.
        ExportError: a file would not do what the network does, or cannot be written.

    Warns:
        NetworkWarning: a file takes sequences of one length only.
    """
    contents = [form.converted for form in forms] or [
        *ready,
        *convert(
            network,
            checked.samples,
            formats[len(ready) :],
            dependence=checked.dependence,
            names=names,
            compared=False,  # each is compared below, as its user runs it
            timed=_timed(checked),
        ),
    ]
    paired = itertools.zip_longest(contents, forms)
    records = [_record(network, converted, checked, form) for converted, form in paired]
    for converted in contents:
        write_exported(folder / f"model{SUFFIXES[converted.format]}", converted)
    for note in size_notes(contents):
        warnings.warn(note, NetworkWarning, stacklevel=2)
    return records


def original_names(network: LocalCriticNetwork, exit: int) -> dict[str, str]:
    """Name the tensors of an exit as the original model does, those of its critic after `critic.`; {} if they clash."""
    parts = network.subnetwork(exit)
    names = {
        f"{index}.{name}": name if index <= exit else f"critic.{name}"
        for index, part in enumerate(parts)
        for name in part.state_dict()
    }
    return names if len(set(names.values())) == len(names) else {}


def _record(network: nn.Module, converted: Converted, checked: Checked, form: ReducedNetwork | None) -> dict[str, Any]:
    record = file_record(converted, Path(f"model{SUFFIXES[converted.format]}"), precision_of(form or network))
    return record | ({} if converted.format == "state-dict" else _trial_record(network, converted, checked, form))


def file_record(converted: Converted, path: Path, precision: str) -> dict[str, Any]:
    """Say in plain JSON values what an exported file is, and what it takes.

    Args:
        converted: content of the file.
        path: the file.
        precision: type of its weights.
    """
    weights = None  # inside
    if converted.weights is not None:
        name = path.with_suffix(WEIGHTS_SUFFIX).name  # where its runtime looks for them
        weights = {"file": name, "sha256": hashlib.sha256(converted.weights).hexdigest()}
    return {
        "format": converted.format,
        "file": path.name,
        "sha256": hashlib.sha256(converted.content).hexdigest(),
        "size_bytes": len(converted.content) + len(converted.weights or b""),
        "weights": weights,
        "precision": precision,
        "memory_layout": converted.layout,
        "fixed_length": converted.length,
        "max_batch": converted.largest_batch,
        "compiled_for": converted.compiled_for,
        "runtime": RUNTIMES[converted.format],
    }


def _trial_record(
    network: nn.Module, converted: Converted, checked: Checked, form: ReducedNetwork | None
) -> dict[str, Any]:
    """Run the file on the samples, compare the outputs, and say what it gave and took."""
    batches = compared_batches(network, checked.samples, dependence=checked.dependence, length=converted.length)
    timed = _timed(checked)
    apart = checked.apart or converted.format == "executorch"  # it has its threads for the whole process
    inputs = {TIMED: timed} | {str(index): batch for index, batch in enumerate(batches)}
    with _named(converted.format):
        trial = reopened(converted, inputs, apart=apart)
        with evaluation_mode(network), torch.no_grad():
            expected = {name: network(batch) for name, batch in inputs.items()}
            here = {name: form(batch) for name, batch in inputs.items()} if form else expected
        outputs = {name: torch.from_numpy(trial.outputs[name]) for name in inputs}
        for name, batch in inputs.items():
            computed = HALF.get(form.precision) if form else None
            require_close(outputs[name], here[name], batch, may_be_nan=bool(checked.dependence or form), type=computed)
        if form:
            require_alike(outputs["0"], batches[0], network, form.precision)
    return {
        "runtime_version": trial.version,
        "threads": torch.get_num_threads(),
        "load_ms": round(trial.load_ms, 3),
        "latency_ms": trial.latency_ms,
        "latency_batch": len(timed),
        "check": {
            "process": "new" if apart else "this",
            "batches": list(BATCHES),
            "largest_difference": max(difference(outputs[name], expected[name]) for name in inputs),
            **_scores([outputs["0"], expected["0"]], checked),
        },
    }


def _timed(checked: Checked) -> Tensor:
    """Return the input of timed calls: one sample as often as a call takes."""
    return repeated(checked.samples[:1], max(checked.latency_batch, 1 if runs_alone(checked.dependence) else 2))


def _scores(outputs: Sequence[Tensor], checked: Checked) -> dict[str, Any]:
    """Score the file and the network on the samples; no scores where these have none, as mAP without any label."""
    sheet = ScoreSheet(metric=checked.metric, targets=checked.all_targets)
    record: dict[str, Any] = {"samples": len(checked.targets), "metric": None, "score": None, "score_of_network": None}
    with suppress(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        sheet.add([checked.logits(each[: len(checked.targets)].cpu()) for each in outputs], checked.targets)
        scores = sheet.result()
        of_file, of_network = map(known, scores.score)
        record |= {"metric": scores.metric, "score": of_file, "score_of_network": of_network}
    return record


def earlier_files(folder: Path) -> set[str]:
    """Return the names of files of an earlier export to a folder, as its model.json has them; {} where there is none.

    Only names that this module gives to files count.
    """
    try:
        card = json.loads((folder / MODEL_CARD).read_bytes())
        named = [card, *card.get("files", ())]
        weights = [each["weights"] for each in named if each.get("weights")]
        found = {each["file"] for each in (*named, *weights)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or none of ours
        return set()
    return found & FILES


def remove_earlier(folder: Path, earlier: Collection[str], files: Sequence[Mapping[str, Any]]) -> None:
    """Remove files of an earlier export from a folder, but for those that were written again.

    Args:
        folder: folder of the files.
        earlier: names of the earlier files.
        files: what the model card says of each file that was written.
    """
    written = {each["file"] for each in files} | {each["weights"]["file"] for each in files if each["weights"]}
    for name in set(earlier) - written:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _named(format: Format) -> Iterator[None]:
    """Name the format in errors, and report those of the runtime as errors of the export."""
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{format}: {error}") from error
    except Exception as error:  # whatever the runtime raises
        raise ExportError(f"the {format} file cannot be run ({str(error)[:300]}); nothing was written") from error
