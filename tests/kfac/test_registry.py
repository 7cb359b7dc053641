"""Layer types, their signals, and their blocks beside exact gradients of examples."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC, Call, CurvatureTape, FreeParameters, register_layer
from acktr_tf.kfac.blocks import registry
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.blocks.diagonal import DiagonalBlock
from acktr_tf.kfac.blocks.kronecker import KroneckerBlock, LayerRule
from acktr_tf.kfac.inverses import Inversion
from acktr_tf.kfac.linalg import damped_inverse
from acktr_tf.kfac.statistics.signals import Signals
from kfac import twins
from kfac.pairwise import pairwise

LAYERS = keras.layers
OracleRows = Callable[[np.ndarray], np.ndarray]
"""Inputs in float64 → ā of each example at each position, `[N, T, n]`."""


def alone(
    layer: keras.layers.Layer, shape: tuple[int, ...], dtype: str = "float32"
) -> keras.Model:
    """A model of one layer."""
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    twins.randomize(model)
    return model


class Seen(NamedTuple):
    """What a block says of a batch, and what is so.

    Attributes:
      block: With the factors of the batch.
      rows: Σ_t ā_t g_tᵀ of each example by the package, `[N, n, m]`.
      exact: The gradients of each example, `[N, n, m]`.
      g: g of each call, `[N, T, m]`.
    """

    block: Block
    rows: np.ndarray
    exact: np.ndarray
    g: list[np.ndarray]


def seen(
    model: keras.Model,
    x: Any,
    training: bool = False,
    name: str | None = None,
    exact: list[np.ndarray] | None = None,
) -> Seen:
    """Of the layer called so, or of the only one.

    `exact` has the gradients of each example if they were found before.
    """
    optimizer = KFAC()
    optimizer.attach(model)

    def forward() -> tuple[CurvatureTape, tf.Tensor]:
        with optimizer.curvature_tape() as tape:
            outputs = tf.nest.flatten(model(x, training=training))
            log_likelihood = twins.wavy_log_likelihood(outputs)
        return tape, log_likelihood

    block = next(b for b in optimizer.blocks if name in (None, b.layer.name))
    tape, log_likelihood = forward()
    tensors = block.differentiated_tensors(tape)
    gradients = tape.gradient(log_likelihood, tensors)
    rows = [
        block.signals(call, tf.convert_to_tensor(gradient), tf.constant(0))
        for call, gradient in zip(tape.calls(block.layer), gradients, strict=True)
    ]
    arrays = [(with_ones(each), np.asarray(each.g)) for each in rows]
    optimizer.update_factors(*forward())

    if exact is None:
        exact = exact_gradients(model, x, training)
    return Seen(
        block,
        sum(products(a, g, block.num_inputs) for a, g in arrays),
        twins.block_gradients(block, model, exact),
        [np.float64(g) for _, g in arrays],
    )


def exact_gradients(
    model: keras.Model, x: Any, training: bool = False
) -> list[np.ndarray]:
    return twins.per_example_gradients(model, x, twins.wavy_log_likelihood, training)


def with_ones(rows: Signals) -> np.ndarray:
    """ā of all rows."""
    a = np.asarray(rows.a)
    return np.concatenate([a, np.ones_like(a[..., :1])], axis=-1) if rows.bias else a


def products(a: np.ndarray, g: np.ndarray, n: int) -> np.ndarray:
    """Σ_t ā_t g_tᵀ of each example, by a loop."""
    total = np.zeros((len(g), n, g.shape[2]))
    for example, position in np.ndindex(g.shape[:2]):
        row = a[example, position]
        if a.ndim == 2:  # Indices.
            row = np.eye(n)[row]
        total[example] += np.outer(np.float64(row), np.float64(g[example, position]))
    return total


def dense(factor: tf.Tensor) -> np.ndarray:
    value = np.float64(factor)
    return np.diag(value) if value.ndim == 1 else value


def check(
    layer: keras.layers.Layer,
    x: np.ndarray,
    rows: OracleRows,
    dtype: str = "float32",
) -> None:
    """Rows make exact gradients, and factors are means of their outer products."""
    found = seen(alone(layer, x.shape[1:], dtype), x)
    assert isinstance(found.block, KroneckerBlock)
    twins.assert_close(found.rows, found.exact)
    a, g = found.block.factors()
    expected = rows(x if dtype == "int32" else np.float64(x))
    twins.assert_close(dense(a), oracle.factor_a(expected))
    (gradients,) = found.g
    assert gradients.shape[:2] == expected.shape[:2]
    twins.assert_close(dense(g), oracle.factor_g(gradients))


def with_bias(rows: np.ndarray, use_bias: bool) -> np.ndarray:
    flat = rows.reshape(len(rows), -1, rows.shape[-1])
    ones = np.ones((*flat.shape[:2], 1))
    return np.concatenate([flat, ones], axis=2) if use_bias else flat


ACTIVATIONS = st.sampled_from([None, "tanh"])


# Layers of positions --------------------------------------------------------------
@hypothesis.given(
    middle=st.lists(st.integers(1, 4), max_size=2),
    width=st.integers(1, 4),
    units=st.integers(1, 3),
    use_bias=st.booleans(),
    activation=ACTIVATIONS,
)
def test_a_dense_layer_sees_its_inputs_at_each_position(
    middle, width, units, use_bias, activation
):
    layer = LAYERS.Dense(units, use_bias=use_bias, activation=activation)
    x = twins.inputs(3, *middle, width)
    check(layer, x, lambda x: with_bias(x, use_bias))


@st.composite
def convolutions(draw, axes: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Arguments, and the shape of a batch with room for the kernel."""
    paddings = ["valid", "same", *(["causal"] if axes == 1 else [])]
    longest = 2 if axes == 3 else 3
    kernel = draw(st.tuples(*[st.integers(1, longest)] * axes))
    strides = draw(st.tuples(*[st.integers(1, longest)] * axes))
    dilation = (1,) * axes
    if max(strides) == 1:  # Keras has no convolution with both.
        dilation = draw(st.tuples(*[st.integers(1, 2)] * axes))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [draw(st.integers(least, 5 if axes < 3 else 3)) for least in reach]
    arguments = {
        "filters": draw(st.integers(1, 3)),
        "kernel_size": kernel,
        "strides": strides,
        "padding": draw(st.sampled_from(paddings)),
        "dilation_rate": dilation,
        "use_bias": draw(st.booleans()),
        "activation": draw(ACTIVATIONS),
    }
    # Of one channel oneDNN in TensorFlow 2.21 leaves positions out if strides differ.
    return arguments, (2, *size, draw(st.integers(2, 3)))


