"""Gymnasium environments: which are accepted, and how their episodes end."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import (
    GymEnvironment,
    make_vector_env,
    training_seeds,
)
from acktr_tf.errors import RunError, UserError

REGISTERED = {
    "AcktrCounter-v0": {"max_episode_steps": 4},
    "AcktrEndless-v0": {},
    "AcktrStartsAtFive-v0": {},
    "AcktrDictionary-v0": {},
    "AcktrWords-v0": {},
    "AcktrTold-v0": {},
    "AcktrBroken-v0": {},
    "AcktrSlow-v0": {},
    "AcktrUncloseable-v0": {},
}


class Counter(gymnasium.Env[Any, Any]):
    """Counts steps; action 1 ends the episode; the reward is the count."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space: gymnasium.Space[Any] = Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.count = float(seed), 0
        return np.array([self.seed, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        observation = np.array([self.seed, float(self.count)])
        return observation, float(self.count), bool(action == 1), False, {}


class StartsAtFive(Counter):
    action_space = Discrete(3, start=5)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return np.array([self.seed, float(action)]), 0.0, False, False, {}


class Dictionary(Counter):
    """Observes what kind of step it is, and the count."""

    observation_space = Dict(  # type: ignore[assignment]
        {"kind": Discrete(3, start=1), "count": Box(0.0, np.inf, (1,), np.float64)}
    )

    def observe(self) -> dict[str, Any]:
        return {"kind": 1 + self.count % 3, "count": np.array([float(self.count)])}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, *rest = super().step(action)
        return self.observe(), *rest


class Words(Counter):
    observation_space = Text(5)  # type: ignore[assignment]


class Mission(gymnasium.Space[str]):
    """Text of a space of its own, as MiniGrid has."""

    def __init__(self) -> None:
        super().__init__(dtype=str)


class Told(Counter):
    """Observes a picture and a word, and in a Dict of its own the count and a word."""

    observation_space = Dict(  # type: ignore[assignment]
        {
            "camera": Box(0, 255, (8, 8, 3), np.uint8),
            "mission": Mission(),
            "self": Dict({"count": Box(0.0, 99.0, (1,)), "name": Text(9)}),
        }
    )

    def __init__(self, brightness: int = 1, render_mode: str | None = None) -> None:
        self.brightness = brightness

    def observe(self) -> dict[str, Any]:
        return {
            "camera": np.full((8, 8, 3), self.brightness, np.uint8),
            "mission": f"step {self.count}",
            "self": {"count": np.array([self.count], np.float32), "name": "me"},
        }

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, *rest = super().step(action)
        return self.observe(), *rest


class Broken(Counter):
    def __init__(self, render_mode: str | None = None) -> None:
        raise RuntimeError("the licence\nhas expired")


class Slow(Counter):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1:
            time.sleep(1000)
        return super().step(action)


class Uncloseable(Counter):
    def close(self) -> None:
        raise BrokenPipeError("its simulator is gone")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    classes = [
        Counter,
        Counter,
        StartsAtFive,
        Dictionary,
        Words,
        Told,
        Broken,
        Slow,
        Uncloseable,
    ]
    for (name, options), entry_point in zip(REGISTERED.items(), classes, strict=True):
        gymnasium.register(
            name, entry_point=entry_point, disable_env_checker=True, **options
        )
    yield
    for name in REGISTERED:
        del gymnasium.registry[name]


def episode_seeds(environment: int, episode: int) -> int:
    return 100 * environment + episode


def make(name: str, num_envs: int = 3) -> GymEnvironment:
    return GymEnvironment(name, num_envs, episode_seeds)


def test_cartpole_by_the_one_door() -> None:
    environments = make_vector_env(
        EnvironmentSettings(env="CartPole-v1", num_envs=3), 0
    )
    observation = environments.reset()
    assert observation.shape == (3, 4)
    assert observation.dtype == np.float32
    assert environments.action_space.n == 2
    returns, random = [], np.random.default_rng(0)
    for _ in range(100):
        step = environments.step(random.integers(0, 2, 3))
        assert step.reward.tolist() == [1.0, 1.0, 1.0]
        returns += step.episodes
    assert len(returns) > 5
    assert all(episode[0] == episode[1] for episode in returns)
    environments.close()


def test_episodes_equal_those_of_gymnasium_alone() -> None:
    environments = make("CartPole-v1", 2)
    observation = environments.reset()
    random = np.random.default_rng(0)
    for i in range(2):
        single = gymnasium.make("CartPole-v1")
        expected, _ = single.reset(seed=episode_seeds(i, 0))
        assert np.array_equal(observation[i], expected)
    single = gymnasium.make("CartPole-v1")
    single.reset(seed=episode_seeds(1, 0))
    episode = 0
    for _ in range(80):
        actions = random.integers(0, 2, 2)
        step = environments.step(actions)
        expected, _, over, _, _ = single.step(int(actions[1]))
        if over:
            episode += 1
            expected, _ = single.reset(seed=episode_seeds(1, episode))
        assert np.array_equal(step.observation[1], expected)
        assert step.terminated[1] == over
    assert episode > 1


def test_training_starts_differ_over_environments_episodes_and_runs() -> None:
    starts = []
    for seed in [0, 1]:
        environments = make_vector_env(
            EnvironmentSettings(env="AcktrEndless-v0", num_envs=4),
            0,
            episode_seeds=training_seeds(seed),
        )
        starts.append(environments.reset()[:, 0])
        starts.append(environments.step(np.ones(4, np.int64)).observation[:, 0])
        environments.close()
    assert len(set(np.concatenate(starts).tolist())) == 16
    assert all(0 <= start < 2**31 for start in np.concatenate(starts))


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("Cartpole-v1", "CartPole-v1"),
        ("Cart/Pole-v1", "CartPole-v1"),
        ("AcktrCounte-v0", "AcktrCounter-v0"),
    ],
)
def test_an_unknown_environment_gets_the_closest_ids(name: str, closest: str) -> None:
    with pytest.raises(UserError) as error:
        make_vector_env(EnvironmentSettings(env=name), 0)
    message = str(error.value)
    assert f"Unknown environment `{name}`" in message
    assert closest in message.split("Did you mean")[1]
    assert "\n" not in message


