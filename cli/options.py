"""Options that several commands share, and options made from the fields of configuration dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from lctprune.cli.parsing import arguments, names, numbers
from lctprune.config.fields import DATA, FIRST, help_of, types_of, without_none
from lctprune.config.network import NetworkConfig
from lctprune.config.ramp import Ramp
from lctprune.config.rules import Preference
from lctprune.config.run import CONFIG, RUNS
from lctprune.config.runtime import Runtime
from lctprune.utils.files import require_run
from lctprune.utils.own_code import by_module

OUTPUT = "Output"  # heading of --help
SWITCH = " "  # what --help shows for the value of an option that has none
LETTERS = {int: "N", float: "X", str: "TEXT", bool: SWITCH}  # what it shows for the values of others
LONGEST_CHOICES = 20  # characters; longer lists stand in the help text only


def use_threads(threads: int | None) -> None:
    """Set the number of PyTorch's threads, if one is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def existing_runs(given: Path | Sequence[Path] | None) -> Any:
    """Refuse run directories that do not exist, before PyTorch is imported."""
    for path in [given] if isinstance(given, Path) else given or ():
        require_run(path, CONFIG, RUNS)
    return given


def own_function(name: str | None) -> str | None:
    """Find a user's function by its module, where the path of a file was given."""
    return None if name is None else by_module(name)


NetworkArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        callback=own_function,
        help=f"{help_of(NetworkConfig, 'model')[:-1]}, or its file: nets/mine.py:build.",
    ),
]
RunArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN", show_default=False, callback=existing_runs, help="Run directory. Default: the newest one."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FUNCTION",
        callback=own_function,
        help="Your own function that builds the run's network. It is executed only if you name it.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        exists=True,
        help="Where the run's data is now, if it has moved: the folder or file (for cifar10 and the like, the "
        "--data-dir of the training).",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", metavar=SWITCH, rich_help_panel=OUTPUT, help="Print one JSON document on stdout, and nothing else."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads. Default: one per core.")]
BatchOption = Annotated[int, typer.Option(min=1, metavar="N", help="Samples in the call whose latency is measured.")]
RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        "--runtime",
        metavar="RUNTIME",
        help="Runtime that latency is measured in: torchscript, onnxruntime (extra: lctprune[onnx]), openvino (extra: "
        "lctprune[openvino]), inductor (compiles each exit with a C++ compiler, tens of seconds), or auto, the "
        "fastest of those that are installed, but for inductor.",
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="PRECISION,...",
        help="int8, bf16 or fp16: measure each exit also in 8-bit integers, calibrated on training samples (runtime "
        "onnxruntime or openvino), or with weights of 16 bits (all runtimes); several with commas.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=OUTPUT,
        help="Folder for what is written, where the run directory may only be read. Default: the run directory.",
    ),
]
PartialOption = Annotated[
    bool,
    typer.Option("--partial", metavar=SWITCH, help="Go on without added networks whose files are damaged."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", metavar=SWITCH, help="Continue from the last whole epoch.")]
RunDirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", rich_help_panel=FIRST, help="Run directory, new or empty. Default: a new one in runs/."
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option("--download", metavar=SWITCH, rich_help_panel=DATA, help="Download the data set if it is not there."),
]
# of one exit that is trained on, with the main network as its teacher
TaughtEpochsOption = Annotated[
    int | None, typer.Option("--epochs", min=1, metavar="N", help="Passes over the training split. Default: 1.")
]
TaughtRateOption = Annotated[
    float | None, typer.Option("--lr", metavar="X", help="Peak learning rate. Default: a fifth of the run's.")
]
TeacherOption = Annotated[
    float | None,
    typer.Option(
        "--distill",
        metavar="W",
        help="Weight of imitating the main network's outputs, 0 (labels only) to 1. Default: 0.5.",
    ),
]
LIMIT = "LIMIT"  # what --help shows for the value of a budget
BudgetFlopsOption = Annotated[
    str | None,
    typer.Option(metavar=LIMIT, help="Maximum FLOPs per sample: 1e9, 1G, 500M, or 60% of the main network's."),
]
BudgetMacsOption = Annotated[str | None, typer.Option(metavar=LIMIT, help="Maximum multiply-adds per sample.")]
BudgetParamsOption = Annotated[str | None, typer.Option(metavar=LIMIT, help="Maximum number of parameters.")]
BudgetLatencyOption = Annotated[
    str | None, typer.Option(metavar=LIMIT, help="Maximum latency per call on this machine: 5 or 5ms, 400us.")
]
BudgetSizeOption = Annotated[
    str | None, typer.Option(metavar=LIMIT, help="Maximum size of parameters and buffers: 5MB, 800kB, or 60%.")
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="Largest loss against the main network: 1.0 is from 91% to 90% accuracy."),
]
MinAccuracyOption = Annotated[float | None, typer.Option(metavar="X", help="Least accuracy on validation, 0 to 1.")]
PreferOption = Annotated[
    Preference | None,
    typer.Option(
        metavar="RULE",
        help="Of what fits: best, cheapest, or cheapest-equivalent (the cheapest that is not significantly worse than "
        "the best). Default: best; with --max-drop or --min-accuracy: cheapest.",
    ),
]
MeanFlopsOption = Annotated[
    bool,
    typer.Option(
        "--mean-flops",
        metavar=SWITCH,
        help="Let limits hold for the mean per sample: the network of lctprune progressive takes part, and all are "
        "compared on the half of validation that it was not fitted on.",
    ),
]
CompareOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--compare",
        metavar="RUN",
        callback=existing_runs,
        help="Another run to show beside this one, in a table and a plot. May be repeated.",
    ),
]


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


