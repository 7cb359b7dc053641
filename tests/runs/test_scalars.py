"""Scalars of the training loop, and the page that lists them."""

import re
from collections.abc import Mapping
from pathlib import Path

from acktr_tf.runs.markdown import table
from acktr_tf.runs.progress_bar import KL_BOUNDS
from acktr_tf.runs.scalars import TRAINING_SCALARS
from acktr_tf.types import Scalar

PAGE = Path(__file__).parents[2] / "docs" / "run_directory.md"


def test_every_scalar_is_described_once() -> None:
    tags = [scalar.tag for scalar in TRAINING_SCALARS.values()]
    assert len(set(tags)) == len(tags)
    for name, scalar in TRAINING_SCALARS.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert re.fullmatch(r"[a-z]+/[a-z_]+", scalar.tag)
        assert scalar.help.endswith(".")


def table_in_the_page(name: str) -> str:
    section = re.search(
        rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", PAGE.read_text(), re.DOTALL
    )
    assert section is not None
    return section.group(1)


def table_of(scalars: Mapping[str, Scalar]) -> str:
    return table(
        ["column", "unit", "in TensorBoard", "what it is"],
        [
            [f"`{name}`", scalar.unit, f"`{scalar.tag}`", scalar.help]
            for name, scalar in scalars.items()
        ],
    )


def test_the_documentation_has_the_scalars_of_every_run() -> None:
    expected = table_of(TRAINING_SCALARS)
    assert table_in_the_page("scalars") == expected, "paste the table in the page"


def test_the_documentation_has_the_scalars_of_the_algorithms() -> None:
    from acktr_tf.algorithms import scalars

    phases = {**scalars.FIRST_ORDER_PHASES, **scalars.PHASES, **scalars.CRITIC_PHASE}
    shares = {
        f"share_{phase}": Scalar(
            "", f"Share of the time spent on {words}.", f"time/share_{phase}"
        )
        for phase, words in phases.items()
    }
    expected = table_of(
        {
            **scalars.LOSS,
            **scalars.KL,
            **scalars.KFAC,
            **scalars.KL_BOUNDS,
            **scalars.CRITIC,
            **shares,
        }
    )
    found = table_in_the_page("algorithm scalars")
    assert found == expected, "paste the table in the page"


def test_the_kl_and_the_bounds_of_the_progress_bar_are_scalars() -> None:
    from acktr_tf.algorithms import scalars

    reported = {**scalars.KL, **scalars.KFAC, **scalars.KL_BOUNDS}
    for kl, bounds in KL_BOUNDS.items():
        assert {kl, *bounds} <= reported.keys()
