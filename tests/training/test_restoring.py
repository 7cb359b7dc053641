"""Checkpoints whose bytes are whole and whose contents are not."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acktr_tf.algorithms import Learner, make_learner
from acktr_tf.config import Config, configure
from acktr_tf.environments import VectorEnvironment, make_vector_env
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.runs.checkpoints import Checkpoint
from acktr_tf.runs.logs import RunLog
from acktr_tf.states import State, Stateful, states
from acktr_tf.training.collector import Collector
from acktr_tf.training.loop import all_scalars
from acktr_tf.training.normalization import RunningNormalization
from acktr_tf.training.progress import Best, Progress
from acktr_tf.training.restoring import Restored, restore
from acktr_tf.types import Array

COUNTERS = (
    "progress/updates",
    "progress/episodes",
    "progress/seconds",
    "normalization/observations/count",
    "normalization/rewards/count",
    "environments/steps",
    "environments/steps_since_seed",
    "environments/seeded_episode",
    "environments/episode_index",
    "environments/lengths",
    "log/step",
    "log/episodes.csv",
    "log/progress.csv",
)
"""Arrays that count; those of optimizers are told by their type."""


@dataclasses.dataclass
class Run:
    """A run without its loop, on which checkpoints are loaded in no time."""

    config: Config
    environments: VectorEnvironment
    learner: Learner
    normalization: RunningNormalization
    progress: Progress
    log: RunLog | None = None

    @classmethod
    def make(cls, algorithm: str) -> "Run":
        config = configure(
            env="CartPole-v1",
            algorithm=algorithm,
            num_envs=2,
            unroll_length=8,
            hidden_size=4,
            normalize_observations=True,
            normalize_rewards=True,
        )
        environments = make_vector_env(config.environment, 0)
        policy = ActorCritic(
            config.policy,
            environments.observation_space,
            environments.action_space,
            0,
        )
        normalization = RunningNormalization(config.policy, config.returns, 2, policy)
        return cls(
            config,
            environments,
            make_learner(config, policy),
            normalization,
            Progress(config.batch_size),
        )

    @property
    def parts(self) -> dict[str, Stateful]:
        return {
            "learner": self.learner,
            "normalization": self.normalization,
            "progress": self.progress,
        }

    def state(self) -> dict[str, Array]:
        assert self.log is not None
        others = {"environments": self.environments, "log": self.log}
        return states({**self.parts, **others})

    def train(self, run_dir: Path, updates: int) -> Iterator[Checkpoint]:
        """Yields a checkpoint after every update."""
        scalars = all_scalars(self.learner)
        self.log = RunLog(run_dir, self.config, scalars, None)
        observation = self.environments.reset()
        collector = Collector(self.learner, self.environments, 8, 0, observation)
        self.progress.best = Best(9.0, 0)
        for index in range(updates):
            collected = collector.collect(self.progress.step)
            rollout = self.normalization.scale_rewards(collected.rollout)
            self.learner.update(rollout, index, measure=False)
            self.normalization.update_observations(rollout)
            self.progress.updates += 1
            episodes = [episode for _, episode in collected.episodes]
            self.progress.add_episodes(episodes)
            yield Checkpoint(self.progress.step, self.state())
        self.log.close()

    def restore(self, directory: Path) -> Restored:
        restored = restore(directory, self.parts, self.progress, self.environments)
        assert restored is not None
        return restored

    def loaded(self) -> dict[str, Array]:
        """What a run that was restored would save, but for its log and wall time."""
        state = states({**self.parts, "environments": self.environments})
        del state["progress/seconds"]
        return state


@pytest.fixture(
    scope="module", params=["a2c", pytest.param("acktr", marks=pytest.mark.slow)]
)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, list[Checkpoint]]:
    """Another run of the same settings, and the last two checkpoints of a training."""
    run = Run.make(request.param)
    taken = list(run.train(tmp_path_factory.mktemp(request.param), 6))
    return Run.make(request.param), taken[-2:]


def assert_older_is_loaded(
    run: Run, older: Checkpoint, restored: Restored, name: str
) -> None:
    assert restored.step == older.step, name
    loaded = run.loaded()
    for key, array in loaded.items():
        np.testing.assert_array_equal(array, older.arrays[key], err_msg=f"{name} {key}")
    np.testing.assert_array_equal(
        restored.observation, older.arrays["environments/observation"]
    )


def without(arrays: State, name: str) -> dict[str, Array]:
    return {key: array for key, array in arrays.items() if key != name}


def as_text(array: Array) -> Array:
    return array.astype("U") if array.dtype.kind != "U" else np.zeros(len(array))


def is_counter(name: str, array: Array) -> bool:
    return name in COUNTERS or (name.startswith("learner/") and array.dtype.kind == "i")


def below_zero(array: Array) -> Array:
    return np.full_like(array, -1)


HARM: dict[str, Callable[[State, str], dict[str, Array] | None]] = {
    "missing": lambda arrays, name: without(arrays, name),
    "text": lambda arrays, name: {**arrays, name: as_text(arrays[name])},
    "another shape": lambda arrays, name: {**arrays, name: arrays[name][np.newaxis]},
    "below zero": lambda arrays, name: (
        {**arrays, name: below_zero(arrays[name])}
        if is_counter(name, arrays[name])
        else None
    ),
    "not finite": lambda arrays, name: (
        {**arrays, name: np.full_like(arrays[name], np.nan)}
        if name.startswith(("normalization", "progress"))
        and arrays[name].dtype.kind == "f"
        and arrays[name].size
        else None
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_each_array_that_is_wrong_is_named_and_the_older_checkpoint_taken(
    trained: tuple[Run, list[Checkpoint]],
    harm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, (older, newer) = trained
    held = {older.step: older, newer.step: newer}
    paths = {step: tmp_path / f"{step:012d}" for step in held}
    # From the memory: the files themselves are looked at below.
    monkeypatch.setattr(checkpoints, "load", lambda path: held[int(path.name)])
    harmed = []
    for name in newer.arrays:
        arrays = HARM[harm](newer.arrays, name)
        if arrays is None:
            continue
        harmed.append(name)
        held[newer.step] = newer._replace(arrays=arrays)
        for path in paths.values():
            path.mkdir(exist_ok=True)
        restored = run.restore(tmp_path)
        assert_older_is_loaded(run, older, restored, name)
        (said,) = restored.messages
        assert f"{paths[newer.step]} is damaged: {name} is " in said
        assert "It is now called damaged-" in said
        assert "\n" not in said
        assert not paths[newer.step].exists()
    if harm in ("missing", "text", "another shape"):
        assert harmed == list(newer.arrays)
    if harm == "below zero":
        assert set(COUNTERS) < set(harmed)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("progress/updates", 2**62, "progress/updates is 4611686018427387904, which"),
        ("progress/updates", 1, "progress/updates is 1, which makes 16 steps instead"),
        ("environments/lengths", 2**62, "environments/lengths is 4611686018427387904"),
        ("environments/steps_since_seed", 2**62, "environments/steps_since_seed is 46"),
        ("environments/steps_since_seed", 3, "actions has 96 rows where steps_since_s"),
        ("environments/actions", 2, "actions has one that is not of the action space"),
        ("environments/returns", np.inf, "environments/returns is not finite"),
        ("normalization/observations/squares", -1.0, "squares is -1.0, below 0"),
    ],
)
def test_a_number_out_of_range_is_named(
    trained: tuple[Run, list[Checkpoint]],
    name: str,
    value: float,
    said: str,
    tmp_path: Path,
) -> None:
    run, (older, newer) = trained
    wrong = np.full_like(newer.arrays[name], value)
    checkpoints.save(tmp_path, older, 2)
    path = checkpoints.save(
        tmp_path, newer._replace(arrays={**newer.arrays, name: wrong}), 2
    )
    restored = run.restore(tmp_path)
    assert_older_is_loaded(run, older, restored, name)
    assert said in restored.messages[0]
    assert checkpoints.latest(tmp_path) != path
    # Nothing of it is lost: it has another name.
    moved = tmp_path / f"damaged-{path.name}"
    assert np.array_equal(checkpoints.load(moved).arrays[name], wrong)


def test_two_damaged_ones_are_both_named(
    trained: tuple[Run, list[Checkpoint]], tmp_path: Path
) -> None:
    run, (older, newer) = trained
    checkpoints.save(tmp_path, older, 3)
    for step in (newer.step, newer.step + 16):
        path = checkpoints.save(tmp_path, Checkpoint(step, newer.arrays), 3)
        (path / "arrays.npz").write_bytes(b"")
    restored = run.restore(tmp_path)
    assert restored.step == older.step
    assert [
        str(step) in said
        for step, said in zip(
            (newer.step + 16, newer.step), restored.messages, strict=True
        )
    ] == [True, True]
    assert len(restored.messages) == 2


def test_where_all_are_damaged_nothing_is_changed(
    trained: tuple[Run, list[Checkpoint]], tmp_path: Path
) -> None:
    run, taken = trained
    for checkpoint in taken:
        arrays = without(checkpoint.arrays, "progress/updates")
        checkpoints.save(tmp_path, checkpoint._replace(arrays=arrays), 2)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        UserError, match=r"updates is missing\. So are the 1 before"
    ) as e:
        run.restore(tmp_path)
    assert "another `--run_dir`" in str(e.value)
    assert "\n" not in str(e.value)
    assert sorted(tmp_path.iterdir()) == before
    shutil.rmtree(before[0])
    with pytest.raises(UserError, match=r"updates is missing\. No earlier one is left"):
        run.restore(tmp_path)


def test_another_format_is_refused_and_not_stepped_over(
    trained: tuple[Run, list[Checkpoint]], tmp_path: Path
) -> None:
    run, (older, newer) = trained
    checkpoints.save(tmp_path, older, 2)
    manifest = checkpoints.save(tmp_path, newer, 2) / "manifest.json"
    document: dict[str, Any] = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "format": 77}))
    with pytest.raises(UserError, match="is of format 77"):
        run.restore(tmp_path)
    assert manifest.exists()


def test_whatever_an_algorithm_of_one_s_own_raises_is_told(
    trained: tuple[Run, list[Checkpoint]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, (older, newer) = trained
    for checkpoint in (older, newer):
        checkpoints.save(tmp_path, checkpoint, 2)
    load_state, calls = type(run.learner).load_state, 0

    def fail_once(self: Learner, state: State) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError("my\nbuffer")
        load_state(self, state)

    monkeypatch.setattr(type(run.learner), "load_state", fail_once)
    restored = run.restore(tmp_path)
    assert "is damaged: LookupError: my buffer." in restored.messages[0]
    assert_older_is_loaded(run, older, restored, "learner")


def test_without_checkpoints_there_is_nothing_to_restore(
    trained: tuple[Run, list[Checkpoint]], tmp_path: Path
) -> None:
    run, _ = trained
    missing = tmp_path / "missing"
    assert restore(missing, run.parts, run.progress, run.environments) is None
