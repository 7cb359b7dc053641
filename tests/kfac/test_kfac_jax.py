"""The package beside DeepMind's kfac-jax, on what kfac_jax_oracle.py stored of it.

kfac-jax computed in float64. What is allowed below is for float32, in which the package
computes: 2e-6 of the largest element for factors, 2e-5 for what inverses have enlarged.

What the two mean differently, and what makes them mean the same:

- Scale. Of a convolution kfac-jax keeps Ω / |T| and Γ, of a layer on a sequence Ω and
  |T| Γ, and multiplies their product by |T| or 1 / |T|; the package keeps Ω and Γ. The
  blocks are the same, and so are they when they are damped.
- Squared error. kfac-jax takes it summed over the K outputs unless a loss's weight says
  otherwise, Keras its mean: the weight is 1 / K.
- The empirical Fisher matrix. kfac-jax divides it by the batch size N once more than
  the others, the package does not: the weight has a factor √N.
- A factor of one number, such as G of a layer with one output, has no damping in
  kfac-jax and the other factor has all, so that the block's damping is exact. The
  package damps it as any other; what kfac-jax has there is its `inverse="eigen"`.
- Momentum. kfac-jax has v ← μ v + η Δ, the package v ← μ v + (1 − μ) η Δ: its learning
  rate is kfac-jax's over 1 − μ.
- The norm constraint c bounds η² ΔᵀFΔ, in the damped metric and before momentum, as
  `bound="direction"` does with 2δ: with the line above, δ = ½ c / (1 − μ)².
- Running means. kfac-jax weighs a new batch by 1 and the one k before it by ρᵏ, over
  their sum; that is equation (7), whose S and w have a factor 1 − ρ more. Its batches
  for the factors alone at the start, `num_burnin_steps`, are none here.
- Stale inverses. kfac-jax inverts at every N-th step from the first on, the package at
  each of the first N besides; a count of steps that begins at N leaves these out.
- Bias. In both it is a row of the layer's matrix, last, and damped as the others are.
- Steps from the quadratic model, equation (19), are the same. So is the rule of the
  damping, equation (20), if kfac-jax's decay is 19/20 and its model includes damping.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf import kfac
from kfac import twins

DATA = Path(__file__).with_name("kfac_jax.npz")
with np.load(DATA) as file:
    STORED = dict(file)
ABOUT = json.loads(str(STORED["about"]))
NETWORKS = list(ABOUT["networks"])
MODES = ABOUT["modes"]
TRAJECTORIES = [
    (network, name)
    for network, names in ABOUT["trajectories"].items()
    for name in names
]
OF_FACTORS, OF_STEPS = 2e-6, 2e-5
ENTRIES = ("sampled", "damping", "weights")
LOSSES = {
    "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "squared_error": keras.losses.MeanSquaredError(),
}


# The same networks ------------------------------------------------------------------
class Problem:
    """A network of the file, with a batch.

    Args:
      name: Of the network.
      **settings: Of `kfac.KFAC`.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        about = ABOUT["networks"][name]
        self.x, self.y = STORED[f"{name}/x"], STORED[f"{name}/y"]
        layers = [make_layer(layer) for layer in about["layers"]]
        layers.insert(-1, keras.layers.Flatten())
        self.model = kfac.Sequential([keras.Input(self.x.shape[1:]), *layers])
        self.loss = LOSSES[about["loss"]]
        arguments = {
            "damping": ABOUT["damping"],
            "factor_decay": ABOUT["curvature_ema"],
            "kl_radius": None,
            "factor_update_period": 1,
            "inverse_update_period": 1,
            "curvature_fraction": 1.0,
        }
        self.optimizer = kfac.KFAC(**{**arguments, **settings})
        self.model.compile(self.optimizer, self.loss, run_eagerly=True)
        self.model.set_weights(self.unflattened(STORED[f"{name}/weights"]))

    def unflattened(self, values: np.ndarray) -> list[np.ndarray]:
        """What the file holds in a row, in the shapes of the weights."""
        return split(values, [weight.shape for weight in self.model.get_weights()])

    def flattened(self) -> np.ndarray:
        """The weights as the file holds them."""
        return np.concatenate([weight.ravel() for weight in self.model.get_weights()])

    def factors(self, values: np.ndarray) -> list[np.ndarray]:
        """A and G of each layer, of what the file holds in a row."""
        shapes = [shape for b in self.optimizer.blocks for shape in b.factor_shapes]
        return split(values, shapes)

    def take(self, monkeypatch: pytest.MonkeyPatch, sampled: np.ndarray) -> None:
        """Has the package take these targets instead of sampling its own."""

        def taken(like: tf.Tensor) -> tf.Tensor:
            values = sampled if sampled.ndim == 2 else sampled[:, np.newaxis]
            assert len(values) == like[0]
            return tf.constant(values)

        if sampled.dtype.kind == "i":
            monkeypatch.setattr(
                tf.random,
                "stateless_categorical",
                lambda logits, number, seed: taken(tf.shape(logits)),
            )
        else:
            monkeypatch.setattr(
                tf.random,
                "stateless_normal",
                lambda shape, seed, dtype: tf.cast(taken(shape), dtype),
            )

    def update_factors(
        self, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
    ) -> None:
        """Factors and inverses of the batch, in the words of kfac-jax's modes."""
        likelihoods = kfac.Likelihoods(self.loss)
        key = tf.constant([0, 0])
        x = self.x
        if mode == "fisher_exact":
            targets = self.all_targets()
            x = np.tile(x, (len(targets),) + (1,) * (x.ndim - 1))
            self.take(monkeypatch, np.repeat(targets, len(self.x), axis=0))
        elif mode == "fisher_gradients":
            self.take(monkeypatch, STORED[f"{name}/sampled"])
        with self.optimizer.curvature_tape() as tape:
            outputs = self.model(x, training=True)
            if mode == "fisher_empirical":
                likelihood = likelihoods.log_likelihood(self.y, outputs)
            else:
                likelihood = likelihoods.sampled_log_likelihood(outputs, key)
            if mode == "fisher_exact" and targets.dtype.kind == "i":
                # One of K targets is 1/K of the batch and p of the truth.
                p = tf.exp(tf.stop_gradient(likelihood))
                likelihood *= tf.sqrt(len(targets) * p)
        self.optimizer.update_curvature(tape, likelihood)

    def all_targets(self) -> np.ndarray:
        """Every class; or noise ±1 in all combinations, whose second moment is I."""
        outputs = self.model.output_shape[-1]
        if isinstance(self.loss, keras.losses.MeanSquaredError):
            return np.array(list(itertools.product([-1.0, 1.0], repeat=outputs)))
        return np.arange(outputs)

    def preconditioned(self) -> list[np.ndarray]:
        """The natural gradient of each layer, as a matrix. Equation (10)."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss(self.y, self.model(self.x))
        gradients = tape.gradient(loss, variables)
        curvature = self.optimizer.curvature
        matrices = curvature.to_matrices(
            {id(v): g for v, g in zip(variables, gradients, strict=True)}
        )
        return [matrix.numpy() for matrix in curvature.multiply_inverse(matrices)]

    def matrices(self, values: np.ndarray) -> list[np.ndarray]:
        """What the file holds in a row as a matrix of each layer."""
        parts = iter(self.unflattened(values))
        return [
            block.to_matrix([next(parts) for _ in block.variables]).numpy()
            for block in self.optimizer.blocks
        ]


def make_layer(layer: list[Any]) -> keras.layers.Layer:
    """Of a layer as kfac_jax_oracle.py writes it."""
    *shape, activation = layer
    if len(shape) > 1:
        return keras.layers.Conv2D(*shape, activation=activation)
    return keras.layers.Dense(*shape, activation=activation)


def split(values: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    assert len(values) == ends[-1]
    parts = np.split(values, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


# One batch --------------------------------------------------------------------------
def assert_factors_are_those_of_kfac_jax(problem: Problem, name: str, row: int) -> None:
    factors = problem.factors(STORED[f"{name}/factors"][row])
    scales = STORED[f"{name}/scales"][row]
    for layer, block in enumerate(problem.optimizer.blocks):
        a, g = factors[2 * layer : 2 * layer + 2]
        # A scale above 1 is what A was divided by, one below what G was multiplied by.
        of_a = max(scales[layer], 1.0)
        twins.assert_close(block.factors().a, of_a * a, OF_FACTORS)
        twins.assert_close(block.factors().g, scales[layer] / of_a * g, OF_FACTORS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_factors_and_preconditioned_gradients_of_a_batch_are_those_of_kfac_jax(
    monkeypatch, name, mode
):
    row = MODES.index(mode)
    found, stored = {}, {}
    for inverse, damping in [("cholesky", "factored"), ("eigen", "exact")]:
        problem = Problem(name, inverse=inverse)
        problem.update_factors(monkeypatch, name, mode)
        assert_factors_are_those_of_kfac_jax(problem, name, row)
        found[inverse] = problem.preconditioned()
        stored[damping] = problem.matrices(STORED[f"{name}/{damping}"][row])

    for layer, block in enumerate(problem.optimizer.blocks):
        factored, exact = stored["factored"][layer], stored["exact"][layer]
        # The two dampings are so far apart that one is not taken for the other, but
        # where G is a number and kfac-jax's are the same.
        apart = 0.5 * np.abs(factored).max() < np.abs(factored - exact).max()
        assert apart == (block.num_outputs > 1)
        of_factored = "cholesky" if block.num_outputs > 1 else "eigen"
        twins.assert_close(found[of_factored][layer], factored, OF_STEPS)
        twins.assert_close(found["eigen"][layer], exact, OF_STEPS)


def test_a_factor_of_one_number_is_damped_otherwise_than_by_kfac_jax(monkeypatch):
    problem = Problem("one_output")
    problem.update_factors(monkeypatch, "one_output", "fisher_exact")
    row = MODES.index("fisher_exact")
    theirs = problem.matrices(STORED["one_output/factored"][row])[-1]
    ours = problem.preconditioned()[-1]
    # A + λ / G and G, where the package has A + π √λ and G + √λ / π: shorter steps.
    assert np.abs(ours).max() < 0.9 * np.abs(theirs).max()


# Ten steps --------------------------------------------------------------------------
def in_words_of_the_package(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `kfac.KFAC` for those of kfac-jax; see the module's docstring."""
    momentum = settings.get("momentum", 0.0)
    words: dict[str, Any] = {
        "learning_rate": settings.get("learning_rate", 1.0) / (1.0 - momentum),
        "momentum": momentum,
        "inverse_update_period": settings.get("inverse_update_period", 1),
        "stagger_inverses": False,
    }
    if "norm_constraint" in settings:
        words["kl_radius"] = 0.5 * settings["norm_constraint"] / (1.0 - momentum) ** 2
    if settings.get("use_exact_inverses"):
        words["inverse"] = "eigen"
    if settings.get("estimation_mode") == "fisher_empirical":
        words["fisher"] = "empirical"
    if settings.get("use_adaptive_learning_rate"):
        words["step_rule"] = "quadratic"
    if settings.get("use_adaptive_damping"):
        words["damping"] = settings["initial_damping"]
        words["damping_period"] = settings["damping_adaptation_interval"]
    return words


