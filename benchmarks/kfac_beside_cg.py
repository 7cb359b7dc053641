"""Compares the K-FAC step with the exact natural gradient on the batches of a run.

    python benchmarks/kfac_beside_cg.py --flagfile=mujoco.flags [--flags="--seed=1"] \
        [--batches=10] [--json=FILE]

Trains a run with critic=separate in this process, without logs or checkpoints. On early
and on its last batches, before the update, the policy's gradient is preconditioned
twice: by K-FAC's inverse, and by conjugate gradients with the Fisher matrix of the
batch itself and the same damping. Both directions have the length at which each
method predicts a KL of `kl_radius`. Printed are medians over the batches, with the
least and the most: the cosine of the two directions, Euclidean and in the metric of the
exact Fisher matrix; the exact KL of either step, which would be `kl_radius` were its
prediction right; the decrease of the surrogate loss per nat of exact KL; and the
products with the Fisher matrix that conjugate gradients took, without a preconditioner
and with K-FAC as one.
"""

import argparse
import json
import os
import shlex
from collections import defaultdict
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from arguments import output_file
from machine import machine

from acktr_tf.algorithms import make_learner
from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.conjugate_gradient import (
    Vector,
    conjugate_gradient,
    fisher_product,
    inner_product,
)
from acktr_tf.algorithms.losses import actor_critic_gradients, policy_kl
from acktr_tf.algorithms.returns import Batch, make_batch
from acktr_tf.cli.flags import config_from
from acktr_tf.config import Config
from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.environments import make_vector_env
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.random_keys import KeyStream
from acktr_tf.training.collector import Collector
from acktr_tf.training.normalization import RunningNormalization

MAX_ITERATIONS, TOLERANCE = 200, 1e-3


def compare(
    learner: ACKTR, settings: ACKTRSettings, batch: Batch, key: tf.Tensor
) -> dict[str, float]:
    """Returns what the module's docstring lists, on one batch.

    The learner's state is changed; the caller restores it.
    """
    policy, actor = learner.policy, learner.actor
    damping, radius = settings.kfac.damping, settings.kfac.kl_radius or 0.001
    actor.update_curvature(batch.observation, key)
    actor.update_inverses()
    variables = actor.variables

    @tf.function(autograph=False)
    def directions(batch: Batch) -> dict[str, Any]:
        gradients = actor_critic_gradients(
            policy, actor, batch, tf.constant(0.0), 0.0
        ).gradients
        fisher = fisher_product(
            variables,
            policy,
            lambda *outputs: policy_kl(*map(policy.distribution, outputs)),
            batch.observation,
        )

        def damped(vector: Vector) -> Vector:
            return [
                p + damping * v for p, v in zip(fisher(vector), vector, strict=True)
            ]

        kfac = actor.precondition(gradients)
        limits = (MAX_ITERATIONS, TOLERANCE)
        exact, products, _ = conjugate_gradient(damped, gradients, *limits, list)
        _, preconditioned, _ = conjugate_gradient(
            damped, gradients, *limits, actor.precondition
        )
        exact_metric = [fisher(kfac), fisher(exact)]
        return {
            "gradients": gradients,
            "kfac": kfac,
            "exact": exact,
            # K-FAC's prediction is in its damped metric, as its trust region has it.
            "kfac_norm": inner_product(gradients, kfac),
            "exact_norm": inner_product(exact, exact_metric[1]),
            "kfac_exact_norm": inner_product(kfac, exact_metric[0]),
            "cross": inner_product(exact, exact_metric[0]),
            "products": products,
            "preconditioned": preconditioned,
        }

    def outcome(direction: Vector, norm: tf.Tensor) -> tuple[float, float]:
        """Returns exact KL and decrease of the loss of a step, and takes it back."""
        scale = tf.sqrt(2.0 * radius / norm)
        before = policy(batch.observation)
        kept = [tf.identity(variable.value) for variable in variables]
        for variable, part in zip(variables, direction, strict=True):
            variable.assign_sub(scale * part)
        after = policy(batch.observation)
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        old, new = policy.distribution(before), policy.distribution(after)
        # Of the surrogate loss −mean(A π/π_old), which has the same gradient here.
        ratio = tf.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
        decrease = tf.reduce_mean(batch.advantage * (ratio - 1.0))
        return float(policy_kl(old, new)), float(decrease)

    found = directions(batch)
    kfac_kl, kfac_decrease = outcome(found["kfac"], found["kfac_norm"])
    exact_kl, exact_decrease = outcome(found["exact"], found["exact_norm"])
    lengths = [
        tf.sqrt(inner_product(found[name], found[name])) for name in ("kfac", "exact")
    ]
    return {
        "cosine": float(
            inner_product(found["kfac"], found["exact"]) / (lengths[0] * lengths[1])
        ),
        "cosine in the Fisher metric": float(
            found["cross"] / tf.sqrt(found["kfac_exact_norm"] * found["exact_norm"])
        ),
        "exact KL of the K-FAC step": kfac_kl,
        "exact KL of the CG step": exact_kl,
        "decrease per nat, K-FAC": kfac_decrease / kfac_kl,
        "decrease per nat, CG": exact_decrease / exact_kl,
        "products of CG": float(found["products"]),
        "products of CG with K-FAC": float(found["preconditioned"]),
    }


