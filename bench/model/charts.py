"""Line charts as SVG files, for the documents. (The bench's report draws its own in the browser.)"""

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 54, 44
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626")
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#475569}.title{font-weight:600;fill:#0f172a}"
    ".grid{stroke:#e2e8f0}.line{fill:none;stroke-width:2}"
)


class Series(NamedTuple):
    """A line, or dots where something was measured."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dots: bool = False


def _ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten; only the powers when there are many."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    steps = (1,) if most / least > 300 else (1, 2, 5)
    return [step * 10.0**power for power in powers for step in steps if least <= step * 10.0**power <= most]


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An SVG document. Both axes are logarithmic; points that are not above zero are left out."""
    points = [point for each in series for point in each.points if min(point) > 0]
    x_least, x_most = min(x for x, _ in points), max(x for x, _ in points)
    y_least, y_most = min(y for _, y in points) / 1.2, max(y for _, y in points) * 1.2

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x_least) / math.log(x_most / x_least or 1)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / y_least) / math.log(y_most / y_least)

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text class="title" x="{LEFT}" y="18">{escape(title)}'
        f'</text><text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_label)}</text>'
        f'<text x="{LEFT}" y="{TOP - 6}">{escape(y_label)}</text>'
    )
    parts = [head]
    for y in _ticks(y_least, y_most):
        at = y_of(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y:,g}</text>')
    parts += [
        f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,g}</text>'
        for x in _ticks(x_least, x_most)
    ]
    legend_x = LEFT
    for name, colour in {each.name: each.colour for each in series}.items():
        parts.append(f'<rect x="{legend_x}" y="27" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{legend_x + 15}" y="36">{escape(name)}</text>')
        legend_x += 30 + 7 * len(name)
    for each in series:
        drawn = [(x_of(x), y_of(y)) for x, y in each.points if min(x, y) > 0]
        if each.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{each.colour}"/>' for x, y in drawn]
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
            parts.append(f'<polyline class="line" stroke="{each.colour}" points="{path}"/>')
    return "\n".join([*parts, "</svg>", ""])
