"""The tables of docs/mujoco.md are those of the files that they are made from."""

import json
from pathlib import Path

import pytest

from acktr_tf.cli.flags import config_from

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def make_mujoco(docs_script):
    return docs_script("make_mujoco")


def test_published_tables_are_those_of_the_files(make_mujoco):
    page = make_mujoco.PAGE.read_text()
    result = make_mujoco.read(make_mujoco.RESULT)
    published = make_mujoco.read(make_mujoco.PUBLISHED)
    assert make_mujoco.result_table(result, published) in page
    assert make_mujoco.tried_table(make_mujoco.read(make_mujoco.TRIED)) in page
    documents = json.loads(make_mujoco.KL_BY_AGE.read_text())
    assert make_mujoco.kl_by_age.table(documents) in page
    assert (DOCS / "images" / "mujoco.png").is_file()
    # No seed is left out, and none is used that settings were chosen by.
    seeds = {"10", "11", "12", "13", "14"}
    for row in published:
        own = [run for run in result if run["task"] == f"{row['task']}-v5"]
        assert {run["seed"] for run in own} == seeds
        assert all(run["status"] == "finished" for run in own)


def test_a_task_is_reached_in_training_in_the_evaluation_or_not(make_mujoco):
    def row(task, training, evaluation):
        return {
            "task": f"{task}-v5",
            "algorithm": "ACKTR",
            "last_100_mean": str(training),
            "evaluation_mean": str(evaluation),
        }

    published = [
        {"task": "A", "paper_acktr": "10", "other": "20"},
        {"task": "B", "paper_acktr": "-10", "other": ""},
    ]
    result = [row("A", 9, 15), row("A", 13, 35), row("B", -12, -9), row("B", -11, -9)]
    text = make_mujoco.result_table(result, published)
    assert "| A | 11.0 [9.0, 13.0] | 9.0, 13.0 | 25.0 | 10.0 | 20.0 | yes |" in text
    assert "| yes | evaluation |" in text
    assert "| -9.0 | -10.0 | -10.0 | evaluation | evaluation |" in text
    assert "paper's ACKTR: 1 of 2 tasks in training, 2 of 2 in the evaluation" in text


def test_a_run_is_told_by_what_it_does_otherwise(make_mujoco):
    same = config_from(["--flagfile=mujoco.flags"]).to_dict()
    assert make_mujoco.difference({**same, "env": "Hopper-v5", "seed": 2}) == ""
    changed = {**same, "damping": 0.5, "frame_stack": 2}
    assert make_mujoco.difference(changed) == "`frame_stack=2` `damping=0.5`"
