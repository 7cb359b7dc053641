"""Saving where environments are, and coming back there."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from acktr_tf import environments as environments_module
from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import VectorEnvironment, make_vector_env, training_seeds
from acktr_tf.environments.vector import Array
from acktr_tf.errors import RunError
from acktr_tf.types import Step

State = dict[str, Array]


def stored(state: State) -> State:
    """`state` as a checkpoint gives it back: through NumPy's file."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


def play(
    environments: VectorEnvironment, steps: int, random: np.random.Generator
) -> list[Step]:
    n = environments.action_space.n
    return [
        environments.step(random.integers(0, n, environments.num_envs))
        for _ in range(steps)
    ]


def assert_same(left: list[Step], right: list[Step]) -> None:
    for mine, other in zip(left, right, strict=True):
        for name, a, b in zip(Step._fields, mine, other, strict=True):
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype
                assert np.array_equal(a, b), name
            else:
                assert a == b, name


# Deterministic simulators -----------------------------------------------------------
@pytest.mark.parametrize("steps", [0, 1, 57, 200])
def test_cartpole_continues_as_if_never_stopped(steps: int) -> None:
    settings = EnvironmentSettings(env="CartPole-v1", num_envs=5)
    random = np.random.default_rng(1)
    uninterrupted = make_vector_env(settings, 4)
    uninterrupted.reset()
    play(uninterrupted, steps, random)
    state = stored(uninterrupted.state())
    expected = play(uninterrupted, 120, np.random.default_rng(2))

    continued = make_vector_env(settings, 4)
    observation, restarted = continued.load_state(state)
    assert restarted == []
    assert np.array_equal(observation, state["observation"])
    assert_same(play(continued, 120, np.random.default_rng(2)), expected)
    assert sum(len(step.episodes) for step in expected) > 5


@pytest.mark.parametrize("reseed_steps", [0, 40, 10_000])
def test_the_state_is_found_however_often_seeds_are_given(
    reseed_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments_module, "RESEED_STEPS", reseed_steps)
    settings = EnvironmentSettings(env="CartPole-v1", num_envs=5)
    random = np.random.default_rng(0)
    uninterrupted = make_vector_env(settings, 3)
    uninterrupted.reset()
    for _ in range(8):  # Including moments at which an episode has just ended.
        play(uninterrupted, 17, random)
        state = stored(uninterrupted.state())
        continued = make_vector_env(settings, 3)
        observation, restarted = continued.load_state(state)
        assert restarted == []
        assert np.array_equal(observation, state["observation"])
        ages = state["steps_since_seed"] - state["lengths"]
        assert (ages >= 0).all()
        assert (ages < max(1, reseed_steps)).all()
    expected = play(uninterrupted, 120, np.random.default_rng(2))
    assert_same(play(continued, 120, np.random.default_rng(2)), expected)
    # With a seed for each episode, an episode is all there is to replay.
    assert (ages == 0).all() == (reseed_steps == 0)


@pytest.mark.parametrize(
    ("game", "sticky"), [("breakout", None), ("ALE/Breakout-v5", None), ("pong", 0.25)]
)
def test_atari_continues_as_if_never_stopped(game: str, sticky: float | None) -> None:
    settings = EnvironmentSettings(
        env=game,
        num_envs=3,
        repeat_action_probability=sticky,
        life_loss_terminates=True,
    )
    random = np.random.default_rng(1)
    uninterrupted = make_vector_env(settings, 4)
    uninterrupted.reset()
    play(uninterrupted, 230, random)
    # In Breakout: saved just after a lost life, when FIRE is about to be pressed.
    while game != "pong":
        (step,) = play(uninterrupted, 1, random)
        if step.terminated.any() and not step.episodes:
            break
    state = stored(uninterrupted.state())
    expected = play(uninterrupted, 150, np.random.default_rng(2))

    continued = make_vector_env(settings, 4)
    _, restarted = continued.load_state(state)
    assert restarted == []
    assert_same(play(continued, 150, np.random.default_rng(2)), expected)
    if game != "pong":
        assert any(step.episodes for step in expected)
        assert len(set(state["lengths"].tolist())) == 3
    for environments in [uninterrupted, continued]:
        environments.close()


