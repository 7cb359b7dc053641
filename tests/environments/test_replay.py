"""Actions since the last seed, and their order in a replay."""

import numpy as np

from acktr_tf.environments.replay import ActionHistory, Replay


def test_a_replay_ends_with_the_recorded_actions_of_every_environment() -> None:
    history = ActionHistory(3)
    for step in range(6):
        history.record(np.array([step, 10 + step, 20 + step]))
        if step == 2:
            history.forget(1)
        if step == 5:
            history.forget(2)
    assert history.steps_since_seed.tolist() == [6, 3, 0]
    assert history.flat().tolist() == [0, 1, 2, 3, 4, 5, 13, 14, 15]
    replay = Replay(history.flat(), history.steps_since_seed)
    assert replay.length == 6
    joining = [np.flatnonzero(replay.joining(step)).tolist() for step in range(7)]
    assert joining == [[0], [], [], [1], [], [], [2]]
    actions = np.array([replay.actions(step) for step in range(6)])
    assert actions[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert actions[3:, 1].tolist() == [13, 14, 15]
    # An environment that has not joined takes some recorded action.
    assert set(actions[:, 2]) == {0}


def test_actions_from_before_all_seeds_are_dropped() -> None:
    history = ActionHistory(1)
    for step in range(5000):
        history.record(np.array([step]))
        if step % 10 == 9:
            history.forget(0)
        assert len(history._actions) <= 1000 + 2 * 10
    history.record(np.array([7]))
    assert history.flat().tolist() == [7]


def test_nothing_was_done_yet() -> None:
    history = ActionHistory(2)
    assert history.flat().shape == (0,)
    assert Replay(history.flat(), history.steps_since_seed).length == 0
