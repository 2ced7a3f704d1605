"""What was measured: a table that aligns, JSON, and a picture."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. ``value`` in ``unit``; ``floor`` is what ``floor_name`` gave in this run.

    ``ratio`` says how far the value is from its floor, always ≥ 1 when the floor is better.
    """

    group: str
    name: str
    value: float
    unit: str
    floor: float | None = None
    floor_name: str = ""
    lower_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.floor is None or not self.value or not self.floor:
            return None
        return self.value / self.floor if self.lower_is_better else self.floor / self.value


@dataclass(slots=True)
class Report:
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def table(self) -> str:
        """Markdown that is readable on a terminal too."""
        head = ("measurement", "value", "floor", "ratio", "floor is", "note")
        cells = [head]
        for row in self.rows:
            ratio = row.ratio
            cells.append(
                (
                    f"{row.group}: {row.name}",
                    f"{_number(row.value)} {row.unit}",
                    "" if row.floor is None else f"{_number(row.floor)} {row.unit}",
                    "" if ratio is None else f"{ratio:.2f}×",
                    row.floor_name,
                    row.note,
                )
            )
        widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
        right = (False, True, True, True, False, False)

        def line(values: tuple[str, ...]) -> str:
            padded = [
                v.rjust(w) if r else v.ljust(w)
                for v, w, r in zip(values, widths, right, strict=True)
            ]
            return "| " + " | ".join(padded) + " |"

        rule = (
            "|"
            + "|".join(
                "-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)
            )
            + "|"
        )
        return "\n".join([line(cells[0]), rule, *(line(c) for c in cells[1:])])

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "rows": [{**asdict(row), "ratio": row.ratio} for row in self.rows],
        }
        (folder / "bench.json").write_text(json.dumps(data, indent=1))
        (folder / "bench.svg").write_text(self.picture())

    def picture(self) -> str:
        """Bars of the ratios to the floors: the shorter the better, 1 is the floor itself."""
        rows = [(row, row.ratio) for row in self.rows if row.ratio is not None]
        longest = max((ratio for _, ratio in rows if ratio), default=1.0)
        height = 24 * len(rows) + 40
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{height}"'
            ' font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            '<text x="10" y="20" font-size="14">ratio to the floor measured in the same run</text>',
        ]
        for at, (row, ratio) in enumerate(rows):
            y = 36 + 24 * at
            length = 400 * (ratio or 0) / longest
            out.append(f'<text x="10" y="{y + 14}">{escape(f"{row.group}: {row.name}")}</text>')
            out.append(
                f'<rect x="380" y="{y + 2}" width="{length:.1f}" height="16" fill="#4477aa"/>'
            )
            out.append(f'<text x="{388 + length:.1f}" y="{y + 14}">{ratio:.2f}×</text>')
        return "\n".join([*out, "</svg>"])


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