@pytest.mark.parametrize("steps", [30, 52, 130, 250])
def test_environments_set_apart_continue_as_if_never_stopped(steps: int) -> None:
    gymnasium.register(
        "AcktrShort-v0",
        entry_point=gymnasium.spec("MountainCarContinuous-v0").entry_point,
        max_episode_steps=200,
    )
    settings = EnvironmentSettings(
        env="AcktrShort-v0", num_envs=4, stagger_episodes=True
    )

    def steer(environments: VectorEnvironment, count: int) -> list[Step]:
        actions = np.random.default_rng(count).uniform(-1, 1, (count, 4, 1))
        return [environments.step(action.astype(np.float32)) for action in actions]

    try:
        uninterrupted = make_vector_env(settings, 0)
        uninterrupted.reset()
        steer(uninterrupted, steps)
        state = stored(uninterrupted.state())
        expected = steer(uninterrupted, 210)
        continued = make_vector_env(settings, 0)
        _, restarted = continued.load_state(state)
        assert restarted == []
        assert_same(steer(continued, 210), expected)
    finally:
        del gymnasium.registry["AcktrShort-v0"]


def test_a_continued_run_can_be_saved_again() -> None:
    settings = EnvironmentSettings(env="CartPole-v1", num_envs=3)
    random = np.random.default_rng(1)
    environments = make_vector_env(settings, 0)
    environments.reset()
    play(environments, 40, random)
    state = stored(environments.state())
    continued = make_vector_env(settings, 0)
    continued.load_state(state)
    again = stored(continued.state())
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert np.array_equal(array, again[name]), name


def test_a_state_is_small_and_of_plain_types() -> None:
    environments = make_vector_env(
        EnvironmentSettings(env="CartPole-v1", num_envs=3), 0
    )
    environments.reset()
    play(environments, 10, np.random.default_rng(1))
    state = environments.state()
    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert not any(array.dtype.hasobject for array in state.values())
    assert state["steps"].shape == ()
    # It is a copy: what comes later does not change it.
    before = {name: array.copy() for name, array in state.items()}
    play(environments, 10, np.random.default_rng(1))
    for name, array in state.items():
        assert np.array_equal(array, before[name]), name


def test_no_state_before_the_first_reset() -> None:
    environments = make_vector_env(
        EnvironmentSettings(env="CartPole-v1", num_envs=3), 0
    )
    with pytest.raises(ValueError, match="reset"):
        environments.state()


