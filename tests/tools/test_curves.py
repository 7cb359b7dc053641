import importlib.util
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
SPEC = importlib.util.spec_from_file_location(
    "make_curves", REPOSITORY / "tools" / "make_curves.py"
)
make_curves = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_curves)


@pytest.mark.parametrize("name", list(make_curves.SUITES))
def test_published_table_is_that_of_the_published_episodes(name):
    suite = make_curves.SUITES[name]
    page = (DOCS / suite.page).read_text()
    runs = make_curves.read_suite(name)
    # What only changes ACKTR's settings has no other beside it.
    expected = {"acktr"} if name.startswith("pong_") else {"acktr", "a2c"}
    assert {run.algorithm for run in runs} == expected
    text = make_curves.table(suite, runs)
    assert text in page
    assert make_curves.with_table(page, name, text) == page
    assert (DOCS / "images" / f"{name}.png").is_file()


def test_mean_is_of_the_last_hundred_games():
    run = make_curves.Run(
        "acktr", 0, np.arange(300.0) * 10, np.repeat([0.0, 1.0, 3.0], 100)
    )
    assert run.mean_return[0] == pytest.approx(0.0)
    assert run.mean_return[50] == pytest.approx(0.5)
    assert run.mean_return[-1] == pytest.approx(3.0)
    assert len(run.mean_step) == len(run.mean_return)
    text = make_curves.table(make_curves.Suite("", "", 1.0), [run])
    # Game 199 completes the first window of ones.
    assert "| ACKTR | 0 | 300 | 1,990 | 3.00 | 3.00 | 2,990 |  |" in text


def test_a_table_takes_the_place_of_what_is_between_its_marks():
    page = "a\n<!-- x: begin -->\n{}<!-- x: end -->\nb"
    filled = make_curves.with_table(page.format(""), "x", "new")
    assert filled == page.format("new\n")
    assert make_curves.with_table(page.format("old\n"), "x", "new") == filled
    with pytest.raises(ValueError, match="`y`"):
        make_curves.with_table(page, "y", "new")


def test_scores_are_those_that_evaluate_wrote(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"settings": {"algorithm": "a2c", "seed": 3}}'
    )
    (tmp_path / "episodes.csv").write_text("step,episode_return\n" + "1,2.0\n" * 100)
    (tmp_path / "scores.json").write_text('{"mean": 491.0234}')
    run = make_curves.read_run(tmp_path)
    text = make_curves.table(make_curves.Suite("", "", 1.0), [run])
    assert text.endswith("| A2C | 3 | 100 | 1 | 2.00 | 2.00 | 1 | 491.02 |")
