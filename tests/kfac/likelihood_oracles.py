"""Fisher matrices of Keras' own losses, differentiated in float64."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions
losses = keras.losses

KEY = tf.constant([3, 5])
KEYS, ROWS = 5, 4_000

GAUSSIAN = losses.MeanSquaredError(dtype="float64")
BERNOULLI = losses.BinaryCrossentropy(dtype="float64")
BERNOULLI_LOGITS = losses.BinaryCrossentropy(from_logits=True, dtype="float64")
CATEGORICAL = losses.CategoricalCrossentropy(dtype="float64")
CATEGORICAL_LOGITS = losses.CategoricalCrossentropy(from_logits=True, dtype="float64")

# Loss, and the shape of one example's outputs.
CASES = [
    pytest.param(loss, shape, id=f"{name}-{shape}")
    for name, loss, shapes in [
        ("gaussian", GAUSSIAN, [(), (3,), (2, 2), (2, 1, 2)]),
        ("bernoulli", BERNOULLI, [(), (1,), (3,), (2, 2)]),
        ("bernoulli-logits", BERNOULLI_LOGITS, [(), (1,), (3,), (2, 2)]),
        ("categorical", CATEGORICAL, [(3,), (2, 3), (2, 1, 2)]),
        ("categorical-logits", CATEGORICAL_LOGITS, [(3,), (2, 3), (2, 1, 2)]),
    ]
    for shape in shapes
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def outputs_for(loss: losses.Loss, *shape: int) -> np.ndarray:
    """Outputs as a model trained by that loss may have them, float64."""
    if loss in (BERNOULLI, CATEGORICAL):
        # Of categories they do not add up to one: Keras divides by their sum.
        return np.random.default_rng(0).uniform(0.2, 0.8, shape)
    return normal(*shape)


def keras_losses(loss: losses.Loss, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keras' loss of each of many rows `[B, ...]` of outputs, for one target."""
    if rows.ndim == 1:
        target, rows = target[None], rows[:, None]
    values = loss.call(np.broadcast_to(target, rows.shape).copy(), rows)
    return np.mean(np.reshape(values, (len(rows), -1)), axis=1)


def targets_of(loss: losses.Loss, output: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """All targets of one example, with their probabilities in the model."""
    if loss is GAUSSIAN:
        return [(1.0, normal(*output.shape, seed=1))]  # Its Hessian has no target.
    if loss in (BERNOULLI, BERNOULLI_LOGITS):
        ones = output if loss is BERNOULLI else 1 / (1 + np.exp(-output))
        flat = np.stack([1 - ones.ravel(), ones.ravel()], axis=1)
        choices = np.array([0.0, 1.0])
    else:
        mass = output if loss is CATEGORICAL else np.exp(output)
        flat = (mass / mass.sum(axis=-1, keepdims=True)).reshape(-1, mass.shape[-1])
        choices = np.eye(mass.shape[-1])
    found = []
    for picks in itertools.product(range(flat.shape[1]), repeat=len(flat)):
        probability = np.prod(
            [row[pick] for row, pick in zip(flat, picks, strict=True)]
        )
        found.append((probability, choices[list(picks)].reshape(output.shape)))
    assert np.isclose(sum(probability for probability, _ in found), 1)
    return found


def exact_fisher(loss: losses.Loss, output: np.ndarray) -> np.ndarray:
    """The expected Hessian of Keras' loss of one example, `[P, P]`.

    By central differences: rounding errs by 1e-16 / h², h² is what truncation errs by.
    """
    step, size = 1e-4, output.size
    moves = step * np.eye(size)
    forth, back = moves[:, None] + moves, moves[:, None] - moves
    rows = output + np.stack([forth, back, -back, -forth]).reshape(-1, *output.shape)
    values = sum(p * keras_losses(loss, y, rows) for p, y in targets_of(loss, output))
    signs = np.array([1, -1, -1, 1]) / (4 * step**2)
    return np.tensordot(signs, values.reshape(4, size, size), axes=1)


def scores(log_likelihood: Callable[..., tf.Tensor], outputs: Any) -> list[np.ndarray]:
    """Gradients `[N, P]` of the sum of log-likelihoods, by each of the outputs."""
    outputs = [tf.convert_to_tensor(each) for each in outputs]
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        values = log_likelihood(outputs)
    assert values.shape == (len(outputs[0]),)
    found = tape.gradient(values, outputs)
    return [np.reshape(each, (len(each), -1)).astype(np.float64) for each in found]


def sampled_scores(
    log_likelihood: Callable[..., tf.Tensor], *output: np.ndarray
) -> np.ndarray:
    """KEYS × ROWS independent ones, of one example's outputs: `[S, P]`."""
    rows = [np.repeat(each[None], ROWS, axis=0) for each in output]
    found = [
        scores(lambda o, key=key: log_likelihood(o, tf.constant([7, key])), rows)
        for key in range(KEYS)
    ]
    return np.concatenate([np.concatenate(each, axis=1) for each in found])


def assert_mean(samples: np.ndarray, expected: np.ndarray) -> None:
    """The mean of independent samples `[S, ...]` is within 4 standard errors.

    The chance that it is not is 6e-5 an entry; the keys are fixed.
    """
    standard_error = samples.std(axis=0) / np.sqrt(len(samples))
    # What does not vary is off by float32's rounding.
    rounding = 1e-6 * np.abs(expected).max(initial=1.0)
    error = np.abs(samples.mean(axis=0) - expected)
    np.testing.assert_array_less(error, 4 * standard_error + rounding)


def assert_second_moment(samples: np.ndarray, expected: np.ndarray) -> None:
    assert_mean(samples, np.zeros(samples.shape[1]))
    products = samples[:, :, None] * samples[:, None]
    assert_mean(products, expected)
    # And there are enough of them for that to say something.
    standard_error = products.std(axis=0) / np.sqrt(len(products))
    assert np.linalg.norm(standard_error) < 0.05 * np.linalg.norm(expected)


@keras.saving.register_keras_serializable(package="likelihood_oracles")
def poisson(outputs: tf.Tensor) -> tfd.Distribution:
    return tfd.Poisson(log_rate=outputs)
