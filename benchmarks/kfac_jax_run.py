"""Times updates of kfac-jax; started by against_kfac_jax.py, which says what it needs.

python benchmarks/kfac_jax_run.py --problem=FILE --result=FILE
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

Weights = list[tuple[jax.Array, jax.Array]]


def apply(layers: list[list[int]], weights: Weights, x: jax.Array) -> jax.Array:
    """The logits, of layers as against_kfac_jax.py writes them."""
    for number, (layer, (kernel, bias)) in enumerate(zip(layers, weights, strict=True)):
        if len(layer) > 1:
            _, _, stride = layer
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        else:
            x = x.reshape(len(x), -1) @ kernel
        x = x + bias
        if number < len(layers) - 1:
            x = jnp.maximum(x, 0.0)
    return x


class ExplicitPatches(kfac_jax.Conv2DTwoKroneckerFactored):
    """A convolution whose patches are laid out before their second moments are taken.

    kfac-jax has both ways; by itself it takes the other, a convolution of four axes for
    each element of the kernel, for which XLA is slow on a CPU.
    """

    def compute_inputs_stats(
        self, inputs: jax.Array, weighting_array: jax.Array | None = None
    ) -> jax.Array:
        """The mean of ā āᵀ over examples and positions."""
        del weighting_array
        layer = self.layer_tag_extra_params
        moments, sums = kfac_jax.patches_moments_explicit(
            inputs,
            kernel_spatial_shape=self.weights_spatial_shape,
            strides=layer["window_strides"],
            padding=layer["padding"],
            data_format=None,
            dim_numbers=layer["dimension_numbers"],
        )
        total = len(inputs) * self.num_locations
        moments = moments.reshape(sums.size, sums.size)
        ones = jnp.full([1, 1], total, inputs.dtype)
        bias = sums.reshape(1, -1)
        return jnp.block([[moments, bias.T], [bias, ones]]) / total


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--explicit_patches", action="store_true")
    arguments = parser.parse_args()
    with np.load(arguments.problem) as file:
        problem = dict(file)
    about = json.loads(str(problem["about"]))
    batch = jnp.asarray(problem["x"]), jnp.asarray(problem["y"])
    weights = [
        (jnp.asarray(problem[f"kernel{number}"]), jnp.asarray(problem[f"bias{number}"]))
        for number in range(len(about["layers"]))
    ]

    def loss(weights: Weights, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        logits = apply(about["layers"], weights, x)
        kfac_jax.register_softmax_cross_entropy_loss(logits, y)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))

    period = about["inverse_update_period"]
    updates = about["periods"] * period
    total = 2 * period + about["windows"] * updates
    keys = iter(enumerate(np.asarray(jax.random.split(jax.random.PRNGKey(0), total))))
    result: dict[str, Any] = {"loss_before": float(loss(weights, batch))}

    before = time.perf_counter()
    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(loss),
        l2_reg=0.0,
        estimation_mode="fisher_gradients",
        norm_constraint=about["norm_constraint"],
        num_burnin_steps=0,
        curvature_ema=about["factor_decay"],
        curvature_update_period=1,
        inverse_update_period=period,
        layer_tag_to_block_ctor=(
            {"conv2d": ExplicitPatches} if arguments.explicit_patches else None
        ),
        learning_rate_schedule=lambda step: jnp.asarray(about["learning_rate"]),
        momentum_schedule=lambda step: jnp.asarray(about["momentum"]),
        damping_schedule=lambda step: jnp.asarray(about["damping"]),
    )
    state = optimizer.init(weights, jax.random.PRNGKey(1), batch)

    def seconds_of(updates: int) -> float:
        nonlocal weights, state
        before = time.perf_counter()
        for _ in range(updates):
            number, key = next(keys)
            weights, state, _ = optimizer.step(
                weights, state, key, batch=batch, global_step_int=number
            )
        jax.block_until_ready(weights)
        return time.perf_counter() - before

    seconds_of(1)
    result["first"] = time.perf_counter() - before
    seconds_of(2 * period - 1)
    result["seconds"] = [seconds_of(updates) / updates for _ in range(about["windows"])]
    result["loss_after"] = float(loss(weights, batch))
    result["versions"] = {m.__name__: m.__version__ for m in (kfac_jax, jax, np)}
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
