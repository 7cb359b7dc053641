"""How far steps move the policy in states early and late in an episode.

    python benchmarks/kl_by_age.py RUN_DIR... [--updates=100]

Goes on with each run from its newest checkpoint, without writing to it, and takes the
exact KL between the policies before and after each update in every state of its batch.
Printed by the steps since the episode began: the share of all states; the mean KL of
an update in them; the mean KL of the update that moved the policy most there; and the
share of all falls (episodes that terminated) that were of that length.

A trust region bounds the mean over all states. In states that are rare a step may be
any number of times as long.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from arguments import positive
from resumed import Resumed, resume

from acktr_tf.algorithms import make_batch
from acktr_tf.environments.base import Array
from acktr_tf.errors import UserError

EDGES = (0, 20, 100, 300)
"""Steps at which a bin begins; the last one has no end."""


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
    """Sums over updates, by bin.

    Attributes:
      states: `[bins]`, how many there were.
      falls: `[bins]`, episodes that terminated at that length.
    """

    def __init__(self) -> None:
        self.states = np.zeros(len(EDGES))
        self.falls = np.zeros(len(EDGES))
        self._kl = np.zeros(len(EDGES))
        self._most = np.zeros(len(EDGES))

    def add(self, age: Array, kl: Array, terminated: Array) -> None:
        """Takes note of an update; all are `[T, B]`."""
        where = bins_of(age).ravel()
        count = np.bincount(where, minlength=len(EDGES))
        total = np.bincount(where, kl.ravel(), len(EDGES))
        mean = total / np.maximum(count, 1)
        self.states += count
        self._kl += total
        self._most = np.maximum(self._most, mean)
        self.falls += np.bincount(where[terminated.ravel()], minlength=len(EDGES))

    def rows(self) -> list[str]:
        """The table."""
        lines = ["| steps since the start | states | mean KL | most | falls |"]
        lines += ["|---|---:|---:|---:|---:|"]
        falls = max(self.falls.sum(), 1)
        for i, begin in enumerate(EDGES):
            to = f"to {EDGES[i + 1] - 1}" if i + 1 < len(EDGES) else "on"
            mean = self._kl[i] / max(self.states[i], 1)
            lines.append(
                f"| {begin} {to} | {self.states[i] / self.states.sum():.1%} "
                f"| {mean:.4f} | {self._most[i]:.4f} | {self.falls[i] / falls:.0%} |"
            )
        mean = self._kl.sum() / self.states.sum()
        lines.append(f"| all | 100.0% | {mean:.4f} | | {self.falls.sum():.0f} |")
        return lines


def measure(run: Resumed, updates: int) -> Tally:
    """Goes on with a run."""
    config, tally, lengths = run.config, Tally(), run.lengths
    for index, rollout in enumerate(run.rollouts(updates)):
        ended = rollout.terminated | rollout.truncated
        age, lengths = ages(lengths, ended)
        batch = make_batch(
            rollout, config.discount, config.gae_lambda, config.value_target_lambda
        )
        observation = tf.constant(batch.observation)
        before = run.policy.evaluate(observation).distribution
        run.algorithm.update(batch, run.updates + index, measure=False)
        after = run.policy.evaluate(observation).distribution
        kl = before.kl_divergence(after).numpy().reshape(ended.shape)
        run.scales.update(rollout)
        tally.add(age, kl, rollout.terminated)
    return tally


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--updates", type=positive(int), default=100)
    arguments = parser.parse_args(argv)
    for run_dir in arguments.run_dirs:
        try:
            run = resume(run_dir)
        except UserError as error:
            parser.error(str(error))
        print(f"{run.config.env}, step {run.step}, seed {run.config.seed}\n")
        print("\n".join(measure(run, arguments.updates).rows()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
