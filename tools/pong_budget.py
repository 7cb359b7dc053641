"""What an update of ACKTR on Pong has beside A2C's; a table in docs/performance.md."""

from typing import Any

from acktr_tf.runs import markdown

GOAL = 0.92
"""Steps a second over A2C's."""


def table(acktr: dict[str, Any], a2c: dict[str, Any]) -> str:
    """Returns the budget in Markdown, from what phases.py measured with one batch."""
    ours, theirs = (
        {name: phase["mean"] for name, phase in document["phases"].items()}
        for document in (acktr, a2c)
    )
    curvature, inverses = ours["curvature"], ours["inverses"]
    step = ours["step"] - theirs["step"]
    whole = theirs["total"]

    def ratio(times: float) -> str:
        """If factors and inverses were made so many times more seldom."""
        return f"{whole / (whole + (curvature + inverses) / times + step):.2f}"

    costs = [
        ["A2C, all", f"{whole:.1f}"],
        ["ACKTR besides: curvature", f"{curvature:.1f}"],
        ["inverses", f"{inverses:.1f}"],
        ["what its step takes longer", f"{step:.1f}"],
        ["together", f"{curvature + inverses + step:.1f}"],
        [f"allowed, for {GOAL} of A2C's speed", f"{whole / GOAL - whole:.1f}"],
    ]
    ratios = [
        ["as they are", ratio(1)],
        ["half as often", ratio(2)],
        ["a quarter as often", ratio(4)],
    ]
    return "\n\n".join(
        [
            markdown.table(["", "ms per update, mean"], costs),
            markdown.table(["factors and inverses", "of A2C's speed"], ratios),
        ]
    )