@dataclasses.dataclass(frozen=True)
class Settings:
    """Mark a command's parameter as the settings of a configuration, each of which is an option of the command.

    Args:
        config: dataclass with the settings.
        without: fields that this command does not offer.
        only: fields that it offers, and no others; by default all that have a heading in `--help`.
        names: name of the option, with underscores, if it is not the field's.
        unset: fields whose option is None unless given, so that the command can tell.
    """

    config: type
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def options(self) -> dict[str, Option]:
        """Return the options by their fields."""
        return {
            field.name: Option.of(field, types_of(self.config)[field.name], self)
            for field in dataclasses.fields(self.config)
            if field.name not in self.without
            and (field.metadata["panel"] is not None if self.only is None else field.name in self.only)
        }


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of the command line, made from a field.

    Attributes:
        name: parameter of the command.
        parameter: parameter as Typer reads it.
        read: function that turns the text of the command line into the field's value.
    """

    name: str
    parameter: inspect.Parameter
    read: Callable[[Any], Any]

    @classmethod
    def of(cls, field: dataclasses.Field[Any], hint: Any, settings: Settings) -> Option:
        """Make the option of a field with the type `hint`."""
        name = settings.names.get(field.name, field.name)
        kind, read, metavar = _declared(hint, field.name)
        default = None if field.default is dataclasses.MISSING or field.name in settings.unset else field.default
        help = field.metadata["help"]
        if field.name in settings.unset:
            kind, help = kind | None, f"{help} Default: {field.default}."
        option = typer.Option(
            f"--{name.replace('_', '-')}",  # a switch has no --no- form
            help=help,
            rich_help_panel=field.metadata["panel"],
            metavar=metavar,
        )
        annotation = Annotated[kind, option]  # type: ignore[valid-type]  # made at run time
        return cls(name, inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation), read)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting of the configurations that its parameters name.

    A parameter `Annotated[dict[str, Any], Settings(Config)]` is replaced by options with the names, types, choices,
    defaults and help of the fields of `Config`. The command gets their values by the names of the fields.
    """
    hints = get_type_hints(command, include_extras=True)
    own: dict[str, inspect.Parameter] = {}
    settings: dict[str, dict[str, Option]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        marks = [mark for mark in get_args(hints[name])[1:] if isinstance(mark, Settings)]
        if marks:
            settings[name] = marks[0].options()
            own |= {option.name: option.parameter for option in settings[name].values() if option.name not in own}
        else:
            own[name] = parameter.replace(annotation=hints[name], kind=_KEYWORD)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {
            name: {field: option.read(values[option.name]) for field, option in options.items()}
            for name, options in settings.items()
        }
        command(**made, **{name: values[name] for name in hints if name not in made and name != "return"})

    run.__signature__ = inspect.Signature(list(own.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in own.items()}
    return run


def _declared(hint: Any, name: str) -> tuple[Any, Callable[[Any], Any], str | None]:
    """Return an option's type for Typer, how its text is read, and what stands for its value in `--help`."""
    plain, what = without_none(hint), name.replace("_", " ")
    if plain in (tuple[int, ...], tuple[float, ...]):
        return (
            str | None,
            functools.partial(numbers, what, kind=get_args(plain)[0]),
            f"{LETTERS[get_args(plain)[0]]},...",
        )
    if plain == tuple[str, ...]:
        return str | None, names, "NAME,NAME,..."
    if get_origin(plain) is dict:
        return str | None, arguments, "NAME=VALUE,..."
    if plain == float | str | Ramp:
        return str, _unchanged, "W|FROM:TO"
    if get_origin(plain) is Literal:
        choices = "|".join(get_args(plain))
        return hint, _unchanged, choices if len(choices) <= LONGEST_CHOICES else what.split()[-1].upper()
    return hint, _unchanged, LETTERS[plain]


def _unchanged(value: Any) -> Any:
    return value