def test_ids_that_would_be_refused_are_not_proposed() -> None:
    with pytest.raises(UserError) as error:
        make_vector_env(EnvironmentSettings(env="Breakut-v4"), 0)
    assert "Breakout-v4" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "received", "accepted"),
    [
        ("AcktrWords-v0", "observation space", "Box, Discrete, MultiDiscrete"),
    ],
)
def test_spaces_that_are_not_supported_are_refused(
    name: str, received: str, accepted: str
) -> None:
    with pytest.raises(UserError) as error:
        make_vector_env(EnvironmentSettings(env=name, num_envs=2), 0)
    message = str(error.value)
    assert f"The {received} is not supported. Received: " in message
    assert f"Accepted: {accepted}" in message
    assert "--wrappers=" in message
    assert "\n" not in message


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_text_beside_other_parts_is_left_out(vectorization: str) -> None:
    environments = GymEnvironment(
        "AcktrTold-v0",
        2,
        episode_seeds,
        vectorization=vectorization,
        env_kwargs='{"brightness": 7}',
        frame_stack=2,
    )
    try:
        assert environments.left_out == ["mission", "self.name"]
        assert list(environments.observation_space.spaces) == ["camera", "self"]
        first = environments.reset()
        assert first.shape == (2, 2 * 8 * 8 * 3 + 2)
        step = environments.step(np.zeros(2, np.int64))
        assert step.observation[0, -2:].tolist() == [0.0, 1.0]
        assert (step.observation[:, :-2] == 7.0).all()
    finally:
        environments.close()


def test_nothing_is_left_out_of_other_observations() -> None:
    assert make("AcktrDictionary-v0").left_out == []
    assert make("CartPole-v1").left_out == ()


