"""Losses against updates and against seconds, every seed a line."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib

from supervised.optimizers import OPTIMIZERS
from supervised.problems import PROBLEMS
from supervised.results import Document, Record, target

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = {"training": "training loss", "held_out": "held-out loss"}
CLOCKS = {"at": "updates", "seconds": "seconds"}


def draw(name: str, document: Document, path: Path) -> None:
    """Four panels; a dotted line is Adam's final training loss.

    An autoencoder's loss is drawn above the entropy of its targets, the least that
    there can be.
    """
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7), dpi=110, sharex="col", sharey="row"
    )
    for row, (part, title) in enumerate(PARTS.items()):
        least = document["least"][part]
        for column, (clock, unit) in enumerate(CLOCKS.items()):
            panel = axes[row, column]
            for number, optimizer in enumerate(OPTIMIZERS):
                for seed, record in enumerate(document["runs"].get(optimizer, [])):
                    x, y = zip(*_line(record, clock, part, least), strict=True)
                    label = optimizer if seed == 0 else None
                    panel.plot(x, y, f"C{number}", linewidth=0.8, label=label)
            if part == "training":
                level = target(document["runs"]) - least
                panel.axhline(level, color="0.5", linewidth=0.8, linestyle=":")
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
            if row == 1:
                panel.set_xlabel(unit)
        above = " above the entropy of the targets" if least else ""
        axes[row, 0].set_ylabel(f"{title}{above}, nats", fontsize=8)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"{name}: {PROBLEMS[name].what}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _line(
    record: Record, clock: str, part: str, least: float
) -> Iterable[tuple[float, float]]:
    """Points that a log axis has: after the first update, of finite losses."""
    for x, loss in zip(record[clock], record[part], strict=True):
        if x > 0 and loss is not None:
            yield x, loss - least
