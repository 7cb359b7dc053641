"""All blocks of a model: its block-diagonal Fisher matrix, and the inverse of that."""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from acktr_tf.kfac.background import BackgroundSolver
from acktr_tf.kfac.blocks import AddVariable, Block, DiagonalBlock, Options
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.kinds import make_blocks
from acktr_tf.kfac.linalg import Array
from acktr_tf.kfac.replicas import mean_over_replicas
from acktr_tf.kfac.schedule import places

Problem = list[tuple[tf.Tensor, ...]]
"""A and G of some blocks; then the damping, and the number of the update."""

Solutions = list[list[tf.Tensor]]
"""What `Block.solve` returns, of some blocks."""

Shares = list[list[int]]
"""Numbers of the blocks that are inverted in one step: a list for each replica."""


class Curvature:
    """The Fisher matrix of a model, one block a layer.

    Matrices are lists with one `[n, m]` a block, in the order of `blocks`.

    Args:
      model: A built model.
      add_variable: See `blocks.Block`.
      options: See `blocks.Options`.

    Raises:
      ValueError: See `kinds.make_blocks`.
    """

    def __init__(
        self, model: keras.layers.Layer, add_variable: AddVariable, options: Options
    ) -> None:
        self.blocks: list[Block] = make_blocks(model, add_variable, options)
        self._stagger = options.stagger_inverses
        # What the thread works on, so that a copy of the state is a whole one.
        self._posed: list[list[keras.Variable]] | None = None
        self._threads: dict[int, BackgroundSolver] = {}
        if options.thread:
            shapes = [
                *((f"{b.layer.name}_posed", b.factor_shapes) for b in self.blocks),
                ("settings_posed", ((), ())),
            ]
            self._posed = [
                [
                    add_variable(
                        shape=shape,
                        initializer="zeros",
                        dtype="float32",
                        aggregation="only_first_replica",
                        name=name,
                    )
                    for shape in pair
                ]
                for name, pair in shapes
            ]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that have a block."""
        return [block.layer for block in self.blocks]

    @property
    def variables(self) -> list[keras.Variable]:
        """The weights that have a block."""
        return [variable for block in self.blocks for variable in block.variables]

    @property
    def watched(self) -> list[keras.Variable]:
        """The weights whose own gradients blocks want."""
        return [
            variable
            for block in self.blocks
            if isinstance(block, DiagonalBlock)
            for variable in block.variables
        ]

    def update_factors(
        self,
        tape: CurvatureTape,
        log_likelihood: tf.Tensor,
        decay: float,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Moves the running factors towards those of a batch.

        In a replica of a `tf.distribute` strategy they are the means over all replicas,
        each of which must have as many examples.

        Args:
          tape: Closed tape that saw the model's forward pass.
          log_likelihood: `[N]`, computed inside the tape's block.
          decay: ρ.
          step: Number of the update of the factors, scalar integer.

        Returns:
          How many blocks were left as they are, because the batch's statistics were not
          finite; scalar int32.

        Raises:
          ValueError: A layer was not called inside the tape's block, or the
            log-likelihood does not depend on it, or is not `[N]`; or see
            `Block.statistics`.
        """
        shape = log_likelihood.shape
        if shape.rank not in (None, 1):
            raise ValueError(
                "`log_likelihood` must be [N], one number an example; their sum or "
                f"mean says nothing of each. Received: shape={tuple(shape)}"
            )
        examples = tf.shape(log_likelihood)[0]
        sources = [block.sources(tape) for block in self.blocks]
        # Summed over examples, so each row holds its example's own gradient.
        gradients = tape.gradient(log_likelihood, sources)
        for block, found in zip(self.blocks, gradients, strict=True):
            if any(gradient is None for gradient in found):
                raise ValueError(
                    "The log-likelihood does not depend on layer "
                    f"`{block.layer.name}`, or was computed outside the tape's block."
                )
        statistics = [
            block.statistics(tape, found, examples, step)
            for block, found in zip(self.blocks, gradients, strict=True)
        ]
        means = mean_over_replicas(statistics)
        return tf.add_n(
            [
                block.accept(found, decay)
                for block, found in zip(self.blocks, means, strict=True)
            ]
        )

    # Inverses -------------------------------------------------------------------
    def turns(self, period: int) -> dict[int, Shares]:
        """Which blocks are inverted together, and at which step of the period.

        If they are staggered each has a step of its own, if there are as many: see
        `places`. When that is does not depend on how many replicas there are, which
        share what is inverted at one step.

        Args:
          period: Updates between two inversions of a block.
        """
        cost = [block.num_inputs**3 + block.num_outputs**3 for block in self.blocks]
        numbers = sorted(range(len(self.blocks)), key=lambda number: -cost[number])
        steps = [0] * len(numbers)
        if self._stagger:
            steps = places(period, [cost[number] for number in numbers])
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        turns: dict[int, Shares] = {
            step: [[] for _ in range(replicas)] for step in dict.fromkeys(steps)
        }
        work = [0] * replicas
        for step, number in zip(steps, numbers, strict=True):
            least = work.index(min(work))
            turns[step][least].append(number)
            work[least] += cost[number]
        return turns

    def update_inverses(
        self,
        step: Callable[[], tf.Tensor],
        due: Callable[[int], tf.Tensor],
        period: int,
        damping: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Inverts the blocks whose turn it is.

        With a thread, what comes into force after the first period are the inverses of
        the factors of the time before. In a `tf.distribute` strategy each replica
        inverts a share of the blocks, and all get all.

        Args:
          step: Returns the number of the update, scalar.
          due: Step of the period at which blocks have their turn → whether it is that,
            scalar bool.
          period: Updates between two inversions of a block.
          damping: Returns λ, scalar.

        Returns:
          How many factorizations failed, scalar int32.
        """
        turns = self.turns(period)

        def update() -> tf.Tensor:
            return tf.add_n(
                [
                    tf.cond(
                        due(place),
                        functools.partial(
                            self._invert, shares, step(), period, damping()
                        ),
                        lambda: tf.constant(0),
                    )
                    for place, shares in turns.items()
                ]
            )

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return update()
        # A condition may hold nothing that replicas do together, but the other way
        # round it may.
        return context.merge_call(lambda _: update())

    def _invert(
        self, shares: Shares, step: tf.Tensor, period: int, damping: tf.Tensor
    ) -> tf.Tensor:
        numbers = [number for share in shares for number in share]
        blocks = [self.blocks[number] for number in numbers]
        settings = (tf.cast(damping, tf.float32), tf.cast(step, tf.float32))
        problem = [*(tuple(block.factors()) for block in blocks), settings]
        if self._posed is None:
            solutions, made_of = self._solutions(shares, problem, None), settings[1]
        else:
            held = [*(self._posed[number] for number in numbers), self._posed[-1]]
            posed = [
                tuple(tf.convert_to_tensor(array.value) for array in arrays)
                for arrays in held
            ]
            solutions, made_of = tf.cond(
                step < period,
                lambda: (self._solutions(shares, problem, None), settings[1]),
                lambda: (self._solutions(shares, problem, posed), posed[-1][1]),
            )
            for variables, values in zip(held, problem, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        failures = [
            block.accept_solution(solution, made_of)
            for block, solution in zip(blocks, solutions, strict=True)
        ]
        return tf.add_n(failures)

    def _solutions(
        self, shares: Shares, problem: Problem, posed: Problem | None
    ) -> Solutions:
        """Solutions of the blocks of all shares, one share after the other."""
        blocks = [self.blocks[number] for share in shares for number in share]
        strategy = tf.distribute.get_strategy()
        if len(shares) == 1:
            return self._solve(0, blocks, problem, posed)

        def solve_share() -> Solutions:
            context = tf.distribute.get_replica_context()
            replica = int(tf.get_static_value(context.replica_id_in_sync_group))
            begin = sum(map(len, shares[:replica]))
            end = begin + len(shares[replica])

            def own(problem: Problem) -> Problem:
                return [*problem[begin:end], problem[-1]]

            solutions = [
                [tf.zeros(shape) for shape in block.solution_shapes] for block in blocks
            ]
            if begin < end:
                solutions[begin:end] = self._solve(
                    replica, blocks[begin:end], own(problem), posed and own(posed)
                )
            joined: Solutions = context.all_reduce(
                tf.distribute.ReduceOp.SUM, solutions
            )
            return joined

        solutions = strategy.run(solve_share)
        return [
            [strategy.experimental_local_results(array)[0] for array in solution]
            for solution in solutions
        ]

    def _solve(
        self,
        replica: int,
        blocks: Sequence[Block],
        problem: Problem,
        posed: Problem | None,
    ) -> Solutions:
        """Solutions of some blocks: of this problem, or of the one posed before."""
        if posed is not None:
            return self._solve_in_thread(replica, blocks, problem, posed)
        solutions = []
        for block, pair in zip(blocks, problem[:-1], strict=True):
            arrays = tf.numpy_function(
                block.solve,
                [*pair, problem[-1][0]],
                [tf.float32] * len(block.solution_shapes),
                stateful=False,
            )
            solutions.append(_with_shapes(arrays, block.solution_shapes))
        return solutions

    def _solve_in_thread(
        self, replica: int, blocks: Sequence[Block], problem: Problem, posed: Problem
    ) -> Solutions:
        def flat(problem: Problem) -> list[tf.Tensor]:
            return [*(array for pair in problem[:-1] for array in pair), problem[-1][0]]

        def solve(arrays: Sequence[Array]) -> list[Array]:
            *factors, damping = arrays
            pairs = zip(factors[::2], factors[1::2], strict=True)
            return [
                array
                for block, (a, g) in zip(blocks, pairs, strict=True)
                for array in block.solve(a, g, float(damping))
            ]

        thread = self._threads.setdefault(replica, BackgroundSolver(solve))
        shapes = [shape for block in blocks for shape in block.solution_shapes]
        arrays = iter(
            _with_shapes(
                tf.numpy_function(
                    thread.exchange,
                    flat(posed) + flat(problem),
                    [tf.float32] * len(shapes),
                ),
                shapes,
            )
        )
        return [[next(arrays) for _ in block.solution_shapes] for block in blocks]

    # Products -------------------------------------------------------------------
    def to_matrices(self, tensors: dict[int, tf.Tensor]) -> list[tf.Tensor]:
        """Weights or gradients, by the id of their variable, as matrices.

        Raises:
          ValueError: One is missing.
        """
        missing = [v.path for v in self.variables if id(v) not in tensors]
        if missing:
            raise ValueError(
                f"No gradient for {', '.join(missing)}: KFAC steps all layers "
                "together. Pass the gradients of all variables it was attached to."
            )
        return [
            block.to_matrix([tensors[id(v)] for v in block.variables])
            for block in self.blocks
        ]

    def from_matrices(self, matrices: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        """The reverse of `to_matrices`."""
        return {
            id(variable): tensor
            for block, matrix in zip(self.blocks, matrices, strict=True)
            for variable, tensor in zip(
                block.variables, block.from_matrix(matrix), strict=True
            )
        }

    def multiply_inverse(self, matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The inverse of the damped Fisher matrix times matrices. Equation (10)."""
        return [
            block.multiply_inverse(matrix)
            for block, matrix in zip(self.blocks, matrices, strict=True)
        ]

    def squared_norm(self, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
        """VᵀFV in the undamped metric, scalar."""
        products = [
            block.multiply(matrix)
            for block, matrix in zip(self.blocks, matrices, strict=True)
        ]
        return inner_product(matrices, products)


def inner_product(left: Sequence[tf.Tensor], right: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of the products of all elements, scalar."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])


def _with_shapes(
    arrays: Sequence[tf.Tensor], shapes: Sequence[tuple[int, ...]]
) -> list[tf.Tensor]:
    for array, shape in zip(arrays, shapes, strict=True):
        array.set_shape(shape)
    return list(arrays)
