"""MkDocs hook: write the command line reference from the commands themselves, so that the two cannot differ.

The line `<!-- commands -->` of a page is replaced by a section for each command: its usage, its help text, and a table
of options for each help panel.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import typer

from lctprune.cli.main import app

MARKER = "<!-- commands -->"
SKIPPED = {"help", "install_completion", "show_completion"}
PANEL = "Options"  # of options that name none


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the reference where a page asks for it; MkDocs calls this for each page."""
    return markdown.replace(MARKER, command_reference()) if MARKER in markdown else markdown


def command_reference() -> str:
    """Describe every command in Markdown, in the order of `lctprune --help`."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="lctprune")
    sections = []
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if not command.hidden:
            sections.append(_section(command, command.context_class(command, info_name=name, parent=context)))
    return "\n\n".join(sections)


def _section(command: Any, context: Any) -> str:
    """One command: heading, usage, help, options."""
    arguments = [_name(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([*arguments, "[OPTIONS]"])
    parts = [f"## {command.name}", f"```console\n$ {context.command_path} {usage}\n```", _prose(command.help or "")]
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.name not in SKIPPED and not getattr(parameter, "hidden", False):
            panel = getattr(parameter, "rich_help_panel", None) or PANEL
            panels.setdefault(panel, []).append(_row(parameter, context))
    for panel, rows in panels.items():
        heading = [f"**{panel}**"] if len(panels) > 1 else []
        parts += [*heading, "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows])]
    return "\n\n".join(parts)


def _prose(help: str) -> str:
    """Write the help text in Markdown; lines that begin with `lctprune` become a console block."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\f|\b\n", help.strip())]
    parts = [f"$ {text}" if text.startswith("lctprune ") else _escaped(text) for text in paragraphs if text]
    return re.sub(r"(?:^\$ .*\n*)+", _console, "\n\n".join(parts), flags=re.MULTILINE)


def _console(lines: re.Match[str]) -> str:
    """Put consecutive commands into one block."""
    return "```console\n" + re.sub(r"\n+", "\n", lines[0]).strip() + "\n```\n\n"


def _row(parameter: Any, context: Any) -> str:
    """One option or argument as a row: its names, kind of value, default and help text."""
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [_name(parameter)]
    is_flag = bool(getattr(parameter, "is_flag", False))
    value = _value(parameter, context) if is_option and not is_flag else ""
    has_default = not is_flag and parameter.default not in (None, "") and not callable(parameter.default)
    default = f"`{parameter.default}`" if has_default else "required" if parameter.required else ""
    shown = ", ".join(f"`{name}`" for name in names)
    return f"| {shown} | {value} | {default} | {_escaped(parameter.help or '')} |"


def _name(argument: Any) -> str:
    """Name an argument as the usage line does."""
    name = (argument.metavar or argument.name).strip("[]").upper()
    return name if argument.required else f"[{name}]"


def _value(parameter: Any, context: Any) -> str:
    """List the choices of an option, or name its value as `--help` does."""
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    shown = str(parameter.metavar or parameter.display_type(context)).strip("<>")
    return " or ".join(f"`{form}`" for form in shown.split("|"))


def _escaped(text: str) -> str:
    """Text as it is, wherever Markdown would read something into it."""
    return re.sub(r"([|<>*_\[\]`])", r"\\\1", " ".join(text.split()))
