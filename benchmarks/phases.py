"""What one update of a training run takes, phase by phase.

    python benchmarks/phases.py --flagfile=mujoco.flags [--flags="--env=Hopper-v5"] \
        [--updates=30] [--json=FILE]

Steps the environments, acts, learns and nothing else: no logs, no checkpoints. What
compiles, and the updates of the first period of factors and inverses, in which
there is more to do, are left out. Printed are milliseconds an update of each phase
(median, least, most, mean), the slowest update over the median one, agent steps a
second, and the memory of the process. `update` is everything but stepping and acting,
`rest` what of it is in no phase: handing over the batch, and what is told of it.
"""

import argparse
import json
import os
import shlex
import time
from collections import defaultdict
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
from arguments import output_file
from machine import machine

from acktr_tf.algorithms import make_learner
from acktr_tf.cli.flags import config_from
from acktr_tf.config import Config
from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.environments import make_vector_env
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.collector import Collector
from acktr_tf.training.normalization import RunningNormalization

COMPILING = 3
"""Updates, at least, before the first that counts."""


def warm_up(config: Config) -> int:
    """Updates that do not count."""
    if not isinstance(config.algorithm, ACKTRSettings):
        return COMPILING
    kfac = config.algorithm.kfac
    return max(COMPILING, kfac.factor_update_period, kfac.inverse_update_period)


def measure(config: Config, updates: int) -> dict[str, Any]:
    """Seconds of the phases of each update, `[updates]` each, and bytes.

    Args:
      config: The run's settings.
      updates: That count; at least one period of the inverses is.
    """
    seed = config.run.seed
    environments = make_vector_env(config.environment, seed)
    policy = ActorCritic(
        config.policy, environments.observation_space, environments.action_space, seed
    )
    learner = make_learner(config, policy)
    normalization = RunningNormalization(
        config.policy, config.returns, environments.num_envs, policy
    )
    collector = Collector(
        learner, environments, config.run.unroll_length, seed, environments.reset()
    )
    left_out = warm_up(config)
    if isinstance(config.algorithm, ACKTRSettings):
        updates = max(updates, config.algorithm.kfac.inverse_update_period)
    found: dict[str, list[float]] = defaultdict(list)
    for index in range(left_out + updates):
        begin = time.perf_counter()
        collected = collector.collect(index * config.batch_size)
        before = time.perf_counter()
        rollout = normalization.scale_rewards(collected.rollout)
        phases = learner.update(rollout, index, measure=False).seconds
        normalization.update_observations(rollout)
        end = time.perf_counter()
        if index < left_out:
            continue
        rest = end - before - sum(phases.values())
        phases |= {"rest": rest, "update": end - before, "total": end - begin}
        phases |= collected.seconds
        for name, seconds in phases.items():
            found[name].append(seconds)
    environments.close()
    return {
        "batch_size": config.batch_size,
        "phases": {name: summary(seconds) for name, seconds in found.items()},
        "steps_per_second": config.batch_size / float(np.mean(found["total"])),
        "memory": psutil.Process().memory_info().rss,
    }


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds, and the slowest over the median."""
    times = 1e3 * np.array(seconds)
    return {
        "median": float(np.median(times)),
        "least": float(times.min()),
        "most": float(times.max()),
        "mean": float(times.mean()),
        "slowest_over_median": float(times.max() / np.median(times)),
    }


def table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, `{document['flags']}`: "
        f"{document['steps_per_second']:,.0f} steps/s, "
        f"{document['memory'] / 2**20:,.0f} MiB",
        "",
        "| ms an update of "
        f"{document['batch_size']} | median | least | most | mean | slowest / median |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {s['median']:.2f} | {s['least']:.2f} | {s['most']:.2f} | "
        f"{s['mean']:.2f} | {s['slowest_over_median']:.2f} |"
        for name, s in document["phases"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flagfile", required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    flags = [f"--flagfile={arguments.flagfile}", *shlex.split(arguments.flags)]
    document = {
        "machine": machine(),
        "flags": shlex.join(flags),
        **measure(config_from(flags), arguments.updates),
    }
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