def check_convolution(kind, case: tuple[dict[str, Any], tuple[int, ...]]) -> None:
    arguments, shape = case
    layer = kind(**arguments)

    def rows(x: np.ndarray) -> np.ndarray:
        patches = oracle.patches(
            x, layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
        )
        return with_bias(patches, layer.use_bias)

    check(layer, twins.inputs(*shape), rows)


@hypothesis.given(case=convolutions(1))
def test_a_convolution_of_one_axis_sees_patches(case):
    check_convolution(LAYERS.Conv1D, case)


@hypothesis.given(case=convolutions(2))
def test_a_convolution_of_two_axes_sees_patches(case):
    check_convolution(LAYERS.Conv2D, case)


@hypothesis.given(case=convolutions(3))
def test_a_convolution_of_three_axes_sees_patches(case):
    check_convolution(LAYERS.Conv3D, case)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_an_embedding_sees_one_hot_vectors(shape, mask_zero):
    # Some indices more than once in an example, some in none.
    x = np.random.default_rng(0).integers(0, 4, shape)
    layer = LAYERS.Embedding(6, 3, mask_zero=mask_zero)

    def rows(x: np.ndarray) -> np.ndarray:
        return np.eye(6)[x].reshape(len(x), -1, 6)

    check(layer, x, rows, "int32")


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_free_parameters_see_a_one(shape):
    check(FreeParameters(3), twins.inputs(*shape), lambda x: np.ones((len(x), 1, 1)))


# Normalization --------------------------------------------------------------------
def check_normalization(
    layer: keras.layers.Layer,
    x: np.ndarray,
    training: bool = False,
    model: keras.Model | None = None,
) -> None:
    """The block is E[u uᵀ] itself, with u the gradient of scale and offset."""
    found = seen(model or alone(layer, x.shape[1:]), x, training, layer.name)
    twins.assert_close(found.rows, found.exact)
    np.testing.assert_array_equal(found.block.factors().a, [[1.0]])
    fisher = oracle.second_moment(found.exact)
    assert len(fisher) == sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
    twins.assert_close(found.block.to_dense(), fisher)


SCALE_AND_CENTER = st.sampled_from([(True, True), (True, False), (False, True)])


@hypothesis.given(
    middle=st.lists(st.integers(1, 3), max_size=2),
    width=st.integers(2, 4),
    axes=st.data(),
    parts=SCALE_AND_CENTER,
)
def test_the_block_of_a_layer_normalization_is_its_fisher_matrix(
    middle, width, axes, parts
):
    shape = (3, *middle, width)
    rank = len(shape)
    # The last, or several in any order and from either end.
    some = st.lists(
        st.integers(1, rank - 1), min_size=1, unique=True, max_size=rank - 1
    )
    chosen = axes.draw(st.one_of(st.just(-1), some))
    if isinstance(chosen, list):
        chosen = [a - rank if axes.draw(st.booleans()) else a for a in chosen]
    layer = LAYERS.LayerNormalization(axis=chosen, scale=parts[0], center=parts[1])
    check_normalization(layer, twins.inputs(*shape))


