"""Keys without state."""

import numpy as np
import pytest

from acktr_tf.random_keys import KeyStream


def test_a_key_is_decided_by_seed_purpose_and_index() -> None:
    keys = {
        (seed, purpose, index): tuple(KeyStream(seed, purpose).key(index).tolist())
        for seed in [0, 1, 2**31 - 1]
        for purpose in ["acting", "update"]
        for index in [0, 1, 2, 10**9]
    }
    assert len(set(keys.values())) == len(keys)
    for (seed, purpose, index), key in keys.items():
        assert tuple(KeyStream(seed, purpose).key(index).tolist()) == key


def test_keys_are_pairs_of_int32() -> None:
    for seed in range(20):
        key = KeyStream(seed, "acting").key(3)
        assert key.dtype == np.int32
        assert key.shape == (2,)
        assert (key >= 0).all()


def test_an_index_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        KeyStream(0, "acting").key(2**31)
