"""Counters of a run."""

import numpy as np

from acktr_tf.training.progress import Best, Progress
from acktr_tf.types import Episode


def test_counters_of_a_run_that_is_longer_than_an_int32() -> None:
    updates = 2**33 + 1
    progress = Progress(640)
    progress.updates, progress.episodes = updates, 2**32 + 7
    progress.best = Best(-1.5, updates * 640)
    progress.add_episodes([Episode(2.0, 2**31 + 1), Episode(4.0, 2**31 + 3)])
    restored = Progress(640)
    restored.load_state(progress.state())
    assert restored.step == progress.step == 640 * (2**33 + 1)
    assert restored.best == (-1.5, 640 * (2**33 + 1))
    assert restored.episode_scalars() == {
        "episode_return": 3.0,
        "episode_length": 2.0**31 + 2,
        "episodes": 2**32 + 9,
    }
    restored.updates += 1
    assert restored.step - progress.step == 640
    assert all(np.asarray(a).dtype.itemsize == 8 for a in progress.state().values())
