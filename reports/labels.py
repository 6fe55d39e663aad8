"""Place names beside points: each takes the best of a fixed set of offsets, so the same data give the same picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

Segment = tuple[tuple[float, float], tuple[float, float]]  # the two ends of a horizontal or vertical line

# Lengths are in points of 1/72 inch.
CLEARANCE = 6.0  # half the side of the square around a point that names keep out of
GAP = 1.5  # free space around names and lines
LEADER = 9.0  # a name farther from its marker than this is tied to it by a line
DISTANCES = (0, 4, 9, 15, 22, 30, 40, 52, 66, 82)
# Above on the left comes first: a Pareto front rises to the right, so this side of its points is free.
ANGLES = (135, 315, 90, 270, 180, 0, 45, 225, 112, 292, 158, 338, 68, 248, 22, 202)
OFFSETS = tuple(itertools.product(DISTANCES, ANGLES))
# Costs of what a name or its leader line covers; one point of distance costs 1.
COVERS_NAME, COVERS_MARKER, COVERS_LINE = 10_000, 300, 60
MISLEADS, MISLEADS_BUT_TIED = 100, 25  # if about as near to another point; less with a leader line


def label_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[Annotation],
    *,
    segments: Sequence[Segment] = (),
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Move names beside their points: inside the axes, clear of each other and, with room, of markers and lines.

    Args:
        ax: axes with their final limits and their final position in the figure.
        points: (x, y) in data units, from left to right.
        labels: one annotation per point, positioned in offset points.
        segments: lines that names should not cover, in data units.
        others: further points, without names.
    """
    scale = 72 / ax.figure.dpi
    frame = Bbox(ax.get_window_extent().get_points() * scale)
    anchors = ax.transData.transform([*points, *others]) * scale
    markers = [Bbox([anchor, anchor]).padded(CLEARANCE) for anchor in anchors]
    lines = [Bbox(ax.transData.transform(segment) * scale).padded(GAP) for segment in segments]
    names: list[Bbox] = []
    leaders: list[Path] = []
    # From right to left, as the offsets that are tried first are on the left.
    for index, label in reversed(list(enumerate(labels))):
        extent = label.get_window_extent()
        width, height = extent.width * scale + 2 * GAP, extent.height * scale + 2 * GAP
        strangers = [*markers[:index], *markers[index + 1 :], *names]
        least = math.inf
        for distance, angle in OFFSETS:
            if distance >= least:  # every further offset costs more
                break
            dx, dy = _offset(distance, angle, width, height)
            centre = anchors[index] + (dx, dy)
            name = Bbox.from_bounds(centre[0] - width / 2, centre[1] - height / 2, width, height)
            leader = Path([anchors[index], centre]) if distance > LEADER else None
            cost = distance + COVERS_NAME * (name.count_overlaps(names) + (not _inside(name, frame)))
            cost += COVERS_MARKER * (name.count_overlaps(markers) + _crossings(leaders, [name]))
            cost += COVERS_LINE * name.count_overlaps(lines)
            gaps = numpy.linalg.norm(numpy.maximum(abs(anchors - centre) - (width / 2, height / 2), 0), axis=1)
            misleads = (numpy.delete(gaps, index) < gaps[index] + CLEARANCE / 2).any()
            cost += misleads * (MISLEADS if leader is None else MISLEADS_BUT_TIED)
            if leader is not None and cost < least:
                crossed = sum(leader.intersects_path(other) for other in leaders)
                cost += COVERS_MARKER * (_crossings([leader], strangers) + crossed)
            if cost < least:
                least, label.xyann, best_name, best_leader = cost, (dx, dy), name, leader
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(best_leader is not None)
        names.append(best_name)
        leaders += [best_leader] if best_leader is not None else []


def _offset(distance: float, angle: float, width: float, height: float) -> tuple[float, float]:
    """Return where the centre of a name is, from its point, if the name is at a distance from the point's marker."""
    directions = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    sides = [0.0 if abs(direction) < 0.3 else math.copysign(0.5, direction) for direction in directions]  # 0: centred
    reach = CLEARANCE + 0.5 + distance
    return directions[0] * reach + sides[0] * width, directions[1] * reach + sides[1] * height


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _crossings(leaders: Sequence[Path], boxes: Sequence[Bbox]) -> int:
    return sum(leader.intersects_bbox(box, filled=False) for leader in leaders for box in boxes)
