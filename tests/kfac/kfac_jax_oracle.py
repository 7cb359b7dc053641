"""What DeepMind's kfac-jax makes of small networks, for test_kfac_jax.py.

It needs a Python of its own (JAX 0.9 changed a function that kfac-jax 0.0.8 calls):

    python -m venv ENV
    ENV/bin/pip install "kfac-jax==0.0.8" "jax<0.9"
    ENV/bin/python tests/kfac/kfac_jax_oracle.py

That writes kfac_jax.npz beside this file, in a minute or two: weights, inputs and
targets of each network; of one batch the targets that kfac-jax sampled, its Kronecker
factors and its preconditioned gradients; and of ten steps the targets sampled in each,
and the weights after it. All is computed in float64; weights are stored in float32,
which is what they have in the tests.

Nothing here is scaled to fit the package but by the weights of losses; see
`Problem.loss`. The entry "about" has the settings in kfac-jax's words; what they are in
the package's, and why, says test_kfac_jax.py.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

DATA = Path(__file__).with_name("kfac_jax.npz")
STEPS = 10
DAMPING = 0.05
CURVATURE_EMA = 0.9

Weights = list[tuple[jax.Array, jax.Array]]
"""Kernel and bias of each layer."""

# A dense layer is [units, activation]; a convolution [filters, kernel size, strides,
# padding, activation]. Everything is flattened before the last layer.
NETWORKS: dict[str, dict[str, Any]] = {
    "classifier": {
        "loss": "cross_entropy",
        "inputs": [7, 4],
        "layers": [[5, "tanh"], [3, "linear"]],
    },
    "regression": {
        "loss": "squared_error",
        "inputs": [6, 3],
        "layers": [[4, "tanh"], [2, "linear"]],
    },
    # The last layer has one output, so that its G is a number.
    "one_output": {
        "loss": "squared_error",
        "inputs": [6, 3],
        "layers": [[4, "tanh"], [1, "linear"]],
    },
    # "SAME" puts one more row and column after the picture than before it.
    "convolutions": {
        "loss": "cross_entropy",
        "inputs": [6, 8, 7, 2],
        "layers": [
            [3, [3, 2], 2, "same", "tanh"],
            [2, [2, 2], 2, "valid", "tanh"],
            [3, "linear"],
        ],
    },
    # A dense layer on the four items of a sequence.
    "sequence": {
        "loss": "cross_entropy",
        "inputs": [6, 4, 2],
        "layers": [[3, "tanh"], [3, "linear"]],
    },
}

# Of `kfac_jax.Optimizer`, and of its `step`.
TRAJECTORIES: dict[str, dict[str, Any]] = {
    "plain": {"learning_rate": 0.3, "momentum": 0.0},
    "momentum": {"learning_rate": 0.1, "momentum": 0.8},
    "radius": {"learning_rate": 0.2, "momentum": 0.5, "norm_constraint": 0.015},
    "stale": {"learning_rate": 0.2, "momentum": 0.0, "inverse_update_period": 3},
    "exact_damping": {
        "learning_rate": 0.1,
        "momentum": 0.8,
        "use_exact_inverses": True,
    },
    "empirical": {
        "learning_rate": 0.1,
        "momentum": 0.0,
        "estimation_mode": "fisher_empirical",
    },
    "quadratic": {"use_adaptive_learning_rate": True, "use_adaptive_momentum": True},
    "falling_damping": {
        "use_adaptive_learning_rate": True,
        "use_adaptive_momentum": True,
        "use_adaptive_damping": True,
        "initial_damping": DAMPING,
        "damping_adaptation_interval": 2,
        "damping_adaptation_decay": 19 / 20,
        "include_damping_in_quad_change": True,
    },
    # So little at first that it rises before it falls.
    "rising_damping": {
        "use_adaptive_learning_rate": True,
        "use_adaptive_momentum": True,
        "use_adaptive_damping": True,
        "initial_damping": 0.002,
        "damping_adaptation_interval": 1,
        "damping_adaptation_decay": 19 / 20,
        "include_damping_in_quad_change": True,
    },
}
TRAJECTORIES_OF = {
    "classifier": list(TRAJECTORIES),
    "regression": ["radius", "empirical", "quadratic"],
    "one_output": ["exact_damping"],
    "convolutions": ["plain", "radius"],
    "sequence": ["radius"],
}
MODES = ["fisher_gradients", "fisher_exact", "fisher_empirical"]


# Networks ---------------------------------------------------------------------------
def random_numbers(rng: np.random.Generator, scale: float, *shape: int) -> jax.Array:
    """Normal numbers that float32 and float64 hold alike."""
    return jnp.asarray(rng.normal(0, scale, shape).astype(np.float32), jnp.float64)


class Problem:
    """A network with weights, a batch, and a loss that kfac-jax knows.

    Args:
      name: One of NETWORKS.
    """

    def __init__(self, name: str) -> None:
        network = NETWORKS[name]
        self.layers = network["layers"]
        self.classifies = network["loss"] == "cross_entropy"
        rng = np.random.default_rng(sorted(NETWORKS).index(name))
        self.x = random_numbers(rng, 1.0, *network["inputs"])
        self.examples = len(self.x)
        outputs = self.layers[-1][0]
        if self.classifies:
            self.y = jnp.asarray(rng.integers(outputs, size=self.examples))
        else:
            self.y = random_numbers(rng, 1.0, self.examples, outputs)
        self.weights = list(self._make_weights(rng))

    def _make_weights(
        self, rng: np.random.Generator
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        hidden = self.x
        for number, layer in enumerate(self.layers):
            if number == len(self.layers) - 1:
                hidden = hidden.reshape(self.examples, -1)
            window = layer[1] if len(layer) > 2 else []
            shape = (*window, hidden.shape[-1], layer[0])
            kernel = random_numbers(rng, 0.9 / np.sqrt(np.prod(shape[:-1])), *shape)
            weights = kernel, random_numbers(rng, 0.3, layer[0])
            hidden = self._apply(layer, weights, hidden)
            yield weights

    @staticmethod
    def _apply(
        layer: list[Any], weights: tuple[jax.Array, jax.Array], x: jax.Array
    ) -> jax.Array:
        kernel, bias = weights
        if len(layer) > 2:
            _, _, stride, padding, _ = layer
            outputs = jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                padding.upper(),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        else:
            outputs = x @ kernel
        outputs = outputs + bias
        return jnp.tanh(outputs) if layer[-1] == "tanh" else outputs

    def outputs(self, weights: Weights) -> jax.Array:
        """`[N, K]`."""
        hidden = self.x
        for layer, of_layer in zip(self.layers[:-1], weights[:-1], strict=True):
            hidden = self._apply(layer, of_layer, hidden)
        hidden = hidden.reshape(self.examples, -1)
        return self._apply(self.layers[-1], weights[-1], hidden)

    def loss(self, mode: str) -> Callable[[Weights, Any], jax.Array]:
        """A mean over the batch and, of squared errors, over the outputs.

        kfac-jax takes squared errors for summed over the outputs unless a weight says
        otherwise. Its empirical Fisher matrix is divided by the batch size once more
        than the others, which a weight of the batch size's root makes up for.
        """
        root = math.sqrt(self.examples) if mode == "fisher_empirical" else 1.0

        def loss(weights: Weights, batch: Any) -> jax.Array:
            del batch  # Always the same.
            outputs = self.outputs(weights)
            if self.classifies:
                kfac_jax.register_softmax_cross_entropy_loss(
                    outputs, self.y, weight=root
                )
                log_p = jax.nn.log_softmax(outputs)
                return -jnp.mean(jnp.take_along_axis(log_p, self.y[:, None], axis=1))
            kfac_jax.register_squared_error_loss(
                outputs, self.y, weight=root / outputs.shape[1]
            )
            return jnp.mean(jnp.square(outputs - self.y))

        return loss

    def sampled(self, weights: Weights, key: jax.Array) -> np.ndarray:
        """What kfac-jax samples: classes `[N]`, or noise of variance 1 `[N, K]`."""
        outputs = self.outputs(weights)
        if self.classifies:
            kind = kfac_jax.CategoricalLogitsNegativeLogProbLoss
            return np.asarray(kind(outputs).sample(key), np.int32)
        loss = kfac_jax.NormalMeanNegativeLogProbLoss(outputs)
        return np.asarray((loss.sample(key) - outputs) / np.sqrt(loss.variance))


# What is stored ---------------------------------------------------------------------
def flat(arrays: Any) -> np.ndarray:
    """All elements one after the other: of weights kernel, bias, kernel, bias, ..."""
    return np.concatenate(
        [np.ravel(each) for each in jax.tree_util.tree_leaves(arrays)]
    )


def one_batch(problem: Problem, mode: str, key: jax.Array) -> dict[str, np.ndarray]:
    """Factors of the batch, and gradients preconditioned by them."""
    arguments = (problem.weights, (problem.x, problem.y))
    loss = problem.loss(mode)
    estimator = kfac_jax.BlockDiagonalCurvature(loss)
    state = estimator.init(key, arguments, None, None)
    pairs = [(2 * layer, 2 * layer + 1) for layer in range(len(problem.layers))]
    if list(estimator.indices_to_block_map) != pairs:
        raise RuntimeError("kfac-jax did not find each layer's kernel and bias.")
    state = estimator.update_curvature_matrix_estimate(
        state,
        ema_old=0.0,
        ema_new=1.0,
        identity_weight=DAMPING,
        batch_size=problem.examples,
        rng=key,
        func_args=arguments,
        estimation_mode=mode,
    )
    gradient = jax.grad(loss)(*arguments)

    def preconditioned(exact: bool) -> np.ndarray:
        return flat(
            estimator.multiply_inverse(
                state,
                gradient,
                identity_weight=DAMPING,
                exact_power=exact,
                use_cached=False,
                pmap_axis_name=None,
            )
        )

    blocks = list(zip(estimator.blocks, state.blocks_states, strict=True))
    return {
        "factors": flat(
            [[f.value for f in of_block.factors] for _, of_block in blocks]
        ),
        "scales": flat([block.scale(of_block, False) for block, of_block in blocks]),
        "factored": preconditioned(exact=False),
        "exact": preconditioned(exact=True),
    }


def trajectory(problem: Problem, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """So many steps on the same batch."""
    settings = {"estimation_mode": "fisher_gradients", **settings}
    # What is not set here is decided by kfac-jax, or passed to every step.
    of_steps = {
        name: settings.pop(name, None) for name in ("learning_rate", "momentum")
    }
    if not settings.get("use_adaptive_damping"):
        of_steps["damping"] = DAMPING
    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(problem.loss(settings["estimation_mode"])),
        l2_reg=0.0,
        num_burnin_steps=0,
        curvature_ema=CURVATURE_EMA,
        **{"inverse_update_period": 1, **settings},
    )
    batch = (problem.x, problem.y)
    keys = jax.random.split(jax.random.PRNGKey(2), STEPS)
    # The optimizer frees the arrays that it is given.
    weights = jax.tree_util.tree_map(jnp.copy, problem.weights)
    state = optimizer.init(weights, keys[0], batch)
    sampled, found, noted = [], [], []
    for number, key in enumerate(keys):
        sampled.append(problem.sampled(weights, key))
        weights, state, stats = optimizer.step(
            weights, state, key, batch=batch, global_step_int=number, **of_steps
        )
        found.append(flat(weights))
        noted.append(stats)
    print("   loss", *(f"{stats['loss']:.3f}" for stats in noted))
    if "norm_constraint" in settings:
        norms = [stats["scaled_grad_norm_sq"] for stats in noted]
        bound = sum(bool(norm > settings["norm_constraint"]) for norm in norms)
        print(f"    the norm constraint bound {bound} of {STEPS} steps")
    return {
        "sampled": np.stack(sampled),
        "damping": np.array([stats["damping"] for stats in noted]),
        "weights": np.stack(found).astype(np.float32),
    }


def main() -> None:
    """See the module's docstring."""
    jax.config.update("jax_enable_x64", True)
    about = {
        "made_by": {m.__name__: m.__version__ for m in (kfac_jax, jax, np)},
        "networks": NETWORKS,
        "modes": MODES,
        "damping": DAMPING,
        "curvature_ema": CURVATURE_EMA,
        "trajectories": {
            network: {name: TRAJECTORIES[name] for name in names}
            for network, names in TRAJECTORIES_OF.items()
        },
    }
    arrays: dict[str, Any] = {"about": json.dumps(about)}
    for name in NETWORKS:
        print(name)
        problem = Problem(name)
        arrays[f"{name}/x"] = np.asarray(problem.x, np.float32)
        arrays[f"{name}/y"] = np.asarray(problem.y, np.float32)
        arrays[f"{name}/weights"] = flat(problem.weights).astype(np.float32)
        key = jax.random.PRNGKey(1)
        arrays[f"{name}/sampled"] = problem.sampled(problem.weights, key)
        of_modes = [one_batch(problem, mode, key) for mode in MODES]
        for entry in of_modes[0]:
            # One row a mode.
            arrays[f"{name}/{entry}"] = np.stack([found[entry] for found in of_modes])
        for variant in TRAJECTORIES_OF[name]:
            print(" ", variant)
            for entry, value in trajectory(problem, TRAJECTORIES[variant]).items():
                arrays[f"{name}/{variant}/{entry}"] = value
    np.savez_compressed(DATA, **arrays)


if __name__ == "__main__":
    main()