@pytest.mark.parametrize(
    ("inputs", "parts", "training"),
    pairwise(
        [((4, 3), -1), ((4, 3, 2), -1), ((4, 3, 2), 1), ((4, 2, 3, 2), 3)],
        [(True, True), (True, False), (False, True)],
        [False, True],
    ),
)
def test_the_block_of_a_batch_normalization_is_its_fisher_matrix(
    inputs, parts, training
):
    # In training too: its moments depend on the batch, but not on scale and offset.
    shape, axis = inputs
    layer = LAYERS.BatchNormalization(axis=axis, scale=parts[0], center=parts[1])
    model = alone(layer, shape[1:])
    width = shape[axis]
    layer.moving_mean.assign(twins.inputs(width, seed=4))
    layer.moving_variance.assign(np.square(twins.inputs(width, seed=5)) + 0.5)
    check_normalization(layer, twins.inputs(*shape), training, model)


def test_moments_of_a_batch_normalization_are_of_what_its_mask_has():
    indices = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [2, 1, 4, 3]])
    norm = LAYERS.BatchNormalization(name="norm")
    inputs = keras.Input((4,), dtype="int32")
    embedded = LAYERS.Embedding(5, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, norm(embedded))
    twins.randomize(model)
    check_normalization(norm, indices, True, model)


def normalized_dense() -> keras.Model:
    inputs = keras.Input((3,))
    hidden = LAYERS.Dense(2, name="below")(inputs)
    model = keras.Model(inputs, LAYERS.BatchNormalization(name="norm")(hidden))
    twins.randomize(model)
    return model


def test_below_a_batch_normalization_moments_are_shared_by_the_batch_in_training():
    # There an example's log-likelihood depends on the inputs of the others by way of
    # the moments. g is the gradient of the sum of all of them, so that what a layer
    # below says of one example is not its own gradient; their sum is right.
    model, x = normalized_dense(), twins.inputs(5, 3)
    found = seen(model, x, True, "below")
    twins.assert_close(found.rows.sum(axis=0), found.exact.sum(axis=0), 3e-5)
    assert np.abs(found.rows - found.exact).max() > 0.1 * np.abs(found.exact).max()

    at_rest = seen(model, x, False, "below")
    twins.assert_close(at_rest.rows, at_rest.exact)


# Models ---------------------------------------------------------------------------
def check_model(model: keras.Model, x: Any, names: list[str]) -> dict[str, Seen]:
    twins.randomize(model)
    exact = exact_gradients(model, x)
    found = {name: seen(model, x, name=name, exact=exact) for name in names}
    for each in found.values():
        twins.assert_close(each.rows, each.exact)
    return found


def test_the_calls_of_a_layer_are_positions():
    layer = LAYERS.Dense(3, activation="tanh", name="twice")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = twins.inputs(4, 3)

    found = check_model(model, x, ["twice"])["twice"]

    rows = np.stack([x, np.tanh(np.float64(x) @ layer.kernel + layer.bias)], axis=1)
    a, g = found.block.factors()
    twins.assert_close(a, oracle.factor_a(with_bias(rows, True)))
    twins.assert_close(g, oracle.factor_g(np.concatenate(found.g, axis=1)))


def folded(fold: bool, inverse: str = "cholesky") -> tuple[keras.Model, KFAC]:
    """A layer at four positions, which are an axis of their own or in the batch's."""
    layer = LAYERS.Dense(3, activation="tanh", name="hidden")
    inputs = keras.Input((4, 5))
    hidden = inputs
    if fold:
        hidden = keras.ops.reshape(hidden, (-1, 5))
    hidden = layer(hidden)
    if fold:
        hidden = keras.ops.reshape(hidden, (-1, 4, 3))
    outputs = LAYERS.Dense(2)(LAYERS.Flatten()(hidden))
    model = keras.Model(inputs, outputs)
    optimizer = KFAC(inverse=inverse)
    optimizer.attach(model)
    return model, optimizer


def test_positions_that_are_folded_into_the_batch_are_positions():
    x = twins.inputs(6, 4, 5)
    found = []
    weights = None
    for fold in (False, True):
        model, optimizer = folded(fold)
        weights = model.get_weights() if weights is None else weights
        model.set_weights(weights)
        with optimizer.curvature_tape() as tape:
            log_likelihood = twins.wavy_log_likelihood([model(x)])
        optimizer.update_factors(tape, log_likelihood)
        found.append([block.factors() for block in optimizer.blocks])
    for unfolded, of_fold in zip(*found, strict=True):
        twins.assert_close(of_fold.a, unfolded.a)
        twins.assert_close(of_fold.g, unfolded.g)


