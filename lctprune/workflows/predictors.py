"""Open what predicts: an exported file with model.json beside it, or an exit of a run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.described import AGAIN, Input, Output, PixelInput, input_of
from lctprune.config.reading import RESTORE, from_json, parse_object
from lctprune.config.run import CONFIG
from lctprune.errors import ConfigError, ExportError, RunError, first_line
from lctprune.exporting.formats import Format, require_extra
from lctprune.exporting.opening import open_exported, require_own_code
from lctprune.runs import Run
from lctprune.utils.files import near_miss, open_regular, read_regular
from lctprune.workflows.combined_candidates import network_named
from lctprune.workflows.combined_records import CombinedNetwork
from lctprune.workflows.loading import LoadedRun, require_recipe
from lctprune.workflows.model_card import MODEL_CARD, input_record, output_record
from lctprune.workflows.progressive_files import open_stages
from lctprune.workflows.rebuilding import BuiltFrom, rebuilt


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network that is ready to predict, and what is known of its inputs and outputs.

    Attributes:
        source: the file, or the run.
        network: function from inputs to outputs, [batch, ...].
        expected: how an input is made.
        classes: names of the classes; empty in a regression.
        output: mean and deviation of standardised numbers.
        record: what a JSON document says of it.
        length: only length of sequences that it takes; None where it takes any.
    """

    source: Path
    network: Callable[[Tensor], Tensor]
    expected: Input
    classes: tuple[str, ...]
    output: Output
    record: dict[str, Any]
    length: int | None = None

    @property
    def gives_probabilities(self) -> bool:
        """Whether outputs are final, as those of a file with its preprocessing inside."""
        return isinstance(self.expected, PixelInput)


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The second file of an exported file, as model.json names it."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _File:
    """One exported file, as model.json names it."""

    format: Format
    sha256: str
    fixed_length: int | None = None
    weights: _Weights | None = None
    compiled_for: str | None = None


@dataclass(frozen=True, kw_only=True)
class _StageFile:
    """One stage of a progressive network, as model.json names it."""

    file: str
    sha256: str
    threshold: float | None
    fixed_length: int | None = None

    def __post_init__(self) -> None:
        if self.file != Path(self.file).name or not self.file:
            raise ConfigError(f"file is {self.file[:60]!r}; it must be the name of the file of a stage")


@dataclass(frozen=True, kw_only=True)
class _Card(_File):
    """The fields of model.json that are read here: those of its first file, and what all have in common."""

    file: str
    classes: tuple[str, ...]
    input: dict[str, Any] | None
    output: Output = field(default_factory=Output)
    files: tuple[_File, ...] = ()
    built_from: BuiltFrom | None = None
    stages: tuple[_StageFile, ...] = ()


def open_predictor(
    path: str | Path | Run,
    *,
    exit: str | None = None,
    model: str | None = None,
    partial: bool = False,
    trust_code: bool = False,
) -> Predictor:
    """Open an exported file, the folder of one, or a run.

    Args:
        path: exported file, or a folder with model.json; or a run, or its directory.
        exit: number or name of the run's exit; by default the main network.
        model: name of the user's own function that built the network, `package.module:callable`; see `Run`.
        partial: whether to go on without added networks of the run whose files are damaged.
        trust_code: whether to load a package of Inductor, which is machine code.

    Raises:
        ConfigError: `exit` is given for a file; the runtime of the file is not installed; or it is machine code, and
            not to be trusted, or for another machine.
        RunError: there is no such file or run, model.json is missing, damaged or of another file, or it is not known
            how inputs are made.
        ExportError: the file cannot be opened.
        NetworkError: there is no such exit.
    """
    if isinstance(path, Run):
        return _of_run(path, exit)
    path = Path(path)
    if path.is_dir() and ((path / CONFIG).exists() or not (path / MODEL_CARD).exists()):
        return _of_run(Run(path, model=model, partial=partial), exit)
    if exit is not None and path.exists():
        raise ConfigError(f"exit chooses a network of a run, and {path} is one network; leave it out")
    return _of_file(path, model, trust_code=trust_code)


def _of_run(run: Run, exit: str | None) -> Predictor:
    loaded = LoadedRun(run)
    found, data = network_named(loaded, exit), run.config.data
    if data is None:
        raise RunError(
            f"{run.path} was trained on data made in a program, and how its inputs are made is not recorded; call its "
            "network there"
        )
    if isinstance(found, CombinedNetwork):
        recipe, number, name = require_recipe(run), found.candidate.exit, found.candidate.name
        network = found.several.network(loaded.network())
    else:
        recipe, number, name = require_recipe(found.run), found.number, found.name
        network = loaded.network(found.run).subnetwork(found.exit)
    file = run.path / CONFIG
    return Predictor(
        source=run.path,
        network=_evaluated(network),
        expected=input_of(input_record(recipe, data), file=file, remedy=RESTORE),
        classes=data.classes,
        output=from_json(Output, output_record(recipe, data), "data.target", file=file),
        record={"run": str(run.path), "exit": number, "name": name, **loaded.epochs},
    )


