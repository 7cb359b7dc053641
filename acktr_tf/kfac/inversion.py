"""Inversion of a model's blocks: when, by which replica, and in which thread."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from acktr_tf.kfac.background import BackgroundInverter
from acktr_tf.kfac.blocks.block import AddVariable, Block
from acktr_tf.kfac.linalg import Array
from acktr_tf.kfac.schedule import Assignments, inversion_schedule
from acktr_tf.kfac.settings import KFACSettings

Queue = list[list[tf.Tensor]]
"""The factors of some blocks, then one list of the damping and the update's number."""

Inverses = list[list[tf.Tensor]]
"""The arrays of the inverses of some blocks, each with its success and failures."""


class BlockInverter:
    """Inverts the blocks of a Fisher matrix on schedule.

    The host inverts, in NumPy and LAPACK. With `inverse_thread` this happens in the
    background: what comes into force after the first period are the inverses of the
    factors that were queued one period before. The queue is a part of the optimizer's
    state, so that a restored checkpoint continues with the same inverses. In a
    `tf.distribute` strategy each replica inverts a share of the blocks, and all
    replicas receive all inverses.

    Args:
      blocks: The blocks.
      add_variable: See `Block`.
      settings: Settings of the optimizer.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        add_variable: AddVariable,
        settings: KFACSettings,
    ) -> None:
        self._blocks = blocks
        self._period = settings.inverse_update_period
        # With factors that are no newer, or a thread, staggering gains nothing.
        self._stagger = (
            settings.stagger_inverses
            and not settings.inverse_thread
            and settings.factor_update_period < settings.inverse_update_period
        )
        self._queue: list[list[Any]] | None = None
        self._threads: dict[int, BackgroundInverter] = {}
        if settings.inverse_thread:
            shapes: list[tuple[str, Sequence[tuple[int, ...]]]] = [
                *((f"{b.layer.name}_queued", b.factor_shapes) for b in blocks),
                ("queued_settings", [(), ()]),
            ]
            self._queue = [
                [
                    add_variable(
                        shape=shape,
                        initializer="zeros",
                        dtype="float32",
                        aggregation="only_first_replica",
                        name=name,
                    )
                    for shape in of_block
                ]
                for name, of_block in shapes
            ]

    def schedule(self) -> dict[int, Assignments]:
        """Returns which blocks are inverted at which step of the period."""
        return inversion_schedule(
            [block.inversion_cost for block in self._blocks],
            self._period,
            tf.distribute.get_strategy().num_replicas_in_sync,
            self._stagger,
        )

    def update(
        self,
        step: Callable[[], tf.Tensor],
        due: Callable[[int], tf.Tensor],
        damping: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Inverts the blocks that are due.

        Args:
          step: Function that returns the number of the update, scalar integer.
          due: Function of a step of the period that returns whether the blocks of that
            step are due, scalar bool.
          damping: Function that returns λ, scalar.

        Returns:
          Number of factorizations that failed, scalar int32.
        """
        schedule = self.schedule()

        def update() -> tf.Tensor:
            return tf.add_n(
                [
                    tf.cond(
                        due(offset),
                        functools.partial(self._invert, assignments, step(), damping()),
                        lambda: tf.constant(0),
                    )
                    for offset, assignments in schedule.items()
                ]
            )

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return update()
        # A `tf.cond` inside of a replica may not hold what replicas do together. So all
        # replicas meet first, and the condition holds what they do.
        return context.merge_call(lambda _: update())

    def _invert(
        self, assignments: Assignments, step: tf.Tensor, damping: tf.Tensor
    ) -> tf.Tensor:
        """Inverts the assigned blocks, and puts the inverses into force."""
        numbers = [number for share in assignments for number in share]
        blocks = [self._blocks[number] for number in numbers]
        settings = [tf.cast(damping, tf.float32), tf.cast(step, tf.float32)]
        factors = [*(list(block.factors()) for block in blocks), settings]
        if self._queue is None:
            inverses = self._share_among_replicas(assignments, factors, None)
            step_of_factors = settings[1]
        else:
            variables = [*(self._queue[number] for number in numbers), self._queue[-1]]
            queued = [
                [tf.convert_to_tensor(array.value) for array in arrays]
                for arrays in variables
            ]
            inverses, step_of_factors = tf.cond(
                step < self._period,
                lambda: (
                    self._share_among_replicas(assignments, factors, None),
                    settings[1],
                ),
                lambda: (
                    self._share_among_replicas(assignments, factors, queued),
                    queued[-1][1],
                ),
            )
            for variable, value in zip(_flat(variables), _flat(factors), strict=True):
                variable.assign(value)
        failures = []
        for block, (*arrays, succeeded, failed) in zip(blocks, inverses, strict=True):
            block.set_inverse(arrays, succeeded > 0.0, step_of_factors)
            failures.append(tf.cast(failed, tf.int32))
        return tf.add_n(failures)

    def _share_among_replicas(
        self, assignments: Assignments, factors: Queue, queued: Queue | None
    ) -> Inverses:
        """Returns the inverses of all assigned blocks, in the order of assignments."""
        blocks = [self._blocks[number] for share in assignments for number in share]
        strategy = tf.distribute.get_strategy()
        if len(assignments) == 1:
            return self._invert_share(0, blocks, factors, queued)

        def invert_own_share() -> Inverses:
            context = tf.distribute.get_replica_context()
            replica = int(tf.get_static_value(context.replica_id_in_sync_group))
            begin = sum(map(len, assignments[:replica]))
            end = begin + len(assignments[replica])

            def own(queue: Queue) -> Queue:
                return [*queue[begin:end], queue[-1]]

            # Zeros where another replica inverts, so that the sum joins the shares.
            inverses = [
                [tf.zeros(shape) for shape in _inverse_shapes(block)]
                for block in blocks
            ]
            if begin < end:
                inverses[begin:end] = self._invert_share(
                    replica, blocks[begin:end], own(factors), queued and own(queued)
                )
            joined: Inverses = context.all_reduce(tf.distribute.ReduceOp.SUM, inverses)
            return joined

        inverses = strategy.run(invert_own_share)
        return [
            [strategy.experimental_local_results(array)[0] for array in arrays]
            for arrays in inverses
        ]

    def _invert_share(
        self,
        replica: int,
        blocks: Sequence[Block],
        factors: Queue,
        queued: Queue | None,
    ) -> Inverses:
        """Returns the inverses of some blocks: of these factors, or of the queued."""
        if queued is not None:
            return self._swap_with_thread(replica, blocks, factors, queued)
        damping = factors[-1][0]
        inverses = []
        for block, arrays in zip(blocks, factors[:-1], strict=True):
            shapes = _inverse_shapes(block)
            inverse = tf.numpy_function(
                functools.partial(_invert_on_host, [block]),
                [*arrays, damping],
                [tf.float32] * len(shapes),
                stateful=False,
            )
            inverses.append(_with_shapes(inverse, shapes))
        return inverses

    def _swap_with_thread(
        self, replica: int, blocks: Sequence[Block], factors: Queue, queued: Queue
    ) -> Inverses:
        """Queues the factors, and returns the inverses of those queued before."""

        def arrays_of(queue: Queue) -> list[tf.Tensor]:
            return [*_flat(queue[:-1]), queue[-1][0]]

        def invert(arrays: Sequence[Array]) -> list[Array]:
            return _invert_on_host(blocks, *arrays)

        thread = self._threads.setdefault(replica, BackgroundInverter(invert))
        shapes = [_inverse_shapes(block) for block in blocks]
        inverses = tf.numpy_function(
            thread.swap,
            arrays_of(queued) + arrays_of(factors),
            [tf.float32] * len(_flat(shapes)),
        )
        found = _with_shapes(inverses, _flat(shapes))
        return list(_split(found, [len(of_block) for of_block in shapes]))


