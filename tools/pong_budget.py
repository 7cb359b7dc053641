"""What an update of ACKTR on Pong has beside A2C's; a table in docs/performance.md."""

from typing import Any

GOAL = 0.92
"""Steps a second over A2C's."""


def table(acktr: dict[str, Any], a2c: dict[str, Any]) -> str:
    """In Markdown, from what phases.py measured of both, with the same batch."""
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

    return "\n".join(
        [
            "| | ms an update, mean |",
            "|---|---|",
            f"| A2C, all | {whole:.1f} |",
            f"| ACKTR besides: curvature | {curvature:.1f} |",
            f"| inverses | {inverses:.1f} |",
            f"| what its step takes longer | {step:.1f} |",
            f"| together | {curvature + inverses + step:.1f} |",
            f"| allowed, for {GOAL} of A2C's speed | {whole / GOAL - whole:.1f} |",
            "",
            "| factors and inverses | of A2C's speed |",
            "|---|---|",
            f"| as they are | {ratio(1)} |",
            f"| half as often | {ratio(2)} |",
            f"| a quarter as often | {ratio(4)} |",
        ]
    )
