"""How many threads BLAS gets while it inverts."""

import threading

import pytest
from threadpoolctl import threadpool_info

from acktr_tf.kfac.blas import SERIAL_SIZE, threads_for


def threads() -> list[int]:
    found = threadpool_info()
    return [each["num_threads"] for each in found if each["user_api"] == "blas"]


def test_small_matrices_get_one_thread_and_large_ones_what_there_are():
    before = threads()
    with threads_for(SERIAL_SIZE - 1):
        assert set(threads()) == {1}
    with threads_for(SERIAL_SIZE):
        assert threads() == before
    assert threads() == before


def test_several_callers_at_a_time_give_the_threads_back():
    before = threads()
    seen: list[set[int]] = []

    def limit() -> None:
        for _ in range(20):
            with threads_for(2):
                seen.append(set(threads()))

    callers = [threading.Thread(target=limit) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert seen == 60 * [{1}]
    assert threads() == before


def test_an_error_gives_them_back():
    before = threads()
    with pytest.raises(ValueError, match="inside"), threads_for(2):
        raise ValueError("inside")
    assert threads() == before