def _invert_on_host(blocks: Sequence[Block], *arrays: Array) -> list[Array]:
    """Inverts blocks, given the factors of all of them and then the damping."""
    *factors, damping = arrays
    counts = [len(block.factor_shapes) for block in blocks]
    found: list[Array] = []
    for block, own in zip(blocks, _split(factors, counts), strict=True):
        inversion = block.invert(own, float(damping))
        found += [
            *inversion.arrays,
            np.array(inversion.succeeded, np.float32),
            np.array(inversion.failures, np.float32),
        ]
    return found


def _inverse_shapes(block: Block) -> list[tuple[int, ...]]:
    """Returns the shapes of an inverse's arrays, its success and its failures."""
    return [*(tuple(array.shape) for array in block.inverse_arrays), (), ()]


def _with_shapes(
    arrays: Sequence[tf.Tensor], shapes: Sequence[tuple[int, ...]]
) -> list[tf.Tensor]:
    for array, shape in zip(arrays, shapes, strict=True):
        array.set_shape(shape)
    return list(arrays)


def _flat(nested: Iterable[Iterable[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(nested))


def _split(values: Sequence[Any], counts: Sequence[int]) -> Iterable[list[Any]]:
    """Yields so many of the values, one after the other."""
    iterator = iter(values)
    for count in counts:
        yield list(itertools.islice(iterator, count))
