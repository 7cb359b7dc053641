"""Distributions of actions that a policy parametrizes, one class per action space.

An action drawn from a distribution is what the policy learns from; the environment is
given `ActionDistribution.to_environment` of it. The two differ by a map that does not
depend on the weights, so that gradients of log-likelihoods, KL divergences and the
Fisher matrix are the same for both.
"""

import abc
import math
from typing import Any, Protocol

import gymnasium
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from acktr_tf.errors import UserError
from acktr_tf.spaces.actions import joint_choices
from acktr_tf.types import Array

tfd = tfp.distributions

ACTION_SPACES = (
    "Discrete, MultiDiscrete, MultiBinary, a Tuple or Dict of those, or Box of floats"
)
FORBIDDEN_LOGIT = -1e9
"""Logit of an option that a mask forbids.

Its probability is exactly zero, and unlike −∞ it leaves entropies, divergences and
gradients finite.
"""
QUADRATURE_NODES = 129
QUADRATURE_RANGE = 6.0


class Distribution(Protocol):
    """Distribution of `N` actions, as TensorFlow Probability's are."""

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """Returns the log-likelihood `[N]` of actions `[N, ...]`, in nats."""

    def entropy(self) -> tf.Tensor:
        """Returns the entropy `[N]`, in nats."""

    def sample(self, *, seed: tf.Tensor) -> tf.Tensor:
        """Draws actions `[N, ...]` with the random key `seed` `[2]`."""

    def kl_divergence(self, other: Any) -> tf.Tensor:
        """Returns the KL divergence `[N]` from this one to `other`, in nats."""


