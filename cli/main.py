"""Entry point: the commands, and how every error becomes one line and an exit code.

No command imports the library before it runs, so that --help, --version and wrong usage need not wait for PyTorch.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperCommand

from lctprune import __version__
from lctprune.cli.compare import compare
from lctprune.cli.compress import compress
from lctprune.cli.console import print_json
from lctprune.cli.densify import densify
from lctprune.cli.ensemble import ensemble
from lctprune.cli.evaluate import evaluate
from lctprune.cli.export import export
from lctprune.cli.finetune import finetune
from lctprune.cli.inspect import inspect
from lctprune.cli.models import models
from lctprune.cli.narrow import narrow
from lctprune.cli.predict import predict
from lctprune.cli.progressive import progressive
from lctprune.cli.report import report
from lctprune.cli.resume import resume
from lctprune.cli.select import select
from lctprune.cli.train import train
from lctprune.cli.wording import with_options
from lctprune.errors import (
    FAILED,
    INTERRUPTED,
    NOTHING_FITS,
    WRONG_USAGE,
    BudgetError,
    ConfigError,
    LctpruneError,
    ProcessLostError,
    first_line,
)
from lctprune.utils.names import require_utf8, visible

app = typer.Typer(
    name="lctprune",
    help="Train a network with critics, and choose one of its sub-networks under a budget.",
    epilog="Start with: lctprune train resnet, then: lctprune select --budget-flops 80%",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PlainCommand(TyperCommand):
    """A command whose help is shown as it is written, square brackets too, which are no markup."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help; see Typer for the arguments."""
        shown = copy.copy(self)
        shown.params = [copy.copy(each) for each in self.params]
        shown_texts: list[Any] = [shown, *shown.params]
        for each in shown_texts:
            each.help = escape(each.help or "")
        TyperCommand.format_help(shown, ctx, formatter)


class WorkingCommand(PlainCommand):
    """A command that needs PyTorch from its first line on."""

    def invoke(self, ctx: Any) -> Any:
        """Load PyTorch, and run the command; see Typer for the argument."""
        from lctprune.cli.working import load_pytorch

        load_pytorch()
        return super().invoke(ctx)


def _paragraphs(command: Callable[..., None]) -> str:
    """Return a command's docstring with each paragraph on one line, for the terminal to wrap."""
    text = re.sub(r"^( *Examples?:)\n", r"\1\n\n", command.__doc__ or "", flags=re.MULTILINE)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


CHECKING = (train, compress, inspect)  # commands that check settings before they load PyTorch themselves
for command in (
    train,
    resume,
    compress,
    select,
    compare,
    progressive,
    ensemble,
    evaluate,
    report,
    export,
    predict,
    densify,
    finetune,
    narrow,
    inspect,
    models,
):
    kind = PlainCommand if command in CHECKING else WorkingCommand
    app.command(cls=kind, help=_paragraphs(command))(command)

PLAIN_WORDS = {  # for what Typer says, by patterns
    r": Value error, ": ": ",
    r"Input should be a valid integer\b.*": "it must be a whole number",
    r"Input should be a valid (\w+)\b.*": r"it must be a \1",
    r"Input should be greater than or equal to (.*)": r"it must be \1 or more",
    r"Input should be less than or equal to (.*)": r"it must be \1 or less",
    r"Input should be ": "it must be ",
    r"Missing argument '(FILE_OR_RUN|INPUT\.\.\.)'\.": "\\g<0> First comes a run or an exported file, then what to "
    "predict for, as in: lctprune predict runs/mine photo.jpg",
    r"Got unexpected extra argument\(s\) \((\w+=\S+)\)": r"\g<0>; arguments of the network are given as "
    r"--model-args \1",
    r"Missing argument 'MODEL'\.": "\\g<0> It names the network, such as resnet; lctprune models lists all",
}
MOST_ALIKE = 6  # options that are named where one is not known
RESUMABLE = ("train", "compress", "densify", "finetune", "narrow")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lctprune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=" ", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train a network with critics, and choose one of its sub-networks under a budget."""


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 no candidate fits the budget."""
    with suppress(AttributeError, OSError):  # of a stream that is no file, or cannot be changed
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of broken metadata, which nobody mends
    try:
        for argument in sys.argv[1:]:
            require_utf8(argument, "the argument")
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            code = _fail(KeyboardInterrupt("interrupted"), INTERRUPTED)
    except BudgetError as error:
        code = _fail(error, NOTHING_FITS)
    except ConfigError as error:
        code = _fail(error, WRONG_USAGE)
    except LctpruneError as error:
        code = _fail(error, getattr(error, "exit_code", FAILED))
    except OSError as error:
        place = f"{error.filename}: " if isinstance(error.filename, str) else ""
        code = _fail(OSError(f"{place}{error.strerror}") if error.strerror else error, FAILED)
    except MemoryError as error:  # which is mostly without a message
        code = _fail(MemoryError(first_line(error, "there is not enough memory for this")), FAILED)
    except RuntimeError as error:  # PyTorch's, as of no memory
        code = _fail(error, FAILED)
    except typer.TyperException as error:
        code = _fail(error, getattr(error, "exit_code", WRONG_USAGE))
    except Exception as error:
        code = _fail(_unexpected(error), FAILED)
    sys.exit(code or 0)


