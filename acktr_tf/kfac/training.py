"""Keras models whose `fit` trains by K-FAC."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from acktr_tf.kfac.likelihoods import Likelihoods
from acktr_tf.kfac.lookahead import Lookahead
from acktr_tf.kfac.optimizer import KFAC
from acktr_tf.kfac.replicas import mean_over_replicas

CURVATURE_EXAMPLES = 128
"""Of a batch at most so many are taken for the factors, if nothing else is said."""

if TYPE_CHECKING:
    from keras import Model as _Base
else:
    _Base = object


class Trainer(_Base):
    """What makes `fit` of a Keras model train by K-FAC, if that is its optimizer.

    To be put before `keras.Model` among the bases of a model of one's own:

        class MyModel(kfac.Trainer, keras.Model):
            ...

    With another optimizer it changes nothing. The loss must be a log-likelihood; see
    `kfac.likelihood_of`. Factors are those of the Fisher matrix of what the model
    predicts; penalties on weights are in the gradient only.
    """

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """See `keras.Model.compile`.

        Args:
          optimizer: A `KFAC`, or one that wraps it.
          loss: One that `kfac.likelihood_of` knows; of several outputs a list or
            dictionary of them.
          loss_weights: Of several losses, likewise.
          *args: Of `keras.Model.compile`.
          **kwargs: Of `keras.Model.compile`. `jit_compile` must not be True: matrices
            are inverted outside of XLA.

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
          config: The arguments of `compile`, as `get_compile_config` gives them.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of `fit`: the forward pass is that of gradient and curvature both.

        Args:
          data: Inputs, targets and weights, as Keras gives them.

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
        # One forward pass is enough where all examples are in every update.
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
            kfac.apply_quadratic(
                gradients, variables, self._gram(kfac, x, sample_weight)
            )
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
        """Whose gradients' second moment is the curvature, `[N]`."""
        if kfac.fisher == "empirical":
            return self._likelihoods.log_likelihood(y, outputs, sample_weight)
        key = kfac.sampling_key()
        return self._likelihoods.sampled_log_likelihood(outputs, key, sample_weight)

    def _update_factors_if_due(
        self, kfac: KFAC, x: Any, y: Any, sample_weight: Any
    ) -> None:
        """Of a part of the batch, by a forward pass of its own."""

        def update(x: Any, y: Any, sample_weight: Any) -> tf.Tensor:
            part = [
                _first(kfac.curvature_fraction, values)
                for values in (x, y, sample_weight)
            ]
            with self._nothing_remembered(), kfac.curvature_tape() as tape:
                outputs = self(part[0], training=True)
                likelihood = self._log_likelihood(kfac, part[1], outputs, part[2])
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
            # A condition may hold nothing that replicas do together, but the other way
            # round it may.
            def of_all(strategy: tf.distribute.Strategy, *batch: Any) -> None:
                def update_all() -> tf.Tensor:
                    strategy.run(update, args=batch)
                    return tf.constant(True)

                tf.cond(kfac.factors_due(), update_all, skip)

            context.merge_call(of_all, args=batch)

    def _gram(
        self, kfac: KFAC, x: Any, sample_weight: Any
    ) -> Callable[[Sequence[Any]], tf.Tensor]:
        """The exact Fisher matrix of the batch, as `KFAC.apply_quadratic` wants it."""

        def gram(directions: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
            tangents, outputs = [], None
            for direction in directions:
                with (
                    self._nothing_remembered(),
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
            # Another one than that of the factors' targets.
            key = tf.random.experimental.stateless_fold_in(kfac.sampling_key(), 1)
            return mean_over_replicas(
                self._likelihoods.fisher_gram(outputs, tangents, key, sample_weight)
            )

        return gram

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
        """By what the step just taken did to the loss of its own batch.

        The loss after it has the seeds that the loss before it had, so that dropout
        leaves out the same units. A step that a loss scale left out says nothing.

        Args:
          kfac: The optimizer.
          x: The batch's inputs.
          y: Its targets.
          sample_weight: Its weights.
          loss: Of it, before the step.
          steps: How many were counted before the step.
          states: As `_states` had them before the loss.
        """

        def change() -> tf.Tensor:
            with self._nothing_remembered():
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
        kfac.adapt_damping(mean_over_replicas(replicas * measured), due)

    @contextmanager
    def _nothing_remembered(self) -> Iterator[None]:
        """A forward pass in training that moves no running mean and no seed."""
        before = self._states()
        try:
            yield
        finally:
            self._restore(before)

    def _states(self) -> list[tf.Tensor]:
        """Running means, seeds and whatever else no gradient moves."""
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
class Model(Trainer, keras.Model):
    """`keras.Model` that can be trained by `KFAC`; see `Trainer`."""


@keras.saving.register_keras_serializable(package="acktr_tf")
class Sequential(Trainer, keras.Sequential):
    """`keras.Sequential` that can be trained by `KFAC`; see `Trainer`."""


def kfac_of(optimizer: Any) -> KFAC | None:
    """The KFAC that an optimizer is or wraps, if there is one."""
    found: KFAC | None = _within(optimizer, KFAC)
    return found


def _within(optimizer: Any, kind: type) -> Any:
    """The first of a kind, from an optimizer inwards; None if there is none."""
    while optimizer is not None and not isinstance(optimizer, kind):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


def _first(fraction: float | None, values: Any) -> Any:
    """The first examples of a batch, or of a replica's part of it."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync

    def cut(values: tf.Tensor | None) -> tf.Tensor | None:
        if values is None:  # An input may be left out.
            return None
        if fraction is None:
            return values[: -(-CURVATURE_EXAMPLES // replicas)]
        count = tf.cast(fraction * tf.cast(tf.shape(values)[0], tf.float32), tf.int32)
        return values[: tf.maximum(1, count)]

    return None if values is None else keras.tree.map_structure(cut, values)
