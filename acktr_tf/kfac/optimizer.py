"""K-FAC as a Keras optimizer: natural gradient with a trust region and momentum."""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac.blocks import INVERSES, Block, Options, paths
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.curvature import Curvature, inner_product
from acktr_tf.kfac.damping import adapted_damping
from acktr_tf.kfac.factors import CONV_POSITIONS
from acktr_tf.kfac.memory import memory
from acktr_tf.kfac.quadratic import quadratic_step
from acktr_tf.kfac.schedule import factors_due, inverses_due
from acktr_tf.kfac.trust_region import adapted_factor, predicted_kl, step_size

TRUST_REGIONS = ("gradient", "applied")
STEP_RULES = ("momentum", "quadratic")
FISHERS = ("sampled", "empirical")
FALLBACKS = (None, "diagonal")

Gram = Callable[[Sequence[Sequence[tf.Tensor]]], tf.Tensor]
"""Directions, each a list with one tensor a variable → their inner products in the
metric of the Fisher matrix, `[D, D]`."""


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

    With `kfac.Model` it is given to `compile` like any other optimizer. A training step
    of one's own:

        optimizer = KFAC(learning_rate=0.25, kl_radius=0.001)
        optimizer.attach(model)
        with optimizer.curvature_tape() as curvature_tape, tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = ...
            log_likelihood = ...  # [N], of targets sampled from the model's outputs
        optimizer.update_curvature(curvature_tape, log_likelihood)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    Args:
      learning_rate: η_max: a float, or a Keras schedule.
      kl_radius: δ, the largest predicted KL ½ΔᵀFΔ, in nats. None for no trust region.
      trust_region: What the radius bounds. "gradient": ηΔ, before momentum, with ΔᵀFΔ
        in the damped metric ⟨g, F⁻¹g⟩ as in the paper. "applied": v, with the
        undamped F; this costs two more matrix products a layer.
      momentum: μ, in [0, 1).
      step_rule: "momentum", as above, or "quadratic": η and μ of each step minimize the
        quadratic model of the loss with the exact Fisher matrix of the batch; see
        `apply_quadratic`. They are then multiplied by `learning_rate`, which should be
        1, and the radius bounds the step applied.
      damping: λ, Tikhonov damping of F.
      damping_period: Every so many steps `kfac.Model` adapts the damping by the
        Levenberg-Marquardt rule; see `adapt_damping`. None for damping that stays. What
        `weight_decay` does is in the measured change and not in the predicted one.
      factor_decay: ρ, decay of the running factors.
      factor_update_period: Steps between two updates of the factors by `kfac.Model`;
        in the first period they are updated at every step.
      inverse_update_period: Steps between two inversions of the factors; in the first
        period they are inverted whenever they are updated.
      inverse: How blocks are inverted. "cholesky": A and G, each with its part of the
        damping. "eigen": in their eigenbases, with exact damping. "ekfac": the same,
        with a spectrum that follows every batch (George et al. 2018).
      stagger_inverses: Whether the layers take turns, each at a step of its own in the
        period, so that no step has to wait for all. An inverse is then of factors up to
        `factor_update_period` − 1 steps old when it is made, and replicas, which share
        what is inverted at one step, mostly wait for one of them. False: all at the
        first step of the period; so it is, too, with `inverse_thread`, and where the
        factors are updated no more often than they are inverted.
      inverse_thread: Invert in a thread while training goes on. The inverses in force
        are then those of the period before: of factors at most 2 ·
        `inverse_update_period` − 1 steps old. This does not depend on how long it
        takes; a step waits where the time before is not done.
      conv_positions: What is assumed of the gradients at the positions of a
        convolution. "uncorrelated": KFC. "correlated": an upper bound, the more
        careful of the two by the number of positions.
      curvature_fraction: Of the batch, in (0, 1], for the factors in `kfac.Model`: the
        first examples, so that batches should be shuffled, as `fit` does. None for at
        most 128 examples. But for 1 at every step, this costs a forward pass of its
        own on so many.
      patch_period: Of the positions of a convolution one in so many along each axis has
        its patch in the factor A; another one in each update. Not with "ekfac".
      max_patch_bytes: Of patches that are held at a time; more are made in pieces.
      fallback: For layers that have no Kronecker-factored block, "diagonal": the
        diagonal of their Fisher matrix. None: they are an error.
      fisher: Of which matrix `kfac.Model` takes the factors. "sampled": the Fisher
        matrix, by targets sampled from the model. "empirical": the uncentred covariance
        of the loss's gradients, which is no Fisher matrix (Kunstner et al. 2019).
      seed: Of the targets that are sampled.
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
        step_rule: str = "momentum",
        damping: float = 0.001,
        damping_period: int | None = None,
        factor_decay: float = 0.99,
        factor_update_period: int = 10,
        inverse_update_period: int = 50,
        inverse: str = "cholesky",
        stagger_inverses: bool = True,
        inverse_thread: bool = False,
        conv_positions: str = "uncorrelated",
        curvature_fraction: float | None = None,
        patch_period: int = 1,
        max_patch_bytes: int = 256 * 2**20,
        fallback: str | None = None,
        fisher: str = "sampled",
        seed: int = 0,
        name: str = "kfac",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if kl_radius is not None:
            _require(kl_radius > 0, "kl_radius", "positive or None", kl_radius)
        if damping_period is not None:
            _require_count("damping_period", damping_period)
            _require(
                not self.gradient_accumulation_steps,
                "damping_period",
                "None with gradient_accumulation_steps, where a batch is a part of a "
                "step",
                damping_period,
            )
        _require_one_of(TRUST_REGIONS, "trust_region", trust_region)
        _require(0 <= momentum < 1, "momentum", "in [0, 1)", momentum)
        _require_one_of(STEP_RULES, "step_rule", step_rule)
        _require(damping > 0, "damping", "positive", damping)
        _require(0 <= factor_decay < 1, "factor_decay", "in [0, 1)", factor_decay)
        for argument, value in [
            ("factor_update_period", factor_update_period),
            ("inverse_update_period", inverse_update_period),
            ("patch_period", patch_period),
            ("max_patch_bytes", max_patch_bytes),
        ]:
            _require_count(argument, value)
        _require_one_of(tuple(INVERSES), "inverse", inverse)
        _require_one_of(CONV_POSITIONS, "conv_positions", conv_positions)
        _require(
            curvature_fraction is None or 0 < curvature_fraction <= 1,
            "curvature_fraction",
            "in (0, 1] or None",
            curvature_fraction,
        )
        _require(
            patch_period == 1 or inverse != "ekfac",
            "patch_period",
            '1 with inverse="ekfac", which needs whole gradients of each example',
            patch_period,
        )
        _require_one_of(FALLBACKS, "fallback", fallback)
        _require_one_of(FISHERS, "fisher", fisher)
        _require(
            fallback is None or fisher == "sampled",
            "fisher",
            'sampled with fallback="diagonal", which needs scores of mean zero',
            fisher,
        )
        self.kl_radius = kl_radius
        self.trust_region = trust_region
        self.momentum = momentum
        self.step_rule = step_rule
        self.damping = damping
        self.damping_period = damping_period
        self.factor_decay = factor_decay
        self.factor_update_period = factor_update_period
        self.inverse_update_period = inverse_update_period
        self.inverse = inverse
        self.stagger_inverses = stagger_inverses
        self.inverse_thread = inverse_thread
        self.conv_positions = conv_positions
        self.curvature_fraction = curvature_fraction
        self.patch_period = patch_period
        self.max_patch_bytes = max_patch_bytes
        self.fallback = fallback
        self.fisher = fisher
        self.seed = seed
        self._model: Callable[[], keras.layers.Layer | None] = lambda: None
        self._curvature: Curvature | None = None
        # Replicas are traced in threads of their own, each with its part of the batch.
        self._local = threading.local()

    # Building -------------------------------------------------------------------
    def attach(self, model: keras.layers.Layer) -> None:
        """Makes a block for each trainable layer of `model`, and all variables.

        If the model has no weights yet, that is done when the optimizer is built.

        Args:
          model: The one to train.

        Raises:
          ValueError: A layer is not supported, and the message names it; or the
            optimizer is attached already.
        """
        attached = self._model()
        if attached is not None:
            raise ValueError(
                f"KFAC is attached to model `{attached.name}` already: make another "
                f"for `{model.name}`."
            )
        # No attribute of the optimizer's: Keras saves what those hold with it.
        self._model = weakref.ref(model)
        if model.built:
            self.build(model.trainable_variables)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's variables; `attach` calls it.

        Args:
          variables: The model's trainable ones.

        Raises:
          ValueError: `attach` was not called first, or `variables` are not those of
            the model's blocks.
        """
        if self.built:
            return
        with keras.name_scope(self.name):
            blocks = self._make_curvature()
            covered = {id(v) for v in blocks}
            missing = [v.path for v in variables if id(v) not in covered]
            if missing:
                raise ValueError(
                    "KFAC needs the layers behind the variables: call `attach(model)` "
                    "before the first step, or compile a `kfac.Model`. Received "
                    f"variables without a layer: {missing}"
                )
            super().build(blocks)
            self._velocity = self.add_optimizer_variables(blocks, "velocity")
            self._scale = self._add_scalar("trust_region_scale", "float32")
            self._failures = self._add_scalar("failed_factorizations", "int32")
            self._rejected = self._add_scalar("rejected_statistics", "int32")
            self._skipped = self._add_scalar("skipped_steps", "int32")
            self._radius_factor = self._add_scalar("radius_factor", "float32", "ones")
            self._damping_factor = self._add_scalar("damping_factor", "float32", "ones")
            self._predicted_change = self._add_scalar("predicted_change", "float32")
            self._gradient_norm = self._add_scalar("gradient_norm", "float32")
            self._step_norm = self._add_scalar("step_norm", "float32")
            self._cosine = self._add_scalar("cosine", "float32")

    def _make_curvature(self) -> list[keras.Variable]:
        """The weights that have a block, once there are blocks."""
        model = self._model()
        if model is None:
            return []
        self._curvature = Curvature(model, self.add_variable, self._options())
        if not self._curvature.variables:
            raise ValueError(f"Model `{model.name}` has no trainable weights.")
        return self._curvature.variables

    def _options(self) -> Options:
        return Options(
            inverse=self.inverse,
            conv_positions=self.conv_positions,
            patch_period=self.patch_period,
            max_patch_bytes=self.max_patch_bytes,
            fallback=self.fallback,
            thread=self.inverse_thread,
            stagger_inverses=self.stagger_inverses
            and not self.inverse_thread
            and self.factor_update_period < self.inverse_update_period,
        )

    def memory(self, model: keras.layers.Layer) -> dict[str, int]:
        """What it will hold for a model, before anything of it is made.

        Args:
          model: A built model.

        Returns:
          Path of each layer that has a block → bytes of its factors and inverse;
          "velocity" → bytes of the step before; "total" → of all these. Beside it, for
          a time, each convolution takes up to `max_patch_bytes`.

        Raises:
          ValueError: A layer is not supported, and the message names it; or the model
            is not built.
        """
        if not model.built:
            raise ValueError(f"`memory` needs a built model. Received: `{model.name}`")
        return memory(model, self._options())

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
    def curvature(self) -> Curvature:
        """The Fisher matrix of the model.

        Raises:
          ValueError: There is none yet.
        """
        if self._curvature is None:
            raise ValueError(
                "KFAC has no curvature yet: call `attach` with a built model first."
            )
        return self._curvature

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers that have a block."""
        return self.curvature.layers

    @property
    def blocks(self) -> list[Block]:
        """One block a layer."""
        return list(self.curvature.blocks)

    # Curvature ------------------------------------------------------------------
    def curvature_tape(self) -> CurvatureTape:
        """A tape for the forward pass behind `update_curvature`."""
        return CurvatureTape(self.layers, self.curvature.watched)

    def update_curvature(self, tape: CurvatureTape, log_likelihood: tf.Tensor) -> None:
        """Updates the factors, and the inverses when they are due.

        In a replica of a `tf.distribute` strategy the factors are means over all
        replicas, each of which must have as many examples.

        Args:
          tape: Closed tape that saw the model's forward pass.
          log_likelihood: `[N]`, computed inside the tape's block, of targets sampled
            from the model's own output distribution (not the data's targets).
        """
        self.update_factors(tape, log_likelihood)
        self.update_inverses()

    def update_factors(self, tape: CurvatureTape, log_likelihood: tf.Tensor) -> None:
        """Moves the running factors towards those of a batch; see `update_curvature`.

        Args:
          tape: See `update_curvature`.
          log_likelihood: `[N]`, see `update_curvature`.

        Raises:
          ValueError: A layer was not called inside the tape's block; the
            log-likelihood does not depend on it, or is not `[N]`; or, with
            `inverse="ekfac"`, a layer was called on more or fewer rows than N.
        """
        # Counts the updates, so that `patch_period` leaves out no position.
        step = tf.cast(self._iterations.value, tf.int32)
        period = self.factor_update_period
        step = tf.where(step < period, step, step // period)
        rejected = self.curvature.update_factors(
            tape, log_likelihood, self.factor_decay, step
        )
        self._rejected.assign(self._rejected.value + rejected)

    def factors_due(self) -> tf.Tensor:
        """Scalar bool: whether this step is one of those that update the factors."""
        return factors_due(self._iterations.value, self.factor_update_period)

    def _turn_due(self, place: int) -> tf.Tensor:
        return inverses_due(
            self._iterations.value,
            self.inverse_update_period,
            self.factor_update_period,
            place,
        )

    def update_inverses(self) -> None:
        """Inverts the factors of the blocks whose turn it is."""
        failures = self.curvature.update_inverses(
            lambda: self._iterations.value,
            self._turn_due,
            self.inverse_update_period,
            lambda: self.current_damping,
        )
        self._failures.assign(self._failures.value + failures)

    def sampling_key(self) -> tf.Tensor:
        """A key `[2]` for this step's sampled targets, of the seed and the step.

        In each replica of a `tf.distribute` strategy another one.
        """
        step = tf.cast(self._iterations.value, tf.int32)
        key = tf.stack([tf.constant(self.seed, tf.int32), step])
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return key
        replica = context.replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in(key, replica)

    # The step -------------------------------------------------------------------
    def apply_quadratic(
        self,
        gradients: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable],
        gram: Gram,
    ) -> None:
        """A step whose length and momentum minimize a quadratic model of the loss.

        With Δ the natural gradient and v the step before, the next one is αΔ + βv of

            [ΔᵀBΔ  ΔᵀBv] [α]   [gᵀΔ]
            [vᵀBΔ  vᵀBv] [β] = [gᵀv],   B = F + λI

        Martens & Grosse 2015, sections 6.4 and 7; equation (19) of docs/kfac.md. F is
        not the blocks' but what `gram` takes inner products in.

        Args:
          gradients: Of the loss.
          trainable_variables: What they are with respect to.
          gram: See `Gram`; for instance of `Likelihoods.fisher_gram`.

        Raises:
          ValueError: `step_rule` is another one.
        """
        if self.step_rule != "quadratic":
            raise ValueError(
                '`apply_quadratic` needs step_rule="quadratic". '
                f"Received: step_rule={self.step_rule!r}"
            )
        self._local.gram = gram
        try:
            self.apply(gradients, trainable_variables)
        finally:
            self._local.gram = None

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
        curvature = self.curvature
        gradients = curvature.to_matrices(
            {
                id(variable): tf.convert_to_tensor(gradient)
                for variable, (gradient, _) in zip(
                    trainable_variables, reduced, strict=True
                )
            }
        )
        directions = curvature.multiply_inverse(gradients)
        damped_norm = inner_product(gradients, directions)
        if self.step_rule == "quadratic":
            steps, scale = self._quadratic_steps(gradients, directions, learning_rate)
        else:
            steps, scale = self._momentum_steps(directions, damped_norm, learning_rate)
        squared_length = inner_product(steps, steps)
        finite = tf.math.is_finite(damped_norm) & tf.math.is_finite(squared_length)
        self._scale.assign(tf.where(finite, scale, 0.0))
        self._skipped.assign(self._skipped.value + tf.cast(~finite, tf.int32))
        self._note_step(gradients, steps, squared_length, finite)
        step_of = curvature.from_matrices(steps)
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._distributed_tf_update_step,
            self._distribution_strategy,
            [(step_of[id(v)], v.value) for v in trainable_variables],
            tf.cast(finite, tf.float32),
        )

    def _momentum_steps(
        self,
        directions: Sequence[tf.Tensor],
        damped_norm: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """v, and by how much the trust region shortened it. Equations (11), (13)."""
        eta = self._step_size(learning_rate, damped_norm)
        velocities = [
            self.momentum * old + (1.0 - self.momentum) * eta * direction
            for old, direction in zip(self._velocities(), directions, strict=True)
        ]
        shrink = self._shrink_applied(velocities)
        rate = tf.cast(learning_rate, eta.dtype)
        return (
            [shrink * velocity for velocity in velocities],
            tf.math.divide_no_nan(shrink * eta, rate),
        )

    def _quadratic_steps(
        self,
        gradients: Sequence[tf.Tensor],
        directions: Sequence[tf.Tensor],
        learning_rate: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """αΔ + βv, and by how much the trust region shortened it. Equation (19)."""
        gram: Gram | None = getattr(self._local, "gram", None)
        if gram is None:
            raise ValueError(
                'step_rule="quadratic" needs `apply_quadratic`, or a `kfac.Model`.'
            )
        old = self._velocities()
        tensors = [self.curvature.from_matrices(each) for each in (directions, old)]
        fisher = gram(
            [[each[id(v)] for v in self._trainable_variables] for each in tensors]
        )
        plain = _gram_of([directions, old])
        slope = tf.stack(
            [inner_product(gradients, directions), inner_product(gradients, old)]
        )
        damped = fisher + self.current_damping * plain
        weights = tf.cast(learning_rate, damped.dtype) * quadratic_step(damped, slope)
        scale = tf.constant(1.0)
        if self.kl_radius is not None:
            norm = tf.tensordot(weights, tf.linalg.matvec(fisher, weights), 1)
            scale = step_size(scale, self.radius, norm)
        weights *= scale
        self._predicted_change.assign(
            0.5 * tf.tensordot(weights, tf.linalg.matvec(damped, weights), 1)
            - tf.tensordot(weights, slope, 1)
        )
        steps = [
            weights[0] * direction + weights[1] * before
            for direction, before in zip(directions, old, strict=True)
        ]
        return steps, scale

    def _note_step(
        self,
        gradients: Sequence[tf.Tensor],
        steps: Sequence[tf.Tensor],
        squared_length: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """Keeps what `diagnostics` and `adapt_damping` want; zeros without a step."""
        slope = inner_product(gradients, steps)
        gradient_norm = tf.sqrt(inner_product(gradients, gradients))
        step_norm = tf.sqrt(squared_length)
        cosine = tf.math.divide_no_nan(slope, gradient_norm * step_norm)
        noted = [
            (self._gradient_norm, gradient_norm),
            (self._step_norm, step_norm),
            (self._cosine, cosine),
        ]
        if self.damping_period is not None and self.step_rule == "momentum":
            norm = self.curvature.squared_norm(steps)
            norm += self.current_damping * squared_length
            noted.append((self._predicted_change, 0.5 * norm - slope))
        for variable, value in noted:
            variable.assign(tf.where(finite, value, 0.0))

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

    def _velocities(self) -> list[tf.Tensor]:
        return self.curvature.to_matrices(
            {
                id(variable): velocity.value
                for variable, velocity in zip(
                    self._trainable_variables, self._velocity, strict=True
                )
            }
        )

    def _step_size(self, learning_rate: tf.Tensor, damped_norm: tf.Tensor) -> tf.Tensor:
        if self.kl_radius is None or self.trust_region != "gradient":
            return tf.cast(learning_rate, damped_norm.dtype)
        return step_size(learning_rate, self.radius, damped_norm)

    def _shrink_applied(self, velocities: Sequence[tf.Tensor]) -> tf.Tensor:
        if self.kl_radius is None or self.trust_region != "applied":
            return tf.constant(1.0)
        squared_norm = self.curvature.squared_norm(velocities)
        return step_size(tf.constant(1.0), self.radius, squared_norm)

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

    def adapt_damping(self, change: tf.Tensor, due: bool | tf.Tensor = True) -> None:
        """Moves the damping by the Levenberg-Marquardt rule; see `adapted_damping`.

        Call it every `damping_period` steps, right after a step.

        Args:
          change: Of the loss of the step's own batch by that step, scalar.
          due: Scalar bool; without it the damping stays.

        Raises:
          ValueError: There is no `damping_period`.
        """
        if self.damping_period is None:
            raise ValueError("`adapt_damping` needs a `damping_period`. Received: None")
        factor = self._damping_factor.value
        adapted = adapted_damping(
            factor, change, self._predicted_change.value, self.damping_period
        )
        self._damping_factor.assign(tf.where(due, adapted, factor))

    # Diagnostics ----------------------------------------------------------------
    def predicted_kl(self) -> tf.Tensor:
        """Predicted KL ½vᵀFv of the step applied last, undamped F, in nats. Eq. (12).

        Costs two matrix products a layer.
        """
        return predicted_kl(self.curvature.squared_norm(self._velocities()))

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
    def current_damping(self) -> tf.Tensor:
        """The damping in force: `damping` times what `adapt_damping` made of it."""
        return self.damping * self._damping_factor.value

    @property
    def trust_region_scale(self) -> tf.Tensor:
        """η / η_max of the last step: 1 where the radius did not bind."""
        return self._scale.value

    @property
    def failed_factorizations(self) -> tf.Tensor:
        """Factorizations that failed since the start; each raised its damping."""
        return self._failures.value

    @property
    def rejected_statistics(self) -> tf.Tensor:
        """Statistics of a layer's batch not used because they were not finite."""
        return self._rejected.value

    @property
    def skipped_steps(self) -> tf.Tensor:
        """Steps not taken because they were not finite."""
        return self._skipped.value

    def diagnostics(self) -> dict[str, tf.Tensor]:
        """What there is to know of the step taken last, as scalars.

        It costs the eigenvalues of all factors: not for every step.

        | key | unit | |
        |---|---|---|
        | `predicted_kl` | nats | of the step applied, by the blocks without damping |
        | `trust_region_scale` | | what the radius left of the step, (0, 1] |
        | `damping` | | λ in force |
        | `gradient_norm`, `step_norm` | | Euclidean |
        | `cosine` | | between the gradient and the step taken |
        | `inverse_age` | steps | since the factors behind the oldest inverse |
        | `failed_factorizations` | | since the start |
        | `rejected_statistics` | | of a layer's batch, since the start: not finite |
        | `skipped_steps` | | since the start, because they were not finite |
        | `condition/<layer>` | | condition number of the damped block |
        | `pi/<layer>` | | how its damping is split, eq. (8) |
        """
        oldest = tf.reduce_min([block.inverse_step for block in self.blocks])
        last = tf.cast(self._iterations.value - 1, tf.float32)
        found = {
            "predicted_kl": self.predicted_kl(),
            "trust_region_scale": self.trust_region_scale,
            "damping": self.current_damping,
            "gradient_norm": self._gradient_norm.value,
            "step_norm": self._step_norm.value,
            "cosine": self._cosine.value,
            "inverse_age": last - oldest,
            "failed_factorizations": self.failed_factorizations,
            "rejected_statistics": self.rejected_statistics,
            "skipped_steps": self.skipped_steps,
        }
        for path, block in zip(paths(self.blocks), self.blocks, strict=True):
            condition = block.condition_number(self.current_damping)
            found[f"condition/{path}"] = condition
            found[f"pi/{path}"] = block.pi()
        return found

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config: dict[str, Any] = super().get_config()
        config.update({name: getattr(self, name) for name in _ARGUMENTS})
        return config


_ARGUMENTS = (
    "kl_radius",
    "trust_region",
    "momentum",
    "step_rule",
    "damping",
    "damping_period",
    "factor_decay",
    "factor_update_period",
    "inverse_update_period",
    "inverse",
    "stagger_inverses",
    "inverse_thread",
    "conv_positions",
    "curvature_fraction",
    "patch_period",
    "max_patch_bytes",
    "fallback",
    "fisher",
    "seed",
)


def _gram_of(directions: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    """The inner products of directions, `[D, D]`."""
    return tf.stack(
        [tf.stack([inner_product(x, y) for y in directions]) for x in directions]
    )


def _require(accepted: bool, name: str, what: str, received: object) -> None:
    if not accepted:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={received!r}")


def _require_count(name: str, received: Any) -> None:
    accepted = received >= 1 and isinstance(received, int | np.integer)
    _require(accepted, name, "an integer, at least 1", received)


def _require_one_of(accepted: Sequence[object], name: str, received: object) -> None:
    what = f"one of {', '.join(map(str, accepted))}"
    _require(received in accepted, name, what, received)
