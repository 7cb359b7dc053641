import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles.networks import forward

from acktr_tf.kfac import CurvatureTape
from kfac import twins


def conv_and_dense() -> twins.Twin:
    return twins.Twin(
        (6, 5, 2),
        [
            keras.layers.Conv2D(3, 3, 2, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="tanh", name="hidden"),
        ],
        [keras.layers.Dense(3, name="policy"), keras.layers.Dense(1, name="value")],
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_inputs_and_pre_activations_are_those_of_the_float64_twin(compiled):
    twin = conv_and_dense()
    x = twins.inputs(4, 6, 5, 2)

    def capture(batch):
        with CurvatureTape(twin.layers) as tape:
            twin.model(batch)
        return [tuple(tape.calls(layer)[0])[:2] for layer in twin.layers]

    captured = (tf.function(capture) if compiled else capture)(tf.constant(x))

    _, rows, pre_activations = forward(twin.network, x.astype(np.float64))
    for record, expected in zip(captured, pre_activations, strict=True):
        actual = np.reshape(record[1], expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(captured[0][0], x)
    for record, expected in zip(captured[1:], rows[1:], strict=True):
        # The dense layers' rows have a one for the bias at the end.
        np.testing.assert_allclose(record[0], expected[:, 0, :-1], rtol=1e-5, atol=1e-6)


def test_gradients_are_with_respect_to_what_comes_before_the_activation():
    layer = keras.layers.Dense(2, activation="tanh", use_bias=False)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign(np.eye(2))

    with CurvatureTape([layer]) as tape:
        log_likelihood = tf.reduce_sum(model(tf.constant([[0.5, -1.0]])), axis=1)
    gradient = tape.gradient(log_likelihood, tape.calls(layer)[0].outputs)

    # d tanh(s) / ds = 1 − tanh²(s).
    expected = 1 - np.tanh([[0.5, -1.0]]) ** 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_layers_of_nested_models_are_captured():
    inner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="relu", name="inner")]
    )
    outer_layer = keras.layers.Dense(1, name="outer")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, outer_layer(inner(inputs)))
    layers = [inner.layers[0], outer_layer]
    x = tf.constant(twins.inputs(4, 3))

    with CurvatureTape(layers) as tape:
        output = model(x)

    np.testing.assert_array_equal(tape.calls(layers[0])[0].inputs, x)
    np.testing.assert_array_equal(tape.calls(layers[1])[0].outputs, output)
    np.testing.assert_array_equal(tape.calls(layers[1])[0].inputs, inner(x))


def test_outputs_are_bit_for_bit_those_of_the_model_without_the_tape():
    twin = conv_and_dense()
    x = twins.inputs(4, 6, 5, 2)
    before = twin.outputs(x)

    with CurvatureTape(twin.layers):
        inside = twin.outputs(x)

    np.testing.assert_array_equal(inside, before)
    np.testing.assert_array_equal(twin.outputs(x), before)


@pytest.mark.parametrize("fault", ["none", "in the block", "in a layer"])
def test_nothing_is_left_on_the_layers(fault):
    twin = conv_and_dense()
    x = twins.inputs(4, 6, 5, 2)
    before = [dict(vars(layer)) for layer in twin.layers]
    bad = x if fault != "in a layer" else x[..., :1]

    def use():
        with CurvatureTape(twin.layers):
            twin.model.layers[1](bad)
            if fault == "in the block":
                raise KeyError("fault")

    if fault == "none":
        use()
    else:
        with pytest.raises((KeyError, ValueError)):
            use()

    for layer, attributes in zip(twin.layers, before, strict=True):
        assert vars(layer).keys() == attributes.keys()
        assert layer.activation is attributes["activation"]
        assert layer.call.__func__ is type(layer).call


def test_one_tape_in_another_leaves_both_whole():
    twin = conv_and_dense()
    x = twins.inputs(4, 6, 5, 2)
    with CurvatureTape(twin.layers) as outer, CurvatureTape(twin.layers) as inner:
        twin.model(x)
    for layer in twin.layers:
        (left,), (right,) = outer.calls(layer), inner.calls(layer)
        np.testing.assert_array_equal(left.inputs, right.inputs)
        np.testing.assert_array_equal(left.outputs, right.outputs)
        assert "call" not in vars(layer)


@pytest.mark.parametrize("order", ["loss outside", "loss inside"])
def test_the_gradient_of_a_loss_is_the_same_with_the_tape_open(order):
    twin = conv_and_dense()
    x = twins.inputs(4, 6, 5, 2)
    variables = twin.model.trainable_variables

    def loss():
        return tf.reduce_mean(tf.square(twin.outputs(x)))

    with tf.GradientTape() as tape:
        value = loss()
    expected = tape.gradient(value, variables)
    if order == "loss outside":
        with tf.GradientTape() as tape, CurvatureTape(twin.layers):
            value = loss()
    else:
        with CurvatureTape(twin.layers), tf.GradientTape() as tape:
            value = loss()

    for actual, same in zip(tape.gradient(value, variables), expected, strict=True):
        np.testing.assert_array_equal(actual, same)


def test_each_call_of_a_layer_is_recorded_in_order():
    shared = keras.layers.Dense(2, activation="tanh", name="shared")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(shared(inputs)))
    x = tf.constant(twins.inputs(3, 2))

    with CurvatureTape([shared]) as tape:
        output = model(x)

    first, second = tape.calls(shared)
    np.testing.assert_array_equal(first.inputs, x)
    np.testing.assert_array_equal(second.inputs, tf.tanh(first.outputs))
    np.testing.assert_array_equal(output, tf.tanh(second.outputs))


@pytest.mark.parametrize("training", [False, True])
def test_of_a_layer_without_an_activation_the_output_is_recorded(training):
    layer = keras.layers.BatchNormalization()
    x = tf.constant(twins.inputs(5, 3))
    layer.build(x.shape)

    with CurvatureTape([layer]) as tape:
        output = layer(x, training=training)
        likelihood = tf.reduce_sum(tf.square(output), axis=1)

    (call,) = tape.calls(layer)
    assert call.training == training
    np.testing.assert_array_equal(call.outputs, output)
    gradient = tape.gradient(likelihood, call.outputs)
    np.testing.assert_allclose(gradient, 2 * output, rtol=1e-6)
    assert "call" not in vars(layer)


def test_a_layer_that_was_not_called_is_named():
    layer = keras.layers.Dense(2, name="idle")
    layer.build((None, 2))
    with CurvatureTape([layer]) as tape:
        pass
    with pytest.raises(ValueError, match=r"`idle` was not called inside"):
        tape.calls(layer)


def test_a_call_outside_the_block_is_not_recorded():
    layer = keras.layers.Dense(2)
    x = tf.ones([1, 2])
    layer(x)
    with CurvatureTape([layer]) as tape:
        inside = layer(x)
    layer(2 * x)
    np.testing.assert_array_equal(tape.calls(layer)[0].outputs, inside)
