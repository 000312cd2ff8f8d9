"""Plots as SVG: dots on a logarithmic scale, a panel for each workload.

Written here rather than with a library: it is one shape, what comes out is a few kilobytes of text
that a diff can show, and the environment needs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Dot", "Panel", "plot"]

_ROW = 17
_NAMES_WIDTH = 190
_PANEL_WIDTH = 165
_GAP = 14
_HEAD = 40
_FOOT = 30
_COLOURS = {"ours": "#c0392b", "limit": "#8a8a8a", "peer": "#2c6fa6"}


@dataclass(frozen=True)
class Dot:
    """One figure: its row, what it is, and who has it (``ours``, ``limit`` or ``peer``)."""

    row: int
    value: float
    kind: str


@dataclass(frozen=True)
class Panel:
    """One workload."""

    title: str
    dots: Sequence[Dot]


def plot(title: str, rows: Sequence[tuple[str, str]], panels: Sequence[Panel], note: str) -> str:
    """Give the SVG.

    Args:
        title: what it shows.
        rows: the names, from the top, each with its kind.
        panels: from the left.
        note: what the scale is.
    """
    values = [dot.value for panel in panels for dot in panel.dots if dot.value > 0] or [1.0]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    width = _NAMES_WIDTH + len(panels) * (_PANEL_WIDTH + _GAP)
    height = _HEAD + len(rows) * _ROW + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for row, (name, kind) in enumerate(rows):
        weight = ' font-weight="bold"' if kind == "ours" else ""
        middle = _middle(row)
        parts.append(f'<path d="M{_NAMES_WIDTH} {middle}H{width - _GAP}" stroke="#eee"/>')
        parts.append(
            f'<text x="{_NAMES_WIDTH - 8}" y="{middle + 4}" text-anchor="end"{weight}>'
            f"{escape(name)}</text>"
        )
    for place, panel in enumerate(panels):
        left = _NAMES_WIDTH + place * (_PANEL_WIDTH + _GAP)
        parts += _panel(panel, left, len(rows), low, high)
    parts.append(f'<text x="{width - _GAP}" y="{height - 4}" text-anchor="end" fill="#555">')
    parts.append(f"{escape(note)}</text></svg>")
    return "\n".join(parts) + "\n"


def _middle(row: int) -> int:
    return _HEAD + row * _ROW + _ROW // 2


def _panel(panel: Panel, left: int, rows: int, low: int, high: int) -> list[str]:
    def across(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return round(left + share * _PANEL_WIDTH, 1)

    bottom = _HEAD + rows * _ROW
    middle = left + _PANEL_WIDTH / 2
    parts = [
        f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">'
        f"{escape(panel.title)}</text>"
    ]
    for power in range(low, high + 1):
        at = across(10.0**power)
        colour = "#777" if power == 0 else "#ddd"
        parts.append(
            f'<line x1="{at}" y1="{_HEAD - 4}" x2="{at}" y2="{bottom}" stroke="{colour}"/>'
        )
        parts.append(
            f'<text x="{at}" y="{bottom + 12}" text-anchor="middle" fill="#555" font-size="9">'
            f"{10.0**power:g}</text>"
        )
    for dot in panel.dots:
        if dot.value > 0:
            at, middle_of_row = across(dot.value), _middle(dot.row)
            parts.append(
                f'<circle cx="{at}" cy="{middle_of_row}" r="4" fill="{_COLOURS[dot.kind]}">'
                f"<title>{dot.value:.3g}</title></circle>"
            )
    return parts
