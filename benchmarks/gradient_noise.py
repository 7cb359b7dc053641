"""How much of the natural gradient is signal: a table by damping and λ of the returns.

    python benchmarks/gradient_noise.py RUN_DIR [--batches=48]

The policy of a run's newest checkpoint plays, without learning, and each rollout gives
a gradient g_k of the policy's loss (and of the value's, where they share an
optimizer). With F the run's own damped factors,

    total  = mean_k ⟨g_k, F⁻¹ g_k⟩             what a trust region bounds
    signal = mean_{j≠k} ⟨g_j, F⁻¹ g_k⟩         its part that all batches share

are unbiased. Their ratio says how many updates must be averaged before the direction is
known; at a given radius a step improves the loss by about signal / sqrt(total).
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from arguments import at_least
from resumed import Resumed, resume

from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.losses import actor_critic_loss
from acktr_tf.algorithms.returns import Batch, make_batch
from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.errors import UserError
from acktr_tf.kfac import KFAC
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.types import Array

DAMPINGS = (0.0005, 0.005, 0.05)
LAMBDAS = (1.0, 0.95, 0.9, 0.8)

Matrices = list[Array]
"""A gradient, as one matrix a block."""


def settings_of(run: Resumed) -> ACKTRSettings:
    """Returns the settings of the algorithm, which is ACKTR."""
    settings = run.config.algorithm
    assert isinstance(settings, ACKTRSettings)
    return settings


def losses_of(run: Resumed) -> tuple[str, ...]:
    """Those whose gradients the optimizer is given."""
    separate = settings_of(run).critic == "separate"
    return ("policy",) if separate else ("policy", "value")


def gradients(run: Resumed, optimizer: KFAC, batches: list[Batch]) -> list[Matrices]:
    """Of each batch each loss'; the batches differ in advantages and targets."""
    blocks = optimizer.blocks
    weights = [variable for block in blocks for variable in block.variables]
    found = []
    for batch in batches:
        with tf.GradientTape(persistent=True) as tape:
            output = run.policy(batch.observation)
            parts = actor_critic_loss(
                run.policy.distribution(output), output.value, batch, 0.0, 0.0
            )
            losses = {
                "policy": parts.policy,
                "value": settings_of(run).loss.value_cost * parts.value,
            }
        for name in losses_of(run):
            values = tape.gradient(
                losses[name],
                [weight.value for weight in weights],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            of = {id(w): g for w, g in zip(weights, values, strict=True)}
            found.append(
                [b.to_matrix([of[id(v)] for v in b.variables]).numpy() for b in blocks]
            )
    return found


def inverse_of(block: Block, damping: float) -> tuple[Array, Array]:
    """A⁻¹ and G⁻¹, damped."""
    a, g = block.factors()
    inverse_a, inverse_g = block.invert([a.numpy(), g.numpy()], damping).arrays
    return inverse_a, inverse_g


def products(
    samples: Sequence[Matrices], inverses: Sequence[tuple[Array, Array]]
) -> Array:
    """⟨g_j, F⁻¹ g_k⟩ of all pairs, `[K, K]`, with A⁻¹ and G⁻¹ of each block."""
    found = np.zeros((len(samples), len(samples)))
    for block, (inverse_a, inverse_g) in enumerate(inverses):
        mine = [sample[block] for sample in samples]
        left = np.stack([np.ravel(g) for g in mine])
        found += left @ np.stack([np.ravel(inverse_a @ g @ inverse_g) for g in mine]).T
    return found


def signal_and_total(pairs: Array) -> tuple[float, float]:
    """The mean of the pairs of different batches, and that of each with itself."""
    count, own = len(pairs), float(np.trace(pairs))
    return (float(pairs.sum()) - own) / (count * (count - 1)), own / count


def table(run: Resumed, batches: int) -> Iterator[str]:
    """Rows.

    Raises:
      UserError: The run is not ACKTR's.
    """
    config = run.config
    if not isinstance(run.learner, ACKTR):
        raise UserError("Only runs of ACKTR have a Fisher matrix.")
    optimizer = run.learner.actor.optimizer
    returns = config.returns
    target = returns.value_lambda
    if target is None:
        target = returns.gae_lambda
    # Of each rollout a gradient for each λ and loss.
    samples = [
        gradients(
            run,
            optimizer,
            [
                make_batch(
                    rollout,
                    dataclasses.replace(returns, gae_lambda=decay, value_lambda=target),
                )
                for decay in LAMBDAS
            ],
        )
        for rollout in run.rollouts(batches)
    ]
    yield "| λ | damping | loss | signal | total | signal/total | signal/√total |"
    yield "|---|---|---|---|---|---|---|"
    for damping in DAMPINGS:
        inverses = [inverse_of(block, damping) for block in optimizer.blocks]
        rows = [(decay, loss) for decay in LAMBDAS for loss in losses_of(run)]
        for i, (decay, loss) in enumerate(rows):
            signal, total = signal_and_total(
                products([sample[i] for sample in samples], inverses)
            )
            yield (
                f"| {decay:g} | {damping:g} | {loss} | {signal:.2e} | {total:.2e} "
                f"| {signal / total:.4f} | {signal / total**0.5:.4f} |"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--batches", type=at_least(2), default=48)
    arguments = parser.parse_args(argv)
    try:
        run = resume(arguments.run_dir)
        print(
            f"step {run.step}, {arguments.batches} batches of {run.config.batch_size}\n"
        )
        for row in table(run, arguments.batches):
            print(row, flush=True)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
