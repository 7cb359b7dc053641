"""How much of the natural gradient is signal: a table by damping and λ of the returns.

    python benchmarks/gradient_noise.py RUN_DIR [--batches=48]

The policy of a run's newest checkpoint plays, without learning, and each rollout gives
a gradient g_k of the policy's loss (and of the value's). With F the run's own damped
factors,

    total  = mean_k ⟨g_k, F⁻¹ g_k⟩             what a trust region bounds
    signal = mean_{j≠k} ⟨g_j, F⁻¹ g_k⟩         its part that all batches share

are unbiased. Their ratio says how many updates must be averaged before the direction is
known; at a given radius a step improves the loss by about signal / sqrt(total).
"""

import argparse
from pathlib import Path

import numpy as np

from acktr_tf.backend import load_tensorflow

DAMPINGS = (0.0005, 0.005, 0.05)
LAMBDAS = (1.0, 0.95, 0.9, 0.8)
BURN_IN = 60  # Rollouts, so that the games are no longer in step.


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--batches", type=int, default=48)
    arguments = parser.parse_args()
    load_tensorflow()
    import tensorflow as tf

    from acktr_tf import checkpoint, run_directory
    from acktr_tf.algorithms import make_algorithm, make_batch
    from acktr_tf.environments import make_vector_env
    from acktr_tf.policy import ActorCritic
    from acktr_tf.rollout import Collector

    config, _ = run_directory.read_config(arguments.run_dir)
    environments = make_vector_env(config)
    policy = ActorCritic(
        config, environments.observation_space, environments.action_space
    )
    algorithm = make_algorithm(config, policy)
    optimizer = algorithm.optimizer
    saved = checkpoint.load(
        checkpoint.latest(arguments.run_dir / run_directory.CHECKPOINTS)
    )
    for name, variables in [
        ("policy", policy.variables),
        ("algorithm", algorithm.variables),
    ]:
        checkpoint.assign_variables(name, variables, saved.arrays)
    collector = Collector(
        policy,
        environments,
        config.unroll_length,
        config.seed + 1,
        environments.reset(),
    )
    weights = policy.network.trainable_variables

    @tf.function
    def gradients(observation, action, advantages, targets):
        """Of the policy's and of the value's loss, for each λ."""
        with tf.GradientTape(persistent=True) as tape:
            distribution, value = policy.evaluate(observation)
            log_prob = distribution.log_prob(action)
            losses = [
                loss
                for advantage, target in zip(advantages, targets, strict=True)
                for loss in (
                    -tf.reduce_mean(advantage * log_prob),
                    0.5 * config.value_cost * tf.reduce_mean((value - target) ** 2),
                )
            ]
        none = tf.UnconnectedGradients.ZERO
        values = [weight.value for weight in weights]
        return [tape.gradient(x, values, unconnected_gradients=none) for x in losses]

    step, samples = saved.step, []
    for index in range(BURN_IN + arguments.batches):
        rollout = collector.collect(step).rollout
        step += config.batch_size
        if index < BURN_IN:
            continue
        batches = [make_batch(rollout, config.discount, x) for x in LAMBDAS]
        by_loss = gradients(
            *(tf.constant(column) for column in batches[0][:2]),
            [tf.constant(batch.advantage) for batch in batches],
            [tf.constant(batch.target) for batch in batches],
        )
        samples.append(
            [
                [
                    block.to_matrix([gradient_of[id(v)] for v in block.variables])
                    for block in optimizer.blocks
                ]
                for gradient_of in (
                    {id(v): g for v, g in zip(weights, one, strict=True)}
                    for one in by_loss
                )
            ]
        )

    print(f"step {saved.step}, {arguments.batches} batches of {config.batch_size}\n")
    print("| λ | damping | loss | signal | total | signal/total | signal/√total |")
    print("|---|---|---|---|---|---|---|")
    for damping in DAMPINGS:
        # Of "cholesky": the two inverses, whether they succeeded, and failures.
        inverses = [
            block.solve(*(factor.numpy() for factor in block.factors()), damping)[:2]
            for block in optimizer.blocks
        ]
        for i, gae_lambda in enumerate(LAMBDAS):
            for j, loss in enumerate(("policy", "value")):
                products = sum(
                    _products([sample[2 * i + j][k] for sample in samples], *inverse)
                    for k, inverse in enumerate(inverses)
                )
                count = len(samples)
                total = np.trace(products) / count
                signal = (products.sum() - np.trace(products)) / (count * (count - 1))
                print(
                    f"| {gae_lambda:g} | {damping:g} | {loss} | {signal:.2e} | "
                    f"{total:.2e} | {signal / total:.4f} | {signal / total**0.5:.4f} |"
                )


def _products(gradients, inverse_a, inverse_g) -> np.ndarray:
    """⟨g_j, F⁻¹ g_k⟩ of one block, for all pairs."""
    left = np.stack([np.ravel(g) for g in gradients])
    right = np.stack([np.ravel(inverse_a @ g @ inverse_g) for g in gradients])
    return left @ right.T


if __name__ == "__main__":
    main()