# Simulators that do not repeat themselves -------------------------------------------
class Forgetful(gymnasium.Env[Any, Any]):
    """Environments of which some, in a second life, behave otherwise.

    `differs` names what the environments whose number is in `whose` then do.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)
    differs = ""
    whose: tuple[int, ...] = ()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.number = seed // 1000
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        how = self.differs if self.number in self.whose else ""
        if how == "dies" and self.count == 2:
            raise OSError("no more memory")
        reward = 2.0 if how == "reward" else 1.0
        terminated = bool(action == 1) or (how == "ends" and self.count == 2)
        truncated = how == "cut off" and self.count == 2
        return self._observation(), reward, terminated, truncated, {}

    def _observation(self) -> Any:
        shift = (self.number in self.whose) and self.differs == "observation"
        return np.array([100 * self.number + self.count + 0.5 * shift], np.float32)


@pytest.fixture
def forgetful() -> Iterator[None]:
    gymnasium.register(
        "AcktrForgetful-v0", entry_point=Forgetful, disable_env_checker=True
    )
    yield
    Forgetful.differs, Forgetful.whose = "", ()
    del gymnasium.registry["AcktrForgetful-v0"]


def make_forgetful() -> VectorEnvironment:
    return make_vector_env(
        EnvironmentSettings(env="AcktrForgetful-v0", num_envs=4),
        0,
        episode_seeds=lambda environment, episode: 1000 * environment + episode,
    )


def forgetful_state() -> State:
    """Episodes under way of 6, 1, 6 and 4 steps; in environment 1 it is the second."""
    environments = make_forgetful()
    environments.reset()
    for t in range(6):
        stop = [0, int(t == 4), 0, int(t == 1)]
        environments.step(np.array(stop))
    return stored(environments.state())


@pytest.mark.usefixtures("forgetful")
def test_the_state_of_the_forgetful() -> None:
    state = forgetful_state()
    assert state["lengths"].tolist() == [6, 1, 6, 4]
    assert state["episode_index"].tolist() == [0, 1, 0, 1]
    assert state["returns"].tolist() == [6.0, 1.0, 6.0, 4.0]
    assert state["observation"][:, 0].tolist() == [6.0, 101.0, 206.0, 304.0]
    assert state["steps"] == 6


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("how", ["observation", "reward", "ends", "cut off"])
@pytest.mark.parametrize("whose", [(0,), (2, 3), (0, 1, 2, 3)])
def test_simulators_that_do_not_repeat_themselves_start_anew(
    how: str, whose: tuple[int, ...]
) -> None:
    state = forgetful_state()
    Forgetful.differs, Forgetful.whose = how, whose
    environments = make_forgetful()
    observation, restarted = environments.load_state(state)
    # A single step, that of environment 1, is too early to end or be cut off at 2.
    expected = [i for i in whose if i != 1 or how in ("observation", "reward")]
    assert restarted == expected
    state = environments.state()
    for i in range(4):
        new = i in restarted
        assert state["lengths"][i] == (0 if new else [6, 1, 6, 4][i])
        assert state["episode_index"][i] == [0, 1, 0, 1][i] + new
        assert state["returns"][i] == (0.0 if new else [6.0, 1.0, 6.0, 4.0][i])
        start = 100.0 * i + 0.5 * (how == "observation")
        assert observation[i, 0] == (start if new else [6, 101, 206, 304][i])
    Forgetful.differs = ""
    step = environments.step(np.array([1, 1, 1, 1]))
    assert step.episodes == [
        (1.0, 1) if i in restarted else (n + 1.0, n + 1)
        for i, n in enumerate([6, 1, 6, 4])
    ]


@pytest.mark.usefixtures("forgetful")
def test_a_simulator_that_dies_while_coming_back_is_a_fault() -> None:
    state = forgetful_state()
    Forgetful.differs, Forgetful.whose = "dies", (2,)
    with pytest.raises(RunError, match=r"Forgetful-v0 failed at step 6.*no more"):
        make_forgetful().load_state(state)


# Seeds ------------------------------------------------------------------------------
def test_episode_seeds_are_all_different_and_the_same_every_time() -> None:
    seeds = training_seeds(3)
    drawn = {
        (run, environment, episode): training_seeds(run)(environment, episode)
        for run in range(3)
        for environment in range(30)
        for episode in range(30)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert min(drawn.values()) >= 0
    assert max(drawn.values()) < 2**31
    assert all(
        seeds(i, j) == training_seeds(3)(i, j) for i in range(5) for j in range(5)
    )


def test_steps_and_episodes_that_no_int32_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments_module, "RESEED_STEPS", 0)
    settings = EnvironmentSettings(env="CartPole-v1", num_envs=2)
    environments = make_vector_env(settings, 4)
    environments.reset()
    play(environments, 30, np.random.default_rng(1))
    state = stored(environments.state())
    index = np.array([2**33, 2**40 + 1])
    seeds = training_seeds(4)
    late = {
        **state,
        "steps": np.array(2**33),
        "episode_index": index,
        "seeded_episode": index,
    }
    # Of these episodes the observation is another: each starts the one after.
    restored = make_vector_env(settings, 4)
    observation, restarted = restored.load_state(late)
    assert restarted == [0, 1]
    expected = [seeds(i, int(index[i]) + 1) for i in range(2)]
    assert expected != [seeds(i, int(index[i]) + 1 - 2**33) for i in range(2)]
    single = gymnasium.make("CartPole-v1")
    np.testing.assert_array_equal(
        observation, [single.reset(seed=seed)[0] for seed in expected]
    )
    played = play(restored, 60, np.random.default_rng(1))
    assert sum(len(step.episodes) for step in played) > 1
    found = restored.state()
    assert found["steps"] == 2**33 + 60
    assert (found["episode_index"] > index + 1).all()


def test_a_checkpoint_file_holds_a_state(tmp_path: Path) -> None:
    environments = make_vector_env(
        EnvironmentSettings(env="CartPole-v1", num_envs=3), 0
    )
    environments.reset()
    state = environments.state()
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz") as loaded:
        assert set(loaded) == set(state)
        # No episode has a step yet.
        assert loaded["actions"].shape == (0,)
