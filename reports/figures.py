"""Style figures, lay out their panels and write them.

Nothing here uses pyplot or leaves a setting of matplotlib changed.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lctprune.utils.files import write_atomically

# Okabe and Ito's palette, which colour-blind readers can tell apart
FRONT, CHOSEN, BEATEN, INK, MUTED = "#0072B2", "#D55E00", "#7F7F7F", "#222222", "#5C5C5C"
GRID, BACKGROUND = "#E6E6E6", "#FFFFFF"
PAGE_COLORS = {INK: "--ink", MUTED: "--muted", GRID: "--grid", BACKGROUND: "--page"}  # variables of page.html.jinja
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "lctprune",  # without it the ids in an SVG are random
}
PANEL_WIDTH, PANEL_HEIGHT = 4.8, 3.4  # inches
LEFT, RIGHT, BOTTOM, TOP, LINE = 0.75, 0.15, 0.65, 0.55, 0.24  # inches around and between panels
TIGHT: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1}  # what stands outside the axes is not cut off
NO_METADATA: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def style() -> AbstractContextManager[None]:
    """Make and write figures in the project's style inside the block, whatever the user's settings of matplotlib."""
    # rc_context does not restore the backend, so leave it alone
    default = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    return matplotlib.rc_context({**default, **STYLE})


def panels(
    count: int, *, title: str | None = None, subtitle: str | None = None, right: float = RIGHT, legend_lines: int = 0
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side, in their final layout so that labels can be placed on them.

    Args:
        count: number of panels.
        title: heading above the panels.
        subtitle: line below the title.
        right: margin beside the last panel, in inches.
        legend_lines: lines of a legend above the panels that the usual margin has no place for.
    """
    heading = LINE * (sum(text is not None for text in (title, subtitle)) + legend_lines)
    width, height = PANEL_WIDTH * count + right - RIGHT, PANEL_HEIGHT + TOP + heading
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    axes = figure.subplots(1, count, squeeze=False)[0].tolist()
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - right / width,
        bottom=BOTTOM / height,
        top=1 - (TOP + heading) / height,
        wspace=(LEFT + RIGHT) / (PANEL_WIDTH - LEFT - RIGHT),
    )
    top = height - 0.1
    for text, weight, color in ((title, "bold", INK), (subtitle, "normal", MUTED)):
        if text is not None:
            figure.text(LEFT / width, top / height, text, va="top", weight=weight, color=color, parse_math=False)
            top -= LINE
    return figure, axes


def say_instead(ax: Axes, text: str) -> None:
    """Write a text in the middle of the axes, in place of missing data."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def percent_formatter() -> FuncFormatter:
    """Return a formatter of fractions in percent, with as many decimals as each needs; make one per axis."""
    return FuncFormatter(lambda fraction, _: f"{100 * fraction:.6g}%")


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG (150 dots an inch) and SVG; the same figure gives the same bytes.

    Args:
        figure: figure to write.
        stem: path of the files without their ending.

    Returns:
        The paths of the two files.

    Raises:
        OSError: the folder cannot be written to.
    """
    png = io.BytesIO()
    with style():
        figure.savefig(png, format="png", dpi=150, **TIGHT)
    contents = {Path(f"{stem}.png"): png.getvalue(), Path(f"{stem}.svg"): _svg(figure)}
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


def inline_svg(figure: Figure, prefix: str) -> Markup:
    """Draw a figure as an `<svg>` element that takes its neutral colours from the page, so that it suits dark mode too.

    Args:
        figure: figure to draw.
        prefix: start of every id in the element, as ids must differ between the figures of a page.
    """
    text = _svg(figure).decode()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text[text.index("<svg") :])
    for color, variable in PAGE_COLORS.items():
        text = text.replace(color.lower(), f"var({variable})")
    return Markup(text)  # matplotlib escapes the names that it writes


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    with style():
        figure.savefig(content, format="svg", metadata=NO_METADATA, **TIGHT)
    return content.getvalue()
