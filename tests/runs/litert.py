"""Exports as LiteRT runs them."""

import warnings

import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"


def run_converted(directory, inputs):
    """The outputs by name of an export that is converted to LiteRT.

    What LiteRT has no operation of its own for is an error.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(directory), signature_keys=[SIGNATURE]
    )
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    return _run(converter, SIGNATURE, inputs)


def run_converted_function(function, tensor):
    """The result of a function of one tensor that is converted to LiteRT."""
    shape = [None, *tensor.shape[1:]]
    module = tf.Module()
    module.function = tf.function(
        lambda x: {"result": function(x)},
        input_signature=[tf.TensorSpec(shape, tensor.dtype, name="x")],
        autograph=False,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.function.get_concrete_function()], module
    )
    return _run(converter, SIGNATURE, {"x": tensor})["result"]


def _run(converter, signature, inputs):
    with warnings.catch_warnings():
        # TensorFlow's interpreter has moved to a package of its own.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner(signature)
    return runner(**{name: np.asarray(array) for name, array in inputs.items()})


def assert_converts(directory, inputs, served):
    """Converted, an export gives what its SavedModel gives."""
    found = run_converted(directory, inputs)
    assert found.keys() == served.keys()
    for name, expected in served.items():
        assert found[name].dtype == expected.dtype
        tolerance = 1e-4 if expected.dtype.is_floating else 0.0
        np.testing.assert_allclose(
            found[name], expected, rtol=tolerance, atol=tolerance, err_msg=name
        )