class Siamese(keras.Model):
    """Compares two inputs, which it gives a layer behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.both = LAYERS.Dense(3, activation="tanh")

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        left, right = tf.split(self.both(tf.concat(inputs, axis=0)), 2)
        return left * right


def test_inputs_behind_each_other_in_one_batch_are_positions():
    model = Siamese()
    x = [twins.inputs(6, 5), twins.inputs(6, 5)[::-1]]
    model(x)
    optimizer = KFAC()
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        log_likelihood = twins.wavy_log_likelihood([model(x)])
    optimizer.update_factors(tape, log_likelihood)

    a, _ = optimizer.blocks[0].factors()
    pairs = with_bias(np.stack(x, axis=1), True)
    twins.assert_close(a, oracle.factor_a(pairs))


class Framed(keras.Model):
    """Gives a convolution pictures, and then three times as many."""

    def __init__(self) -> None:
        super().__init__()
        self.both = LAYERS.Conv2D(2, 2)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        pictures, films = inputs
        of_films = self.both(tf.reshape(films, [-1, 4, 4, 1]))
        of_films = tf.reshape(of_films, [-1, 3, 18])
        of_pictures = tf.reshape(self.both(pictures), [-1, 18])
        return of_pictures * tf.reduce_sum(of_films, axis=1)


def test_pieces_lose_no_rows_of_a_call_that_has_more():
    model = Framed()
    x = [twins.inputs(5, 4, 4, 1), twins.inputs(5, 3, 4, 4, 1)]
    model(x)
    found = []
    for limit in (2**20, 200):
        optimizer = KFAC(max_patch_bytes=limit)
        optimizer.attach(model)
        with optimizer.curvature_tape() as tape:
            log_likelihood = twins.wavy_log_likelihood([model(x)])
        optimizer.update_factors(tape, log_likelihood)
        found.append(optimizer.blocks[0].factors())
    for whole, pieces in zip(*found, strict=True):
        twins.assert_close(pieces, whole)


@pytest.mark.parametrize("batch", [6, None])
def test_ekfac_refuses_rows_that_are_not_examples(batch):
    model, optimizer = folded(True, "ekfac")

    @tf.function(input_signature=[tf.TensorSpec([batch, 4, 5])], autograph=False)
    def update(x):
        with optimizer.curvature_tape() as tape:
            log_likelihood = twins.wavy_log_likelihood([model(x)])
        optimizer.update_factors(tape, log_likelihood)

    message = "layer `hidden`, called on another number of rows"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        update(twins.inputs(6, 4, 5))


def test_calls_with_one_position_and_with_many_are_positions_alike():
    layer = LAYERS.Dense(3, name="twice")
    one, many = keras.Input((2,)), keras.Input((4, 2))
    model = keras.Model([one, many], [layer(one), layer(many)])
    x = [twins.inputs(3, 2), twins.inputs(3, 4, 2, seed=2)]

    found = check_model(model, x, ["twice"])["twice"]

    rows = np.float64(np.concatenate([x[0][:, np.newaxis], x[1]], axis=1))
    a, g = found.block.factors()
    twins.assert_close(a, oracle.factor_a(with_bias(rows, True)))
    twins.assert_close(g, oracle.factor_g(np.concatenate(found.g, axis=1)))


def test_layers_of_a_nested_model_see_the_same_as_outside():
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            LAYERS.Conv2D(3, 2, activation="tanh", name="conv"),
            LAYERS.LayerNormalization(name="norm"),
            LAYERS.Flatten(),
        ]
    )
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(inner(inputs)))
    check_model(model, twins.inputs(3, 4, 4, 2), ["conv", "norm", "top"])


def test_a_trunk_sees_the_gradients_of_both_of_its_heads():
    inputs = keras.Input((3,))
    trunk = LAYERS.Dense(4, activation="tanh", name="trunk")(inputs)
    heads = [LAYERS.Dense(2, name="one")(trunk), LAYERS.Dense(1, name="two")(trunk)]
    model = keras.Model(inputs, heads)
    check_model(model, twins.inputs(4, 3), ["trunk", "one", "two"])


def test_a_sequence_model_sees_exact_gradients_in_every_layer():
    inputs = keras.Input((5,), dtype="int32")
    hidden = LAYERS.Embedding(6, 3, name="embedding")(inputs)
    hidden = LAYERS.Conv1D(4, 2, padding="causal", activation="tanh", name="conv")(
        hidden
    )
    hidden = LAYERS.LayerNormalization(axis=[1, 2], name="norm")(hidden)
    hidden = LAYERS.Dense(2, activation="tanh", name="dense")(hidden)
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(LAYERS.Flatten()(hidden)))
    x = np.random.default_rng(0).integers(0, 6, (3, 5))
    check_model(model, x, ["embedding", "conv", "norm", "dense", "top"])


# Refusals -------------------------------------------------------------------------
class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Refused(NamedTuple):
    """A layer that has no Kronecker-factored block.

    Attributes:
      make: Makes it.
      shape: Of one input.
      reason: What the message says of it.
    """

    make: Callable[[], keras.layers.Layer]
    shape: tuple[int, ...]
    reason: str = r"of type {kind} has trainable weights but is of a type"


def with_lora() -> keras.layers.Layer:
    layer = LAYERS.Dense(3, name="odd")
    layer.build((None, 4))
    layer.enable_lora(2)
    return layer


REFUSED = {
    "depthwise": Refused(lambda: LAYERS.DepthwiseConv2D(2, name="odd"), (3, 3, 2)),
    "depthwise 1-D": Refused(lambda: LAYERS.DepthwiseConv1D(2, name="odd"), (4, 2)),
    "transposed": Refused(lambda: LAYERS.Conv2DTranspose(2, 2, name="odd"), (2, 2, 2)),
    "separable": Refused(lambda: LAYERS.SeparableConv2D(2, 2, name="odd"), (3, 3, 2)),
    "groups": Refused(
        lambda: LAYERS.Conv2D(4, 2, groups=2, name="odd"),
        (3, 3, 2),
        r"must have groups=1\. Received: groups=2",
    ),
    "channels first": Refused(
        lambda: LAYERS.Conv2D(2, 2, data_format="channels_first", name="odd"),
        (2, 3, 3),
        r"must have data_format='channels_last'\. Received: .*'channels_first'",
    ),
    "group normalization": Refused(
        lambda: LAYERS.GroupNormalization(2, name="odd"), (4,)
    ),
    "einsum": Refused(
        lambda: LAYERS.EinsumDense("nc,cd->nd", 3, bias_axes="d", name="odd"), (4,)
    ),
    "subclass": Refused(lambda: Doubled(3, name="odd"), (4,)),
    "LoRA": Refused(with_lora, (4,), r"has LoRA weights"),
    "synchronized": Refused(
        lambda: LAYERS.BatchNormalization(synchronized=True, name="odd"),
        (4,),
        r"must have synchronized=False\. Received: synchronized=True",
    ),
    "LSTM": Refused(lambda: LAYERS.LSTM(2, name="odd"), (3, 2)),
}


def refused_model(refused: Refused) -> keras.Model:
    """The layer, two outputs on it, and nothing else that is trained."""
    inputs = keras.Input(refused.shape)
    hidden = LAYERS.Flatten()(refused.make()(inputs))
    top = LAYERS.Dense(2, name="top")
    model = keras.Model(inputs, top(hidden))
    twins.randomize(model)
    top.trainable = False
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_without_a_block_is_named_with_what_can_be_done(name):
    refused = REFUSED[name]
    kind = type(refused.make()).__name__
    message = (
        f"Layer `odd` .*{refused.reason.format(kind=kind)}"
        r'.* Set `fallback="diagonal"` .*`trainable = False`'
    )
    with pytest.raises(ValueError, match=message):
        KFAC().attach(refused_model(refused))


@pytest.mark.parametrize("attribute", ["rms_scaling", "renorm"])
def test_other_ways_to_normalize_are_refused(attribute):
    layer = {
        "rms_scaling": LAYERS.LayerNormalization,
        "renorm": LAYERS.BatchNormalization,
    }[attribute](name="odd")
    model = alone(layer, (3,))
    # Not every version of Keras takes both.
    setattr(layer, attribute, True)
    with pytest.raises(ValueError, match=rf"`odd` .*must have {attribute}=False"):
        KFAC().attach(model)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("fallback", [None, "diagonal"])
@pytest.mark.parametrize("kind", [LAYERS.Dense, Doubled])
def test_weights_that_are_not_float32_are_refused_with_any_fallback(
    dtype, fallback, kind
):
    model = alone(kind(2, dtype=dtype, name="odd"), (3,))
    message = rf"Layer `odd` must have float32 weights\. Received: {dtype}"
    with pytest.raises(ValueError, match=message):
        KFAC(fallback=fallback).attach(model)


@pytest.mark.parametrize("name", REFUSED)
def test_with_a_fallback_only_that_layer_has_a_diagonal(name):
    inputs = keras.Input(REFUSED[name].shape)
    hidden = LAYERS.Flatten()(REFUSED[name].make()(inputs))
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(hidden))
    optimizer = KFAC(fallback="diagonal")
    optimizer.attach(model)
    kinds = {block.layer.name: type(block) for block in optimizer.blocks}
    assert kinds == {"odd": DiagonalBlock, "top": KroneckerBlock}


# The diagonal ---------------------------------------------------------------------
def update_diagonal(
    optimizer: KFAC, model: keras.Model, x: np.ndarray, scores: np.ndarray, number: int
) -> None:
    """One of a series of batches, all of which count the same.

    Args:
      optimizer: Attached to the model.
      model: Has one output `[N, K]`.
      x: Inputs.
      scores: Gradients of the log-likelihoods with respect to the outputs, `[N, K]`.
      number: How many batches there were before.
    """
    with optimizer.curvature_tape() as tape:
        log_likelihood = tf.reduce_sum(scores * model(x), axis=1)
    decay = number / (number + 1)
    optimizer.curvature.update_factors(tape, log_likelihood, decay, tf.constant(number))


def exact_diagonal(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """E[(∇ log p)²] of N(y; outputs, I): the mean over examples of Σ_k J_k², flat."""
    total = 0.0
    for k in range(model.outputs[0].shape[1]):
        found = twins.per_example_gradients(model, x, lambda y, k=k: y[0][:, k])
        flat = np.concatenate([j.reshape(len(j), -1) for j in found], axis=1)
        total = total + np.mean(flat**2, axis=0)
    return total


# TensorFlow has no convolution with channels first on a CPU in float64.
@pytest.mark.parametrize("name", [name for name in REFUSED if name != "channels first"])
def test_the_diagonal_is_the_mean_of_squared_gradients_and_steps_by_it(name):
    model = refused_model(REFUSED[name])
    x, damping = twins.inputs(2, *REFUSED[name].shape), 0.03
    optimizer = KFAC(
        learning_rate=1.0,
        kl_radius=None,
        momentum=0.0,
        damping=damping,
        fallback="diagonal",
    )
    optimizer.attach(model)
    (block,) = optimizer.blocks
    # In place of sampled targets, noise of ±1, the fourth of which is the product of
    # the others: products of two of the four have mean zero, as those of draws have,
    # but for any seed.
    for number, signs in enumerate(itertools.product([-1.0, 1.0], repeat=3)):
        scores = np.reshape(np.float32([*signs, np.prod(signs)]), (2, 2))
        update_diagonal(optimizer, model, x, scores, number)

    diagonal = exact_diagonal(model, x)
    twins.assert_close(block.factors()[0], diagonal, 2e-5)

    optimizer.update_inverses()
    weights = model.trainable_variables
    before = [np.float64(weight) for weight in weights]
    gradients = [twins.inputs(*w.shape, seed=6 + i) for i, w in enumerate(weights)]
    optimizer.apply([tf.constant(g) for g in gradients], weights)

    step = np.concatenate(
        [np.ravel(old - new) for old, new in zip(before, weights, strict=True)]
    )
    flat = np.concatenate([np.ravel(gradient) for gradient in gradients])
    # Of the difference of weights, of which float32 has lost some.
    twins.assert_close(step, np.float64(flat) / (diagonal + damping), 3e-5)


def test_the_diagonal_of_drawn_targets_converges_to_that_of_the_fisher_matrix():
    model = refused_model(REFUSED["group normalization"])
    x, draws = twins.inputs(4, 4), 1000
    optimizer = KFAC(fallback="diagonal")
    optimizer.attach(model)
    noise = tf.constant(twins.inputs(draws, 4, 2, seed=3))

    @tf.function
    def update(number):
        score = noise[number]
        with optimizer.curvature_tape() as tape:
            log_likelihood = tf.reduce_sum(score * model(x), axis=1)
        seen_before = tf.cast(number, tf.float32)
        decay = seen_before / (seen_before + 1.0)
        optimizer.curvature.update_factors(tape, log_likelihood, decay, number)

    for number in tf.range(draws):
        update(number)

    # s is a sum of normal numbers, so s² has a deviation of √2 of its mean. Eight
    # elements are within four deviations of the mean of all draws in 999 of 1000 cases.
    tolerance = 4 * np.sqrt(2 / draws)
    diagonal = exact_diagonal(model, x)
    np.testing.assert_allclose(
        optimizer.blocks[0].factors()[0], diagonal, rtol=tolerance
    )


def test_a_layer_of_several_outputs_counts_the_examples():
    inputs = keras.Input((3, 2))
    _, state, _ = LAYERS.LSTM(4, return_state=True, name="odd")(inputs)
    model = keras.Model(inputs, state)
    optimizer = KFAC(fallback="diagonal")
    optimizer.attach(model)
    x = twins.inputs(5, 3, 2)
    with optimizer.curvature_tape() as tape:
        log_likelihood = twins.wavy_log_likelihood([model(x)])
    optimizer.update_factors(tape, log_likelihood)

    found = twins.per_example_gradients(model, x, twins.wavy_log_likelihood)
    total = np.concatenate([np.ravel(each.sum(axis=0)) for each in found])
    twins.assert_close(optimizer.blocks[0].factors()[0], total**2 / 5, 3e-5)


def test_a_layer_may_be_called_by_the_names_of_its_arguments():
    layer = LAYERS.MultiHeadAttention(2, 3, name="odd")
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layer(query=inputs, value=inputs))
    optimizer = KFAC(fallback="diagonal")
    optimizer.attach(model)
    x = tf.constant(twins.inputs(5, 4, 3))
    with optimizer.curvature_tape() as tape:
        log_likelihood = twins.wavy_log_likelihood([model(x)])
    optimizer.update_factors(tape, log_likelihood)
    assert np.abs(optimizer.blocks[0].factors()[0]).max() > 0


class Plain(LAYERS.Layer):
    """Names of attributes that other layers have, for something else."""

    def __init__(self) -> None:
        super().__init__(name="odd")
        self.activation = None
        self.layers = [2, 3]

    def build(self, shape: tuple[int, ...]) -> None:
        self.slope = self.add_weight((shape[-1],), "ones", name="slope")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = inputs * self.slope
        return outputs if self.activation is None else self.activation(outputs)


def test_a_layer_of_ones_own_may_use_names_that_others_have():
    model = keras.Sequential([keras.Input((3,)), Plain()])
    optimizer = KFAC(fallback="diagonal")
    optimizer.attach(model)
    x = twins.inputs(5, 3)
    with optimizer.curvature_tape() as tape:
        log_likelihood = twins.wavy_log_likelihood([model(x)])
    optimizer.update_factors(tape, log_likelihood)
    assert np.abs(optimizer.blocks[0].factors()[0]).min() > 0


# Layers of one's own ----------------------------------------------------------------
@pytest.fixture
def own_rules(monkeypatch):
    """Registers layers for one test."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