class Doubled(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Twice the observation."""

    def observation(self, observation: Any) -> Any:
        return 2.0 * observation


class Shifted(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The observation and ten."""

    def observation(self, observation: Any) -> Any:
        return observation + 10.0


def test_wrappers_are_applied_from_the_innermost_on() -> None:
    wrappers = f"{__name__}:Doubled, {__name__}:Shifted"
    settings = EnvironmentSettings(
        env="AcktrCounter-v0", num_envs=2, wrappers=wrappers, frame_stack=2
    )
    environments = make_vector_env(settings, 0, episode_seeds=episode_seeds)
    environments.reset()
    step = environments.step(np.zeros(2, np.int64))
    # Stacked last: two observations of (seed, count), doubled, then shifted.
    assert step.observation[1].tolist() == [[210.0, 10.0], [210.0, 12.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"wrappers": "FlattenObservation"},
            r"with their modules, such as gymnasium.*Received: 'FlattenObservation'",
        ),
        ({"wrappers": "no_such_module:Wrapper"}, "module no_such_module, which is not"),
        (
            {"wrappers": "gymnasium.wrappers:FlatenObservation"},
            r"gymnasium\.wrappers has no wrapper `FlatenObs.*mean FlattenObservation",
        ),
        ({"env_kwargs": "gravity=3"}, "must be a JSON object, .*Received: gravity=3"),
        ({"env_kwargs": "[3]"}, r"must be a JSON object, .*Received: \[3\]"),
        ({"env_kwargs": '{"mass": 3}'}, "CartPole-v1` cannot be made: TypeError.*mass"),
        (
            {"env": "pong", "env_kwargs": "{}"},
            "not for Atari.*env_kwargs={} with env=p",
        ),
        ({"env": "pong", "wrappers": "a:B"}, "not for Atari games.*wrappers=a:B"),
    ],
)
def test_arguments_and_wrappers_that_do_not_exist_are_one_line(
    settings: dict[str, Any], message: str
) -> None:
    settings = {"env": "CartPole-v1", "num_envs": 2, **settings}
    with pytest.raises(UserError, match=message) as error:
        make_vector_env(EnvironmentSettings(**settings), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["AcktrBroken-v0", "not an id-v0", "no_such_module_at_all:Thing-v0"]
)
def test_an_environment_that_cannot_be_made_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="cannot be made") as error:
        make_vector_env(EnvironmentSettings(env=name, num_envs=2), 0)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_actions_are_those_of_the_space() -> None:
    environments = make("AcktrStartsAtFive-v0")
    environments.reset()
    step = environments.step(np.array([5, 6, 7]))
    assert step.observation[:, 1].tolist() == [5.0, 6.0, 7.0]


def test_parts_of_an_observation_become_one_vector() -> None:
    environments = make("AcktrDictionary-v0", 2)
    # The count, and one-hot the kind: Gymnasium sorts the keys.
    assert environments.reset().tolist() == [[0.0, 1.0, 0.0, 0.0]] * 2
    go = np.zeros(2, np.int64)
    assert environments.step(go).observation.tolist() == [[1.0, 0.0, 1.0, 0.0]] * 2
    assert environments.step(go).observation.tolist() == [[2.0, 0.0, 0.0, 1.0]] * 2


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_mujoco_is_the_same_in_one_process_and_in_many(vectorization: str) -> None:
    settings = EnvironmentSettings(
        env="Hopper-v5", num_envs=2, vectorization=vectorization
    )
    environments = make_vector_env(settings, 0)
    try:
        observations = [environments.reset()]
        random = np.random.default_rng(0)
        ended = 0
        for _ in range(200):
            step = environments.step(random.uniform(-1, 1, (2, 3)).astype(np.float32))
            observations.append(step.observation)
            ended += len(step.episodes)
        assert ended > 1
        single = gymnasium.make("Hopper-v5")
        expected, _ = single.reset(seed=environments.episode_seeds(1, 0))
        random = np.random.default_rng(0)
        for observation in observations:
            assert np.array_equal(observation[1], expected)
            actions = random.uniform(-1, 1, (2, 3)).astype(np.float32)
            expected, _, over, _, _ = single.step(actions[1])
            if over:
                break
    finally:
        environments.close()


