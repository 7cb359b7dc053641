"""Wrong formulas, each of which must turn a test red.

A copy of the package is made wrong in one place, and its tests run there:

    python tests/kfac/mutations.py     # prints a table; takes minutes
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

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
        "algorithms/losses.py",
        "distribution.sample(seed=key)",
        "distribution.mode()",
        "tests/algorithms/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "the value's target is too near",
        "algorithms/losses.py",
        "tf.stop_gradient(value) + noise",
        "tf.stop_gradient(value) + 0.5 * noise",
        "tests/algorithms/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "the value's log-likelihood lacks its half",
        "algorithms/losses.py",
        "-0.5 * tf.square(drawn - value)",
        "-tf.square(drawn - value)",
        "tests/algorithms/test_sampled_log_likelihood.py",
    ),
    Mutation(
        "gradients are those of a mean over the batch",
        "kfac/curvature.py",
        "tape.gradient(log_likelihood, tensors)",
        "tape.gradient(tf.reduce_mean(log_likelihood), tensors)",
        "tests/kfac/test_blocks.py",
    ),
    # Likelihoods.
    Mutation(
        "a mean over positions is taken for a sum",
        "kfac/likelihoods.py",
        "scale = tf.sqrt(2.0 / _terms(outputs))",
        "scale = tf.sqrt(tf.constant(2.0, outputs.dtype))",
        "tests/kfac/test_likelihoods.py",
    ),
    Mutation(
        "squared error has half its curvature",
        "kfac/likelihoods.py",
        "scale = tf.sqrt(2.0 / _terms(outputs))",
        "scale = tf.sqrt(1.0 / _terms(outputs))",
        "tests/kfac/test_likelihoods.py",
    ),
    Mutation(
        "the data's targets in place of sampled ones",
        "kfac/fit.py",
        'if kfac.fisher == "empirical":',
        'if kfac.fisher != "empirical":',
        "tests/kfac/test_fit.py",
    ),
    Mutation(
        "losses are not weighted by roots",
        "kfac/likelihoods.py",
        "scale = tf.sqrt(part.weight * weights[name])",
        "scale = part.weight * tf.sqrt(weights[name])",
        "tests/kfac/test_model_likelihoods.py",
    ),
    # Factors.
    Mutation(
        "A and G in each other's place",
        "kfac/blocks/kronecker.py",
        '"ij,kl->ikjl"',
        '"ij,kl->kilj"',
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "no homogeneous coordinate",
        "kfac/statistics/moments.py",
        "border = tf.concat([sums, [count]], axis=0)",
        "border = tf.concat([0.0 * sums, [count]], axis=0)",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "no homogeneous coordinate, of few rows",
        "kfac/statistics/moments.py",
        "ones = tf.ones([flat.shape[0], 1], flat.dtype)",
        "ones = tf.zeros([flat.shape[0], 1], flat.dtype)",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "Ω is a mean over positions",
        "kfac/statistics/factors.py",
        "a, g = moments.a / examples, moments.g / examples",
        "a, g = moments.a / moments.positions, moments.g / examples",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "Γ is a sum over positions",
        "kfac/statistics/factors.py",
        "return Factors(a, g / (moments.positions / examples))",
        "return Factors(a, g)",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "correlated positions count once",
        "kfac/statistics/factors.py",
        'if spatial_correlation == "full":',
        'if spatial_correlation == "neither":',
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "patches are not dilated",
        "kfac/statistics/patches.py",
        "rates=[1, *layer.dilation_rate, 1]",
        "rates=[1, 1, 1, 1]",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "overlapping patches: all blocks of a distance are the same",
        "kfac/statistics/overlap.py",
        "rows = (*range(i, last), *range(outputs, outputs + i))",
        "rows = (*range(last),)",
        "tests/kfac/test_overlap.py",
    ),
    Mutation(
        "overlapping patches: elements in the order of cells",
        "kfac/statistics/overlap.py",
        "[0, 3, 2, 4, 1, 6, 5, 7]",
        "[0, 2, 3, 4, 1, 5, 6, 7]",
        "tests/kfac/test_overlap.py",
    ),
    Mutation(
        "the running means keep the bias of their zero start",
        "kfac/blocks/block.py",
        "tf.maximum(self._weight.value, 1e-12)",
        "tf.ones([])",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "old batches do not decay",
        "kfac/blocks/block.py",
        "decay * total.value",
        "total.value",
        "tests/kfac/test_factors.py",
    ),
    Mutation(
        "a batch that is not finite is taken",
        "kfac/blocks/block.py",
        "tf.where(finite, moved, total.value)",
        "moved",
        "tests/kfac/test_factors.py",
    ),
    # Inverses.
    Mutation(
        "π upside down",
        "kfac/linalg.py",
        "math.sqrt(a / g)",
        "math.sqrt(g / a)",
        "tests/kfac/test_linalg.py",
    ),
    Mutation(
        "π multiplies the damping of G",
        "kfac/inverses.py",
        "damped_inverse(g, root / pi)",
        "damped_inverse(g, root * pi)",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "each factor gets the whole damping",
        "kfac/inverses.py",
        "root = math.sqrt(damping)\n        inverse_a",
        "root = damping\n        inverse_a",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "one inverse is new and the other is not",
        "kfac/inverses.py",
        "inverse_a.succeeded and inverse_g.succeeded",
        "inverse_a.succeeded",
        "tests/kfac/test_blocks.py",
    ),
    Mutation(
        "factors are updated at every step",
        "kfac/schedule.py",
        "return (step < period) | tf.equal(step % period, 0)",
        "return step >= 0",
        "tests/kfac/test_fit.py",
    ),
    Mutation(
        "inverses are made at every step",
        "kfac/schedule.py",
        "return early | tf.equal(step % period, offset)",
        "return step >= 0",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "the cheapest layer has the first turn",
        "kfac/schedule.py",
        "key=lambda block: -costs[block]",
        "key=lambda block: costs[block]",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "exact damping is left out",
        "kfac/inverses.py",
        "scaled = rotated / (self.eigenvalues() + self._damping.value)",
        "scaled = rotated / tf.maximum(self.eigenvalues(), 1e-6)",
        "tests/kfac/test_inverses.py",
    ),
    Mutation(
        "EKFAC keeps the spectrum when the basis changes",
        "kfac/inverses.py",
        "moved = squares[0] @ moved",
        "moved = 1.0 * moved",
        "tests/kfac/test_inverses.py",
    ),
    Mutation(
        "a scale is taken for an offset",
        "kfac/statistics/signals.py",
        "gradients * _normalized(layer, call, kept)",
        "1.0 * gradients",
        "tests/kfac/test_registry.py",
    ),
    Mutation(
        "patches left out are not made up for",
        "kfac/statistics/moments.py",
        "a * (positions / taken)",
        "1.0 * a",
        "tests/kfac/test_patches.py",
    ),
    Mutation(
        "one offset for all axes",
        "kfac/statistics/patches.py",
        "offset // stride**axis % stride",
        "offset % stride",
        "tests/kfac/test_patches.py",
    ),
    Mutation(
        "the quadratic step takes directions for orthogonal",
        "kfac/quadratic.py",
        "first - cosine * second, second - cosine * first",
        "1.0 * first, 1.0 * second",
        "tests/kfac/test_quadratic.py",
    ),
    Mutation(
        "damping falls after bad steps",
        "kfac/damping.py",
        "good = known & (ratio > 0.75)",
        "good = known & (ratio < 0.25)",
        "tests/kfac/test_quadratic.py",
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
        "kfac/curvature.py",
        "block.multiply(matrix)",
        "block.multiply_inverse(matrix)",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "momentum lengthens steps",
        "kfac/step_rules.py",
        "(1.0 - self._momentum) * eta",
        "eta",
        "tests/kfac/test_optimizer.py",
    ),
    Mutation(
        "momentum keeps the step before it was shortened",
        "kfac/optimizer.py",
        "self.assign(velocity, tf.where(finite, step, velocity.value))",
        "self.assign(velocity, tf.where(finite, 2.0 * step, velocity.value))",
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
        "kfac/blocks/kronecker.py",
        "parts = tf.split(matrix, self._lengths, axis=self._rule.axis)",
        "parts = tf.split(matrix[::-1], self._lengths, axis=self._rule.axis)",
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
    # The steppers and what follows a step.
    Mutation(
        "a step beyond the limit on the KL is kept",
        "algorithms/trust_region.py",
        "if float(found) <= np.float32(max_kl):",
        "if float(found) >= np.float32(max_kl):",
        "tests/algorithms/test_acktr.py",
    ),
    Mutation(
        "the critic's Fisher matrix is not divided by its variance",
        "algorithms/acktr.py",
        "network(inputs)[:, 0] / tf.sqrt(variance)",
        "network(inputs)[:, 0]",
        "tests/algorithms/test_separate_acktr.py",
    ),
    Mutation(
        "the exact Fisher product is half of what it is",
        "algorithms/conjugate_gradient.py",
        "distance = divergence(old, outputs(inputs))",
        "distance = 0.5 * divergence(old, outputs(inputs))",
        "tests/algorithms/test_conjugate_gradient.py",
    ),
    Mutation(
        "conjugate gradients forget the direction before",
        "algorithms/conjugate_gradient.py",
        "add(conditioned, direction, beta)",
        "add(conditioned, direction, 0.0 * beta)",
        "tests/algorithms/test_conjugate_gradient.py",
    ),
]


def copy_of_the_repository(root: Path) -> Path:
    """What the tests need of the repository, to be made wrong."""
    without_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("acktr_tf", "tests/oracles", "tests/kfac", "tests/algorithms"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=without_caches)
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(REPOSITORY / file, root / file)
    return root


def run_tests(root: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Runs tests of a copy until one fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *tests]
    # Slow on its own, and two replicas are no better at seeing a wrong formula.
    command += ["-p", "no:cacheprovider", "-k", "not replicas"]
    # In this process: one failure is enough, and workers take seconds to start.
    command += ["-n", "0"]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    )


def run_wrong(mutation: Mutation, root: Path) -> subprocess.CompletedProcess[str]:
    """Makes a new copy in `root` wrong, and runs its tests."""
    copy_of_the_repository(root)
    path = root / "acktr_tf" / mutation.file
    source = path.read_text("utf-8")
    path.write_text(source.replace(mutation.right, mutation.wrong), "utf-8")
    return run_tests(root, mutation.tests)


def first_red(result: subprocess.CompletedProcess[str]) -> str:
    """The name of the test that failed; empty if none did."""
    # 1 is a test that failed; anything else is no test that ran.
    if result.returncode != 1:
        return ""
    failed = [line for line in result.stdout.splitlines() if "FAILED" in line]
    return failed[0].split("::")[-1].split(" - ")[0].split("[")[0] if failed else "?"


def main() -> int:
    """Prints what notices each mutation; returns how many nothing notices."""
    print("| wrong | in | turns red |\n|---|---|---|")
    survivors = 0
    for mutation in MUTATIONS:
        with tempfile.TemporaryDirectory() as root:
            red = first_red(run_wrong(mutation, Path(root)))
        survivors += not red
        print(f"| {mutation.name} | `{mutation.file}` | `{red or 'nothing'}` |")
        sys.stdout.flush()
    return survivors


if __name__ == "__main__":
    sys.exit(main())