def measure(config: Config, batches: int) -> dict[str, dict[str, list[float]]]:
    """Returns `early` and `late` → quantity → one value per batch."""
    settings = config.algorithm
    if not isinstance(settings, ACKTRSettings) or settings.critic != "separate":
        raise SystemExit("The run must have --algorithm=acktr and --critic=separate.")
    seed = config.run.seed
    environments = make_vector_env(config.environment, seed)
    policy = ActorCritic(
        config.policy, environments.observation_space, environments.action_space, seed
    )
    learner = make_learner(config, policy)
    assert isinstance(learner, ACKTR)
    normalization = RunningNormalization(
        config.policy, config.returns, environments.num_envs, policy
    )
    collector = Collector(
        learner, environments, config.run.unroll_length, seed, environments.reset()
    )
    keys = KeyStream(seed, "update")
    total = config.total_updates
    # Of the very first batches the factors have seen too little.
    parts = {
        "early": range(batches, 2 * batches),
        "late": range(total - batches, total),
    }
    found: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in parts
    }
    for index in range(total):
        collected = collector.collect(index * config.batch_size)
        rollout = normalization.scale_rewards(collected.rollout)
        for name, part in parts.items():
            if index in part:
                state = learner.state()
                batch = make_batch(rollout, config.returns)
                key = tf.constant(keys.key(index))
                for label, value in compare(learner, settings, batch, key).items():
                    found[name][label].append(value)
                learner.load_state(state)
        learner.update(rollout, index, measure=False)
        normalization.update_observations(rollout)
    environments.close()
    return found


def table(document: dict[str, Any]) -> str:
    """Returns the medians, with the least and the most, in Markdown."""
    results = document["results"]

    def cell(values: list[float]) -> str:
        low, middle, high = np.min(values), np.median(values), np.max(values)
        return f"{middle:.3g} ({low:.3g} to {high:.3g})"

    lines = [
        f"| `{document['flags']}`, {document['batches']} batches each | early | late |",
        "|---|---|---|",
    ]
    lines += [
        f"| {label} | {cell(values)} | {cell(results['late'][label])} |"
        for label, values in results["early"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flagfile", required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    flags = [f"--flagfile={arguments.flagfile}", *shlex.split(arguments.flags)]
    document = {
        "machine": machine(),
        "flags": shlex.join(flags),
        "batches": arguments.batches,
        "results": measure(config_from(flags), arguments.batches),
    }
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
