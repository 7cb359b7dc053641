"""States of parts of a run: prefixes of names, and the values of variables."""

import numpy as np
import pytest

from acktr_tf.errors import UserError
from acktr_tf.states import add_prefix, load_variables, variables_state, with_prefix


def test_a_prefix_comes_off_again():
    one, other = {"a": np.zeros(1), "b/c": np.ones(2)}, {"a": np.zeros(3)}
    arrays = {**add_prefix("x", one), **add_prefix("xy", other)}
    assert list(arrays) == ["x/a", "x/b/c", "xy/a"]
    assert with_prefix("x", arrays) == one
    assert with_prefix("xy", arrays) == other
    assert with_prefix("x/b", arrays) == {"c": one["b/c"]}
    assert with_prefix("z", arrays) == {}


def build(units=3, dtype="float32"):
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [keras.layers.Dense(4, dtype=dtype), keras.layers.Dense(units, dtype=dtype)]
    )
    model.build((None, 2))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def test_variables_round_trip_in_another_process_order():
    variables, others = build(), build()  # Keras numbers the second's layers on.
    for index, variable in enumerate(variables):
        variable.assign(np.full(variable.shape, index))
    arrays = variables_state(variables)
    assert len(arrays) == len(variables)
    assert list(variables_state(others)) == list(arrays)

    load_variables(others, arrays)

    for variable, other in zip(variables, others, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_arrays_are_copies():
    variables = build()
    arrays = variables_state(variables)
    before = {name: array.copy() for name, array in arrays.items()}
    for variable in variables:
        variable.assign(variable.numpy() + 1)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda a, k: a.pop(k), "{} is missing"),
        (
            lambda a, k: a.update({"0099/more/kernel": np.zeros(1)}),
            "0099/more/kernel is nothing that the run has",
        ),
        (
            lambda a, k: a.update({k: a[k][:1]}),
            "{} is float32[1, 4] where the run has float32[2, 4]",
        ),
        (
            lambda a, k: a.update({k: a[k].astype(np.float64)}),
            "{} is float64[2, 4] where the run has float32[2, 4]",
        ),
    ],
)
def test_arrays_that_do_not_fit(harm, expected):
    variables = build()
    arrays = variables_state(variables)
    first = next(iter(arrays))
    before = [variable.numpy() for variable in variables]
    arrays = {name: array + 1 for name, array in arrays.items()}
    harm(arrays, first)

    with pytest.raises(UserError) as error:
        load_variables(variables, arrays)

    assert expected.format(first) in str(error.value)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_other_layers_are_counted():
    with pytest.raises(UserError, match=r"\(and \d+ more\)"):
        load_variables(build(5), variables_state(build(3)))
