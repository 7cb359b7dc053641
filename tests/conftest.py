"""What every test runs under: a quiet, small TensorFlow, fixed seeds, no screen."""

import gc
import importlib
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

TESTS = Path(__file__).parent
# Files that take longest, the longest first.
LONGEST = [
    "training/test_loop.py",
    "kfac/test_fit.py",
    "kfac/test_optimizer.py",
    "algorithms/test_a2c.py",
    "algorithms/test_acktr.py",
    "algorithms/test_conjugate_gradient.py",
    "algorithms/test_separate_acktr.py",
    "kfac/test_inverses.py",
    "test_benchmark.py",
    "test_launch.py",
    "test_own_algorithm.py",
    "test_models.py",
    "runs/test_saved_model.py",
    "suites/test_jobs.py",
]
# No more processes than this, however many cores: each takes some 2 GB of memory.
MOST_WORKERS = 8
CORES = len(os.sched_getaffinity(0))
# Each process of pytest-xdist has its share of the cores, as have commands it starts.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = str(max(1, min(2, CORES // WORKERS)))

# Read when TensorFlow, NumPy's BLAS, Keras, Matplotlib and SDL are first imported, by
# the tests themselves or by a command that a test starts.
os.environ.update(
    {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": THREADS,
        "TF_NUM_INTEROP_THREADS": THREADS,
        "OMP_NUM_THREADS": THREADS,
        "OPENBLAS_NUM_THREADS": THREADS,
        # Expected numbers are those of the CPU.
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "MPLBACKEND": "Agg",
        "SDL_VIDEODRIVER": "dummy",
    }
)

# The same examples every time, and no deadline: the first call of a function compiles.
for profile, examples in [("fast", 10), ("full", 100)]:
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how many examples a property is tested with."""
    slow = re.search(r"(?<!not )\bslow\b", config.getoption("markexpr"))
    profile = os.environ.get("HYPOTHESIS_PROFILE", "full" if slow else "fast")
    hypothesis.settings.load_profile(profile)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files begin first: no process waits for one in the end."""
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process per core, and a single one for a pytest that a test has started."""
    return 0 if "PYTEST_XDIST_WORKER" in os.environ else min(CORES, MOST_WORKERS)


def pytest_collection_finish() -> None:
    """Keeps what all tests share out of the search for garbage.

    The modules that tests import are millions of objects that stay to the end, and
    tracing makes garbage enough for hundreds of searches through all of them.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def memory() -> Iterator[None]:
    """Forgets the graphs of a module: those of all modules are gigabytes."""
    yield
    if keras := sys.modules.get("keras"):
        keras.backend.clear_session()  # Searches for garbage, too.


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
