"""Draws the diagrams of the documentation as SVG: ``python docs/diagrams.py``.

A diagram is text: rows of boxes, and arrows between them. Its colours suit light and dark pages.
"""

import itertools
from pathlib import Path

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 40, 40, 44, 16
INK, FILL = "#5b7fa6", "#5b7fa622"


def drawing(rows: list[list[str]], arrows: list[tuple[str, str, str]]) -> str:
    """Draw rows of boxes, and arrows with labels between them."""
    columns = max(len(row) for row in rows)
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP_X
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP_Y
    places = {}
    for line, row in enumerate(rows):
        left = (width - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for column, name in enumerate(row):
            places[name] = (left + column * (WIDTH + GAP_X), MARGIN + line * (HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
    ]
    parts += [_box(name, *place) for name, place in places.items()]
    parts += [_arrow(places[start], places[end], label) for start, end, label in arrows]
    return "\n".join([*parts, "</svg>", ""])


def _box(name: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{FILL}" '
        f'stroke="{INK}"/><text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" '
        f'text-anchor="middle">{name}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], label: str) -> str:
    (x1, y1), (x2, y2) = start, end
    if y1 == y2:
        y1 = y2 = y1 + HEIGHT / 2
        x1, x2 = (x1 + WIDTH, x2) if x1 < x2 else (x1, x2 + WIDTH)
    else:
        x1, x2 = x1 + WIDTH / 2, x2 + WIDTH / 2
        y1, y2 = (y1 + HEIGHT, y2) if y1 < y2 else (y1, y2 + HEIGHT)
    line = f'<path d="M{x1:g} {y1:g} {x2:g} {y2:g}" stroke="{INK}" marker-end="url(#tip)"/>'
    if not label:
        return line
    x, y = (x1 + x2) / 2 + 6, (y1 + y2) / 2 + 4
    return line + f'<text x="{x:g}" y="{y:g}" font-size="11">{label}</text>'


def chain(*names: str) -> list[tuple[str, str, str]]:
    """Return arrows from each box to the next."""
    return [(start, end, "") for start, end in itertools.pairwise(names)]


DIAGRAMS = {
    "layers": drawing(
        [
            ["blocking", "tap", "testing"],
            ["_blocking"],
            ["client", "server"],
            ["_client", "_server"],
            ["protocol"],
            ["_intercept"],
            ["_serving"],
            ["_calling"],
            ["_io", "_observe"],
            ["_wire", "methods"],
        ],
        [
            *chain("blocking", "_blocking", "client", "_client", "protocol", "_intercept"),
            *chain("_blocking", "server", "_server", "protocol"),
            *chain("_intercept", "_serving", "_calling", "_io", "_wire"),
            *chain("_calling", "_observe", "methods"),
            *chain("tap", "server"),
            *chain("testing", "server"),
        ],
    ),
    "call": drawing(
        [
            ["connection.call", "Deferred fires"],
            ["RequestEncoder", "PendingCalls"],
            ["Outbox", "Session"],
            ["server: Reader", "client: Reader"],
            ["Session (server)", "Outbox (server)"],
            ["Dispatcher", "Replies"],
            ["function"],
        ],
        [
            ("connection.call", "RequestEncoder", ""),
            ("RequestEncoder", "Outbox", "line"),
            ("Outbox", "server: Reader", "wire"),
            ("server: Reader", "Session (server)", "message"),
            ("Session (server)", "Dispatcher", "Request"),
            ("Dispatcher", "function", ""),
            ("function", "Replies", "result"),
            ("Replies", "Outbox (server)", ""),
            ("Outbox (server)", "client: Reader", "wire"),
            ("client: Reader", "Session", "message"),
            ("Session", "PendingCalls", "by id"),
            ("PendingCalls", "Deferred fires", ""),
        ],
    ),
    "connection": drawing(
        [["NEW"], ["SECURING"], ["OPEN"], ["DRAINING"], ["CLOSING"], ["LINGERING"], ["LOST"]],
        [
            ("NEW", "SECURING", "TLS"),
            ("SECURING", "OPEN", "handshake done"),
            ("OPEN", "DRAINING", "EOF, drain()"),
            ("DRAINING", "CLOSING", "all answered"),
            ("CLOSING", "LINGERING", "sent"),
            ("LINGERING", "LOST", "delivered"),
        ],
    ),
}


if __name__ == "__main__":
    directory = Path(__file__).parent / "diagrams"
    directory.mkdir(exist_ok=True)
    for name, svg in DIAGRAMS.items():
        (directory / f"{name}.svg").write_text(svg, "utf-8")
