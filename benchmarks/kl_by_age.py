"""How far steps move the policy in states early and late in an episode.

    python benchmarks/kl_by_age.py RUN_DIR... [--updates=100] [--json=FILE]

Goes on with each run from its newest checkpoint, without writing to it, and takes the
exact KL between the policies before and after each update in every state of its batch.
Printed by the steps since the episode began: the mean KL in nats and, in parentheses,
that of the update that moved the policy most there; then the mean over all states. The
falls are episodes that terminated, and in parentheses those of them before step 100.
The first line has the share of the states, over all runs.

A trust region bounds the mean over all states. In states that are rare a step may be
any number of times as long.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from arguments import output_file, positive
from resumed import Resumed, resume

from acktr_tf.errors import UserError
from acktr_tf.types import Array

EDGES = (0, 20, 100, 300)
"""Steps at which a bin begins; the last one has no end."""

EARLY = EDGES.index(100)
"""Bins before this one are of states early in an episode."""


def ages(lengths: Array, ended: Array) -> tuple[Array, Array]:
    """Steps since the episode began.

    Args:
      lengths: `[B]`, of the episodes under way before the first step.
      ended: `[T, B]` bool, whether a step was its episode's last.

    Returns:
      `[T, B]`, before each step; and `[B]`, after the last.
    """
    found = np.empty(ended.shape, np.int64)
    now = lengths.astype(np.int64)
    for t, last in enumerate(ended):
        found[t] = now
        now = np.where(last, 0, now + 1)
    return found, now


def bins_of(found: Array) -> Array:
    """The index of the bin of each age."""
    return np.searchsorted(EDGES, found, side="right") - 1


class Tally:
    """Sums over updates, by bin."""

    def __init__(self) -> None:
        self._states = np.zeros(len(EDGES))
        self._falls = np.zeros(len(EDGES))
        self._kl = np.zeros(len(EDGES))
        self._most = np.zeros(len(EDGES))

    def add(self, age: Array, kl: Array, terminated: Array) -> None:
        """Takes note of an update; all are `[T, B]`."""
        where = bins_of(age).ravel()
        count = np.bincount(where, minlength=len(EDGES))
        total = np.bincount(where, kl.ravel(), len(EDGES))
        self._states += count
        self._kl += total
        self._most = np.maximum(self._most, total / np.maximum(count, 1))
        self._falls += np.bincount(where[terminated.ravel()], minlength=len(EDGES))

    def document(self) -> dict[str, Any]:
        """Of each bin how many states and falls, and KLs in nats."""
        return {
            "states": self._states.tolist(),
            "falls": self._falls.tolist(),
            "mean_kl": (self._kl / np.maximum(self._states, 1)).tolist(),
            "most": self._most.tolist(),
        }


def measure(run: Resumed, updates: int) -> dict[str, Any]:
    """Goes on with a run, and says what it was and what was found."""
    config, tally, lengths = run.config, Tally(), run.lengths
    for index, rollout in enumerate(run.rollouts(updates)):
        ended = rollout.terminated | rollout.truncated
        age, lengths = ages(lengths, ended)
        shape = rollout.observation.shape[2:]
        observation = tf.constant(rollout.observation.reshape(-1, *shape))
        before = run.policy.distribution(run.policy(observation))
        run.learner.update(rollout, run.updates + index, measure=False)
        after = run.policy.distribution(run.policy(observation))
        kl = before.kl_divergence(after).numpy().reshape(ended.shape)
        run.normalization.update_observations(rollout)
        tally.add(age, kl, rollout.terminated)
    return {
        "env": config.environment.env,
        "seed": config.run.seed,
        "kl_limit": config.to_dict()["max_kl"] or 0.0,
        "step": run.step,
        "updates": updates,
        **tally.document(),
    }


def table(documents: Sequence[dict[str, Any]]) -> str:
    """One row a run."""
    last = len(EDGES) - 1
    names = [
        f"steps {begin} on" if i == last else f"steps {begin} to {EDGES[i + 1] - 1}"
        for i, begin in enumerate(EDGES)
    ]
    states = np.sum([each["states"] for each in documents], axis=0)
    lines = [
        f"| run | {' | '.join(names)} | all | falls |",
        f"|---|{'---:|' * len(EDGES)}---:|---:|",
        f"| states | {' | '.join(f'{s:.1%}' for s in states / states.sum())} | | |",
    ]
    for each in documents:
        cells = [
            f"{mean:.4f} ({most:.3f})"
            for mean, most in zip(each["mean_kl"], each["most"], strict=True)
        ]
        mean = np.average(each["mean_kl"], weights=each["states"])
        lines.append(
            f"| {each['env']}, seed {each['seed']}, limit {each['kl_limit']:g} "
            f"| {' | '.join(cells)} | {mean:.4f} "
            f"| {sum(each['falls']):.0f} ({sum(each['falls'][:EARLY]):.0f}) |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--updates", type=positive(int), default=100)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args(argv)
    try:
        runs = [resume(run_dir) for run_dir in arguments.run_dirs]
    except UserError as error:
        parser.error(str(error))
    documents = [measure(run, arguments.updates) for run in runs]
    print(table(documents))
    if arguments.json:
        arguments.json.write_text(json.dumps(documents, indent=2) + "\n")


if __name__ == "__main__":
    main()
