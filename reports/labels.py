"""Names beside points, without overlaps: each label takes the cheapest of many places around its point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.text import Annotation

# lengths are in points of 1/72 inch
MARKER = 5.0  # half the side of the square around a point that labels keep out of
GAP = 2.5  # kept free around labels and lines
LEADER = 10.0  # a label farther than this from its marker is tied to it by a line
DISTANCES = (0.0, 4.0, 9.0, 15.0, 22.0, 30.0, 40.0, 52.0, 66.0, 82.0)
ANGLES = (135, 45, 90, 315, 225, 180, 0, 270, 112, 68, 158, 22, 338, 202, 292, 248)  # the first of equals wins
FORBIDDEN, COVERS_MARKER, MISLEADS, COVERS_LINE = 10_000.0, 300.0, 100.0, 60.0

Line = tuple[tuple[float, float], tuple[float, float]]  # two ends, (x, y) in data units; horizontal or vertical


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self, other: Box) -> bool:
        return self.overlaps(other) and Box(*map(max, self[:2], other[:2]), *map(min, self[2:], other[2:])) == self


class Place(NamedTuple):
    """A label's centre, as an offset from its point, and how far it is from touching the marker."""

    dx: float
    dy: float
    distance: float


def label_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[Annotation],
    lines: Sequence[Line],
    *,
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Move labels beside their points, clear of each other and, where there is room, of points and lines.

    Args:
        ax: its limits and its place in the figure are final.
        points: (x, y) in data units, from left to right.
        labels: one a point, an annotation in offset points.
        lines: horizontal and vertical lines that are better not written over.
        others: further points, without labels.
    """
    scale = 72 / ax.figure.dpi
    anchors = [(float(x) * scale, float(y) * scale) for x, y in ax.transData.transform([*points, *others])]
    obstacles = [(_box(x, y, MARKER), COVERS_MARKER) for x, y in anchors]
    for line in lines:
        (x1, y1), (x2, y2) = ax.transData.transform(line) * scale
        middle, half = ((x1 + x2) / 2, (y1 + y2) / 2), (abs(x2 - x1) / 2 + GAP, abs(y2 - y1) / 2 + GAP)
        obstacles.append((_box(*middle, *half), COVERS_LINE))
    frame = Box(*(float(edge) * scale for edge in ax.get_window_extent().extents))
    # from right to left, as the places that are tried first are on the left
    for (x, y), label in list(zip(anchors[: len(points)], labels, strict=True))[::-1]:
        extent = label.get_window_extent()
        size = extent.width * scale / 2 + GAP / 2, extent.height * scale / 2 + GAP / 2
        prices = {
            place: _price(x, y, place, size, obstacles, frame) + _misleads(x, y, place, size, anchors)
            for place in _places(*size)
        }
        place = min(prices, key=prices.__getitem__)
        label.xyann = place.dx, place.dy
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(place.distance > LEADER)
        obstacles.append((_box(x + place.dx, y + place.dy, *size), FORBIDDEN))
        obstacles += [(step, COVERS_MARKER) for step in _leader(x, y, place, size)]


def _places(half_width: float, half_height: float) -> Iterator[Place]:
    for distance in DISTANCES:
        for angle in ANGLES:
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            reach = MARKER + 1 + distance
            yield Place(cosine * reach + _side(cosine) * half_width, sine * reach + _side(sine) * half_height, distance)


def _side(direction: float) -> float:
    return 0.0 if abs(direction) < 0.3 else math.copysign(1.0, direction)


def _price(
    x: float, y: float, place: Place, size: tuple[float, float], obstacles: Sequence[tuple[Box, float]], frame: Box
) -> float:
    box = _box(x + place.dx, y + place.dy, *size)
    covered = sum(cost for obstacle, cost in obstacles if box.overlaps(obstacle))
    for step in _leader(x, y, place, size):
        covered += sum(COVERS_MARKER for obstacle, cost in obstacles if cost > COVERS_LINE and step.overlaps(obstacle))
    return place.distance + covered + (0.0 if box.inside(frame) else FORBIDDEN)


def _misleads(
    x: float, y: float, place: Place, size: tuple[float, float], anchors: Sequence[tuple[float, float]]
) -> float:
    """The price of a label that seems to belong to another point, as it is as near to that one."""
    box = _box(x + place.dx, y + place.dy, *size)
    nearer = [_gap(box, *anchor) < _gap(box, x, y) + MARKER for anchor in anchors if anchor != (x, y)]
    return any(nearer) * (MISLEADS / 4 if place.distance > LEADER else MISLEADS)


def _gap(box: Box, x: float, y: float) -> float:
    return math.hypot(max(box.left - x, x - box.right, 0.0), max(box.bottom - y, y - box.top, 0.0))


def _leader(x: float, y: float, place: Place, size: tuple[float, float]) -> list[Box]:
    """Steps along the line between a label and its point, less the two ends."""
    if place.distance <= LEADER:
        return []
    length = math.hypot(place.dx, place.dy)
    label = _box(x + place.dx, y + place.dy, *size)
    first, count = 2 * MARKER, int(length / 3)
    steps = [first + (length - first) * step / max(1, count) for step in range(count + 1)]
    boxes = [_box(x + place.dx * step / length, y + place.dy * step / length, 0.5) for step in steps]
    return [box for box in boxes if not box.overlaps(label)]


def _box(x: float, y: float, half_width: float, half_height: float | None = None) -> Box:
    half_height = half_width if half_height is None else half_height
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)
