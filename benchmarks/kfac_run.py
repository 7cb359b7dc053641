"""Times updates of acktr_tf.kfac; started by against_kfac_jax.py.

python benchmarks/kfac_run.py --problem=FILE --result=FILE
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from acktr_tf import kfac


def make_model(shape: tuple[int, ...], layers: list[list[int]]) -> keras.Model:
    """Of layers as against_kfac_jax.py writes them."""
    model = kfac.Sequential([keras.Input(shape)])
    flat = len(shape) == 1
    for number, (outputs, *window) in enumerate(layers):
        activation = None if number == len(layers) - 1 else "relu"
        if window:
            size, stride = window
            model.add(
                keras.layers.Conv2D(
                    outputs, size, stride, "same", activation=activation
                )
            )
            continue
        if not flat:
            model.add(keras.layers.Flatten())
            flat = True
        model.add(keras.layers.Dense(outputs, activation=activation))
    return model


def make_optimizer(about: dict[str, Any]) -> kfac.KFAC:
    """What is said in kfac-jax's words; see tests/kfac/test_kfac_jax.py."""
    rest = 1.0 - about["momentum"]
    return kfac.KFAC(
        learning_rate=about["learning_rate"] / rest,
        momentum=about["momentum"],
        kl_radius=0.5 * about["norm_constraint"] / rest**2,
        bound="direction",
        damping=about["damping"],
        factor_decay=about["factor_decay"],
        factor_update_period=1,
        inverse_update_period=about["inverse_update_period"],
        stagger_inverses=False,
        inverse="cholesky",
        curvature_fraction=1.0,
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    arguments = parser.parse_args()
    with np.load(arguments.problem) as file:
        problem = dict(file)
    about = json.loads(str(problem["about"]))
    x, y = problem["x"], problem["y"]
    model = make_model(x.shape[1:], about["layers"])
    numbers = range(len(about["layers"]))
    model.set_weights(
        [
            problem[f"{kind}{number}"]
            for number in numbers
            for kind in ("kernel", "bias")
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result: dict[str, Any] = {"loss_before": float(loss(y, model(x)))}
    batches = iter(tf.data.Dataset.from_tensors((x, y)).cache().repeat())

    before = time.perf_counter()
    model.compile(make_optimizer(about), loss)
    model.make_train_function()

    def seconds_of(updates: int) -> float:
        before = time.perf_counter()
        losses = [model.train_function(batches)["loss"] for _ in range(updates)]
        losses[-1].numpy()
        return time.perf_counter() - before

    seconds_of(1)
    result["first"] = time.perf_counter() - before
    period = about["inverse_update_period"]
    seconds_of(2 * period - 1)
    updates = about["periods"] * period
    result["seconds"] = [seconds_of(updates) / updates for _ in range(about["windows"])]
    result["loss_after"] = float(loss(y, model(x)))
    result["versions"] = {m.__name__: m.__version__ for m in (tf, keras, np)}
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
