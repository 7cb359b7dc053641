"""Memory of a run: stated as it is taken, and refused where it would not fit."""

import math
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from acktr_tf import launch
from acktr_tf.algorithms import kfac_networks, make_learner
from acktr_tf.config import Config, configure, entries
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training import loop, memory

MIB = 2**20
JOINT = {"algorithm": "acktr"}
SEPARATE = {"algorithm": "acktr", "critic": "separate"}
EUCLIDEAN = {**SEPARATE, "critic.norm": "euclidean"}
ALGORITHMS = {
    "joint": JOINT,
    "separate": SEPARATE,
    "euclidean": EUCLIDEAN,
    "a2c": {"algorithm": "a2c"},
}


def make_config(**settings) -> Config:
    return configure(
        **{"env": "CartPole-v1", "num_envs": 4, "unroll_length": 8, **settings}
    )


def make_policy(config: Config, inputs: int = 6, actions: int = 3) -> ActorCritic:
    return ActorCritic(
        config.policy,
        gymnasium.spaces.Box(-1.0, 1.0, (inputs,), np.float32),
        gymnasium.spaces.Discrete(actions),
        seed=0,
    )


def limit_memory(monkeypatch, available: float) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: int(available))


def of_kfac(parts: dict[str, int]) -> dict[str, int]:
    prefix = "K-FAC of "
    return {
        name.removeprefix(prefix): size
        for name, size in parts.items()
        if name.startswith(prefix)
    }


# The estimate -----------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_state_of_kfac_stated_is_that_of_the_learner(algorithm):
    config = make_config(hidden_size=5, **ALGORITHMS[algorithm])
    policy = make_policy(config)
    stated = of_kfac(memory.estimate_memory(config, policy).parts)

    learner = make_learner(config, policy)
    critic = getattr(learner, "critic", None)
    steppers = [learner.actor, *([critic.stepper] if critic else [])]
    optimizers = [s.optimizer for s in steppers if hasattr(s.optimizer, "blocks")]
    taken = {
        block.layer.path: sum(4 * math.prod(v.shape) for v in block.state)
        for optimizer in optimizers
        for block in optimizer.blocks
    }
    assert stated == taken
    assert bool(stated) == (algorithm != "a2c")


def test_each_kfac_has_a_flag_that_limits_it():
    config = make_config(**SEPARATE)
    known = entries("acktr")
    prefixes = [each.prefix for each in kfac_networks(config, make_policy(config))]
    assert prefixes == ["", "critic."]
    assert all(f"{prefix}max_factor_dim" in known for prefix in prefixes)


@pytest.mark.parametrize(
    ("settings", "per_row"),
    [
        # 6 floats and an action of 4 bytes, in the rollout and in the batch.
        ({}, 2 * (6 * 4 + 4)),
        # And observations once more, normalized.
        ({"normalize_observations": True}, 2 * (6 * 4 + 4) + 6 * 4),
    ],
)
def test_the_rollout_stated_is_that_of_its_arrays(settings, per_row):
    config = make_config(**settings)
    policy = make_policy(config)
    assert policy.action_distribution.spec.dtype.size == 4
    parts = memory.estimate_memory(config, policy).parts
    assert parts["the rollout and its batch"] == 4 * 8 * per_row


def test_pictures_are_converted_to_floats():
    config = make_config()
    policy = ActorCritic(
        config.policy,
        gymnasium.spaces.Box(0, 255, (2, 40, 40), np.uint8),
        gymnasium.spaces.Discrete(3),
        seed=0,
    )
    parts = memory.estimate_memory(config, policy).parts
    pixels = 2 * 40 * 40
    assert parts["the rollout and its batch"] == 32 * (2 * (pixels + 4) + 4 * pixels)


# What a run says --------------------------------------------------------------------
def test_a_small_run_says_nothing():
    config = make_config()
    assert memory.check_memory(config, make_policy(config)) == []


def test_a_large_run_names_its_largest_blocks(monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 0)
    config = make_config(hidden_size=300)
    policy = make_policy(config, inputs=2000)
    (line,) = memory.check_memory(config, policy)
    parts = memory.estimate_memory(config, policy).parts
    assert line.startswith(f"Memory: about {sum(parts.values()) / MIB:.0f} MiB (")
    named = re.findall(r"K-FAC of (\w+)", line)
    assert sorted(named) == ["policy_fc1", "value_fc1"]


def test_diagonal_factors_are_named():
    config = make_config(hidden_size=5, max_factor_dim=6)
    policy = make_policy(config)
    (line,) = memory.check_memory(config, policy)
    assert line == (
        "K-FAC: only the diagonal is kept of policy_fc1 A (7), value_fc1 A (7), wider "
        "than max_factor_dim."
    )


