"""What every test runs under: a quiet, small TensorFlow, fixed seeds, no screen."""

import importlib
import os
import random
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Read when TensorFlow, NumPy's BLAS, Keras, Matplotlib and SDL are first imported, by
# the tests themselves or by a command that a test starts.
os.environ.update(
    {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "2",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        # Expected numbers are those of the CPU.
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "MPLBACKEND": "Agg",
        "SDL_VIDEODRIVER": "dummy",
    }
)

# The same examples every time, and no deadline: the first call of a function compiles.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def docs_script(monkeypatch):
    """Imports a script of tools/ by its name; scripts there import their neighbours."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    return importlib.import_module


@pytest.fixture
def benchmark_script(monkeypatch):
    """Imports a script of benchmarks/ by its name, as `docs_script` does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Global generators in a known state, whatever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    # Only where something has loaded Keras: most tests are quicker without it.
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
