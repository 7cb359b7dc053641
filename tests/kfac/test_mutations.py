"""Wrong formulas, each of which must turn a test red.

A copy of the package is made wrong in one place, and its tests run there:

    python -m pytest -m slow tests/kfac/test_mutations.py
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """What is made wrong, and the tests that must notice."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


MUTATIONS = [
    # Fisher: what it is the curvature of.
    Mutation(
        "targets are the most likely actions, not sampled ones",
        "losses.py",
        "evaluation.distribution.sample(seed=key)",
        "evaluation.distribution.mode()",
        "tests/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "the value's target is too near",
        "losses.py",
        "tf.stop_gradient(evaluation.value) + noise",
        "tf.stop_gradient(evaluation.value) + 0.5 * noise",
        "tests/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "the value's log-likelihood lacks its half",
        "losses.py",
        "-0.5 * tf.square(value - evaluation.value)",
        "-tf.square(value - evaluation.value)",
        "tests/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "gradients are those of a mean over the batch",
        "kfac/optimizer.py",
        "log_likelihood, [record.pre_activation",
        "tf.reduce_mean(log_likelihood), [record.pre_activation",
        "tests/kfac/test_blocks.py",
    ),
    # Factors.
    Mutation(
        "A and G in each other's place",
        "kfac/blocks.py",
        '"ij,kl->ikjl"',
        '"ij,kl->kilj"',
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "no homogeneous coordinate",
        "kfac/factors.py",
        "tf.ones_like(rows[:, :1])",
        "tf.zeros_like(rows[:, :1])",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "Ω is a mean over positions",
        "kfac/factors.py",
        "_second_moment(_homogeneous(patches, layer.use_bias)) / batch",
        "_second_moment(_homogeneous(patches, layer.use_bias)) / batch_positions",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "Γ is a sum over positions",
        "kfac/factors.py",
        "_second_moment(gradients) / batch_positions",
        "_second_moment(gradients) / batch",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "correlated positions count once",
        "kfac/factors.py",
        "gamma *= batch_positions / batch",
        "gamma *= 1.0",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "patches are not dilated",
        "kfac/factors.py",
        "rates=[1, *layer.dilation_rate, 1]",
        "rates=[1, 1, 1, 1]",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "the running means keep the bias of their zero start",
        "kfac/blocks.py",
        "tf.maximum(self._weight.value, 1e-12)",
        "tf.ones([])",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "old batches do not decay",
        "kfac/blocks.py",
        "decay * total.value",
        "total.value",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "a batch that is not finite is taken",
        "kfac/blocks.py",
        "tf.where(finite, moved, total.value)",
        "moved",
        "tests/kfac/test_factors.py",
    ),
    # Inverses.
    Mutation(
        "π upside down",
        "kfac/linalg.py",
        "tf.sqrt(mean_a / mean_g)",
        "tf.sqrt(mean_g / mean_a)",
        "tests/kfac/test_linalg.py",
    ),
    Mutation(
        "π multiplies the damping of G",
        "kfac/blocks.py",
        "damped_inverse(factors.g, root / pi)",
        "damped_inverse(factors.g, root * pi)",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "each factor gets the whole damping",
        "kfac/blocks.py",
        "tf.sqrt(tf.constant(damping, pi.dtype))",
        "tf.constant(damping, pi.dtype)",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "one inverse is new and the other is not",
        "kfac/blocks.py",
        "inverse_a.succeeded & inverse_g.succeeded",
        "inverse_a.succeeded",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "inverses are made at every step",
        "kfac/optimizer.py",
        "(step < period) | tf.equal(step % period, 0)",
        "step >= 0",
        "tests/kfac/test_optimizer.py",
    ),
    # The step.
    Mutation(
        "the radius bounds twice the KL",
        "kfac/trust_region.py",
        "tf.sqrt(2.0 * kl_radius",
        "tf.sqrt(kl_radius",
        "tests/kfac/test_trust_region.py",
    ),
    Mutation(
        "the predicted KL is twice itself",
        "kfac/trust_region.py",
        "return 0.5 * squared_norm",
        "return squared_norm",
        "tests/kfac/test_trust_region.py",
    ),
    Mutation(
        "the radius is adapted the wrong way",
        "kfac/trust_region.py",
        "too_large, factor / change",
        "too_large, factor * change",
        "tests/kfac/test_trust_region.py",
    ),
    Mutation(
        "the metric of what is applied is the inverse one",
        "kfac/optimizer.py",
        "block.multiply(matrix)",
        "block.multiply_inverse(matrix)",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "momentum lengthens steps",
        "kfac/optimizer.py",
        "(1.0 - self.momentum) * eta",
        "eta",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "momentum keeps the step before it was shortened",
        "kfac/optimizer.py",
        "self.assign(velocity, tf.where(take, gradient, velocity.value))",
        "self.assign(velocity, tf.where(take, 2.0 * gradient, velocity.value))",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "a step that is not finite is taken",
        "kfac/optimizer.py",
        "finite = tf.math.is_finite(damped_norm) & ",
        "finite = tf.constant(True) | ",
        "tests/kfac/test_optimizer.py",
    ),
    # Weights and matrices.
    Mutation(
        "the bias is the first row",
        "kfac/blocks.py",
        "parts = tf.split(matrix, self._rows, axis=0)",
        "parts = tf.split(matrix[::-1], self._rows, axis=0)",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "what is captured is what comes after the activation",
        "kfac/capture.py",
        "self._pre_activations[id(layer)] = pre_activation\n"
        "            return activation(pre_activation)",
        "self._pre_activations[id(layer)] = activation(pre_activation)\n"
        "            self.watch(self._pre_activations[id(layer)])\n"
        "            return self._pre_activations[id(layer)]",
        "tests/kfac/test_capture.py",
    ),
]


def copy_of_the_repository(root: Path) -> Path:
    without_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("acktr_tf", "tests/oracles", "tests/kfac"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=without_caches)
    for file in (
        "pyproject.toml",
        "tests/conftest.py",
        "tests/test_sampled_log_likelihood.py",
    ):
        shutil.copy(REPOSITORY / file, root / file)
    return root


def run_tests(root: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *tests]
    # Slow on its own, and two replicas are no better at seeing a wrong formula.
    command += ["-p", "no:cacheprovider", "-k", "not two_replicas"]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_copy_passes_as_it_is(tmp_path):
    root = copy_of_the_repository(tmp_path)
    result = run_tests(root, *sorted({mutation.tests for mutation in MUTATIONS}))
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_wrong_formula_turns_a_test_red(mutation, tmp_path):
    root = copy_of_the_repository(tmp_path)
    path = root / "acktr_tf" / mutation.file
    source = path.read_text("utf-8")
    assert source.count(mutation.right) == 1
    path.write_text(source.replace(mutation.right, mutation.wrong), "utf-8")

    result = run_tests(root, mutation.tests)

    # 1 is a test that failed; anything else is no test that ran.
    assert result.returncode == 1, result.stdout + result.stderr


def test_every_mutation_has_its_place_in_the_source():
    for mutation in MUTATIONS:
        source = (REPOSITORY / "acktr_tf" / mutation.file).read_text("utf-8")
        assert source.count(mutation.right) == 1, mutation.name