class Scaled(LAYERS.Layer):
    """y = 3 x W + b."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.matrix = self.add_weight((shape[-1], 2), "normal", name="matrix")
        self.offset = self.add_weight((2,), "normal", name="offset")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return 3.0 * (inputs @ self.matrix) + self.offset


def scaled_signals(layer: Scaled, call: Call, gradients: tf.Tensor) -> Signals:
    return Signals(3.0 * call.inputs[:, None], gradients[:, None], bias=True)


class Elementwise(LAYERS.Layer):
    """y = x ∘ w + b."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.slope = self.add_weight(shape[-1:], "normal", name="slope")
        self.offset = self.add_weight(shape[-1:], "normal", name="offset")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.slope + self.offset


def elementwise_signals(
    layer: Elementwise, call: Call, gradients: tf.Tensor
) -> Signals:
    each = tf.concat([gradients * call.inputs, gradients], axis=1)
    return Signals(tf.ones_like(each[:, None, :1]), each[:, None])


def test_a_layer_of_ones_own_sees_what_its_rule_says(own_rules):
    register_layer(Scaled, LayerRule(scaled_signals, ("matrix", "offset")))
    x = twins.inputs(5, 3)
    check(Scaled(), x, lambda x: with_bias(np.stack([3 * x], axis=1), True))


