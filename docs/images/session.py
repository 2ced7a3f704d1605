"""Draws session.svg: a real session of `ha -r` in a real terminal, as a picture.

In the root of the repository: PYTHONPATH=. python docs/images/session.py
"""

from __future__ import annotations

import os
import tempfile
from html import escape
from itertools import groupby
from pathlib import Path

import pyte.screens

from tests.support.grpc_server import serving
from tests.support.terminal import Terminal

COLUMNS, ROWS = 84, 33
CELL, LINE, MARGIN = 8.4, 18, 16
COLOURS = {
    "default": "#e6edf3", "black": "#484f58", "red": "#ff7b72", "green": "#7ee787",
    "brown": "#e3b341", "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea",
    "white": "#e6edf3",
}  # fmt: skip


def play(target: str, home: str) -> Terminal:
    env = {**os.environ, "XDG_STATE_HOME": home}
    client = Terminal(
        ["-r", f"http://{target}/shop"], env=env, cwd=Path.cwd(), size=(COLUMNS, ROWS)
    )
    client.wait_prompt("shop> ")
    for lines in (
        ["CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, price REAL, note);"],
        [
            "INSERT INTO orders(item, price, note) VALUES",
            "('Assam', 4.5, NULL), ('Sencha', 12.25, 'in a tin'), ('Rooibos', 3, NULL);",
        ],
        ["BEGIN;"],
    ):
        for line in lines:
            client.line(line)
        client.wait_prompt("shop*> " if lines == ["BEGIN;"] else "shop> ")
    client.line("UPDATE orders SET price = 5 WHERE item = 'Assam';")
    client.wait_prompt("shop*> ")
    client.line("SELECT * FROM orders ORDER BY price;")
    client.wait_prompt("shop*> ")
    client.line("COMMIT;")
    client.wait_prompt("shop> ")
    client.line(".mode json")
    client.wait_prompt("shop> ")
    client.line("SELECT item, price FROM orders WHERE note IS NULL;")
    client.wait_prompt("shop> ")
    client.type("SELECT item FROM orders WHERE pr\t")
    client.wait_for("primary")
    client.read(0.3)
    return client


def behind(char: pyte.screens.Char) -> str | None:
    """The colour behind it, None for the page's own."""
    if char.bg == "default":
        return None
    return COLOURS.get(char.bg, f"#{char.bg}")


def colour(char: pyte.screens.Char) -> str:
    if char.bg != "default" and len(char.fg) == 6:
        return f"#{char.fg}"
    if char.fg in COLOURS:
        return COLOURS[char.fg]
    return f"#{char.fg}" if len(char.fg) == 6 else COLOURS["default"]


def draw(screen: pyte.Screen) -> str:
    width, height = COLUMNS * CELL + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" role="img" aria-labelledby="title">',
        '<title id="title">A session of the remote client: a table is made and filled, a '
        "transaction changes a row, and results come as a table and as JSON</title>",
        "<style>text { font: 14px ui-monospace, 'SF Mono', Menlo, Consolas, "
        "'DejaVu Sans Mono', monospace; white-space: pre }</style>",
        f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117"/>',
    ]
    for y in range(ROWS):
        row = [screen.buffer[y][x] for x in range(COLUMNS)]
        at = 0
        for (fill, back, bold), chars in groupby(row, lambda c: (colour(c), behind(c), c.bold)):
            text = "".join(c.data for c in chars)
            start, at = at, at + len(text)
            if back is not None:
                out.append(
                    f'<rect x="{MARGIN + start * CELL:.1f}" y="{MARGIN + y * LINE}" '
                    f'width="{len(text) * CELL:.1f}" height="{LINE}" fill="{back}"/>'
                )
            if not text.strip():
                continue
            weight = ' font-weight="bold"' if bold else ""
            out.append(
                f'<text x="{MARGIN + start * CELL:.1f}" y="{MARGIN + (y + 0.75) * LINE:.1f}" '
                f'textLength="{len(text) * CELL:.1f}" fill="{fill}"{weight} '
                f'xml:space="preserve">{escape(text)}</text>'
            )
    x, y = screen.cursor.x * CELL + MARGIN, screen.cursor.y * LINE + MARGIN
    out.append(f'<rect x="{x:.1f}" y="{y}" width="{CELL}" height="{LINE}" fill="#e6edf3"/>')
    return "\n".join([*out, "</svg>\n"])


def main() -> None:
    with serving("shop.db", port=8080) as node, tempfile.TemporaryDirectory() as home:
        client = play(f"localhost:{node.port}", home)
        try:
            Path("docs/images/session.svg").write_text(draw(client.screen), encoding="utf-8")
        finally:
            client.close()


if __name__ == "__main__":
    main()
