"""ACKTR: actor-critic using Kronecker-factored trust region (Wu et al. 2017)."""

import functools
import math
from collections.abc import Mapping

import keras
import numpy.typing as npt
import tensorflow as tf

from acktr_tf.algorithms import scalars
from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.algorithms.learner import (
    KFACNetwork,
    PhaseClock,
    Plan,
    Update,
    to_floats,
)
from acktr_tf.algorithms.losses import (
    ActorCriticGradients,
    actor_critic_gradients,
    exact_kls,
    policy_kl,
    sampled_action_log_likelihood,
    sampled_log_likelihood,
    value_loss,
)
from acktr_tf.algorithms.optimizers import make_kfac, make_rmsprop
from acktr_tf.algorithms.returns import Batch, make_batch
from acktr_tf.algorithms.schedules import schedule_function
from acktr_tf.algorithms.steppers import FirstOrder, NaturalGradient
from acktr_tf.algorithms.trust_region import KLController, backtrack
from acktr_tf.config.acktr import ACKTRSettings, CriticSettings
from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.errors import UserError
from acktr_tf.kfac import sample_rows
from acktr_tf.policies.actor_critic import ActorCritic, PolicyOutput, PolicyStep
from acktr_tf.random_keys import KeyStream
from acktr_tf.states import State, Stateful, load_states, states
from acktr_tf.types import Array, Rollout, Scalar


class ACKTR:
    """Natural gradient of the actor-critic loss, by K-FAC, in a trust region.

    With `critic=joint` policy and value are learnt in one step, by the Fisher matrix
    of the joint distribution of action and value (Wu et al. 2017, section 3.1).
    With `critic=separate` the policy has a Fisher matrix of its own, and the value is
    fitted by a `Critic` afterwards.

    Args:
      settings: Settings of the algorithm.
      returns: Settings of advantages and value targets.
      policy: Policy to train.
      plan: Plan of the run.

    Raises:
      UserError: Settings exclude each other, or do not suit the policy.
    """

    Settings = ACKTRSettings

    def __init__(
        self,
        settings: ACKTRSettings,
        returns: ReturnsSettings,
        policy: ActorCritic,
        plan: Plan,
    ) -> None:
        _check_settings(settings, policy)
        joint, updates = settings.critic == "joint", plan.total_updates
        network = self.kfac_networks(settings, policy)[0].network
        kfac = make_kfac(settings.kfac, settings.learning_rate, updates, network)
        fraction = settings.kfac.curvature_fraction
        entropy_cost = schedule_function(
            settings.loss.entropy_cost, settings.loss.entropy_cost_schedule, updates
        )

        def log_likelihood(rows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            output = policy(rows)
            distribution = policy.distribution(output)
            if joint:
                return sampled_log_likelihood(distribution, output.value, key)
            return sampled_action_log_likelihood(distribution, key)

        def gradients(batch: Batch) -> ActorCriticGradients:
            return actor_critic_gradients(
                policy,
                self.actor,
                batch,
                entropy_cost(self.actor.iterations),
                settings.loss.value_cost,
            )

        def kl(observation: tf.Tensor, old: PolicyOutput, key: tf.Tensor) -> tf.Tensor:
            rows, parameters = (
                sample_rows(key, tensor, fraction)
                for tensor in (observation, old.parameters)
            )
            before, now = (
                policy.distribution(output)
                for output in (old._replace(parameters=parameters), policy(rows))
            )
            return policy_kl(before, now)

        self.policy = policy
        self.actor = NaturalGradient(kfac, log_likelihood, fraction)
        self.critic = (
            None if joint else Critic(settings.critic_optimizer, policy, updates)
        )
        self.scalars: Mapping[str, Scalar] = {
            **scalars.LOSS,
            **scalars.KL,
            **scalars.KFAC,
            **scalars.KL_BOUNDS,
            **({} if joint else scalars.CRITIC),
        }
        self.phases = {**scalars.PHASES, **({} if joint else scalars.CRITIC_PHASE)}
        self._returns = returns
        self._keys = KeyStream(plan.seed, "update")
        self._gradients = CompiledFunction(gradients)
        self._kl = CompiledFunction(kl)
        self._measure_kl = CompiledFunction(functools.partial(exact_kls, policy))
        self._control = KLController(
            kfac,
            None
            if settings.target_kl is None
            else schedule_function(
                settings.target_kl, settings.target_kl_schedule, updates
            ),
            settings.target_kl_adapts,
        )
        self._max_kl = settings.max_kl

    @staticmethod
    def kfac_networks(
        settings: ACKTRSettings, policy: ActorCritic
    ) -> list[KFACNetwork]:
        """Returns the networks that K-FAC steps; see `Learner`."""
        if settings.critic == "joint":
            return [KFACNetwork("", settings.kfac, policy.network)]
        networks = [KFACNetwork("", settings.kfac, policy.policy_network)]
        critic = settings.critic_optimizer
        if critic.norm != "euclidean":
            networks.append(KFACNetwork("critic.", critic.kfac, policy.value_network))
        return networks

    def act(self, observation: npt.ArrayLike, key: npt.ArrayLike) -> PolicyStep:
        """Samples actions from the policy."""
        return self.policy.act(observation, key)

    def update(self, rollout: Rollout, index: int, *, measure: bool) -> Update:
        """Takes one natural gradient step; see `Learner.update`.

        Equation numbers are those of docs/kfac.md.
        """
        clock = PhaseClock()
        batch = make_batch(rollout, self._returns)
        key = tf.constant(self._keys.key(index))
        with clock("curvature"):
            self.actor.update_curvature(batch.observation, key)  # A, G: (2) to (7)
        with clock("inverses"):
            self.actor.update_inverses()  # (8), (9)
        with clock("gradients"):
            before = self._gradients(batch)
            finite = bool(before.finite)
        if finite:
            with clock("step"):
                kl = functools.partial(self._kl, batch.observation, before.output, key)
                self.actor.step(before.gradients)  # F⁻¹∇, radius: (10) to (13)
                self._control(kl)  # The radius follows the exact KL: (14)
                backtrack(self.actor, kl, self._max_kl)  # (15)
            if self.critic is not None:
                with clock("critic"):
                    self.critic.fit(batch.observation, batch.target, key)  # (16)
        return Update(self._report(batch, before, measure), clock.seconds, finite)

    def _report(
        self, batch: Batch, before: ActorCriticGradients, measure: bool
    ) -> dict[str, float]:
        """Returns scalars of the loss and, if `measure`, all others."""
        found = dict(before.scalars)
        if measure:
            found |= self._measure_kl(batch.observation, before.output)
            found |= {**self.actor.describe(), **self.actor.measure()}
            found["target_kl"] = self._control.target()
            found["max_kl"] = math.nan if self._max_kl is None else self._max_kl
            if self.critic is not None:
                of_critic = self.critic.stepper
                for name, value in {
                    **of_critic.describe(),
                    **of_critic.measure(),
                }.items():
                    found[f"critic_{name}"] = value
        return to_floats(found, self.scalars)

    def state(self) -> dict[str, Array]:
        """Returns the state of policy and optimizers; see `Learner.state`."""
        return states(self._parts())

    def load_state(self, state: State) -> None:
        """Loads what `state` returned; see `Learner.load_state`."""
        load_states(self._parts(), state)

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"policy": self.policy, "actor": self.actor}
        if self.critic is not None:
            parts["critic"] = self.critic.stepper
        return parts


