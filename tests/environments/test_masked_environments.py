"""Action masks from observations and from info, as a part of the observation."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from masked import LENGTH, Locks, choices_of

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import GymEnvironment, make_vector_env
from acktr_tf.errors import RunError, UserError
from acktr_tf.spaces.masks import ActionMask

PAIR = spaces.Tuple([Discrete(3), MultiDiscrete([2, 4], start=[5, -1])])
NAMED = spaces.Dict({"hand": Discrete(2), "arm": spaces.Tuple([Discrete(3)])})
KINDS: dict[str, dict[str, Any]] = {
    "LocksObserved-v0": {},
    "LocksInfo-v0": {"where": "info", "action_space": MultiDiscrete([3, 4])},
    "LocksBeside-v0": {"where": "beside", "action_space": PAIR, "nested": True},
    "LocksNested-v0": {"action_space": PAIR, "nested": True},
    "LocksNamed-v0": {"where": "info", "action_space": NAMED, "nested": True},
    "LocksNothing-v0": {"at_the_end": "nothing"},
    "LocksMissing-v0": {"where": "info", "at_the_end": "missing"},
}


class Faulty(Locks):
    """Gives another mask at one step."""

    faults: dict[str, Any] = {  # noqa: RUF012
        "short": np.ones(3, np.int8),
        "twos": np.array([1, 0, 2, 0], np.int8),
        "empty": np.zeros(4, np.int8),
    }

    def __init__(self, fault: str, at: int, where: str) -> None:
        super().__init__(where=where)
        self._fault, self._at = fault, at

    def _observe(self, ended: bool) -> tuple[Any, dict[str, Any]]:
        observation, info = super()._observe(ended)
        if self._step != self._at:
            return observation, info
        if self._fault == "missing":
            return observation, {"lives": 3, "time": 1.0}
        if self._where == "info":
            return observation, {**info, "doors": self.faults[self._fault]}
        return {**observation, "doors": self.faults[self._fault]}, info


class Painted(Locks):
    """Draws itself."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((9, 9, 3), 10 * self._step, np.uint8)


class Pictures(Locks):
    def __init__(self) -> None:
        super().__init__(where="info")
        self.observation_space = Box(0, 255, (40, 40, 3), np.uint8)

    def _observe(self, ended: bool) -> tuple[Any, dict[str, Any]]:
        _, info = super()._observe(ended)
        return np.full((40, 40, 3), 100 + self._step, np.uint8), info


class Arm(Locks):
    def __init__(self) -> None:
        super().__init__(where="info")
        self.action_space = Box(-1, 1, (2,))


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    for name, options in KINDS.items():
        gymnasium.register(name, Locks, kwargs=options)
    others = {"Painted-v0": Painted, "Pictures-v0": Pictures, "Arm-v0": Arm}
    for name, entry_point in others.items():
        gymnasium.register(name, entry_point, disable_env_checker=True)
    gymnasium.register("Faulty-v0", Faulty, disable_env_checker=True)
    yield
    for name in [*KINDS, *others, "Faulty-v0"]:
        del gymnasium.registry[name]


def make(name: str, num_envs: int = 3, **options: Any) -> GymEnvironment:
    return GymEnvironment(
        name, num_envs, lambda i, j: 100 * i + j, action_mask="doors", **options
    )


def mask_of(environments: GymEnvironment, observation: np.ndarray) -> np.ndarray:
    return observation[:, environments.observations.mask]


