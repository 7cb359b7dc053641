import numpy as np

from acktr_tf.algorithms import make_batch
from acktr_tf.algorithms.returns import generalized_advantages
from acktr_tf.types import Rollout


def test_rows_run_over_environments_within_steps():
    rng = np.random.default_rng(0)
    steps, environments = 4, 3

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    shape = (steps, environments)
    rollout = Rollout(
        observation=numbers(*shape, 2),
        action=rng.integers(5, size=shape).astype(np.int32),
        reward=numbers(*shape),
        terminated=rng.random(shape) < 0.3,
        truncated=np.zeros(shape, np.bool_),
        value=numbers(*shape),
        final_value=numbers(*shape),
        last_value=numbers(environments),
    )
    advantage = generalized_advantages(*rollout[2:], 0.9, 0.8)
    surprise = generalized_advantages(*rollout[2:], 0.9, 0.3)

    batch = make_batch(rollout, 0.9, 0.8, 0.3)

    for step in range(steps):
        for environment in range(environments):
            row, at = step * environments + environment, (step, environment)
            np.testing.assert_array_equal(
                batch.observation[row], rollout.observation[at]
            )
            assert batch.action[row] == rollout.action[at]
            assert batch.advantage[row] == advantage[at]
            assert batch.target[row] == surprise[at] + rollout.value[at]
    assert len(batch.target) == steps * environments