class Critic:
    """Value network with an optimizer of its own (Wu et al. 2017, section 5.2).

    The value is the mean of a Gaussian N(V(s), σ²), the Fisher matrix of which is the
    Gauss-Newton matrix E[∇V ∇Vᵀ] / σ². It needs no sampled targets: for one output, the
    gradient of a log-likelihood is ∇V times a number whose mean square is 1 / σ².
    Equation (16) of docs/kfac.md.

    Args:
      settings: Settings of the critic.
      policy: Policy whose value learns.
      total_updates: Updates of the whole run.

    Attributes:
      stepper: Stepper of the value network.
    """

    def __init__(
        self, settings: CriticSettings, policy: ActorCritic, total_updates: int
    ) -> None:
        network, variance = policy.value_network, tf.Variable(1.0, trainable=False)
        self.stepper = _critic_stepper(settings, network, variance, total_updates)

        def fit(observation: tf.Tensor, target: tf.Tensor, key: tf.Tensor) -> None:
            inputs = policy.network_inputs(observation)
            if settings.norm == "adaptive_gauss_newton":
                error = tf.reduce_mean(tf.square(network(inputs)[:, 0] - target))
                variance.assign(tf.maximum(error, 1e-8))

            def step(number: tf.Tensor) -> tuple[tf.Tensor]:
                step_key = tf.random.experimental.stateless_fold_in(key, number)
                self.stepper.update_curvature(inputs, step_key)
                self.stepper.update_inverses()
                with tf.GradientTape() as tape:
                    loss = value_loss(network(inputs)[:, 0], target) / variance
                self.stepper.step(tape.gradient(loss, self.stepper.variables))
                return (number + 1,)

            tf.while_loop(
                lambda number: number < settings.updates,
                step,
                (tf.constant(0),),
                parallel_iterations=1,
            )

        self._fit = CompiledFunction(fit)

    def fit(self, observation: tf.Tensor, target: tf.Tensor, key: tf.Tensor) -> None:
        """Takes `critic.updates` steps on −log N(R; V(s), σ²), but for its constant.

        Args:
          observation: `[N, ...]`.
          target: `[N]`, R.
          key: `[2]`, random.
        """
        self._fit(observation, target, key)


def _critic_stepper(
    settings: CriticSettings,
    network: keras.Model,
    variance: tf.Variable,
    total_updates: int,
) -> FirstOrder:
    total_steps = total_updates * settings.updates
    if settings.norm == "euclidean":
        variables = network.trainable_variables
        rmsprop = make_rmsprop(
            settings.rmsprop, settings.learning_rate, total_steps, variables
        )
        return FirstOrder(rmsprop, variables)
    kfac = make_kfac(
        settings.kfac, settings.learning_rate, total_steps, network, "critic_kfac"
    )

    def root(inputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns V / σ, whose gradient's second moment is the Gauss-Newton matrix."""
        return network(inputs)[:, 0] / tf.sqrt(variance)

    return NaturalGradient(kfac, root, settings.kfac.curvature_fraction)


def _check_settings(settings: ACKTRSettings, policy: ActorCritic) -> None:
    """Refuses settings that exclude each other or do not suit the policy."""
    schedule = settings.learning_rate.learning_rate_schedule
    adapts_rate = settings.target_kl_adapts == "learning_rate"
    if settings.target_kl is not None and adapts_rate and schedule != "constant":
        raise UserError(
            "target_kl_adapts=learning_rate needs learning_rate_schedule=constant: "
            "only one of them can decide the learning rate. Received: "
            f"learning_rate_schedule={schedule}"
        )
    actor, critic = (
        {id(variable) for variable in network.trainable_variables}
        for network in (policy.policy_network, policy.value_network)
    )
    if settings.critic == "separate" and actor & critic:
        raise UserError(
            "critic=separate needs a network without a trunk that policy and value "
            "share: mlp, separate_cnns or grid_cnn, whichever takes the observations. "
            f"Received: network={policy.network.name}. critic=joint takes all networks."
        )
