"""Keras models whose `fit` trains by K-FAC."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from acktr_tf.kfac import control
from acktr_tf.kfac.likelihoods import Likelihoods
from acktr_tf.kfac.lookahead import Lookahead
from acktr_tf.kfac.optimizer import KFAC
from acktr_tf.kfac.replicas import mean_over_replicas
from acktr_tf.kfac.sampling import sample_rows
from acktr_tf.kfac.step_rules import FisherInnerProducts

MAX_CURVATURE_EXAMPLES = 128
"""Largest number of examples of a batch for the factors, by default."""

if TYPE_CHECKING:
    from keras import Model as _Base
else:
    _Base = object


class FitWithKFAC(_Base):
    """Mixin that makes `fit` of a Keras model train by K-FAC, if that is its optimizer.

    Put it before `keras.Model` among the bases of your own model:

        class MyModel(kfac.FitWithKFAC, keras.Model):
            ...

    With another optimizer it changes nothing. The loss must be a log-likelihood; see
    `kfac.likelihood_of`. The factors are those of the Fisher matrix of the model's
    predictions; penalties on weights are in the gradient only.
    """

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Compiles the model; see `keras.Model.compile`.

        Args:
          optimizer: A `KFAC`, or an optimizer that wraps it.
          loss: A loss that `kfac.likelihood_of` knows; for several outputs a list or
            dictionary of losses.
          loss_weights: Weights of several losses, likewise.
          *args: Arguments of `keras.Model.compile`.
          **kwargs: Arguments of `keras.Model.compile`. `jit_compile` must not be True:
            matrices are inverted outside of XLA.

        Raises:
          ValueError: An argument or a layer is not supported.
        """
        kfac = kfac_of(optimizer)
        if kfac is not None:
            if kwargs.get("jit_compile") is True:
                raise ValueError(
                    "KFAC inverts matrices outside of XLA. Received: jit_compile=True"
                )
            kwargs["jit_compile"] = False
            names = getattr(self, "output_names", None)
            self._likelihoods = Likelihoods(loss, loss_weights, names)
        super().compile(optimizer, loss, loss_weights, *args, **kwargs)
        if kfac is None:
            return
        if kfac.step_rule == "quadratic" and self.optimizer is not kfac:
            # Keras itself wraps it for half precision, to scale the loss.
            raise ValueError(
                'step_rule="quadratic" chooses the whole step and cannot be wrapped. '
                f"Received: optimizer={type(self.optimizer).__name__}"
            )
        if kfac.damping_period is not None and _within(self.optimizer, Lookahead):
            raise ValueError(
                "`damping_period` must be None inside of Lookahead, after which the "
                "loss is not that of the step. Received: "
                f"damping_period={kfac.damping_period}"
            )
        kfac.attach(self)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a model that was loaded, and makes the optimizer's variables.

        Args:
          config: Arguments of `compile`, as `get_compile_config` returns them.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Trains on one batch: updates the curvature, then the weights.

        Args:
          data: Inputs, targets and weights, as Keras passes them.

        Returns:
          Metric → value.
        """
        kfac = kfac_of(self.optimizer)
        if kfac is None:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not self.built:
            self.build(keras.tree.map_structure(lambda part: part.shape, x))
        if not kfac.built:
            with tf.init_scope():
                kfac.build(self.trainable_variables)

        before: tuple[Any, ...] = ()
        if kfac.damping_period is not None:
            before = tf.identity(kfac.iterations.value), self._states()
        # One forward pass is enough if all examples are in every update.
        shared = kfac.curvature_fraction == 1.0 and kfac.factor_update_period == 1
        likelihood = None
        with kfac.curvature_tape() as curvature_tape, tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
            if shared:
                likelihood = self._log_likelihood(kfac, y, outputs, sample_weight)
        self._track_loss(loss, x)
        if likelihood is not None:
            kfac.update_factors(curvature_tape, likelihood)
        else:
            self._update_factors_if_due(kfac, x, y, sample_weight)
        kfac.update_inverses()

        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        if kfac.step_rule == "quadratic":
            products = self._fisher_inner_products(kfac, x, sample_weight)
            kfac.apply_quadratic(gradients, variables, products)
        else:
            self.optimizer.apply(gradients, variables)
        if kfac.damping_period is not None:
            self._adapt_damping_if_due(kfac, x, y, sample_weight, loss, *before)
        metrics: dict[str, Any] = self.compute_metrics(x, y, outputs, sample_weight)
        return metrics

    # Curvature ------------------------------------------------------------------
    def _log_likelihood(
        self, kfac: KFAC, y: Any, outputs: Any, sample_weight: Any
    ) -> tf.Tensor:
        """Returns the log-likelihood `[N]` whose gradients make the curvature."""
        if kfac.fisher == "empirical":
            return self._likelihoods.log_likelihood(y, outputs, sample_weight)
        key = kfac.sampling_key()
        return self._likelihoods.sampled_log_likelihood(outputs, key, sample_weight)

    def _update_factors_if_due(
        self, kfac: KFAC, x: Any, y: Any, sample_weight: Any
    ) -> None:
        """Updates the factors from rows of the batch, by another forward pass."""

        def update(x: Any, y: Any, sample_weight: Any) -> tf.Tensor:
            rows = _curvature_rows(kfac, (x, y, sample_weight))
            with self._states_kept(), kfac.curvature_tape() as tape:
                outputs = self(rows[0], training=True)
                likelihood = self._log_likelihood(kfac, rows[1], outputs, rows[2])
            kfac.update_factors(tape, likelihood)
            return tf.constant(True)

        def skip() -> tf.Tensor:
            return tf.constant(False)

        batch = (x, y, sample_weight)
        context = tf.distribute.get_replica_context()
        if kfac.factor_update_period == 1:
            update(*batch)
        elif context.num_replicas_in_sync == 1:
            tf.cond(kfac.factors_due(), lambda: update(*batch), skip)
        else:
            # A `tf.cond` inside of a replica may not hold what replicas do together. So
            # all replicas meet first, and the condition holds what they do.
            def update_together(strategy: tf.distribute.Strategy, *batch: Any) -> None:
                def update_all() -> tf.Tensor:
                    strategy.run(update, args=batch)
                    return tf.constant(True)

                tf.cond(kfac.factors_due(), update_all, skip)

            context.merge_call(update_together, args=batch)

    def _fisher_inner_products(
        self, kfac: KFAC, x: Any, sample_weight: Any
    ) -> FisherInnerProducts:
        """Returns the inner products by the exact Fisher matrix of the batch."""

        def products(directions: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
            tangents, outputs = [], None
            for direction in directions:
                with (
                    self._states_kept(),
                    tf.autodiff.ForwardAccumulator(
                        [variable.value for variable in self.trainable_variables],
                        direction,
                    ) as accumulator,
                ):
                    outputs = self(x, training=True)
                tangents.append(
                    keras.tree.map_structure(
                        lambda output, of=accumulator: of.jvp(
                            output, unconnected_gradients="zero"
                        ),
                        outputs,
                    )
                )
            # Another key than that of the factors' targets.
            key = tf.random.experimental.stateless_fold_in(kfac.sampling_key(), 1)
            return mean_over_replicas(
                self._likelihoods.fisher_inner_products(
                    outputs, tangents, key, sample_weight
                )
            )

        return products

    def _adapt_damping_if_due(
        self,
        kfac: KFAC,
        x: Any,
        y: Any,
        sample_weight: Any,
        loss: tf.Tensor,
        steps: tf.Tensor,
        states: Sequence[tf.Tensor],
    ) -> None:
        """Adapts the damping to what the last step did to the loss of its own batch.

        The loss after the step has the seeds of the loss before it, so that dropout
        leaves out the same units. A step that a loss scale left out does not count.

        Args:
          kfac: The optimizer.
          x: Inputs of the batch.
          y: Targets of the batch.
          sample_weight: Weights of the batch.
          loss: Loss of the batch before the step.
          steps: Number of steps before the step.
          states: `_states()` before the loss.
        """

        def change() -> tf.Tensor:
            with self._states_kept():
                self._restore(states)
                outputs = self(x, training=True)
                after = self.compute_loss(x, y, outputs, sample_weight, training=True)
            return tf.cast(after - loss, tf.float32)

        # The step has been counted already.
        now = kfac.iterations.value
        due = (now > steps) & tf.equal(now % kfac.damping_period, 0)
        measured = tf.cond(due, change, lambda: tf.constant(0.0))
        # A loss is divided by the number of replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        control.adapt_damping(kfac, mean_over_replicas(replicas * measured), due)

    @contextmanager
    def _states_kept(self) -> Iterator[None]:
        """Lets a forward pass in training change no running mean and no seed."""
        before = self._states()
        try:
            yield
        finally:
            self._restore(before)

    def _states(self) -> list[tf.Tensor]:
        """Returns running means, seeds and all else that no gradient moves."""
        return [tf.identity(v.value) for v in self.non_trainable_variables]

    def _restore(self, states: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(self.non_trainable_variables, states, strict=True):
            variable.assign(value)

    def _track_loss(self, loss: tf.Tensor, x: Any) -> None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # An input may be left out.
        given = next(part for part in keras.tree.flatten(x) if part is not None)
        examples = tf.shape(given)[0]
        self._loss_tracker.update_state(replicas * loss, sample_weight=examples)


@keras.saving.register_keras_serializable(package="acktr_tf")
class Model(FitWithKFAC, keras.Model):
    """`keras.Model` that can be trained by `KFAC`; see `FitWithKFAC`."""


@keras.saving.register_keras_serializable(package="acktr_tf")
class Sequential(FitWithKFAC, keras.Sequential):
    """`keras.Sequential` that can be trained by `KFAC`; see `FitWithKFAC`."""


def kfac_of(optimizer: Any) -> KFAC | None:
    """Returns the KFAC that an optimizer is or wraps, if there is one.

    Args:
      optimizer: A Keras optimizer, or its name.
    """
    found: KFAC | None = _within(optimizer, KFAC)
    return found


def _within(optimizer: Any, kind: type) -> Any:
    """Returns the outermost optimizer of a type, or None."""
    while optimizer is not None and not isinstance(optimizer, kind):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


def _curvature_rows(kfac: KFAC, batch: Any) -> Any:
    """Draws the rows of a batch, or of a replica's part, that make the factors."""
    # Another key than those of the targets and of the quadratic model.
    key = tf.random.experimental.stateless_fold_in(kfac.sampling_key(), 2)
    if kfac.curvature_fraction is not None:
        return sample_rows(key, batch, kfac.curvature_fraction)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return sample_rows(key, batch, max_rows=-(-MAX_CURVATURE_EXAMPLES // replicas))