def _of_file(path: Path, model: str | None, *, trust_code: bool) -> Predictor:
    if path.is_dir() or path.name == MODEL_CARD:
        path = path if path.is_dir() else path.parent
        card_file = path / MODEL_CARD
        card = _read_card(card_file)
        if card.file != Path(card.file).name:
            raise RunError(
                f"{card_file}: file is {card.file[:60]!r}; it must be the name of the exported file; {AGAIN}"
            )
        path /= card.file
    else:
        card_file = path.parent / MODEL_CARD
        card = None
    content = _content(path)
    card = card or _read_card(card_file)
    digest = hashlib.sha256(content).hexdigest()
    known: list[_File] = [*card.files, card]
    known += [
        _File(format="onnx", sha256=each.sha256, fixed_length=card.stages[0].fixed_length) for each in card.stages
    ]
    file = next((each for each in known if each.sha256 == digest), None)
    if file is None:
        raise RunError(f"{path} is not the file that {card_file} describes (its SHA-256 is {digest[:12]}...); {AGAIN}")
    network: Callable[[Tensor], Tensor]
    if any(each.sha256 == digest for each in card.stages):
        network = _staged(card.stages, path.parent, card_file)
    elif file.format == "state-dict":
        if card.built_from is None:
            raise RunError(f"{card_file} does not say how the network of {path.name} is built; {AGAIN}")
        network = _evaluated(rebuilt(card.built_from, content, path, card_file, model=model))
    else:
        if file.format == "aoti":
            require_own_code(path, file.compiled_for, trust_code=trust_code)
        weights = None if file.weights is None else _content_of(file.weights, path.parent, card_file)
        network = open_exported(file.format, content, path, weights=weights)
    return Predictor(
        source=path,
        network=network if file.fixed_length is None else _of_one_length(network, file.fixed_length),
        expected=input_of(card.input, file=card_file),
        classes=card.classes,
        output=card.output,
        record={"file": str(path), "format": file.format, "sha256": digest},
        length=file.fixed_length,
    )


def _of_one_length(network: Callable[[Tensor], Tensor], length: int) -> Callable[[Tensor], Tensor]:
    """Refuse other lengths, for which compiled code reads beyond its input, and ExecuTorch writes to standard error."""

    def run(inputs: Tensor) -> Tensor:
        if inputs.shape[1] != length:
            raise ExportError(f"the file takes sequences of {length} steps, and these have {inputs.shape[1]}")
        return network(inputs)

    return run


def _staged(stages: Sequence[_StageFile], folder: Path, card_file: Path) -> Callable[[Tensor], Tensor]:
    """Open all stages of a progressive network."""
    require_extra("onnx")
    contents = [_content_of(each, folder, card_file) for each in stages]
    try:
        leave = open_stages([io.BytesIO(content) for content in contents], [each.threshold for each in stages])
    except Exception as error:  # whatever the runtime raises
        raise ExportError(f"{card_file}: a stage cannot be opened ({first_line(error)[:200]}); {AGAIN}") from error
    return lambda inputs: leave(inputs)[0]


def _content_of(part: _StageFile | _Weights, folder: Path, card_file: Path) -> bytes:
    """Read one of the files that model.json names.

    Raises:
        RunError: it cannot be read, or is another one.
    """
    path = folder / Path(part.file).name
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise RunError(f"{path} is not the file that {card_file} describes; {AGAIN}")
    return content


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as opened:
            return opened.read()
    except OSError as error:
        remedy = near_miss(path) or "; give an exported file, or a run directory"
        raise RunError(f"{path} cannot be read ({error.strerror}){remedy}") from error


def _read_card(file: Path) -> _Card:
    try:
        document = parse_object(read_regular(file), file, remedy=AGAIN)
    except OSError as error:
        raise RunError(
            f"{file} cannot be read ({error.strerror}); it says how to feed the exported file: put it back beside it, "
            f"or {AGAIN}"
        ) from error
    return from_json(_Card, document, "", file=file, remedy=AGAIN)


def _evaluated(network: nn.Module) -> Callable[[Tensor], Tensor]:
    network.eval()

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            outputs: Tensor = network(inputs)
        return outputs

    return run
