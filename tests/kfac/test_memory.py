import keras
import pytest
import tensorflow as tf

from acktr_tf.kfac import KFAC


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ],
        name="model",
    )


@pytest.mark.parametrize("inverse", ["cholesky", "eigen", "ekfac"])
@pytest.mark.parametrize("thread", [False, True])
def test_the_memory_stated_is_that_of_the_variables(inverse, thread):
    model = make_model()
    optimizer = KFAC(inverse=inverse, inverse_thread=thread)

    stated = optimizer.memory(model)

    assert not optimizer.built
    optimizer.attach(model)
    arrays = [v for v in optimizer.variables if len(v.shape)]
    scalars = len(optimizer.variables) - len(arrays)
    taken = sum(4 * v.numpy().size for v in arrays)
    # But for scalars, some of which are the optimizer's and some the blocks'.
    assert taken <= stated["total"] <= taken + 4 * scalars
    assert set(stated) == {
        "model/conv",
        "model/norm",
        "model/dense",
        "velocity",
        "total",
        "workspace",
    }


def test_a_dense_layer_takes_its_factors_and_their_inverses():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    stated = KFAC().memory(model)
    # A 6 × 6 and G 3 × 3, each twice; the weight of the means and a step's number.
    numbers = 2 * (36 + 9) + 2
    assert stated["total"] == 4 * (numbers + 5 * 3 + 3)
    assert stated["velocity"] == 4 * (5 * 3 + 3)
    # Factors and inverses once more, and A twice while it is inverted.
    assert stated["workspace"] == 4 * (2 * (36 + 9) + 2 * 36)


def test_a_wide_factor_takes_as_much_as_its_diagonal():
    model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(3)])
    stated = KFAC(max_factor_dim=8).memory(model)
    # A of 10 and G 3 × 3, each twice; the weight of the means and a step's number.
    assert stated["total"] == 4 * (2 * (10 + 9) + 2 + 9 * 3 + 3)
    assert stated["workspace"] == 4 * (2 * (10 + 9) + 2 * 10)


def test_a_layer_that_is_not_supported_is_named():
    layer = keras.layers.GroupNormalization(1, name="group")
    model = keras.Sequential([keras.Input((5,)), layer])
    with pytest.raises(ValueError, match="`group` of type GroupNormalization"):
        KFAC().memory(model)


def test_layers_of_one_path_are_counted_each():
    inputs = keras.Input((3,))

    def encoder(size: int) -> keras.Model:
        inner = keras.Input((3,))
        hidden = keras.layers.Dense(size, name="hidden")(inner)
        return keras.Model(inner, keras.layers.Dense(2, name="hidden_1")(hidden))

    outputs = [encoder(size)(inputs) for size in (4, 5)]
    model = keras.Model(inputs, outputs)
    optimizer = KFAC()
    found = optimizer.memory(model)
    names = ["hidden", "hidden_1", "hidden_2", "hidden_1_1"]
    assert sorted(found) == sorted([*names, "velocity", "total", "workspace"])
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        log_likelihood = tf.add_n([tf.reduce_sum(y, 1) for y in model(tf.ones([2, 3]))])
    optimizer.update_curvature(tape, log_likelihood)
    assert {f"pi/{name}" for name in names} <= set(optimizer.diagnostics())


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([keras.layers.Dense(3)], name="later")
    with pytest.raises(ValueError, match=r"needs a built model.*`later`"):
        KFAC().memory(model)
