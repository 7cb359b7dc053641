"""Many K-FAC steps on a small network with bad input every so often.

    python benchmarks/bad_input.py [--steps=100000] [--every=50] [--inverse=cholesky]

Every so many steps the batch is one of: all zeros; one feature constant; values of
1e30; one NaN; one infinity; the same example throughout. After each step all weights
must be finite. Printed are what was given, what the optimizer counted, and the loss on
good input, at the start and at the end.
"""

import argparse
import os
import time
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac import KFAC, Likelihoods
from acktr_tf.kfac.inverses import INVERSES

ROWS, FEATURES, CLASSES = 32, 8, 3


def zeros(x: np.ndarray) -> np.ndarray:
    """A batch of nothing."""
    return np.zeros_like(x)


def constant_feature(x: np.ndarray) -> np.ndarray:
    """A feature that says nothing."""
    x[:, 0] = 1.0
    return x


def huge(x: np.ndarray) -> np.ndarray:
    """Squares overflow."""
    return x * np.float32(1e30)


def nan(x: np.ndarray) -> np.ndarray:
    """One number that is none."""
    x[0, 0] = np.nan
    return x


def infinity(x: np.ndarray) -> np.ndarray:
    """One number that is infinite."""
    x[-1, -1] = np.inf
    return x


def one_example(x: np.ndarray) -> np.ndarray:
    """The same example in all rows: factors of rank one."""
    return np.repeat(x[:1], len(x), axis=0)


BAD = (zeros, constant_feature, huge, nan, infinity, one_example)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--inverse", choices=INVERSES, default="cholesky")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(CLASSES),
        ]
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    likelihoods = Likelihoods(loss_of)
    optimizer = KFAC(inverse=arguments.inverse)
    optimizer.attach(model)
    weights = model.trainable_variables

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with optimizer.curvature_tape() as curvature_tape, tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = loss_of(y, outputs)
            log_likelihood = likelihoods.sampled_log_likelihood(
                outputs, optimizer.sampling_key()
            )
        optimizer.update_curvature(curvature_tape, log_likelihood)
        optimizer.apply(tape.gradient(loss, weights), weights)
        finite = [tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]
        return loss, tf.reduce_all(finite)

    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(FEATURES, CLASSES))
    given: Counter[str] = Counter()
    losses = []
    begin = time.perf_counter()
    for number in range(arguments.steps):
        x = generator.normal(size=(ROWS, FEATURES)).astype(np.float32)
        y = np.argmax(x @ teacher, axis=1)
        is_bad = number % arguments.every == arguments.every - 1
        if is_bad:
            spoil = BAD[number // arguments.every % len(BAD)]
            given[spoil.__name__] += 1
            x = spoil(x)
        loss, finite = step(tf.constant(x), tf.constant(y))
        if not finite:
            raise SystemExit(f"Weights are not finite after step {number}.")
        if not is_bad:
            losses.append(float(loss))
    seconds = time.perf_counter() - begin
    print(f"{arguments.steps} steps, {arguments.inverse}, {seconds:.0f} s")
    print(f"bad batches: {dict(given)}")
    print(f"statistics of a layer not used: {int(optimizer.rejected_statistics)}")
    print(f"failed factorizations: {int(optimizer.failed_factorizations)}")
    print(f"steps not taken: {int(optimizer.skipped_steps)}")
    print(f"loss of the first hundred good batches: {np.mean(losses[:100]):.4f}")
    print(f"loss of the last hundred good batches:  {np.mean(losses[-100:]):.4f}")


if __name__ == "__main__":
    main()
