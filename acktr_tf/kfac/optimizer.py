"""K-FAC as a Keras optimizer: natural gradient with a trust region and momentum."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.curvature import Curvature, inner_product
from acktr_tf.kfac.diagnostics import Scalars, diagnostics, make_scalars, note_step
from acktr_tf.kfac.inversion import BlockInverter
from acktr_tf.kfac.memory import estimate_memory
from acktr_tf.kfac.schedule import factors_due, inverses_due
from acktr_tf.kfac.settings import KFACSettings, require
from acktr_tf.kfac.step_rules import (
    Directions,
    FisherInnerProducts,
    Momentum,
    QuadraticModel,
    StepRule,
)
from acktr_tf.kfac.trust_region import predicted_kl

_SETTINGS = tuple(field.name for field in dataclasses.fields(KFACSettings))


@keras.saving.register_keras_serializable(package="acktr_tf")
class KFAC(keras.optimizers.Optimizer):
    """Kronecker-factored approximate curvature (Martens & Grosse 2015).

    A step, with g the gradient of the loss:

        Δ = F⁻¹ g                                     natural gradient, eq. (10)
        η = min(η_max, sqrt(2δ / ΔᵀFΔ))               trust region, eq. (11)
        v ← μ v + (1 − μ) η Δ                         momentum, eq. (13)
        θ ← θ − v

    F is block diagonal, with one Kronecker product per layer. v is a mean of steps that
    are each inside the trust region, so momentum does not lengthen them: in a constant
    direction the step applied tends to ηΔ. (The released code of Wu et al. 2017 is
    equivalent: it scales its learning rate by 1 − μ.)

    With `kfac.Model`, pass it to `compile` like any other optimizer. In your own
    training step:

        optimizer = KFAC(learning_rate=0.25, kl_radius=0.001)
        optimizer.attach(model)
        with optimizer.curvature_tape() as curvature_tape, tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = ...
            log_likelihood = ...  # [N], of targets sampled from the model's outputs
        optimizer.update_curvature(curvature_tape, log_likelihood)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    The arguments can be read as attributes, for instance `optimizer.damping`, but not
    changed, except for the learning rate. `kfac.control` adapts radius, learning rate
    and damping during training.

    Args:
      learning_rate: η_max: a float, or a Keras schedule.
      kl_radius: δ, the largest predicted KL ½ΔᵀFΔ, in nats. None for no trust region.
      bound: What the radius bounds. "direction": ηΔ, before momentum, with ΔᵀFΔ in the
        damped metric ⟨g, F⁻¹g⟩ as in the paper. "update": v, with the undamped F; this
        costs two more matrix products per layer.
      momentum: μ, in [0, 1).
      step_rule: "momentum", as above; or "quadratic": η and μ of each step minimize the
        quadratic model of the loss with the exact Fisher matrix of the batch, see
        `apply_quadratic`. They are then multiplied by `learning_rate`, which should be
        1, and the radius bounds the step applied.
      damping: λ, Tikhonov damping of F.
      damping_period: Steps between two adaptations of the damping by `kfac.Model`, see
        `control.adapt_damping`. None keeps the damping. The measured change of the loss
        includes what `weight_decay` does; the predicted change does not.
      factor_decay: ρ, decay of the running factors.
      factor_update_period: Steps between two updates of the factors by `kfac.Model`. In
        the first period they are updated at every step.
      inverse_update_period: Steps between two inversions of the factors. In the first
        period they are inverted whenever they are updated.
      inverse: Method of inversion. "cholesky": A and G, each with its part of the
        damping. "eigen": in their eigenbases, with exact damping. "ekfac": the same,
        with a spectrum that follows every batch (George et al. 2018).
      stagger_inverses: If True, each layer is inverted at a different step of the
        period, which spreads the cost. An inverse is then of factors that are up to
        `factor_update_period` − 1 steps old. Ignored with `inverse_thread`, or if
        factors are updated no more often than they are inverted.
      inverse_thread: If True, a background thread inverts while training goes on. The
        inverses in force are then of the factors of the period before, at most 2 ·
        `inverse_update_period` − 1 steps old. Results do not depend on how long it
        takes: a step waits if the previous inversion is not done.
      spatial_correlation: Correlation that is assumed between the gradients at
        different positions of a convolution. "none": KFC. "full": an upper bound, which
        is larger by a factor of the number of positions, so that steps are smaller.
      curvature_fraction: Fraction of each batch, in (0, 1], from which `kfac.Model`
        estimates the factors; random rows. None for at most 128 examples. Unless it is
        1 and factors are updated at every step, this costs another forward pass on so
        many examples.
      patch_stride: Distance along each axis between the positions of a convolution
        whose patches are used for the factor A. The first position moves with each
        update. Must be 1 with "ekfac".
      max_patch_bytes: Largest size of the patches that are held at a time, in bytes.
      max_factor_dim: Largest dimension of a factor that is kept as a matrix. Of a wider
        one only the diagonal is estimated, equation (22). None keeps all as matrices.
      fallback: Block of layers that have no Kronecker-factored block. "diagonal": the
        diagonal of their Fisher matrix. None: they are an error.
      fisher: Matrix that `kfac.Model` estimates. "sampled": the Fisher matrix, from
        targets sampled from the model. "empirical": the uncentred covariance of the
        loss's gradients, which is no Fisher matrix (Kunstner et al. 2019).
      seed: Seed of the sampled targets and rows.
      name: Name of the optimizer.
      **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Raises:
      ValueError: An argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        kl_radius: float | None = 0.001,
        bound: str = "direction",
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
        spatial_correlation: str = "none",
        curvature_fraction: float | None = None,
        patch_stride: int = 1,
        max_patch_bytes: int = 256 * 2**20,
        max_factor_dim: int | None = 8192,
        fallback: str | None = None,
        fisher: str = "sampled",
        seed: int = 0,
        name: str = "kfac",
        **kwargs: Any,
    ) -> None:
        arguments = locals()
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        settings = KFACSettings(**{name: arguments[name] for name in _SETTINGS})
        require(
            not (settings.damping_period and self.gradient_accumulation_steps),
            "damping_period",
            "None with gradient_accumulation_steps, where a batch is a part of a step",
            settings.damping_period,
        )
        self.settings = settings
        self._model: Callable[[], keras.layers.Layer | None] = lambda: None
        self._curvature: Curvature | None = None
        self._rule: StepRule | None = None
        if settings.step_rule == "momentum":
            self._rule = Momentum(settings.momentum, settings.bound)

    def __getattr__(self, name: str) -> Any:
        # Called only for attributes that are not found otherwise.
        if name in _SETTINGS and "settings" in vars(self):
            return getattr(self.settings, name)
        raise AttributeError(f"KFAC has no attribute `{name}`.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            raise AttributeError(
                f"`{name}` of KFAC cannot be changed after construction: make another "
                f"optimizer. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    # Building -------------------------------------------------------------------
    def attach(self, model: keras.layers.Layer) -> None:
        """Makes a block for each trainable layer of `model`, and all variables.

        If the model has no weights yet, they are made when the optimizer is built.

        Args:
          model: The model to train.

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
        # A weak reference: Keras saves what an optimizer's attributes hold with it.
        self._model = weakref.ref(model)
        if model.built:
            self.build(model.trainable_variables)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's variables; `attach` calls it.

        Args:
          variables: Trainable variables of the model.

        Raises:
          ValueError: `attach` was not called first, or `variables` are not those of
            the model's blocks.
        """
        if self.built:
            return
        with keras.name_scope(self.name):
            covered = self._make_curvature()
            known = {id(v) for v in covered}
            missing = [v.path for v in variables if id(v) not in known]
            if missing:
                raise ValueError(
                    "KFAC needs the layers behind the variables: call `attach(model)` "
                    "before the first step, or compile a `kfac.Model`. Received "
                    f"variables without a layer: {missing}"
                )
            super().build(covered)
            self._velocity = self.add_optimizer_variables(covered, "velocity")
            self.scalars: Scalars = make_scalars(self.add_variable)

    def _make_curvature(self) -> list[keras.Variable]:
        """Makes the blocks, if there is a model; returns the weights they cover."""
        model = self._model()
        if model is None:
            return []
        self._curvature = Curvature(model, self.add_variable, self.settings)
        if not self._curvature.variables:
            raise ValueError(f"Model `{model.name}` has no trainable weights.")
        self._inverter = BlockInverter(
            self._curvature.blocks, self.add_variable, self.settings
        )
        return self._curvature.variables

    def memory(self, model: keras.layers.Layer) -> dict[str, int]:
        """Estimates the memory of the optimizer without allocating it.

        Args:
          model: A built model.

        Returns:
          Path of each layer that has a block → bytes of its factors and inverse;
          "velocity" → bytes of the last step; "total" → sum of all, the state;
          "workspace" → bytes that an update takes beside the state for a time, about.
          In addition, each convolution takes up to `max_patch_bytes` for a time.

        Raises:
          ValueError: A layer is not supported, and the message names it; or the model
            is not built.
        """
        if not model.built:
            raise ValueError(f"`memory` needs a built model. Received: `{model.name}`")
        found = estimate_memory(model, self.settings)
        return {
            **found.blocks,
            "velocity": found.velocity,
            "total": found.state,
            "workspace": found.workspace,
        }

    @property
    def curvature(self) -> Curvature:
        """The Fisher matrix of the model.

        Raises:
          ValueError: The optimizer is not attached to a built model yet.
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
        """The blocks of the Fisher matrix, one per layer."""
        return list(self.curvature.blocks)

    @property
    def velocity(self) -> list[keras.Variable]:
        """v, the last step, with one variable for each of `curvature.variables`."""
        return list(self._velocity)

    @property
    def step_number(self) -> tf.Tensor:
        """Number of calls of `apply` so far, scalar integer.

        Unlike `iterations`, it counts each batch whose gradients are accumulated.
        """
        return self._iterations.value

    # Curvature ------------------------------------------------------------------
    def curvature_tape(self) -> CurvatureTape:
        """Returns a tape for the forward pass behind `update_curvature`."""
        return CurvatureTape(self.layers, self.curvature.watched_weights)

    def update_curvature(self, tape: CurvatureTape, log_likelihood: tf.Tensor) -> None:
        """Updates the factors, and the inverses that are due.

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
        # Counts the updates, so that `patch_stride` skips no position for ever.
        step, period = self.step_number, self.settings.factor_update_period
        number = tf.where(step < period, step, step // period)
        rejected = self.curvature.update_factors(
            tape,
            log_likelihood,
            self.settings.factor_decay,
            tf.cast(number % 2**31, tf.int32),
        )
        count = self.scalars.rejected_statistics
        count.assign(count.value + rejected)

    def factors_due(self) -> tf.Tensor:
        """Returns whether the factors are to be updated at this step, scalar bool."""
        period = self.settings.factor_update_period
        return factors_due(self.step_number, period)

    def update_inverses(self) -> None:
        """Inverts the factors of the blocks that are due."""
        settings = self.settings

        def due(offset: int) -> tf.Tensor:
            return inverses_due(
                self.step_number,
                settings.inverse_update_period,
                settings.factor_update_period,
                offset,
            )

        failures = self._inverter.update(
            lambda: self.step_number, due, lambda: self.current_damping
        )
        count = self.scalars.failed_factorizations
        count.assign(count.value + failures)

    def sampling_key(self) -> tf.Tensor:
        """Returns a key `[2]` for this step's sampled targets, from seed and step.

        Each replica of a `tf.distribute` strategy has another key.
        """
        # The 64 bits of the step number: those beyond 32 are added to the seed.
        step, seed = self.step_number, tf.constant(self.settings.seed, tf.int32)
        rounds = tf.cast(
            tf.bitwise.right_shift(step, tf.cast(32, step.dtype)), tf.int32
        )
        key = tf.stack([seed + rounds, tf.cast(step, tf.int32)])
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
        fisher_inner_products: FisherInnerProducts,
    ) -> None:
        """Applies a step whose length and momentum minimize a quadratic model.

        With Δ the natural gradient and v the step before, the next one is αΔ + βv of

            [ΔᵀBΔ  ΔᵀBv] [α]   [gᵀΔ]
            [vᵀBΔ  vᵀBv] [β] = [gᵀv],   B = F + λI

        Martens & Grosse 2015, sections 6.4 and 7; equation (19) of docs/kfac.md. F is
        not the blocks' matrix but that of `fisher_inner_products`.

        Args:
          gradients: Gradients of the loss.
          trainable_variables: Variables that they are with respect to.
          fisher_inner_products: Inner products of directions in the metric of the
            Fisher matrix, for instance by `Likelihoods.fisher_inner_products`. The
            tensors of a direction are in the order of `trainable_variables`.

        Raises:
          ValueError: `step_rule` is another one.
        """
        if self.settings.step_rule != "quadratic":
            raise ValueError(
                '`apply_quadratic` needs step_rule="quadratic". '
                f"Received: step_rule={self.settings.step_rule!r}"
            )
        self.build(trainable_variables)
        rule = QuadraticModel(fisher_inner_products, list(trainable_variables))
        self._with_rule(rule).apply(gradients, trainable_variables)

    def _with_rule(self, rule: StepRule) -> "KFAC":
        """Returns this optimizer with another step rule, for one step.

        All variables are the same. Replicas are traced in turns, so that the rule of
        one replica must not be left in an attribute that another one reads.
        """
        optimizer = object.__new__(type(self))
        optimizer.__dict__.update(self.__dict__, _rule=rule)
        return optimizer

    def _backend_update_step(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable],
        learning_rate: tf.Tensor,
    ) -> None:
        """Takes a step of all variables together, where Keras steps them one by one.

        Args:
          grads: Gradients of the loss, in this replica, clipped and accumulated.
          trainable_variables: Variables that they are with respect to.
          learning_rate: η_max, scalar.

        Raises:
          ValueError: A gradient is missing, or the step rule needs `apply_quadratic`.
        """
        if self._rule is None:
            raise ValueError(
                'step_rule="quadratic" needs `apply_quadratic`, or a `kfac.Model`.'
            )
        values = [v.value for v in trainable_variables]
        reduced = self._all_reduce_sum_gradients(list(zip(grads, values, strict=True)))
        curvature, kl_radius = self.curvature, self.settings.kl_radius
        gradients = curvature.to_matrices(
            {
                id(variable): tf.convert_to_tensor(gradient)
                for variable, (gradient, _) in zip(
                    trainable_variables, reduced, strict=True
                )
            }
        )
        natural = curvature.multiply_inverse(gradients)
        damped_norm = inner_product(gradients, natural)
        directions = Directions(
            gradients=gradients,
            natural=natural,
            damped_norm=damped_norm,
            velocities=self._velocity_matrices(),
            learning_rate=learning_rate,
            radius=None if kl_radius is None else lambda: self.radius,
            damping=lambda: self.current_damping,
        )
        step = self._rule(directions, curvature)
        squared_length = inner_product(step.matrices, step.matrices)
        finite = tf.math.is_finite(damped_norm) & tf.math.is_finite(squared_length)
        note_step(self, step, gradients, squared_length, finite)
        tensors = curvature.from_matrices(step.matrices)
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._take_step,
            self._distribution_strategy,
            [tensors[id(v)] for v in trainable_variables],
            values,
            finite,
        )

    def _take_step(
        self,
        strategy: tf.distribute.Strategy,
        steps: Sequence[tf.Tensor],
        variables: Sequence[tf.Variable],
        finite: tf.Tensor,
    ) -> None:
        """Subtracts the steps from the variables, unless the step is not finite."""

        def take(variable: tf.Variable, step: tf.Tensor, finite: tf.Tensor) -> None:
            velocity = self._velocity[self._get_variable_index(variable)]
            self.assign(velocity, tf.where(finite, step, velocity.value))
            self.assign_sub(variable, tf.where(finite, step, tf.zeros_like(step)))

        for step, variable in zip(steps, variables, strict=True):
            strategy.extended.update(variable, take, args=(step, finite), group=False)

    def _velocity_matrices(self) -> list[tf.Tensor]:
        return self.curvature.to_matrices(
            {
                id(variable): velocity.value
                for variable, velocity in zip(
                    self.curvature.variables, self._velocity, strict=True
                )
            }
        )

    # The last step --------------------------------------------------------------
    def predicted_kl(self) -> tf.Tensor:
        """Returns the predicted KL ½vᵀFv of the last step, undamped F, in nats.

        Equation (12). Costs two matrix products per layer.
        """
        return predicted_kl(self.curvature.squared_norm(self._velocity_matrices()))

    @property
    def radius(self) -> tf.Tensor:
        """The radius in force, in nats: `kl_radius` as adapted by `kfac.control`.

        Raises:
          ValueError: There is no trust region.
        """
        if self.settings.kl_radius is None:
            raise ValueError("`radius` needs a trust region. Received: kl_radius=None")
        return self.settings.kl_radius * self.scalars.radius_factor.value

    @property
    def current_damping(self) -> tf.Tensor:
        """The damping in force: `damping` as adapted by `kfac.control`."""
        return self.settings.damping * self.scalars.damping_factor.value

    @property
    def trust_region_scale(self) -> tf.Tensor:
        """η / η_max of the last step: 1 if the radius did not bind."""
        return self.scalars.trust_region_scale.value

    @property
    def failed_factorizations(self) -> tf.Tensor:
        """Number of factorizations that failed; each raised its damping."""
        return self.scalars.failed_factorizations.value

    @property
    def rejected_statistics(self) -> tf.Tensor:
        """Number of a layer's batch statistics left out because not finite."""
        return self.scalars.rejected_statistics.value

    @property
    def skipped_steps(self) -> tf.Tensor:
        """Number of steps not taken because they were not finite."""
        return self.scalars.skipped_steps.value

    def diagnostics(self) -> dict[str, tf.Tensor]:
        """Returns diagnostics of the last step, as scalars.

        They cost the eigenvalues of all factors: do not compute them at every step.

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
        | `pi/<layer>` | | split of its damping, eq. (8); Kronecker-factored blocks |
        """
        return diagnostics(self)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), **dataclasses.asdict(self.settings)}
