"""Keys without state."""

import zlib

import numpy as np

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


def test_no_key_comes_again_in_a_run_without_end() -> None:
    around = [n for p in (0, 31, 32, 33, 40, 62) for n in range(2**p - 3, 2**p + 3)]
    indices = {n + rounds * 2**32 for n in around for rounds in (0, 1, 2, 2**30)}
    indices = {n for n in indices if 0 <= n < 2**63}
    assert {2**31, 2**32, 2**32 + 1, 2**62 + 2} < indices
    for seed in (0, 12345):
        keys = [KeyStream(seed, "acting").key(n) for n in sorted(indices)]
        assert {(key.dtype, key.shape) for key in keys} == {(np.dtype(np.int32), (2,))}
        assert len({tuple(key.tolist()) for key in keys}) == len(indices)


def test_the_keys_of_runs_so_far_stay() -> None:
    """As they were made when an index beyond 2³¹ was an error."""
    for seed, purpose in [(0, "update"), (7, "acting")]:
        words = [seed, zlib.crc32(purpose.encode())]
        first = np.random.SeedSequence(words).generate_state(1)[0] >> 1
        for index in (0, 1, 10**6, 2**31 - 1):
            expected = [int(first), index]
            assert KeyStream(seed, purpose).key(index).tolist() == expected
