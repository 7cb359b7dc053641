"""Two replicas train as one: the optimizer alone, `fit`, and Lookahead.

All in one process, which loads TensorFlow once. It is another one than that of the
tests, because logical devices are made before TensorFlow starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*names: str) -> dict[str, str]:
    """Runs programs of replicas.py; returns program → traceback, empty if it passed."""
    here = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, here / "replicas.py", *names],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def tracebacks() -> dict[str, str]:
    return run("optimizer", "fit", "lookahead")


@pytest.mark.parametrize("program", ["optimizer", "fit", "lookahead"])
def test_two_replicas_train_as_one(tracebacks, program):
    assert tracebacks[program] == ""


@pytest.mark.slow  # A minute: each setting traces a `fit` of its own.
def test_two_replicas_train_as_one_with_every_setting():
    assert run("fit-slow") == {"fit-slow": ""}
