"""K-FAC as a Keras optimizer: natural gradient with a trust region and momentum."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from acktr_tf.kfac.blocks import KroneckerBlock, make_blocks
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.factors import CONV_POSITIONS
from acktr_tf.kfac.trust_region import adapted_factor, predicted_kl, step_size

TRUST_REGIONS = ("gradient", "applied")


@keras.saving.register_keras_serializable(package="acktr_tf")
class KFAC(keras.optimizers.Optimizer):
    """Kronecker-factored approximate curvature (Martens & Grosse 2015).

    A step, with g the gradient of the loss:

        Δ = F⁻¹ g                                     natural gradient, eq. (10)
        η = min(η_max, sqrt(2δ / ΔᵀFΔ))               trust region, eq. (11)
        v ← μ v + (1 − μ) η Δ                         momentum, eq. (13)
        θ ← θ − v

    F is block diagonal, one Kronecker product a layer. v is a mean of steps that are
    each inside the trust region, so momentum does not lengthen them: in a constant
    direction the step applied tends to ηΔ. (The released code of Wu et al. 2017 does
    the same in other words: it scales its learning rate by 1 − μ.)

    A custom training step:

        optimizer = KFAC(learning_rate=0.25, kl_radius=0.001)
        optimizer.attach(model)
        with CurvatureTape(optimizer.layers) as curvature_tape:
            log_likelihood = ...  # [N], of targets sampled from the model's outputs
        optimizer.update_curvature(curvature_tape, log_likelihood)
        with tf.GradientTape() as tape:
            loss = ...
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    Args:
      learning_rate: η_max: a float, or a Keras schedule.
      kl_radius: δ, the largest predicted KL ½ΔᵀFΔ, in nats. None for no trust region.
      trust_region: What the radius bounds. "gradient": ηΔ, before momentum, with ΔᵀFΔ
        in the damped metric ⟨g, F⁻¹g⟩ as in the paper. "applied": v, with the
        undamped F; this costs two more matrix products a layer.
      momentum: μ, in [0, 1).
      damping: λ, Tikhonov damping of F.
      factor_decay: ρ, decay of the running factors.
      inverse_update_period: Steps between two inversions of the factors; in the first
        period they are inverted at every step.
      conv_positions: What is assumed of the gradients at the positions of a
        convolution. "uncorrelated": KFC. "correlated": an upper bound, the more
        careful of the two by the number of positions.
      name: Name of the optimizer.
      **kwargs: Of `keras.optimizers.Optimizer`.

    Raises:
      ValueError: An argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        kl_radius: float | None = 0.001,
        trust_region: str = "gradient",
        momentum: float = 0.9,
        damping: float = 0.001,
        factor_decay: float = 0.99,
        inverse_update_period: int = 10,
        conv_positions: str = "uncorrelated",
        name: str = "kfac",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if kl_radius is not None:
            _require(kl_radius > 0, "kl_radius", "positive or None", kl_radius)
        _require(
            trust_region in TRUST_REGIONS,
            "trust_region",
            "one of " + ", ".join(TRUST_REGIONS),
            trust_region,
        )
        _require(0 <= momentum < 1, "momentum", "in [0, 1)", momentum)
        _require(damping > 0, "damping", "positive", damping)
        _require(0 <= factor_decay < 1, "factor_decay", "in [0, 1)", factor_decay)
        _require(
            inverse_update_period >= 1,
            "inverse_update_period",
            "at least 1",
            inverse_update_period,
        )
        _require(
            conv_positions in CONV_POSITIONS,
            "conv_positions",
            "one of " + ", ".join(CONV_POSITIONS),
            conv_positions,
        )
        self.kl_radius = kl_radius
        self.trust_region = trust_region
        self.momentum = momentum
        self.damping = damping
        self.factor_decay = factor_decay
        self.inverse_update_period = inverse_update_period
        self.conv_positions = conv_positions
        self._blocks: list[KroneckerBlock] = []

    # Building -------------------------------------------------------------------
    def attach(self, model: keras.layers.Layer) -> None:
        """Makes a block for each trainable layer of `model`, and all variables.

        Raises:
          ValueError: A layer is not supported, and the message names it; or the
            optimizer is attached already.
        """
        if self.built:
            raise ValueError(
                f"KFAC is attached to a model already: make another for `{model.name}`."
            )
        with keras.name_scope(self.name):
            self._blocks = make_blocks(model, self.add_variable, self.conv_positions)
            self.build([v for block in self._blocks for v in block.variables])

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's variables; `attach` calls it.

        Raises:
          ValueError: `attach` was not called first, or `variables` are not those of
            the model's blocks.
        """
        if self.built:
            return
        covered = {id(v) for block in self._blocks for v in block.variables}
        missing = [v.path for v in variables if id(v) not in covered]
        if missing:
            raise ValueError(
                "KFAC needs the layers behind the variables: call `attach(model)` "
                f"before the first step. Received variables without a layer: {missing}"
            )
        super().build(variables)
        self._velocity = self.add_optimizer_variables(variables, "velocity")
        self._scale = self._add_scalar("trust_region_scale", "float32")
        self._failures = self._add_scalar("failed_factorizations", "int32")
        self._skipped = self._add_scalar("skipped_steps", "int32")
        self._radius_factor = self._add_scalar("radius_factor", "float32", "ones")

    def _add_scalar(
        self, name: str, dtype: str, initializer: str = "zeros"
    ) -> keras.Variable:
        return self.add_variable(
            shape=(),
            initializer=initializer,
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that have a block, for a `CurvatureTape`."""
        return [block.layer for block in self._blocks]

    @property
    def blocks(self) -> list[KroneckerBlock]:
        """One block a layer."""
        return list(self._blocks)

    # Curvature ------------------------------------------------------------------
    def update_curvature(self, tape: CurvatureTape, log_likelihood: tf.Tensor) -> None:
        """Updates the factors, and the inverses when they are due.

        Args:
          tape: Closed tape that saw the model's forward pass.
          log_likelihood: `[N]`, computed inside the tape's block, of targets sampled
            from the model's own output distribution (not the data's targets).
        """
        self.update_factors(tape, log_likelihood)
        self.update_inverses()

    def update_factors(self, tape: CurvatureTape, log_likelihood: tf.Tensor) -> None:
        """Moves the running factors towards those of a batch; see `update_curvature`.

        Raises:
          ValueError: A layer was not called inside the tape's block, or the
            log-likelihood does not depend on it.
        """
        captured = [tape.captured(layer) for layer in self.layers]
        # Summed over examples, so each row holds its example's own gradient.
        gradients = tape.gradient(
            log_likelihood, [record.pre_activation for record in captured]
        )
        for block, record, gradient in zip(
            self._blocks, captured, gradients, strict=True
        ):
            if gradient is None:
                raise ValueError(
                    "The log-likelihood does not depend on layer "
                    f"`{block.layer.name}`, or was computed outside the tape's block."
                )
            block.update_factors(record, gradient, self.factor_decay)

    def inverses_due(self) -> tf.Tensor:
        """Scalar bool: whether this step is one of those that invert the factors.

        Those are every `inverse_update_period`-th, and all of the first period: the
        factors change most while they are means of a few batches.
        """
        step = self._iterations.value
        period = self.inverse_update_period
        return (step < period) | tf.equal(step % period, 0)

    def update_inverses(self) -> None:
        """Inverts every block's factors if `inverses_due`."""

        def invert() -> tf.Tensor:
            return tf.add_n(
                [block.update_inverses(self.damping) for block in self._blocks]
            )

        failures = tf.cond(self.inverses_due(), invert, lambda: tf.constant(0))
        self._failures.assign_add(failures)

    # The step -------------------------------------------------------------------
    def _backend_update_step(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable],
        learning_rate: tf.Tensor,
    ) -> None:
        """Preconditions all gradients jointly, then updates variable by variable.

        Keras' own would give `update_step` one gradient at a time.
        """
        values = [v.value for v in trainable_variables]
        reduced = self._all_reduce_sum_gradients(list(zip(grads, values, strict=True)))
        gradient_of = {
            id(variable): gradient
            for variable, (gradient, _) in zip(
                trainable_variables, reduced, strict=True
            )
        }
        gradients = [self._matrix(block, gradient_of) for block in self._blocks]
        directions = [
            block.multiply_inverse(gradient)
            for block, gradient in zip(self._blocks, gradients, strict=True)
        ]
        damped_norm = _inner_product(gradients, directions)
        eta = self._step_size(learning_rate, damped_norm)
        velocities = [
            self.momentum * old + (1.0 - self.momentum) * eta * direction
            for old, direction in zip(self._velocities(), directions, strict=True)
        ]
        shrink = self._shrink_applied(velocities)
        steps = [shrink * velocity for velocity in velocities]
        finite = tf.math.is_finite(damped_norm) & tf.math.is_finite(
            _inner_product(steps, steps)
        )
        scale = tf.math.divide_no_nan(shrink * eta, tf.cast(learning_rate, eta.dtype))
        self._scale.assign(tf.where(finite, scale, 0.0))
        self._skipped.assign_add(tf.cast(~finite, tf.int32))
        step_of = {}
        for block, matrix in zip(self._blocks, steps, strict=True):
            for variable, step in zip(
                block.variables, block.from_matrix(matrix), strict=True
            ):
                step_of[id(variable)] = step
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._distributed_tf_update_step,
            self._distribution_strategy,
            [(step_of[id(v)], v.value) for v in trainable_variables],
            tf.cast(finite, tf.float32),
        )

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Takes one variable's part of the step.

        Args:
          gradient: Not the gradient but the step v, as `_backend_update_step` made it.
          variable: The variable.
          learning_rate: 1, or 0 if the step is not finite and must not be taken.
        """
        velocity = self._velocity[self._get_variable_index(variable)]
        take = learning_rate > 0.0
        self.assign(velocity, tf.where(take, gradient, velocity.value))
        self.assign_sub(variable, tf.where(take, gradient, tf.zeros_like(gradient)))

    def _matrix(
        self, block: KroneckerBlock, tensor_of: dict[int, tf.Tensor]
    ) -> tf.Tensor:
        missing = [v.path for v in block.variables if id(v) not in tensor_of]
        if missing:
            raise ValueError(
                f"No gradient for {', '.join(missing)}: KFAC steps all layers "
                "together. Pass the gradients of all variables it was attached to."
            )
        return block.to_matrix([tensor_of[id(v)] for v in block.variables])

    def _velocities(self) -> list[tf.Tensor]:
        velocity_of = {
            id(variable): velocity.value
            for variable, velocity in zip(
                self._trainable_variables, self._velocity, strict=True
            )
        }
        return [self._matrix(block, velocity_of) for block in self._blocks]

    def _step_size(self, learning_rate: tf.Tensor, damped_norm: tf.Tensor) -> tf.Tensor:
        if self.kl_radius is None or self.trust_region != "gradient":
            return tf.cast(learning_rate, damped_norm.dtype)
        return step_size(learning_rate, self.radius, damped_norm)

    def _shrink_applied(self, velocities: Sequence[tf.Tensor]) -> tf.Tensor:
        if self.kl_radius is None or self.trust_region != "applied":
            return tf.constant(1.0)
        squared_norm = self._squared_norm(velocities)
        return step_size(tf.constant(1.0), self.radius, squared_norm)

    def _squared_norm(self, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
        """VᵀFV in the undamped metric."""
        return _inner_product(
            matrices,
            [
                block.multiply(matrix)
                for block, matrix in zip(self._blocks, matrices, strict=True)
            ],
        )

    def adapt_radius(self, kl: tf.Tensor, target: float | tf.Tensor) -> None:
        """Moves the radius towards where steps have the KL divergence wanted.

        The predicted KL may be far from the exact one, by a factor that changes slowly.
        Call this after a step with its exact KL; see `adapted_factor`, equation (14).
        The radius grows only if it was what bounded the step.

        Args:
          kl: Exact KL of the step taken last, scalar, in nats.
          target: The KL wanted, a number or scalar, in nats.
        """
        # Until then the running mean of steps is shorter than the steps.
        warm = self._iterations.value > int(2.0 / (1.0 - self.momentum))
        # A scale of zero is that of a step not taken.
        scale = self.trust_region_scale
        binding = warm & (scale > 0.0) & (scale < 1.0)
        factor = adapted_factor(self._radius_factor.value, kl, target, binding)
        self._radius_factor.assign(factor)

    def adapt_learning_rate(self, kl: tf.Tensor, target: float | tf.Tensor) -> None:
        """Moves the learning rate towards where steps have the KL divergence wanted.

        As the released code of Wu et al. 2017 does on MuJoCo: by 1.5 a step, to at most
        1. Call this after a step with its exact KL; see `adapted_factor`.

        Args:
          kl: Exact KL of the step taken last, scalar, in nats.
          target: The KL wanted, a number or scalar, in nats.

        Raises:
          ValueError: The learning rate is a schedule.
        """
        if not isinstance(self._learning_rate, keras.Variable):
            raise ValueError(
                "`adapt_learning_rate` needs a learning rate that is a number. "
                f"Received: learning_rate={self._learning_rate!r}"
            )
        rate = self._learning_rate
        factor = adapted_factor(tf.ones_like(rate.value), kl, target, change=1.5)
        rate.assign(tf.clip_by_value(rate.value * factor, 1e-8, 1.0))

    def shorten_step(self, factor: tf.Tensor) -> None:
        """Takes back a part of the step applied last, as if it had been shorter.

            θ ← θ + (1 − c) v,  v ← c v

        Call it after a step that was taken, and only then: for a step that went farther
        than its predicted KL said.

        Args:
          factor: c, scalar in (0, 1].
        """
        for variable, velocity in zip(
            self._trainable_variables, self._velocity, strict=True
        ):
            step = velocity.value
            variable.assign_add((1.0 - factor) * step)
            velocity.assign(factor * step)
        self._scale.assign(factor * self._scale.value)

    # Diagnostics ----------------------------------------------------------------
    def predicted_kl(self) -> tf.Tensor:
        """Predicted KL ½vᵀFv of the step applied last, undamped F, in nats. Eq. (12).

        Costs two matrix products a layer.
        """
        return predicted_kl(self._squared_norm(self._velocities()))

    @property
    def radius(self) -> tf.Tensor:
        """The radius in force, in nats: `kl_radius` times what `adapt_radius` made.

        Raises:
          ValueError: There is no trust region.
        """
        if self.kl_radius is None:
            raise ValueError("`radius` needs a trust region. Received: kl_radius=None")
        return self.kl_radius * self._radius_factor.value

    @property
    def trust_region_scale(self) -> tf.Tensor:
        """η / η_max of the last step: 1 where the radius did not bind."""
        return self._scale.value

    @property
    def failed_factorizations(self) -> tf.Tensor:
        """Factorizations that failed since the start; each raised its damping."""
        return self._failures.value

    @property
    def skipped_steps(self) -> tf.Tensor:
        """Steps not taken because they were not finite."""
        return self._skipped.value

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config: dict[str, Any] = super().get_config()
        config.update(
            {
                "kl_radius": self.kl_radius,
                "trust_region": self.trust_region,
                "momentum": self.momentum,
                "damping": self.damping,
                "factor_decay": self.factor_decay,
                "inverse_update_period": self.inverse_update_period,
                "conv_positions": self.conv_positions,
            }
        )
        return config


def _inner_product(left: Sequence[tf.Tensor], right: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])


def _require(accepted: bool, name: str, what: str, received: object) -> None:
    if not accepted:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={received!r}")