def test_a_layer_of_ones_own_has_its_exact_fisher_matrix(own_rules):
    rule = LayerRule(elementwise_signals, ("slope", "offset"), axis=1)
    register_layer(Elementwise, rule)
    model, x = alone(Elementwise(), (3,)), twins.inputs(5, 3)
    (block,) = updated(KFAC(), model, x).blocks
    twins.assert_close(block.to_dense(), exact_fisher(model, x))


def updated(optimizer: KFAC, model: keras.Model, x: np.ndarray) -> KFAC:
    """The optimizer, attached, after one update of its curvature."""
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        log_likelihood = twins.wavy_log_likelihood([model(x)])
    optimizer.update_curvature(tape, log_likelihood)
    return optimizer


def exact_fisher(model: keras.Model, x: np.ndarray, weights: slice = slice(None)):
    """E[u uᵀ], with u the gradients of some of the weights, side by side."""
    found = twins.per_example_gradients(model, x, twins.wavy_log_likelihood)
    flat = [gradient.reshape(len(x), 1, -1) for gradient in found[weights]]
    return oracle.second_moment(np.concatenate(flat, axis=2))


class FullBlock(Block):
    """The whole Fisher matrix of a dense layer: one factor, and no A or G."""

    def __init__(self, layer, settings, add_variable) -> None:
        variables = layer.trainable_variables
        size = sum(int(np.prod(variable.shape)) for variable in variables)
        super().__init__(layer, variables, {"fisher": (size, size)}, add_variable)
        self._inverse = self.add_array("inverse", (size, size), "identity")
        self.inverse_arrays = [self._inverse]

    def differentiated_tensors(self, tape: CurvatureTape) -> list[tf.Tensor]:
        return [call.outputs for call in tape.calls(self.layer)]

    def statistics(self, tape, gradients, examples, step) -> list[tf.Tensor]:
        (call,), (g,) = tape.calls(self.layer), gradients
        kernel = tf.einsum("ni,nj->nij", call.inputs, g)
        each = tf.concat([tf.reshape(kernel, [tf.shape(g)[0], -1]), g], axis=1)
        return [tf.matmul(each, each, transpose_a=True) / tf.cast(examples, g.dtype)]

    @property
    def inversion_cost(self) -> float:
        return float(self.factor_shapes[0][0] ** 3)

    def invert(self, factors, damping: float) -> Inversion:
        inverse = damped_inverse(factors[0], damping)
        return Inversion([inverse.matrix], inverse.succeeded, inverse.failures)

    def condition_number(self, damping: tf.Tensor) -> tf.Tensor:
        values = tf.linalg.eigvalsh(self.to_dense()) + damping
        return values[-1] / values[0]

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        return matrix @ self.to_dense()

    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        return matrix @ self._inverse.value

    def to_dense(self) -> tf.Tensor:
        return self.factors()[0]