def allowed_actions(
    environments: GymEnvironment,
    observation: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Actions `[B, ...]` drawn among those that the masks allow."""
    choices = choices_of(environments.action_space)
    ends = np.cumsum([n for n, _ in choices])[:-1]
    columns = []
    for part, (_, start) in zip(
        np.split(mask_of(environments, observation), ends, axis=1), choices, strict=True
    ):
        columns.append([start + random.choice(np.flatnonzero(row)) for row in part])
    actions = np.array(columns).T
    return actions[:, 0] if isinstance(environments.action_space, Discrete) else actions


def play(environments: GymEnvironment, steps: int, seed: int = 0) -> list[Any]:
    """Steps with allowed actions, from where the environments are."""
    random = np.random.default_rng(seed)
    observation = environments.state()["observation"]
    found = []
    for _ in range(steps):
        step = environments.step(allowed_actions(environments, observation, random))
        observation = step.observation
        found.append(step)
    return found


# Where masks come from --------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
def test_the_mask_of_every_step_is_a_part_of_its_observation(name: str) -> None:
    environments = make(name)
    observation = environments.reset()
    singles = [Locks(**KINDS[name]) for _ in range(3)]
    for i, single in enumerate(singles):
        single.reset(seed=100 * i)
    random = np.random.default_rng(0)
    for count in range(LENGTH):
        masks = np.array([np.concatenate(single.masks) for single in singles])
        np.testing.assert_array_equal(mask_of(environments, observation), masks)
        rest = environments.observations.without_mask(observation)
        np.testing.assert_array_equal(rest[:, :2], [[count, 1.0]] * 3)
        actions = allowed_actions(environments, observation, random)
        # It raises where an action is forbidden, or not in the structure of its space.
        step = environments.step(actions)
        for single, action in zip(singles, actions, strict=True):
            if count < LENGTH - 1:
                in_structure = {
                    "LocksBeside-v0": lambda a: (a[0], a[1:]),
                    "LocksNested-v0": lambda a: (a[0], a[1:]),
                    "LocksNamed-v0": lambda a: {"arm": (a[0],), "hand": a[1]},
                }.get(name, lambda a: a)
                single.step(in_structure(action))
        observation = step.observation
    assert len(step.episodes) == 3


@pytest.mark.parametrize("name", ["LocksNested-v0", "LocksNamed-v0"])
def test_processes_see_the_same_masks(name: str) -> None:
    steps = []
    for vectorization in ("sync", "async"):
        environments = make(name, 2, vectorization=vectorization)
        try:
            environments.reset()
            steps.append(play(environments, 7))
        finally:
            environments.close()
    for mine, other in zip(*steps, strict=True):
        np.testing.assert_array_equal(mine.observation, other.observation)
        np.testing.assert_array_equal(mine.reward, other.reward)


def test_the_mask_is_the_last_part_and_the_rest_is_as_it_was() -> None:
    observed = make("LocksObserved-v0").observation_space
    assert isinstance(observed, spaces.Dict)
    assert list(observed) == ["clock", "doors"]
    assert isinstance(observed["doors"], ActionMask)
    assert observed["doors"].n == 4
    beside = make("LocksBeside-v0").observation_space
    assert isinstance(beside, spaces.Dict)
    assert list(beside) == ["clock", "kind", "doors"]
    alone = make("LocksInfo-v0").observation_space
    assert isinstance(alone, spaces.Dict)
    assert list(alone) == ["observation", "doors"]
    assert alone["observation"] == Box(0, np.inf, (2,), np.float32)


def test_without_the_flag_a_mask_is_an_observation_like_any_other() -> None:
    environments = GymEnvironment("LocksObserved-v0", 2, lambda i, j: i)
    assert environments.observations.mask is None
    assert environments.reset().shape == (2, 6)


# What changes observations leaves masks alone ---------------------------------------
@pytest.mark.parametrize("name", ["LocksObserved-v0", "LocksInfo-v0"])
def test_a_stack_has_the_mask_of_its_last_observation(name: str) -> None:
    environments = make(name, 2, frame_stack=3)
    plain = make(name, 2)
    observation, expected = environments.reset(), plain.reset()
    for _ in range(4):
        np.testing.assert_array_equal(
            mask_of(environments, observation), mask_of(plain, expected)
        )
        actions = allowed_actions(plain, expected, np.random.default_rng(1))
        observation = environments.step(actions).observation
        expected = plain.step(actions).observation
    rest = environments.observations.without_mask(observation)
    assert rest.reshape(2, 3, 2)[0, :, 0].tolist() == [2.0, 3.0, 4.0]


def test_pictures_have_the_mask_beside_them() -> None:
    environments = make("Painted-v0", 2, pixels=9)
    try:
        observation = environments.reset()
        assert observation.dtype == np.uint8
        assert environments.observations.network_space == Box(
            0, 255, (9, 9, 3), np.uint8
        )
        steps = play(environments, 2)
        pictures = environments.observations.without_mask(steps[-1].observation)
        np.testing.assert_array_equal(pictures, np.full((2, 9, 9, 3), 20, np.uint8))
    finally:
        environments.close()


def test_pictures_that_an_environment_observes_stay_bytes() -> None:
    environments = make("Pictures-v0", 2)
    observation = environments.reset()
    assert observation.dtype == np.uint8
    assert observation.shape == (2, 40 * 40 * 3 + 4)
    assert set(np.unique(mask_of(environments, observation))) <= {0, 1}
    pictures = environments.observations.without_mask(observation)
    assert pictures.shape == (2, 40, 40, 3)
    assert (pictures == 100).all()


# Saving, and the end of episodes ----------------------------------------------------
@pytest.mark.parametrize("name", ["LocksBeside-v0", "LocksNamed-v0", "LocksInfo-v0"])
def test_masked_environments_continue_as_if_never_stopped(name: str) -> None:
    uninterrupted = make(name)
    uninterrupted.reset()
    play(uninterrupted, 8)
    state = uninterrupted.state()
    # A checkpoint takes arrays of numbers only.
    assert all(array.dtype != object for array in state.values())
    expected = play(uninterrupted, 12, seed=3)
    continued = make(name)
    observation, restarted = continued.load_state(state)
    assert restarted == []
    np.testing.assert_array_equal(observation, state["observation"])
    for mine, other in zip(play(continued, 12, seed=3), expected, strict=True):
        np.testing.assert_array_equal(mine.observation, other.observation)


@pytest.mark.parametrize("name", ["LocksNothing-v0", "LocksMissing-v0"])
def test_where_an_episode_ends_no_mask_is_needed(name: str) -> None:
    environments = make(name)
    environments.reset()
    steps = play(environments, 2 * LENGTH)
    assert sum(len(step.episodes) for step in steps) == 6


@pytest.mark.parametrize("name", ["LocksNothing-v0", "LocksMissing-v0"])
def test_there_everything_is_allowed(name: str) -> None:
    environments = make(name, 1)
    observation = environments.reset()
    random = np.random.default_rng(0)
    for _ in range(LENGTH):
        action = allowed_actions(environments, observation, random)
        observation, *_ = environments._step_all(action)
    assert mask_of(environments, observation).tolist() == [[1, 1, 1, 1]]


# Faults -----------------------------------------------------------------------------
def start_and_play(environments: GymEnvironment) -> None:
    environments.reset()
    play(environments, 3)


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize(
    ("fault", "where", "message"),
    [
        ("short", "info", "must have 4 numbers. Received: 3 numbers"),
        ("twos", "observation", "must be of 0 and 1. Received: 2"),
        (
            "empty",
            "info",
            r"`doors` must allow at least one option of each choice. Received: "
            r"\[0, 0, 0, 0\]",
        ),
        (
            "empty",
            "observation",
            r"`doors` must allow at least one option of each choice. Received: "
            r"\[0, 0, 0, 0\]",
        ),
        (
            "missing",
            "info",
            "there is no action mask `doors`: neither the observation nor info has "
            "such a key. Received: info with lives, time",
        ),
    ],
)
def test_masks_that_nobody_can_act_by_stop_the_run(
    fault: str, where: str, message: str, at: int
) -> None:
    gymnasium.registry["Faulty-v0"].kwargs = {"fault": fault, "at": at, "where": where}
    environments = make("Faulty-v0", 2)
    with pytest.raises(
        RunError, match=f"^The simulator of Faulty-v0 failed at step {max(at - 1, 0)} "
    ) as error:
        start_and_play(environments)
    text = str(error.value)
    assert "\n" not in text
    with pytest.raises(ValueError, match=message):
        raise ValueError(text)


def test_a_key_that_is_nowhere_is_named_at_the_start() -> None:
    environments = GymEnvironment(
        "LocksInfo-v0", 2, lambda i, j: i, action_mask="windows"
    )
    with pytest.raises(RunError, match=r"no action mask `windows`.*doors, elapsed"):
        environments.reset()


def test_actions_without_choices_cannot_be_masked() -> None:
    with pytest.raises(UserError, match="The action space cannot have a mask") as error:
        make("Arm-v0")
    assert "Received: Box(" in str(error.value)
    assert "\n" not in str(error.value)


def test_atari_games_have_no_masks() -> None:
    settings = EnvironmentSettings(env="pong", action_mask="doors")
    with pytest.raises(UserError, match="`pong` has no action masks") as error:
        make_vector_env(settings, 0)
    assert "action_mask=doors" in str(error.value)


def test_the_setting_reaches_the_environments() -> None:
    settings = EnvironmentSettings(env="Locks-v0", num_envs=2, action_mask="doors")
    environments = make_vector_env(settings, 0)
    assert environments.observations.mask == slice(2, 6)


# Composed actions without masks -----------------------------------------------------
class Levers(gymnasium.Env[Any, Any]):
    """Observes the action that it was given."""

    observation_space = Box(-9, 99, (3,), np.float32)

    def __init__(self, action_space: gymnasium.Space[Any]) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        assert self.action_space.contains(action)
        if isinstance(action, dict):
            action = [action[key] for key in self.action_space]
        flat = np.concatenate([np.ravel(part) for part in action])
        return flat.astype(np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("space", "starts"),
    [
        (PAIR, [0, 5, -1]),
        (
            spaces.Dict(
                [("b", MultiDiscrete([2, 4], start=[5, -1])), ("a", Discrete(3))]
            ),
            [5, -1, 0],
        ),
        (spaces.Tuple([spaces.MultiBinary(2), Discrete(3, start=7)]), [0, 0, 7]),
    ],
    ids=["tuple", "dict", "multibinary"],
)
def test_an_environment_is_given_actions_in_its_own_structure(
    space: Any, starts: list[int], vectorization: str
) -> None:
    gymnasium.register("Levers-v0", Levers, kwargs={"action_space": space})
    environments = GymEnvironment(
        "Levers-v0", 2, lambda i, j: i, vectorization=vectorization
    )
    try:
        assert environments.action_space == space
        environments.reset()
        actions = np.array([starts, np.array(starts) + 1])
        step = environments.step(actions)
        assert step.observation.tolist() == actions.tolist()
    finally:
        environments.close()
        del gymnasium.registry["Levers-v0"]