def _unexpected(error: Exception) -> Exception:
    """Keep the traceback of an error that nobody thought of in a log file, and ask for a report."""
    text = "".join(traceback.format_exception(error))
    reason = f"unexpected {type(error).__name__}: {first_line(error)}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="lctprune-error-", suffix=".log", delete=False) as log:
            log.write(f"lctprune {__version__} {sys.argv[1:]!r}\n{text}")
    except OSError:
        return RuntimeError(f"{reason}; please report it, with the command")
    return RuntimeError(f"{reason}; please report it, with the file {log.name}")


def _no_such_option(error: Exception) -> str:
    """Name the commands that have an option which the given one has not; "" where none has, or it is no such error."""
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not isinstance(name, str) or context is None or not hasattr(error, "possibilities"):
        return ""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # of a group
    options = {
        command: {option for each in its.params for option in each.opts if option.startswith(name)}
        for command, its in sorted(commands.items(), key=lambda each: each[0] != "select")
    }
    if options.get(context.info_name):
        return ""
    for alike in ({name}, set.union(*options.values())):
        having = [command for command, known in options.items() if known & alike]
        if having and len(alike) <= MOST_ALIKE:
            which = ", ".join(sorted(alike))
            kind = "is an option" if len(alike) == 1 else "are options"
            return f"No such option: {name}; {'it' if alike == {name} else which} {kind} of {', '.join(having)}"
    return ""


def _keep_close(error: BaseException) -> None:
    """Keep those options in the message of one that is not known which it begins, or which are spelt much alike."""
    name, possible = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if isinstance(name, str) and possible:
        close = difflib.get_close_matches(name, possible, cutoff=0.8)
        error.possibilities = [each for each in possible if each in close or each.startswith(name)]  # type: ignore[attr-defined]


def _fail(error: BaseException, code: int) -> int:
    """Say in one line what is wrong: on stderr, and with --json in the document on stdout too."""
    _keep_close(error)
    message = error.format_message() if hasattr(error, "format_message") else str(error) or type(error).__name__
    line = visible(with_options(re.sub(r"\s*[\r\n]\s*", " ", message).strip()))
    if isinstance(error, typer.TyperException):
        line = _no_such_option(error) or line
        for pattern, plain in PLAIN_WORDS.items():
            line = re.sub(pattern, plain, line)
    if "RANK" in os.environ and sys.argv[1:2] in (["train"], ["resume"]):
        from lctprune.cli.ranks import end_process
        from lctprune.training.distributed.process_group import is_started

        if is_started():
            end_process(line, code, is_cause=not isinstance(error, ProcessLostError))
    if line:  # without a command, the help has been shown, and that is all
        typer.echo(f"lctprune: error: {line}", err=True)
    if "--json" in sys.argv:
        document: dict[str, object] = {"error": line, "exit_code": code}
        if isinstance(error, BudgetError) and error.nearest is not None:
            document |= {"nearest": error.nearest.name, "exit": error.nearest.exit, "misses": error.misses}
        print_json(document)
    return code
