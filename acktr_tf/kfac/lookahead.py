"""Lookahead: slow weights that follow the weights of another optimizer."""

import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="acktr_tf")
class Lookahead(keras.optimizers.Optimizer):
    """Goes back a part of the way every few steps (Zhang et al. 2019).

    The inner optimizer A moves the fast weights θ, which are the model's. Every k steps
    the slow weights φ go a part of the way to them, and the fast weights are set to φ:

        θ ← A(θ),   k times
        φ ← φ + α (θ − φ)
        θ ← φ

    Zhang, Lucas, Hinton & Ba 2019 (arXiv 1907.08610), Algorithm 1. This costs one more
    copy of the weights.

        model.compile(kfac.Lookahead(kfac.KFAC(learning_rate=0.25)), loss=...)

    The inner optimizer's state (momentum, moments, factors) is kept at a
    synchronization. The paper's alternatives, to interpolate it like the weights or to
    reset it, would have to know the meaning of each variable.

    The slow weights start as the weights are when the optimizer is built, or at its
    first step if they were set or loaded in between. They are saved with the model, and
    a loaded state goes on as it was. Weights that are set later (`set_weights`) are
    drawn back to the slow ones: compile the model anew to start from them.

    The paper evaluates the slow weights. The model has them right after a
    synchronization. The end of `fit` does not synchronize, so that two calls of `fit`
    are as one.

    Clipping, weight decay, moving averages (of fast weights), scales of the loss and
    accumulation of gradients are the inner optimizer's; k then counts its updates of
    the weights. Should the weights not be finite at a synchronization, the slow ones
    stay as they are, and the fast ones go back to them.

    Args:
      inner_optimizer: A, any Keras optimizer.
      sync_period: k, steps from one synchronization to the next.
      slow_step_size: α, in (0, 1]. 1 is the inner optimizer alone.
      name: Name of the optimizer.

    Raises:
      ValueError: An argument is out of range.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        sync_period: int = 6,
        slow_step_size: float = 0.5,
        name: str = "lookahead",
    ) -> None:
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a Keras optimizer. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        if not sync_period >= 1:
            raise ValueError(
                "`sync_period` must be at least 1. "
                f"Received: sync_period={sync_period!r}"
            )
        if sync_period % 1:
            raise ValueError(
                "`sync_period` must be a whole number. "
                f"Received: sync_period={sync_period!r}"
            )
        if not 0 < slow_step_size <= 1:
            raise ValueError(
                "`slow_step_size` must be in (0, 1]. "
                f"Received: slow_step_size={slow_step_size!r}"
            )
        # A number would be made a variable, and saved.
        super().__init__(lambda: inner_optimizer.learning_rate, name=name)
        self.inner_optimizer = inner_optimizer
        self.sync_period = int(sync_period)
        self.slow_step_size = float(slow_step_size)
        self._slow_weights: list[keras.Variable] = []

    # Building -------------------------------------------------------------------
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the slow weights, and the variables of the inner optimizer.

        Args:
          variables: Trainable variables of the model.
        """
        if self.built:
            return
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)
        # In a function that is being traced, weights may have no values yet.
        now = tf.executing_eagerly()
        self._slow_weights = [
            self.add_variable_from_reference(
                fast, "slow", _value_of(fast) if now else "zeros"
            )
            for fast in self._fast_weights
        ]

    @property
    def slow_weights(self) -> list[keras.Variable]:
        """φ, the slow weights, in the order of the variables of `build`."""
        return list(self._slow_weights)

    @property
    def _fast_weights(self) -> list[keras.Variable]:
        """Weights, without statistics of float8 training, which no optimizer moves."""
        return [
            variable
            for variable in self._trainable_variables
            if not getattr(variable, "overwrite_with_gradient", False)
        ]

    # The step -------------------------------------------------------------------
    def apply(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Takes a step of the inner optimizer, and synchronizes if that is due.

        Args:
          grads: Gradients of the loss.
          trainable_variables: Variables that they are with respect to. None for those
            of `build`.

        Raises:
          ValueError: There are not as many gradients as variables.
        """
        if len(grads) == 0:
            return
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if len(grads) != len(trainable_variables):
            raise ValueError(
                "`apply` needs one gradient a variable. Received: "
                f"{len(grads)} gradients, {len(trainable_variables)} variables"
            )
        self.build(trainable_variables)
        self._in_all_replicas(self._start_if_first)
        self.inner_optimizer.apply(grads, trainable_variables)
        self._iterations.assign_add(1)
        self._in_all_replicas(self._synchronize_if_due)

    def _in_all_replicas(self, stage: Callable[[tf.distribute.Strategy], None]) -> None:
        # A single replica may not assign mirrored variables inside a condition.
        tf.__internal__.distribute.interim.maybe_merge_call(
            stage, self._distribution_strategy
        )

    def _start_if_first(self, strategy: tf.distribute.Strategy) -> None:
        """Copies the weights at the first step; they may have changed since `build`."""

        def start() -> None:
            for slow, fast in self._pairs():
                _assign(strategy, slow, _read(fast))

        tf.cond(tf.equal(_read(self._iterations), 0), start, lambda: None)

    def _synchronize_if_due(self, strategy: tf.distribute.Strategy) -> None:
        # While gradients accumulate this comes again, for weights that are equal.
        due = tf.equal(_read(self.iterations) % self.sync_period, 0)
        tf.cond(due, lambda: self._synchronize(strategy), lambda: None)

    def _synchronize(self, strategy: tf.distribute.Strategy) -> None:
        moved = [self._moved(slow, fast) for slow, fast in self._pairs()]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(m)) for m in moved])
        for (slow, fast), new in zip(self._pairs(), moved, strict=True):
            value = tf.where(finite, new, _read(slow))
            _assign(strategy, slow, value)
            _assign(strategy, fast, value)

    def _moved(self, slow: keras.Variable, fast: keras.Variable) -> tf.Tensor:
        """Returns φ + α (θ − φ)."""
        if self.slow_step_size == 1.0:
            return _read(fast)  # Without the formula's rounding.
        start = _read(slow)
        moved = start + self.slow_step_size * (_read(fast) - start)
        # Between two weights of norm one, say, there are shorter ones.
        return moved if fast.constraint is None else fast.constraint(moved)

    def _pairs(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        return zip(self._slow_weights, self._fast_weights, strict=True)

    # Attributes of the inner optimizer --------------------------------------------
    @property
    def learning_rate(self) -> Any:
        """Learning rate of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """Number of steps of the inner optimizer."""
        inner = self.inner_optimizer
        # Of the one that makes them: Keras 3.8's `LossScaleOptimizer` does not count.
        while hasattr(inner, "inner_optimizer"):
            inner = inner.inner_optimizer
        return inner.iterations

    @property
    def loss_scale_factor(self) -> float | None:
        """Loss scale of the inner optimizer; a `LossScaleOptimizer` outside sets it."""
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        # Keras' constructor comes here before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = factor

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the loss, scaled for the inner optimizer.

        Args:
          loss: Scalar.
        """
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Finalizes the inner optimizer's weights at the end of `fit`.

        Args:
          var_list: Trainable variables of the model.
        """
        self.inner_optimizer.finalize_variable_values(var_list)

    # Saving ---------------------------------------------------------------------
    @property
    def variables(self) -> list[keras.Variable]:
        """Variables of this optimizer, then those of the inner optimizer."""
        return [*self._variables, *self.inner_optimizer.variables]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets all `variables`.

        Args:
          weights: Values of `variables`, in the same order.
        """
        own = len(self._variables)
        super().set_weights(weights[:own])
        self.inner_optimizer.set_weights(weights[own:])

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves the variables except the inner optimizer's, which Keras saves itself.

        Args:
          store: Mapping to write to, number → value.
        """
        for index, variable in enumerate(self._variables):
            store[str(index)] = variable.numpy()

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved.

        If another number of variables was saved, the slow weights start anew, with a
        warning.

        Args:
          store: Mapping to read from, number → value.
        """
        if len(store.keys()) != len(self._variables):
            # Of an optimizer that was never built, for instance.
            warnings.warn(
                f"The slow weights of `{self.name}` start anew: it has "
                f"{len(self._variables)} variables, {len(store.keys())} were saved.",
                stacklevel=2,
            )
            return
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "sync_period": self.sync_period,
            "slow_step_size": self.slow_step_size,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "Lookahead":
        """Makes an optimizer from what `get_config` returned.

        Args:
          config: The arguments of the constructor, the inner optimizer serialized.
          custom_objects: Name → class or function that Keras does not know by itself.
        """
        inner_optimizer = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner_optimizer})


def _value_of(variable: keras.Variable) -> Callable[..., tf.Tensor]:
    """Returns an initializer that copies the present value of a variable."""
    return lambda shape, dtype: tf.cast(_read(variable), dtype)


def _assign(
    strategy: tf.distribute.Strategy, variable: keras.Variable, value: tf.Tensor
) -> None:
    strategy.extended.update(
        _native(variable),
        lambda copy, value: copy.assign(value),
        args=(value,),
        group=False,
    )


def _read(variable: keras.Variable | tf.Tensor) -> tf.Tensor:
    return tf.convert_to_tensor(_native(variable))


def _native(variable: keras.Variable | tf.Tensor) -> tf.Variable | tf.Tensor:
    """Returns TensorFlow's variable, which Keras' optimizers also accept."""
    return variable.value if isinstance(variable, keras.Variable) else variable
