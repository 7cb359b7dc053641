"""Small networks in float64, differentiated by complex steps.

There is no backpropagation here to be wrong: a derivative is Im f(x + iε) / ε, which is
exact to rounding for the analytic functions below. Slow on purpose.

Every layer maps rows to rows: a dense layer has one row an example, a convolution one
an output position. A layer's weights are one matrix, the bias (if any) its last row.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

TINY = 1e-30
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda s: s,
    "tanh": np.tanh,
    "relu": lambda s: np.where(s.real > 0, s, 0),
}


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer; inputs of more than one axis are flattened.

    Attributes:
      matrix: `[n, m]`.
      use_bias: Whether the last row of `matrix` is a bias.
      activation: One of ACTIVATIONS.
    """

    matrix: np.ndarray
    use_bias: bool = True
    activation: str = "linear"

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The inputs of each example's one row, `[N, 1, n]`."""
        flat = x.reshape(len(x), 1, -1)
        return with_ones(flat) if self.use_bias else flat

    def arrange(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Output rows `[N, 1, m]` as what the next layer takes."""
        return rows[:, 0]


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution of `[N, H, W, C]`.

    Attributes:
      matrix: `[kh·kw·C (+ 1), m]`, row-major over the kernel's axes.
      kernel_size: `(kh, kw)`.
      strides: `(sh, sw)`.
      padding: "valid" or "same".
      dilation: `(dh, dw)`.
      use_bias: Whether the last row of `matrix` is a bias.
      activation: One of ACTIVATIONS.
    """

    matrix: np.ndarray
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "valid"
    dilation: tuple[int, int] = (1, 1)
    use_bias: bool = True
    activation: str = "linear"

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The patch that each of the T output positions sees, `[N, T, n]`."""
        (height, starts_h), (width, starts_w) = (
            self._axis(x.shape[1 + axis], axis) for axis in (0, 1)
        )
        patches = np.zeros(
            (len(x), height * width, *self.kernel_size, x.shape[-1]), x.dtype
        )
        for p in range(height):
            for q in range(width):
                for i in range(self.kernel_size[0]):
                    for j in range(self.kernel_size[1]):
                        h = starts_h[p] + i * self.dilation[0]
                        w = starts_w[q] + j * self.dilation[1]
                        if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                            patches[:, p * width + q, i, j] = x[:, h, w]
        flat = patches.reshape(len(x), height * width, -1)
        return with_ones(flat) if self.use_bias else flat

    def arrange(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Output rows `[N, T, m]` as what the next layer takes."""
        height, width = (self._axis(x.shape[1 + axis], axis)[0] for axis in (0, 1))
        return rows.reshape(len(x), height, width, -1)

    def _axis(self, size: int, axis: int) -> tuple[int, list[int]]:
        """How many output positions an axis has, and where each one's patch starts."""
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        stride = self.strides[axis]
        if self.padding == "valid":
            count, before = (size - reach) // stride + 1, 0
        else:
            count = -(-size // stride)
            before = max((count - 1) * stride + reach - size, 0) // 2
        return count, [position * stride - before for position in range(count)]


Layer = Dense | Conv


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers one after the other, then heads side by side on the last one's output.

    The network's outputs `[N, K]` are those of the heads, concatenated.
    """

    trunk: tuple[Layer, ...]
    heads: tuple[Layer, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers; derivatives below are asked for by their index here."""
        return self.trunk + self.heads

    def with_matrices(self, matrices: Sequence[np.ndarray]) -> "Network":
        """The same network with other weights."""
        layers = [
            dataclasses.replace(layer, matrix=matrix)
            for layer, matrix in zip(self.layers, matrices, strict=True)
        ]
        depth = len(self.trunk)
        return Network(tuple(layers[:depth]), tuple(layers[depth:]))


def with_ones(rows: np.ndarray) -> np.ndarray:
    """`[N, T, n]` with the homogeneous coordinate at the end of each row."""
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1))], axis=2)


def forward(
    network: Network, x: np.ndarray, nudges: dict[int, np.ndarray] | None = None
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The outputs, and each layer's input rows and pre-activations.

    Args:
      network: The network.
      x: `[N, ...]`.
      nudges: What to add to the pre-activations `[N, T, m]` of some layers.

    Returns:
      Outputs `[N, K]`, rows `[N, T, n]` a layer, pre-activations `[N, T, m]` a layer.
    """
    outputs, all_rows, pre_activations = [], [], []
    for index, layer in enumerate(network.layers):
        rows = layer.rows(x)
        s = rows @ layer.matrix
        if nudges and index in nudges:
            s = s + nudges[index]
        all_rows.append(rows)
        pre_activations.append(s)
        y = layer.arrange(ACTIVATIONS[layer.activation](s), x)
        if index < len(network.trunk):
            x = y
        else:
            outputs.append(y)
    return np.concatenate(outputs, axis=1), all_rows, pre_activations


def weight_jacobian(network: Network, x: np.ndarray, index: int) -> np.ndarray:
    """∂outputs / ∂weights of one layer, one example each: `[N, K, n, m]`."""
    matrices = [layer.matrix for layer in network.layers]
    columns = []
    for entry in np.ndindex(matrices[index].shape):
        nudged = list(matrices)
        nudged[index] = matrices[index].astype(complex)
        nudged[index][entry] += 1j * TINY
        columns.append(forward(network.with_matrices(nudged), x)[0].imag / TINY)
    jacobian = np.stack(columns, axis=-1)
    return jacobian.reshape(*jacobian.shape[:2], *matrices[index].shape)


def pre_activation_jacobian(network: Network, x: np.ndarray, index: int) -> np.ndarray:
    """∂outputs / ∂pre-activations of one layer, one example each: `[N, K, T, m]`."""
    outputs, _, pre_activations = forward(network, x)
    shape = pre_activations[index].shape
    jacobian = np.zeros((*outputs.shape, *shape[1:]))
    for position, unit in np.ndindex(shape[1:]):
        nudge = np.zeros(shape, complex)
        nudge[:, position, unit] = 1j * TINY
        nudged = forward(network, x, {index: nudge})[0]
        jacobian[:, :, position, unit] = nudged.imag / TINY
    return jacobian


def output_gradients(
    function: Callable[[np.ndarray], np.ndarray], outputs: np.ndarray
) -> np.ndarray:
    """∂function / ∂outputs `[N, K]` of a function of outputs that gives `[N]`."""
    gradients = np.zeros(outputs.shape)
    for k in range(outputs.shape[1]):
        nudged = outputs.astype(complex)
        nudged[:, k] += 1j * TINY
        gradients[:, k] = function(nudged).imag / TINY
    return gradients


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p `[N, C]` of logits `[N, C]`, which may be complex."""
    shifted = logits - logits.real.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
