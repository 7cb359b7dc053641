"""Reports of runs that were not made: the page, its tables and the files."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
from suites.results import SUITE, all_runs, make_run

from acktr_tf.suites import report, tables


def test_the_table_of_scores():
    page = report.page(SUITE, all_runs())
    lines = page.splitlines()
    assert lines[0] == "# Two tasks"
    assert "Of 9 runs: 8 finished, 1 crashed." in page
    assert "| task | ACKTR | A2C |" in lines
    # The interval of two seeds: a quarter of the resamples are twice the same seed.
    assert (
        "| Easy | 90.00 [85.00, 95.00], 2 seeds, evaluation 91.00 "
        "| 80.00 [75.00, 85.00], 2 seeds, evaluation 81.00 |"
    ) in lines
    assert (
        "| Hard | 10.00 [5.00, 15.00], 2 seeds, evaluation 11.00 "
        "| 0.00 [-5.00, 5.00], 2 seeds, evaluation 1.00, 1 crashed |"
    ) in lines
    assert "- Hard A2C seed 2: env | died" in lines
    assert "| ACKTR | 7.0 s | 4 |" in lines
    assert "| all runs | `--total_steps=100` |" in lines
    assert "| Hard | `--env=hard` |" in lines


def test_every_seed_is_in_the_table_of_seeds():
    runs = [
        make_run(seed=0, score=10, evaluation_mean=20.0),
        make_run(seed=3, score=123.44),
        make_run(seed=4, status="crashed"),
        make_run(algorithm="A2C", score=None),
    ]
    text = report.page(SUITE, runs)
    assert "| Easy | ACKTR | 0, 3 | 10.00, 123.4 | 20.00, - |" in text
    assert "| Easy | A2C | - | - | - |" in text
    assert "| Hard | ACKTR | - | - | - |" in text


def test_the_table_of_aggregates():
    lines = report.page(SUITE, all_runs()).splitlines()
    # ACKTR: 0.85, 0.95 and 0.55, 0.65; the middle half is 0.65 and 0.85.
    (row,) = [line for line in lines if line.startswith("| ACKTR | 0.")]
    value, low, high = (float(x) for x in re.findall(r"-?\d\.\d+", row))
    assert value == 0.75
    assert 0.65 < low < 0.75 < high < 0.85
    assert row.endswith("| 2 tasks, 2 each |")
    assert "| Hard | -50 | 50 |" in lines


def test_a_report_of_runs_that_are_under_way():
    runs = [
        make_run("Easy", seed=0, evaluation_mean=5.0),
        make_run("Easy", seed=1),
        make_run("Easy", seed=2, status="started"),
        make_run("Hard", seed=0, status="stopped"),
        make_run("Hard", "A2C", status="waiting", score=None),
    ]
    lines = report.page(SUITE, runs).splitlines()
    row = "| Easy | 10.00 [10.00, 10.00], 2 seeds, evaluation 5.00 (1 missing) | - |"
    assert row in lines
    assert "| Hard | - | - |" in lines
    assert "| ACKTR | - | not all tasks have a finished run |" in lines
    assert "Of 5 runs: 2 finished, 1 started, 1 stopped, 1 waiting." in lines[2]
    assert "| A2C | - | 0 |" in lines
    one = report.page(SUITE, runs[:1])
    assert "| Easy | 10.00, 1 seed, evaluation 5.00 | - |" in one.splitlines()


def test_without_a_scale_nothing_is_brought_together():
    page = report.page(SUITE._replace(scores={}), all_runs())
    assert "nterquartile" not in page
    assert "| Easy | 90.00 [85.00, 95.00]" in page


def test_every_run_has_a_line():
    runs = [*all_runs(), make_run("Hard", "A2C", 3, None, "waiting", seconds=0.0)]
    rows = list(csv.DictReader(tables.runs_csv(runs).splitlines()))
    assert len(rows) == len(runs)
    assert rows[0] == {
        "task": "Easy",
        "algorithm": "ACKTR",
        "seed": "0",
        "status": "finished",
        "steps": "100",
        "last_100_mean": "85",
        "evaluation_mean": "86",
        "seconds": "7.000",
    }
    assert [row["status"] for row in rows[-2:]] == ["crashed", "waiting"]
    assert (rows[-1]["last_100_mean"], rows[-1]["evaluation_mean"]) == ("", "")


def test_equal_runs_give_equal_files_in_whatever_order_they_are_found(tmp_path):
    for name, runs in (("a", all_runs()), ("b", all_runs()[::-1])):
        (tmp_path / name).mkdir()
        report.write_report(tmp_path / name, SUITE, runs)
        np.random.random()
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"report.md", "report.csv", "report.png"}
    for name in names:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
    assert f"]({report.CURVES_FILE})" in (tmp_path / "a" / "report.md").read_text()


def test_the_report_needs_no_tensorflow():
    program = (
        "import sys, acktr_tf.suites.report; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("greedy", "words"), [(True, "its most probable actions"), (False, "drawn")]
)
def test_the_page_says_how_policies_were_evaluated(greedy, words):
    page = report.page(SUITE._replace(greedy=greedy), [make_run()])
    (line,) = [line for line in page.splitlines() if "*Evaluation*" in line]
    assert words in line
