"""Distributions of actions by enumeration and by integration, in float64."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.integrate
import scipy.stats
from oracles.actor_critic import log_softmax

Array = npt.NDArray[np.float64]


def joint_choices(
    logits: Array, sizes: Sequence[int]
) -> tuple[npt.NDArray[np.int64], Array]:
    """All `J` ways to choose one of each size, `[J, k]`, and their log p `[N, J]`.

    `logits` are `[N, Σ sizes]`, those of the first choice first.
    """
    parts = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
    choices = np.array(list(itertools.product(*[range(n) for n in sizes])))
    log_p = np.zeros((len(logits), len(choices)))
    for j, choice in enumerate(choices):
        for part, option in zip(parts, choice, strict=True):
            log_p[:, j] += log_softmax(part)[:, option]
    return choices, log_p


def joint_switches(logits: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """As `joint_choices`, of independent switches with log-odds `[N, k]`."""
    pairs = np.stack([np.zeros_like(logits), logits], axis=2)
    return joint_choices(pairs.reshape(len(logits), -1), [2] * logits.shape[1])


def entropy(log_p: Array) -> Array:
    """H `[N]` from the log-probabilities `[N, J]` of all that can happen."""
    return -np.sum(np.exp(log_p) * log_p, axis=1)


def kl_divergence(log_p: Array, log_q: Array) -> Array:
    """KL(p ‖ q) `[N]`."""
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=1)


def gaussian_log_prob(mean: Array, std: Array, u: Array) -> Array:
    return scipy.stats.norm.logpdf(u, mean, std).sum(axis=1)


def gaussian_entropy(std: Array) -> Array:
    return (0.5 * np.log(2 * np.pi * np.e * std**2)).sum(axis=1)


def gaussian_kl(mean: Array, std: Array, other_mean: Array, other_std: Array) -> Array:
    """KL `[N]` of the first Gaussian `[N, d]` to the other, by integration."""
    kl = np.zeros(len(mean))
    for (n, d), m in np.ndenumerate(mean):
        one = scipy.stats.norm(m, std[n, d])
        other = scipy.stats.norm(other_mean[n, d], other_std[n, d])
        kl[n] += _integral(
            lambda u, one=one, other=other: (
                one.pdf(u) * (one.logpdf(u) - other.logpdf(u))
            ),
            m,
            std[n, d],
        )
    return kl


def squashed_entropy(mean: float, std: float) -> float:
    """−∫ p(a) log p(a) da of a = tanh(u), with u = atanh(a) substituted.

    p(a) = N(u) / (1 − a²) and da = (1 − a²) du.
    """
    u = scipy.stats.norm(mean, std)
    return _integral(lambda x: -u.pdf(x) * (u.logpdf(x) + 2 * log_cosh(x)), mean, std)


def squashed_entropy_on_the_interval(mean: float, std: float) -> float:
    """The same without the substitution; for what does not pile up at ±1."""

    def integrand(a: float) -> float:
        log_p = scipy.stats.norm.logpdf(math.atanh(a), mean, std) - math.log1p(-a * a)
        return -math.exp(log_p) * log_p

    middle = math.tanh(mean)
    return sum(
        scipy.integrate.quad(integrand, a, b, limit=500, epsabs=1e-11)[0]
        for a, b in [(-1, middle), (middle, 1)]
    )


def log_cosh(x: float) -> float:
    """log cosh x = −½ log(1 − tanh² x)."""
    return abs(x) + math.log1p(math.exp(-2 * abs(x))) - math.log(2)


def _integral(f: Callable[[float], float], mean: float, std: float) -> float:
    """Over u where N(u; mean, std²) is not negligible, in pieces around mean and 0."""
    ends = [mean - 12 * std, mean + 12 * std]
    inner = {mean - 2 * std, mean, mean + 2 * std, -3.0, 0.0, 3.0}
    cuts = [ends[0], *sorted(x for x in inner if ends[0] < x < ends[1]), ends[1]]
    return sum(
        scipy.integrate.quad(f, a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
        for a, b in itertools.pairwise(cuts)
    )


def environment_action(u: float, low: float, high: float, squash: bool) -> float:
    """What the environment gets of one dimension of a Gaussian's u, in float64."""
    if math.isinf(low) or math.isinf(high):
        return min(max(u, low), high)
    fraction = (math.tanh(u) + 1) / 2 if squash else (min(max(u, -1), 1) + 1) / 2
    return (1 - fraction) * low + fraction * high