class ActionDistribution(abc.ABC):
    """Family of distributions over the actions of one space.

    Attributes:
      space: The space.
      num_parameters: `P`, numbers that describe one distribution.
      num_state_independent: Numbers at the end of the `P` that do not depend on the
        observation.
      spec: Tensor of one action as the policy learns from it, without the axis of the
        batch.
      parameter_name: Name of the parameters in a SavedModel.
    """

    space: gymnasium.Space[Any]
    num_parameters: int
    num_state_independent: int = 0
    spec: tf.TensorSpec
    parameter_name: str = "logits"

    @abc.abstractmethod
    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """Returns the distribution of `N` actions, given parameters `[N, P]`."""

    @abc.abstractmethod
    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Converts actions `[N, ...]` of the policy to those of the environment."""

    @abc.abstractmethod
    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the most likely actions `[N, ...]` of the policy.

        LiteRT and ONNX have all operations that it consists of.

        Args:
          parameters: `[N, P]`.
        """

    def greedy_action(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the most likely actions `[N, ...]`, as the environment takes them.

        LiteRT and ONNX have all operations that it consists of.

        Args:
          parameters: `[N, P]`.
        """
        return self.to_environment(self.mode(parameters))


def make_action_distribution(
    space: gymnasium.Space[Any], *, squash: bool = False
) -> ActionDistribution:
    """Returns the family of distributions over the actions of a space.

    Args:
      space: Action space of one environment.
      squash: Whether actions of a `Box` are kept in its bounds by a tanh instead of by
        clipping.

    Raises:
      UserError: The space is not supported; the message says which are.
    """
    if isinstance(space, Discrete):
        return CategoricalDistribution(space)
    if isinstance(space, MultiDiscrete):
        return MultiCategoricalDistribution(space)
    if isinstance(space, MultiBinary):
        return BernoulliDistribution(space)
    if (choices := joint_choices(space)) is not None:
        return MultiCategoricalDistribution(choices, space)
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianDistribution(space, squash=squash)
    raise UserError(
        f"The action space is not supported. Received: {' '.join(str(space).split())}. "
        f"Accepted: {ACTION_SPACES}."
    )


def mask_logits(logits: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """Returns logits of distributions without the options that are not allowed.

    The probabilities are those given that an allowed option is chosen (Huang and
    Ontañón 2022). The logit of a forbidden option has no gradient.

    Args:
      logits: `[N, P]`.
      allowed: `[N, P]` bool, one option of each choice at least.
    """
    return tf.where(allowed, logits, tf.constant(FORBIDDEN_LOGIT, logits.dtype))


class CategoricalDistribution(ActionDistribution):
    """Distribution over a `Discrete` space: one logit per action.

    The policy's actions are indices from 0, whatever the space's `start`.

    Args:
      space: The space, of `n` actions.
    """

    def __init__(self, space: Discrete) -> None:
        self.space = space
        self.num_parameters = int(space.n)
        self.spec = tf.TensorSpec([], tf.int32)
        self._start = int(space.start)
        self._dtype = space.dtype

    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """Returns the distribution of actions `[N]` int32, given logits `[N, n]`."""
        return tfd.Categorical(logits=parameters, dtype=tf.int32)

    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Returns actions that count from the space's `start`."""
        return tf.cast(action, self._dtype) + self._start

    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the indices `[N]` int32 of the largest logits."""
        return tf.argmax(parameters, axis=-1, output_type=tf.int32)


class MultiCategoricalDistribution(ActionDistribution):
    """Distribution over a `MultiDiscrete` space: choices of one logit per option.

    The policy's actions are flat, `[k]`, with indices from 0.

    Args:
      choices: The space, of `k` choices in any shape.
      composed: The space of the environment where that is a `Tuple` or `Dict`, whose
        choices end to end `choices` are; see `acktr_tf.spaces.actions`.
    """

    def __init__(
        self, choices: MultiDiscrete, composed: gymnasium.Space[Any] | None = None
    ) -> None:
        self.space = choices if composed is None else composed
        self._sizes = [int(n) for n in np.ravel(choices.nvec)]
        self.num_parameters = sum(self._sizes)
        self.spec = tf.TensorSpec([len(self._sizes)], tf.int32)
        self._start = np.asarray(choices.start)
        self._dtype = choices.dtype

    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """Returns the distribution of actions `[N, k]`, given logits `[N, Σ n]`."""
        return IndependentCategoricals(self._logits(parameters))

    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Returns actions in the shape of `choices` that count from its `start`."""
        shaped = tf.reshape(action, [-1, *self._start.shape])
        return tf.cast(shaped, self._dtype) + self._start

    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the index of each choice's largest logit, `[N, k]` int32."""
        best = [
            tf.argmax(logits, axis=-1, output_type=tf.int32)
            for logits in self._logits(parameters)
        ]
        return tf.stack(best, axis=-1)

    def _logits(self, parameters: tf.Tensor) -> list[tf.Tensor]:
        """Returns the logits `[N, n]` of each choice."""
        return tf.split(parameters, self._sizes, axis=-1)


class BernoulliDistribution(ActionDistribution):
    """Distribution over a `MultiBinary` space: independent switches, one logit each.

    Args:
      space: The space, of `k` switches in any shape.
    """

    def __init__(self, space: MultiBinary) -> None:
        self.space = space
        self.num_parameters = math.prod(space.shape)
        self.spec = tf.TensorSpec([self.num_parameters], tf.int32)
        self._shape = space.shape
        self._dtype = space.dtype

    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """Returns the distribution of actions `[N, k]` int32, given logits `[N, k]`."""
        return tfd.Independent(
            tfd.Bernoulli(logits=parameters, dtype=tf.int32),
            reinterpreted_batch_ndims=1,
        )

    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Returns actions in the space's shape and type."""
        return tf.cast(tf.reshape(action, [-1, *self._shape]), self._dtype)

    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns 1 where a logit is positive, `[N, k]` int32."""
        return tf.cast(parameters > 0.0, tf.int32)


class GaussianDistribution(ActionDistribution):
    """Gaussian over a `Box`, with a standard deviation that ignores the state.

    The parameters are `d` means and `d` logarithms of standard deviations. The policy's
    action u `[d]` is unbounded. Where the space has two finite bounds the environment
    gets

        c + h clip(u, −1, 1),  or  c + h tanh(u)  if squashed,

    with c the middle and h half of the distance of the bounds, so that the same network
    suits whatever unit a simulator counts in. Where a bound is infinite it gets u
    itself, clipped to the finite one if there is one.

    Args:
      space: The space, of `d` floats in any shape.
      squash: Whether to squash.
    """

    parameter_name = "mean_and_log_std"

    def __init__(self, space: Box, *, squash: bool = False) -> None:
        self.space = space
        size = math.prod(space.shape)
        self.num_parameters = 2 * size
        self.num_state_independent = size
        self.spec = tf.TensorSpec([size], tf.float32)
        self._squash = squash
        self._shape = space.shape
        self._dtype = space.dtype
        # Some environments write the largest number where there is no bound.
        largest = float(np.finfo(space.low.dtype).max)  # type: ignore[type-var]
        low, high = (np.ravel(bound) for bound in (space.low, space.high))
        self._low = np.where(low <= -largest, -np.inf, low.astype(np.float64))
        self._high = np.where(high >= largest, np.inf, high.astype(np.float64))
        self._bounded = np.isfinite(self._low) & np.isfinite(self._high)
        low = np.where(self._bounded, self._low, -1.0)
        high = np.where(self._bounded, self._high, 1.0)
        self._center, self._half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low

    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """Returns the distribution of u `[N, d]`, given parameters `[N, 2d]`."""
        mean, log_std = tf.split(parameters, 2, axis=-1)
        gaussian = tfd.MultivariateNormalDiag(mean, tf.exp(log_std))
        if not self._squash:
            return gaussian
        return SquashedGaussian(gaussian, self._bounded)

    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Returns actions within the space's bounds, in its shape and type."""
        return self._rescale(action, np.float64)

    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the means `[N, d]`; with `squash` their tanh is a median."""
        mean, _ = tf.split(parameters, 2, axis=-1)
        return mean

    def greedy_action(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the most likely actions, as the environment takes them.

        They are computed in float32, as far as it holds the bounds, and differ from
        `to_environment` of the mode by no more than rounding.

        Args:
          parameters: `[N, 2d]`.
        """
        bounds = np.concatenate([self._low, self._high])
        largest = np.abs(bounds[np.isfinite(bounds)]).max(initial=0.0)
        fits = largest <= np.finfo(np.float32).max
        return self._rescale(self.mode(parameters), np.float32 if fits else np.float64)

    def _rescale(self, action: tf.Tensor, dtype: type[np.floating[Any]]) -> tf.Tensor:
        """Computes `to_environment` in floats of type `dtype`."""
        center, half = self._center.astype(dtype), self._half.astype(dtype)
        action = tf.cast(action, dtype)
        unit = tf.tanh(action) if self._squash else tf.clip_by_value(action, -1.0, 1.0)
        action = tf.where(self._bounded, center + half * unit, action)
        # Also corrects the rounding of the sum above.
        action = tf.clip_by_value(action, *self._bounds_within(dtype))
        return tf.cast(tf.reshape(action, [-1, *self._shape]), self._dtype)

    def _bounds_within(self, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
        """Returns the bounds in `dtype`, where need be rounded towards each other."""
        low, high = self._low.astype(dtype), self._high.astype(dtype)
        return (
            np.where(low < self._low, np.nextafter(low, dtype(np.inf)), low),
            np.where(high > self._high, np.nextafter(high, dtype(-np.inf)), high),
        )


class IndependentCategoricals:
    """Several categorical choices at once, independent of each other.

    Args:
      logits: One tensor `[N, n]` per choice.
    """

    def __init__(self, logits: list[tf.Tensor]) -> None:
        self._parts = [tfd.Categorical(logits=part, dtype=tf.int32) for part in logits]

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """Returns the log-likelihood `[N]` of actions `[N, k]`."""
        choices = tf.unstack(action, axis=-1)
        return tf.add_n(
            [p.log_prob(a) for p, a in zip(self._parts, choices, strict=True)]
        )

    def entropy(self) -> tf.Tensor:
        """Returns the entropy `[N]`."""
        return tf.add_n([part.entropy() for part in self._parts])

    def sample(self, *, seed: tf.Tensor) -> tf.Tensor:
        """Draws actions `[N, k]`."""
        keys = tf.unstack(tf.random.split(seed, len(self._parts)))
        draws = [p.sample(seed=key) for p, key in zip(self._parts, keys, strict=True)]
        return tf.stack(draws, axis=-1)

    def kl_divergence(self, other: "IndependentCategoricals") -> tf.Tensor:
        """Returns the KL divergence `[N]` from this one to `other`."""
        pairs = zip(self._parts, other._parts, strict=True)
        return tf.add_n([mine.kl_divergence(yours) for mine, yours in pairs])


class SquashedGaussian:
    """Gaussian of u, where the environment is given tanh(u).

    Likelihoods and divergences are those of u: the tanh adds to a log-likelihood a term
    that does not depend on the weights, and nothing to a divergence. Only the entropy
    must be that of tanh(u), or it would grow without end as actions pile up at the
    bounds:

        H(tanh u) = H(u) + E[log(1 − tanh² u)]

    The expectation is taken by the trapezoidal rule over ±6 standard deviations, one
    dimension at a time, which is right to float32 up to standard deviations of 5.

    Args:
      gaussian: A `MultivariateNormalDiag` of u, `[N, d]`.
      squashed: `[d]`, which of the dimensions are squashed.
    """

    def __init__(self, gaussian: Any, squashed: Array) -> None:
        self._gaussian = gaussian
        self._squashed = squashed

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """Returns the log-likelihood `[N]` of u `[N, d]`."""
        return self._gaussian.log_prob(action)

    def entropy(self) -> tf.Tensor:
        """Returns the entropy `[N]` of the squashed action in halves of its range."""
        nodes = np.linspace(-QUADRATURE_RANGE, QUADRATURE_RANGE, QUADRATURE_NODES)
        weights = np.exp(-0.5 * nodes**2)
        mean, std = self._gaussian.mean(), self._gaussian.stddev()
        u = mean + std * tf.constant(nodes[:, None, None], mean.dtype)
        # log(1 − tanh² u), in a form that does not overflow.
        log_slope = 2.0 * (math.log(2.0) - u - tf.math.softplus(-2.0 * u))
        weights = tf.constant(weights / weights.sum(), mean.dtype)
        expected = tf.tensordot(weights, log_slope, axes=1)
        changed = tf.where(self._squashed, expected, tf.zeros_like(expected))
        return self._gaussian.entropy() + tf.reduce_sum(changed, axis=-1)

    def sample(self, *, seed: tf.Tensor) -> tf.Tensor:
        """Draws u `[N, d]`."""
        return self._gaussian.sample(seed=seed)

    def kl_divergence(self, other: "SquashedGaussian") -> tf.Tensor:
        """Returns the KL divergence `[N]` from this one to `other`."""
        return self._gaussian.kl_divergence(other._gaussian)
