"""A2C: the synchronous advantage actor-critic (Mnih et al. 2016), with RMSprop."""

import functools
from collections.abc import Mapping

import numpy.typing as npt

from acktr_tf.algorithms import scalars
from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.algorithms.learner import PhaseClock, Plan, Update, to_floats
from acktr_tf.algorithms.losses import (
    ActorCriticGradients,
    actor_critic_gradients,
    exact_kls,
)
from acktr_tf.algorithms.optimizers import make_rmsprop
from acktr_tf.algorithms.returns import Batch, make_batch
from acktr_tf.algorithms.schedules import schedule_function
from acktr_tf.algorithms.steppers import FirstOrder
from acktr_tf.config.a2c import A2CSettings
from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.policies.actor_critic import ActorCritic, PolicyStep
from acktr_tf.states import State, load_states, states
from acktr_tf.types import Array, Rollout, Scalar


class A2C:
    """Plain gradient of the actor-critic loss.

    Args:
      settings: Settings of the algorithm.
      returns: Settings of advantages and value targets.
      policy: Policy to train.
      plan: Plan of the run.
    """

    Settings = A2CSettings

    def __init__(
        self,
        settings: A2CSettings,
        returns: ReturnsSettings,
        policy: ActorCritic,
        plan: Plan,
    ) -> None:
        variables, updates = policy.network.trainable_variables, plan.total_updates
        rmsprop = make_rmsprop(
            settings.rmsprop, settings.learning_rate, updates, variables
        )
        entropy_cost = schedule_function(
            settings.loss.entropy_cost, settings.loss.entropy_cost_schedule, updates
        )

        def gradients(batch: Batch) -> ActorCriticGradients:
            return actor_critic_gradients(
                policy,
                self.actor,
                batch,
                entropy_cost(self.actor.iterations),
                settings.loss.value_cost,
            )

        self.policy = policy
        self.scalars: Mapping[str, Scalar] = scalars.LOSS | scalars.KL
        self.phases: Mapping[str, str] = scalars.FIRST_ORDER_PHASES
        self.actor = FirstOrder(rmsprop, variables)
        self._returns = returns
        self._gradients = CompiledFunction(gradients)
        self._measure_kl = CompiledFunction(functools.partial(exact_kls, policy))

    def act(self, observation: npt.ArrayLike, key: npt.ArrayLike) -> PolicyStep:
        """Samples actions from the policy."""
        return self.policy.act(observation, key)

    def update(self, rollout: Rollout, index: int, *, measure: bool) -> Update:
        """Takes one step; see `Learner.update`."""
        clock = PhaseClock()
        batch = make_batch(rollout, self._returns)
        with clock("gradients"):
            before = self._gradients(batch)
            finite = bool(before.finite)
        if finite:
            with clock("step"):
                self.actor.step(before.gradients)
        found = before.scalars
        if measure:
            found |= self._measure_kl(batch.observation, before.output)
        return Update(to_floats(found, self.scalars), clock.seconds, finite)

    def state(self) -> dict[str, Array]:
        """Returns the state of policy and optimizer; see `Learner.state`."""
        return states({"policy": self.policy, "actor": self.actor})

    def load_state(self, state: State) -> None:
        """Loads what `state` returned; see `Learner.load_state`."""
        load_states({"policy": self.policy, "actor": self.actor}, state)
