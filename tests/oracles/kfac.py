"""K-FAC in float64, written from the equations of docs/kfac.md alone."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from oracles.networks import (
    Network,
    forward,
    log_softmax,
    output_gradients,
    pre_activation_jacobian,
    weight_jacobian,
)

PerExample = Callable[[np.ndarray], np.ndarray]


def gaussian_fisher(outputs: np.ndarray) -> np.ndarray:
    """Fisher `[N, K, K]` of N(y; outputs, I) in its outputs.

    The score is the noise y − outputs, whose second moment is I.
    """
    return np.tile(np.eye(outputs.shape[1]), (len(outputs), 1, 1))


def actor_critic_fisher(outputs: np.ndarray) -> np.ndarray:
    """Fisher `[N, K, K]` of p(a, v) = softmax(logits)(a) N(v; V, 1), V the last output.

    The expectation over actions is a sum over all of them; that over values is 1; the
    scores of action and value are independent and of mean zero, so nothing is shared.
    """
    logits = outputs[:, :-1]
    fisher = np.zeros((*outputs.shape, outputs.shape[1]))
    for example, p in enumerate(np.exp(log_softmax(logits))):
        for action, probability in enumerate(p):
            score = np.eye(len(p))[action] - p
            fisher[example, :-1, :-1] += probability * np.outer(score, score)
        fisher[example, -1, -1] = 1.0
    return fisher


OutputFisher = Callable[[np.ndarray], np.ndarray]


def exact_fisher(
    network: Network, x: np.ndarray, output_fisher: OutputFisher
) -> np.ndarray:
    """Equation (1): E[∇log p ∇log pᵀ] = mean of JᵀHJ, over all weights, `[P, P]`."""
    jacobians = [
        weight_jacobian(network, x, index) for index in range(len(network.layers))
    ]
    jacobian = np.concatenate([j.reshape(*j.shape[:2], -1) for j in jacobians], axis=2)
    fisher = output_fisher(forward(network, x)[0])
    total = np.zeros((jacobian.shape[2], jacobian.shape[2]))
    for j, h in zip(jacobian, fisher, strict=True):
        total += j.T @ h @ j
    return total / len(x)


def exact_block(
    network: Network, x: np.ndarray, output_fisher: OutputFisher, index: int
) -> np.ndarray:
    """The diagonal block of `exact_fisher` that belongs to one layer."""
    sizes = [layer.matrix.size for layer in network.layers]
    start = sum(sizes[:index])
    stop = start + sizes[index]
    return exact_fisher(network, x, output_fisher)[start:stop, start:stop]


def factor_a(rows: np.ndarray) -> np.ndarray:
    """Equations (3), (5): the mean over examples of Σ_t ā_t ā_tᵀ."""
    total = np.zeros((rows.shape[2], rows.shape[2]))
    for example in rows:
        for row in example:
            total += np.outer(row, row)
    return total / len(rows)


def factor_g(gradients: np.ndarray) -> np.ndarray:
    """Equations (4), (6): the mean over examples and positions of g_t g_tᵀ."""
    total = np.zeros((gradients.shape[2], gradients.shape[2]))
    for example in gradients:
        for gradient in example:
            total += np.outer(gradient, gradient)
    return total / (gradients.shape[0] * gradients.shape[1])


def patches(
    x: np.ndarray,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    dilation: Sequence[int],
) -> np.ndarray:
    """The patches that a convolution of `[N, *space, C]` sees, `[N, *positions, n]`.

    In the words of Keras: "valid" patches lie inside, "same" ones begin so that there
    is one a stride and as much is missing before as after, "causal" ones end at their
    own position. What lies outside is zero.
    """
    starts = []
    for length, size, stride, apart in zip(
        x.shape[1:-1], kernel_size, strides, dilation, strict=True
    ):
        reach = (size - 1) * apart + 1
        count = -(-length // stride)
        before = reach - 1 if padding == "causal" else 0
        if padding == "valid":
            count = (length - reach) // stride + 1
        elif padding == "same":
            before = max((count - 1) * stride + reach - length, 0) // 2
        starts.append([position * stride - before for position in range(count)])
    counts = [len(axis) for axis in starts]
    found = np.zeros((len(x), *counts, *kernel_size, x.shape[-1]))
    for position in itertools.product(*map(range, counts)):
        for element in itertools.product(*map(range, kernel_size)):
            where = tuple(
                axis[p] + e * apart
                for axis, p, e, apart in zip(
                    starts, position, element, dilation, strict=True
                )
            )
            if all(0 <= w < n for w, n in zip(where, x.shape[1:-1], strict=True)):
                found[(slice(None), *position, *element)] = x[(slice(None), *where)]
    return found.reshape(len(x), *counts, -1)


def expected_factors(
    network: Network, x: np.ndarray, output_fisher: OutputFisher, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """A and G of one layer with the expectation over targets taken exactly."""
    outputs, rows, _ = forward(network, x)
    jacobian = pre_activation_jacobian(network, x, index)
    fisher = output_fisher(outputs)
    examples, _, positions, units = jacobian.shape
    total = np.zeros((units, units))
    for example in range(examples):
        for position in range(positions):
            j = jacobian[example, :, position]
            total += j.T @ fisher[example] @ j
    return factor_a(rows[index]), total / (examples * positions)


def pi(a: np.ndarray, g: np.ndarray) -> float:
    """Equation (8)."""
    if np.trace(a) <= 0 or np.trace(g) <= 0:
        return 1.0
    return float(np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g))))


def damped_factors(
    a: np.ndarray, g: np.ndarray, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """Equation (9), before the inversion."""
    split, root = pi(a, g), np.sqrt(damping)
    return a + split * root * np.eye(len(a)), g + root / split * np.eye(len(g))


def damped_solution(
    block: np.ndarray, damping: float, matrix: np.ndarray
) -> np.ndarray:
    """(F + λI)⁻¹ V with the dense block F of the flattened V. Equations (17), (18)."""
    damped = block + damping * np.eye(len(block))
    return np.linalg.solve(damped, matrix.ravel()).reshape(matrix.shape)


def second_moment(gradients: np.ndarray) -> np.ndarray:
    """E[∇ ∇ᵀ] of the flattened gradients `[N, n, m]` of single examples."""
    flat = gradients.reshape(len(gradients), -1)
    total = np.zeros((flat.shape[1], flat.shape[1]))
    for gradient in flat:
        total += np.outer(gradient, gradient)
    return total / len(flat)


def spectrum(gradients: np.ndarray, q_a: np.ndarray, q_g: np.ndarray) -> np.ndarray:
    """Equation (18): E[(Q_Aᵀ ∇W Q_G)²] of the gradients `[N, n, m]` of examples."""
    total = np.zeros(gradients.shape[1:])
    for gradient in gradients:
        total += (q_a.T @ gradient @ q_g) ** 2
    return total / len(gradients)


def with_spectrum(s: np.ndarray, q_a: np.ndarray, q_g: np.ndarray) -> np.ndarray:
    """The dense block Q diag(S) Qᵀ with Q = Q_A ⊗ Q_G."""
    q = np.kron(q_a, q_g)
    return q @ np.diag(s.ravel()) @ q.T


def spectrum_in(block: np.ndarray, q_a: np.ndarray, q_g: np.ndarray) -> np.ndarray:
    """The diagonal of a dense block in the basis Q_A ⊗ Q_G, as a matrix `[n, m]`."""
    q = np.kron(q_a, q_g)
    return np.diag(q.T @ block @ q).reshape(len(q_a), len(q_g))


def quadratic_step(
    curvature: np.ndarray, slope: np.ndarray
) -> tuple[float, np.ndarray]:
    """Equation (19): the least of ½ wᵀKw − bᵀw, and the w where it is."""
    w = np.linalg.solve(curvature, slope)
    return 0.5 * w @ curvature @ w - slope @ w, w


def step_size(learning_rate: float, radius: float | None, norm: float) -> float:
    """Equation (11)."""
    if radius is None or norm <= 0:
        return learning_rate
    return min(learning_rate, np.sqrt(2 * radius / norm))


@dataclasses.dataclass
class Optimizer:
    """The whole optimizer, a dense matrix for each block: equations (2) to (13).

    Attributes:
      network: Its weights are replaced by each step.
    """

    network: Network
    learning_rate: float
    kl_radius: float | None
    bound: str
    momentum: float
    damping: float
    factor_decay: float
    inverse_update_period: int
    offsets: Sequence[int] | None = None
    """Step of the period at which each layer is inverted; None for the first."""

    def __post_init__(self) -> None:
        matrices = [layer.matrix for layer in self.network.layers]
        self.iterations = 0
        self.scale = 0.0
        self.weight = 0.0
        self.sums = [[np.zeros((d, d)) for d in matrix.shape] for matrix in matrices]
        self.damped_blocks: list[np.ndarray] = [np.eye(m.size) for m in matrices]
        self.velocities = [np.zeros(matrix.shape) for matrix in matrices]

    def factors(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Equation (7)."""
        return [(a / self.weight, g / self.weight) for a, g in self.sums]

    def update_curvature(self, x: np.ndarray, log_likelihood: PerExample) -> None:
        """One batch into the running factors; new inverses when they are due."""
        outputs, rows, _ = forward(self.network, x)
        score = output_gradients(log_likelihood, outputs)
        rho = self.factor_decay
        self.weight = rho * self.weight + (1 - rho)
        for index, sums in enumerate(self.sums):
            jacobian = pre_activation_jacobian(self.network, x, index)
            gradients = np.einsum("nk,nktm->ntm", score, jacobian)
            batch = (factor_a(rows[index]), factor_g(gradients))
            for which, new in enumerate(batch):
                sums[which] = rho * sums[which] + (1 - rho) * new
        period = self.inverse_update_period
        offsets = self.offsets or [0] * len(self.sums)
        for index, (a, g) in enumerate(self.factors()):
            if self.iterations < period or self.iterations % period == offsets[index]:
                damped = damped_factors(a, g, self.damping)
                self.damped_blocks[index] = np.kron(*damped)

    def step(self, x: np.ndarray, loss: PerExample) -> None:
        """One step on the mean of a loss that gives `[N]` from outputs `[N, K]`."""
        slope = output_gradients(loss, forward(self.network, x)[0]) / len(x)
        gradients = [
            np.einsum("nk,nkij->ij", slope, weight_jacobian(self.network, x, index))
            for index in range(len(self.network.layers))
        ]
        directions = [
            np.linalg.solve(block, gradient.ravel()).reshape(gradient.shape)
            for block, gradient in zip(self.damped_blocks, gradients, strict=True)
        ]
        eta = self.learning_rate
        if self.bound == "direction":
            norm = sum(
                direction.ravel() @ block @ direction.ravel()
                for direction, block in zip(directions, self.damped_blocks, strict=True)
            )
            eta = step_size(eta, self.kl_radius, norm)
        steps = [
            self.momentum * velocity + (1 - self.momentum) * eta * direction
            for velocity, direction in zip(self.velocities, directions, strict=True)
        ]
        shrink = 1.0
        if self.bound == "update":
            shrink = step_size(1.0, self.kl_radius, self.squared_norm(steps))
        self.velocities = [shrink * step for step in steps]
        self.scale = shrink * eta / self.learning_rate
        self.network = self.network.with_matrices(
            [
                layer.matrix - step
                for layer, step in zip(
                    self.network.layers, self.velocities, strict=True
                )
            ]
        )
        self.iterations += 1

    def squared_norm(self, matrices: list[np.ndarray]) -> float:
        """VᵀFV with the undamped blocks of equation (2)."""
        return sum(
            matrix.ravel() @ np.kron(a, g) @ matrix.ravel()
            for matrix, (a, g) in zip(matrices, self.factors(), strict=True)
        )

    def predicted_kl(self) -> float:
        """Equation (12), of the step applied last."""
        return 0.5 * self.squared_norm(self.velocities)