def test_a_time_limit_truncates_and_an_end_terminates() -> None:
    environments = make("AcktrCounter-v0")
    environments.reset()
    go, stop = 0, 1
    # Environment 0 reaches its limit of 4 steps; 1 ends itself at step 2; 2 ends itself
    # at step 4, where the limit is too.
    actions = [[go, go, go], [go, stop, go], [go, go, go], [go, go, stop]]
    steps = [environments.step(np.array(action)) for action in actions]

    assert [s.terminated.tolist() for s in steps] == [
        [False, False, False],
        [False, True, False],
        [False, False, False],
        [False, False, True],
    ]
    assert [s.truncated.tolist() for s in steps] == [
        [False, False, False],
        [False, False, False],
        [False, False, False],
        [True, False, False],
    ]
    # Only a truncation needs the observation that the episode was cut off at.
    assert [s.final_observation is None for s in steps] == [True, True, True, False]
    assert steps[3].final_observation is not None
    assert steps[3].final_observation[0].tolist() == [0.0, 4.0]
    # What to act on next is of the next episode, with its own seed, where one ended.
    assert steps[1].observation.tolist() == [[0.0, 2.0], [101.0, 0.0], [200.0, 2.0]]
    assert steps[3].observation.tolist() == [[1.0, 0.0], [101.0, 2.0], [201.0, 0.0]]
    assert [s.reward.tolist() for s in steps] == [
        [1.0, 1.0, 1.0],
        [2.0, 2.0, 2.0],
        [3.0, 1.0, 3.0],
        [4.0, 2.0, 4.0],
    ]
    assert [s.episodes for s in steps] == [[], [(3.0, 2)], [], [(10.0, 4), (10.0, 4)]]