class OwnDense(LAYERS.Dense):
    """A type of its own."""


def own_dense_below_a_dense() -> keras.Model:
    inputs = keras.Input((3,))
    hidden = OwnDense(4, activation="tanh", name="own")(inputs)
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(hidden))
    twins.randomize(model)
    return model


def test_a_block_of_ones_own_may_be_the_whole_fisher_matrix_of_a_layer(own_rules):
    register_layer(OwnDense, FullBlock)
    model, x, damping = own_dense_below_a_dense(), twins.inputs(7, 3), 0.05
    optimizer = updated(
        KFAC(learning_rate=1.0, kl_radius=None, momentum=0.0, damping=damping),
        model,
        x,
    )
    block, top = optimizer.blocks
    assert isinstance(top, KroneckerBlock)
    fisher = exact_fisher(model, x, slice(0, 2))
    twins.assert_close(block.to_dense(), fisher, 2e-5)

    weights = model.trainable_variables
    before = [np.float64(weight) for weight in weights]
    gradients = [twins.inputs(*w.shape, seed=6 + i) for i, w in enumerate(weights)]
    optimizer.apply([tf.constant(g) for g in gradients], weights)
    step = np.concatenate(
        [np.ravel(old - new) for old, new in zip(before, weights, strict=True)][:2]
    )
    flat = np.concatenate([np.ravel(gradient) for gradient in gradients[:2]])
    damped = fisher + damping * np.eye(len(fisher))
    twins.assert_close(step, np.linalg.solve(damped, np.float64(flat)), 1e-4)

    found = optimizer.diagnostics()
    np.testing.assert_allclose(
        found["condition/own"], np.linalg.cond(damped), rtol=1e-3
    )
    assert "pi/own" not in found
    assert optimizer.memory(model)["own"] == 4 * (2 * 16**2 + 2)