@pytest.mark.parametrize(("name", "trajectory"), TRAJECTORIES)
def test_ten_steps_are_those_of_kfac_jax(monkeypatch, name, trajectory):
    settings = ABOUT["trajectories"][name][trajectory]
    problem = Problem(name, **in_words_of_the_package(settings))
    optimizer = problem.optimizer
    if optimizer.inverse_update_period > 1:
        # Past the first period, in which inverses are made at every step.
        optimizer.iterations.assign(optimizer.inverse_update_period)
    start = STORED[f"{name}/weights"]
    scales = []
    stored = {entry: STORED[f"{name}/{trajectory}/{entry}"] for entry in ENTRIES}
    for sampled, damping, weights in zip(*stored.values(), strict=True):
        problem.take(monkeypatch, sampled)
        np.testing.assert_allclose(optimizer.current_damping, damping, rtol=1e-6)
        problem.model.train_on_batch(problem.x, problem.y)
        twins.assert_close(problem.flattened() - start, weights - start, OF_STEPS)
        scales.append(float(optimizer.trust_region_scale))
    if optimizer.kl_radius is not None:
        # Both cases of equation (11).
        assert min(scales) < 0.9
        assert max(scales) == 1.0
    if trajectory == "rising_damping":
        # Both ways of equation (20).
        assert set(np.sign(np.diff(stored["damping"]))) == {-1, 1}
