"""The actor-critic loss of two small tanh networks, and its gradient, by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(old_logits: Array, new_logits: Array) -> Array:
    """KL(old ‖ new) of categorical distributions, `[N]`."""
    old, new = log_softmax(old_logits), log_softmax(new_logits)
    return np.sum(np.exp(old) * (old - new), axis=-1)


def entropy(logits: Array) -> Array:
    log_p = log_softmax(logits)
    return -np.sum(np.exp(log_p) * log_p, axis=-1)


def mlp(weights: list[Array], inputs: Array) -> tuple[Array, list[Array]]:
    """Outputs of two tanh layers and a linear one, and the inputs of each layer.

    `weights` are kernel and bias of each layer in turn.
    """
    layer_inputs = []
    hidden = inputs
    for i in range(0, len(weights), 2):
        layer_inputs.append(hidden)
        hidden = hidden @ weights[i] + weights[i + 1]
        if i + 2 < len(weights):
            hidden = np.tanh(hidden)
    return hidden, layer_inputs


def mlp_gradients(
    weights: list[Array], layer_inputs: list[Array], of_outputs: Array
) -> list[Array]:
    """Gradients of the weights, given the gradient of the outputs."""
    gradients: list[Array] = []
    for i in reversed(range(len(layer_inputs))):
        inputs = layer_inputs[i]
        gradients = [inputs.T @ of_outputs, of_outputs.sum(axis=0), *gradients]
        # tanh' = 1 − tanh²; the first layer's inputs are the observations.
        of_outputs = (of_outputs @ weights[2 * i].T) * (1.0 - inputs**2)
    return gradients


def losses(
    policy: list[Array],
    value: list[Array],
    batch: dict[str, npt.NDArray[Any]],
    entropy_cost: float,
    value_cost: float,
) -> tuple[dict[str, float], list[Array], list[Array]]:
    """The parts of the loss, and its gradients for both networks."""
    n = len(batch["action"])
    observation = batch["observation"].astype(np.float64)
    logits, policy_inputs = mlp(policy, observation)
    values, value_inputs = mlp(value, observation)
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    advantage, error = batch["advantage"], values[:, 0] - batch["target"]
    parts = {
        "policy_loss": -np.mean(advantage * log_p[np.arange(n), batch["action"]]),
        "value_loss": 0.5 * np.mean(error**2),
        "entropy": np.mean(entropy(logits)),
    }
    taken = np.eye(logits.shape[1])[batch["action"]]
    # ∂(−A log p_a)/∂s = A (p − 1_a);  ∂(−H)/∂s_j = p_j (log p_j + H)
    of_logits = advantage[:, None] * (p - taken)
    of_logits += entropy_cost * p * (log_p + entropy(logits)[:, None])
    return (
        parts,
        mlp_gradients(policy, policy_inputs, of_logits / n),
        mlp_gradients(value, value_inputs, value_cost * error[:, None] / n),
    )


class RMSProp:
    """θ ← θ − η g / sqrt(s + ε), s ← ρ s + (1 − ρ) g², g clipped to a global norm."""

    def __init__(self, rho: float, epsilon: float, max_norm: float) -> None:
        self._rho, self._epsilon, self._max_norm = rho, epsilon, max_norm
        self._squares: list[Array] = []

    def step(
        self, weights: list[Array], gradients: list[Array], learning_rate: float
    ) -> list[Array]:
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        scale = min(1.0, self._max_norm / norm)
        if not self._squares:
            self._squares = [np.zeros_like(g) for g in gradients]
        stepped = []
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            clipped = gradient * scale
            self._squares[i] = (
                self._rho * self._squares[i] + (1.0 - self._rho) * clipped**2
            )
            root = np.sqrt(self._squares[i] + self._epsilon)
            stepped.append(weight - learning_rate * clipped / root)
        return stepped
