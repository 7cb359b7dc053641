"""Scalars of the training loop, and the page that lists them."""

import re
from pathlib import Path

from acktr_tf.runs.markdown import table
from acktr_tf.runs.scalars import TRAINING_SCALARS, phase_scalars

PAGE = Path(__file__).parents[2] / "docs" / "run_directory.md"


def test_every_scalar_is_described_once() -> None:
    scalars = {**TRAINING_SCALARS, **phase_scalars({"curvature": "the factors"})}
    tags = [scalar.tag for scalar in scalars.values()]
    assert len(set(tags)) == len(tags)
    for name, scalar in scalars.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert re.fullmatch(r"[a-z]+/[a-z_]+", scalar.tag)
        assert scalar.help.endswith(".")


def test_a_phase_has_its_share() -> None:
    assert phase_scalars({"critic": "the separate critic"}) == {
        "share_critic": (
            "",
            "Share of the time spent on the separate critic.",
            "time/share_critic",
        )
    }


def test_the_documentation_has_the_table() -> None:
    expected = table(
        ["column", "unit", "in TensorBoard", "what it is"],
        [
            [f"`{name}`", scalar.unit, f"`{scalar.tag}`", scalar.help]
            for name, scalar in TRAINING_SCALARS.items()
        ],
    )
    section = re.search(
        r"<!-- scalars -->\n(.*)\n<!-- /scalars -->", PAGE.read_text(), re.DOTALL
    )
    assert section is not None
    assert section.group(1) == expected, "paste the table in the page"