@pytest.mark.parametrize("thread", [False, True])
def test_blocks_of_different_numbers_of_factors_are_inverted_together(
    own_rules, thread
):
    register_layer(OwnDense, FullBlock)
    model, x = own_dense_below_a_dense(), twins.inputs(7, 3)
    optimizer = KFAC(
        inverse_thread=thread, inverse_update_period=2, damping=0.05, bound="update"
    )
    optimizer.attach(model)

    @tf.function(autograph=False)
    def step(x: tf.Tensor) -> None:
        with optimizer.curvature_tape() as tape, tf.GradientTape() as loss_tape:
            outputs = model(x)
            loss = tf.reduce_mean(tf.square(outputs))
            log_likelihood = twins.wavy_log_likelihood([outputs])
        optimizer.update_curvature(tape, log_likelihood)
        weights = model.trainable_variables
        optimizer.apply(loss_tape.gradient(loss, weights), weights)

    losses = []
    for _ in range(12):
        step(tf.constant(x))
        losses.append(float(tf.reduce_mean(tf.square(model(x)))))
    assert losses[-1] < losses[0]
    assert int(optimizer.failed_factorizations) == 0
    assert float(optimizer.blocks[0].inverse_step) >= 8


def test_a_subclass_of_a_registered_layer_is_not_registered(own_rules):
    class Own(Scaled):
        """Might compute something else."""

    register_layer(Scaled, LayerRule(scaled_signals, ("matrix", "offset")))
    with pytest.raises(ValueError, match=r"type Own .*kfac\.register_layer"):
        KFAC().attach(alone(Own(), (3,)))


def test_a_rule_has_to_name_all_weights(own_rules):
    register_layer(Scaled, LayerRule(scaled_signals, ("matrix",)))
    with pytest.raises(ValueError, match=r"Received: .*offset"):
        KFAC().attach(alone(Scaled(), (3,)))


def test_what_is_no_layer_or_no_rule_is_not_registered(own_rules):
    rule = LayerRule(scaled_signals, ("matrix", "offset"))
    with pytest.raises(ValueError, match="`layer_type` must be a subclass of keras"):
        register_layer(Scaled(), rule)
    with pytest.raises(ValueError, match="`layer_type` must be a subclass of keras"):
        register_layer(int, rule)
    for wrong in (scaled_signals, int, None):
        with pytest.raises(ValueError, match=r"`rule` must be a kfac\.LayerRule, or"):
            register_layer(Scaled, wrong)


def test_a_layer_is_registered_once_unless_its_rule_is_to_be_replaced(own_rules):
    rule = LayerRule(scaled_signals, ("matrix", "offset"))
    register_layer(Scaled, FullBlock)
    with pytest.raises(ValueError, match="Scaled is registered already"):
        register_layer(Scaled, rule)
    register_layer(Scaled, rule, override=True)
    optimizer = KFAC()
    optimizer.attach(alone(Scaled(), (3,)))
    assert isinstance(optimizer.blocks[0], KroneckerBlock)


# Frozen ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (LAYERS.Dense(3), (4,)),
        (LAYERS.Conv2D(2, 2), (3, 3, 2)),
        (LAYERS.BatchNormalization(), (4,)),
        (LAYERS.LayerNormalization(), (4,)),
        (LAYERS.GroupNormalization(2), (4,)),
        (LAYERS.Dense(3, dtype="float64"), (4,)),
        (FreeParameters(2), (4,)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("fallback", [None, "diagonal"])
def test_a_frozen_layer_has_no_block_and_needs_no_support(layer, shape, fallback):
    inputs = keras.Input(shape)
    hidden = LAYERS.Flatten()(layer(inputs))
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(hidden))
    layer.trainable = False
    optimizer = KFAC(fallback=fallback)
    optimizer.attach(model)
    assert [block.layer.name for block in optimizer.blocks] == ["top"]
    assert optimizer.curvature.watched_weights == []


def test_a_layer_frozen_with_the_model_around_it_has_no_block():
    inner = keras.Sequential([keras.Input((3,)), LAYERS.Dense(2, name="inner")])
    inner.trainable = False
    inputs = keras.Input((3,))
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(inner(inputs)))
    optimizer = KFAC()
    optimizer.attach(model)
    assert [block.layer.name for block in optimizer.blocks] == ["top"]