# What is refused --------------------------------------------------------------------
def refusal(config: Config, policy: ActorCritic) -> tuple[str, dict[str, int]]:
    """The message, and the settings that it says would fit."""
    with pytest.raises(UserError) as error:
        memory.check_memory(config, policy)
    message = str(error.value)
    assert "\n" not in message
    flags = re.findall(r"--([\w.]+)=(\d+)", message)
    return message, {name: int(value) for name, value in flags}


def total(config: Config, policy: ActorCritic, **changes: int) -> int:
    return memory.estimate_memory(config.replace(**changes), policy).total


@pytest.mark.parametrize("settings", [JOINT, SEPARATE, EUCLIDEAN])
def test_the_widest_factors_that_fit_are_advised(monkeypatch, settings):
    config = make_config(hidden_size=40, **settings)
    policy = make_policy(config, inputs=300)
    dims = [301, 41, 40, 3, 1]
    for widest, next_wider in ((41, 301), (40, 41)):
        limit = dict.fromkeys(
            [f"{each.prefix}max_factor_dim" for each in kfac_networks(config, policy)],
            widest,
        )
        needed = total(config, policy, **limit)
        wider = total(config, policy, **dict.fromkeys(limit, next_wider))
        assert dims[dims.index(widest) - 1] == next_wider
        assert needed < wider
        limit_memory(monkeypatch, (needed + wider) / 2)
        message, advised = refusal(config, policy)
        assert advised == limit
        assert f"it takes {needed / MIB:.0f} MiB." in message
        assert memory.check_memory(config.replace(**advised), policy)


def test_only_flags_that_change_something_are_advised(monkeypatch):
    config = make_config(hidden_size=40, **{**SEPARATE, "critic.max_factor_dim": 20})
    policy = make_policy(config, inputs=300)
    limit_memory(monkeypatch, total(config, policy, max_factor_dim=41))
    assert refusal(config, policy)[1] == {"max_factor_dim": 41}


def test_the_longest_rollout_that_fits_is_advised_where_the_rollout_is_large(
    monkeypatch,
):
    config = make_config(hidden_size=4, unroll_length=1000)
    policy = make_policy(config, inputs=50)
    limit_memory(monkeypatch, total(config, policy, unroll_length=321))
    _, advised = refusal(config, policy)
    assert advised == {"unroll_length": 321}


def test_fewer_environments_are_advised_where_one_step_is_too_much(monkeypatch):
    config = make_config(hidden_size=4, unroll_length=1, num_envs=1000)
    policy = make_policy(config, inputs=50)
    limit_memory(monkeypatch, total(config, policy, num_envs=17))
    assert refusal(config, policy)[1] == {"num_envs": 17}


def test_both_are_advised_where_neither_is_enough(monkeypatch):
    config = make_config(hidden_size=4, unroll_length=1000)
    policy = make_policy(config, inputs=300)
    narrow = {"max_factor_dim": 1, "unroll_length": 2}
    limit_memory(monkeypatch, total(config, policy, **narrow))
    assert refusal(config, policy)[1] == narrow


def test_what_never_fits_is_said(monkeypatch):
    config = make_config()
    limit_memory(monkeypatch, 1000)
    message, advised = refusal(config, make_policy(config))
    assert not advised
    assert "a machine with more memory" in message


def test_a_run_that_does_not_fit_makes_no_optimizer_and_no_directory(
    monkeypatch, tmp_path, capfd
):
    def refuse(*arguments):
        raise AssertionError("allocated")

    limit_memory(monkeypatch, 20_000)
    monkeypatch.setattr(loop, "make_learner", refuse)
    flags = ["--env=CartPole-v1", "--num_envs=2", f"--run_dir={tmp_path / 'run'}"]
    assert launch.main(flags) == 2
    assert not (tmp_path / "run").exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("acktr_tf.launch: The run takes about ")


LIMITED = """
import resource, sys
from acktr_tf import launch
from acktr_tf.backend import load_tensorflow
load_tensorflow()
import psutil
limit = psutil.Process().memory_info().vms + 800 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(launch.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_with_too_small_a_limit_refuses_in_one_line(tmp_path):
    flags = ["--env=CartPole-v1", "--hidden_size=2500", f"--run_dir={tmp_path / 'run'}"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    # Above it, lines that TensorFlow writes when it is loaded.
    said = (
        r"launch: The run takes about 1\.\d GiB .* of memory, and \d+ MiB are available"
    )
    assert re.search(said, result.stderr.splitlines()[-1])
    assert not (tmp_path / "run").exists()
