"""Pictures and tables of what K-FAC's settings do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POINT: dict[str, float | None] = {
    "damping": 1e-3,
    "learning_rate": 0.3,
    "kl_radius": 1e-3,
    "factor_update_period": 1,
}
LINES: dict[str, Sequence[float | None]] = {
    "damping": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "learning_rate": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "kl_radius": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, None),
    "factor_update_period": (1, 3, 10, 30, 100),
}

TOP = 100.0
"""Losses above it are drawn there."""

Document = Mapping[str, Any]
"""`"point"`, the settings that are kept; `"updates"`; `"lines"`, setting → value →
records with `"seed"`, `"at"`, `"training"` and `"held_out"`."""


def label(value: float | None) -> str:
    """Of a value, as it is typed."""
    return "None" if value is None else f"{value:g}"


def table(document: Document) -> str:
    """Final losses of every seed, in Markdown."""
    lines = [
        "| setting | value | training loss, each seed | held out |",
        "|---|---|---|---|",
    ]
    for setting, values in document["lines"].items():
        for value, records in values.items():
            cells = [
                ", ".join(_number(record[part][-1]) for record in records)
                for part in ("training", "held_out")
            ]
            here = " (kept)" if value == label(document["point"][setting]) else ""
            lines.append(f"| `{setting}` | {value}{here} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def draw(document: Document, what: str, path: Path) -> None:
    """Above, training loss over the run; below, losses at its end.

    Every seed is a line, and a dot. Losses above `TOP` are drawn at it.
    """
    figure, axes = plt.subplots(2, len(LINES), figsize=(15, 7), dpi=100, sharey="row")
    for column, (setting, values) in enumerate(document["lines"].items()):
        curves, ends = axes[:, column]
        colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(values)))
        for place, (value, records) in enumerate(values.items()):
            for record in records:
                x, y = _positive(record["at"], record["training"])
                name = value if record is records[0] else None
                curves.plot(x, y, color=colors[place], linewidth=0.8, label=name)
            for part, marker in (("training", "o"), ("held_out", "x")):
                ys = [record[part][-1] for record in records]
                x, y = _positive([place] * len(ys), ys, first=0)
                ends.plot(x, y, marker, color=colors[place], markersize=5)
        curves.set_yscale("log")
        curves.set_xlabel("updates")
        curves.legend(title=setting, fontsize=7, title_fontsize=8)
        ends.set_yscale("log")
        ends.set_xticks(range(len(values)), list(values))
        ends.set_xlabel(setting)
        for panel in (curves, ends):
            panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("training loss, nats")
    axes[1, 0].set_ylabel("at the end: training (o), held out (x)")
    figure.suptitle(what, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _positive(
    xs: Sequence[float], ys: Sequence[float | None], first: float = 1
) -> tuple[list[float], list[float]]:
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if x >= first and y]
    return [x for x, _ in pairs], [min(y, TOP) for _, y in pairs]


def _number(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.2g}"