def test_observations_are_not_overwritten_by_later_steps() -> None:
    environments = make("AcktrEndless-v0")
    first = environments.reset()
    second = environments.step(np.zeros(3, np.int64)).observation
    environments.step(np.zeros(3, np.int64))
    assert first[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert second[:, 1].tolist() == [1.0, 1.0, 1.0]


def test_reset_starts_the_first_episodes_again() -> None:
    environments = make("AcktrEndless-v0")
    first = environments.reset()
    environments.step(np.ones(3, np.int64))
    environments.step(np.zeros(3, np.int64))
    assert np.array_equal(environments.reset(), first)
    step = environments.step(np.ones(3, np.int64))
    assert step.episodes == [(1.0, 1)] * 3


# Closing ----------------------------------------------------------------------------
def processes(environments: GymEnvironment) -> list[multiprocessing.Process]:
    return environments._vector.processes  # type: ignore[no-any-return]


def test_a_dead_process_is_named_and_holds_nothing_up() -> None:
    environments = GymEnvironment(
        "AcktrEndless-v0", 3, episode_seeds, vectorization="async"
    )
    environments.reset()
    processes(environments)[1].kill()
    processes(environments)[1].join()
    with pytest.raises(RunError, match="The simulator of AcktrEndless-v0 failed at"):
        environments.step(np.zeros(3, np.int64))
    environments.close()
    # The others were asked to close, and did.
    assert [process.exitcode for process in processes(environments)] == [0, -9, 0]


def test_a_process_that_does_not_answer_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("acktr_tf.environments.processes.CLOSING_SECONDS", 2.0)
    environments = GymEnvironment(
        "AcktrSlow-v0", 2, episode_seeds, vectorization="async"
    )
    environments.reset()
    environments._vector.step_async(np.array([0, 1]))
    environments.close()
    assert [process.exitcode for process in processes(environments)] == [0, -9]
    environments.close()  # Once more does no harm.


def test_a_program_that_ends_without_closing_waits_for_nothing() -> None:
    script = (
        "from acktr_tf.environments import GymEnvironment\n"
        "if __name__ == '__main__':\n"
        "    environments = GymEnvironment(\n"
        "        'CartPole-v1', 2, lambda i, j: i, vectorization='async')\n"
        "    environments.reset()\n"
    )
    subprocess.run([sys.executable, "-c", script], timeout=50, check=True)


def test_an_environment_that_cannot_be_closed_is_warned_of() -> None:
    environments = make("AcktrUncloseable-v0", 1)
    with pytest.warns(UserWarning, match="BrokenPipeError: its simulator is gone"):
        environments.close()


def test_a_module_before_the_name_changes_nothing() -> None:
    names = ("CartPole-v1", "gymnasium:CartPole-v1")
    observations = []
    for name in names:
        settings = EnvironmentSettings(env=name, num_envs=4, stagger_episodes=True)
        environments = make_vector_env(settings, 0)
        environments.reset()
        observations.append(environments.step(np.zeros(4, np.int64)).observation)
    assert np.array_equal(*observations)


def test_pictures_are_made_when_asked_for() -> None:
    environments = make_vector_env(
        EnvironmentSettings(env="CartPole-v1", num_envs=2), 0, render=True
    )
    environments.reset()
    pictures = environments.render()
    assert [picture.shape for picture in pictures] == [(400, 600, 3)] * 2
    assert all(picture.dtype == np.uint8 for picture in pictures)
    environments.close()


# The first episodes -----------------------------------------------------------------
def test_environments_are_set_apart_by_their_first_episodes() -> None:
    environments = GymEnvironment("AcktrCounter-v0", 4, episode_seeds, stagger=True)
    environments.reset()
    go = np.zeros(4, np.int64)
    steps = [environments.step(go) for _ in range(8)]
    # The limit is 4 steps: the first episodes are of 1, 2, 3 and 4, all others of 4.
    assert [np.flatnonzero(s.truncated).tolist() for s in steps] == [
        [0], [1], [2], [3], [0], [1], [2], [3]
    ]  # fmt: skip
    # What was cut short is no game that was played, but it has a future.
    whole = (10.0, 4)
    assert [s.episodes for s in steps] == [[], [], [], *[[whole]] * 5]
    assert not any(s.terminated.any() for s in steps)
    assert steps[1].final_observation is not None
    assert steps[1].final_observation[1, 1] == 2.0
    assert steps[1].observation[1, 1] == 0.0


def test_scores_are_of_whole_episodes_however_training_is_set_apart() -> None:
    settings = EnvironmentSettings(
        env="AcktrCounter-v0", num_envs=4, stagger_episodes=True
    )
    environments = make_vector_env(settings, 0, episode_seeds=episode_seeds)
    environments.reset()
    steps = [environments.step(np.zeros(4, np.int64)) for _ in range(4)]
    assert [len(s.episodes) for s in steps] == [0, 0, 0, 4]


def test_setting_apart_does_nothing_without_a_time_limit() -> None:
    settings = EnvironmentSettings(
        env="AcktrEndless-v0", num_envs=4, stagger_episodes=True
    )
    environments = make_vector_env(settings, 0)
    environments.reset()
    steps = [environments.step(np.zeros(4, np.int64)) for _ in range(20)]
    assert not any(s.truncated.any() or s.terminated.any() for s in steps)


# Stacks -----------------------------------------------------------------------------
def test_a_stack_is_of_the_observations_up_to_the_current_one() -> None:
    settings = EnvironmentSettings(env="AcktrCounter-v0", num_envs=2, frame_stack=3)
    environments = make_vector_env(settings, 0, episode_seeds=episode_seeds)
    # An episode begins with copies of its first observation.
    assert environments.reset()[:, :, 1].tolist() == [[0.0, 0.0, 0.0]] * 2
    counts = []
    for _ in range(4):
        step = environments.step(np.zeros(2, np.int64))
        counts.append(step.observation[0, :, 1].tolist())
    assert counts == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0]]
    assert step.final_observation is not None
    assert step.final_observation[0, :, 1].tolist() == [2.0, 3.0, 4.0]
