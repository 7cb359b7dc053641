import errno
import json
import os

import numpy as np
import pytest
from runs.policies import contents, save_policy

from acktr_tf.config.config import Config, configure
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import directory as run_directory

CONFIG = configure(env="CartPole-v1", num_envs=2, seed=3, hidden_size=8)
COMMAND = ["python", "-m", "acktr_tf.launch", "--seed=3"]


# config.json ------------------------------------------------------------------------


def test_settings_versions_and_command_come_back(tmp_path):
    directory = tmp_path / "new" / "run"
    run_directory.write_config(directory, CONFIG, COMMAND, {"step": 7})
    config, document = run_directory.read_config(directory)
    assert config == CONFIG
    assert document["command"] == COMMAND
    assert document["step"] == 7
    assert document["versions"]["python"].startswith("3.")
    assert document["versions"]["keras"].startswith("3.")
    assert os.listdir(directory) == ["config.json"]


@pytest.mark.parametrize(
    "run_dir",
    [[], ["--run_dir=runs/a"], ["--run_dir", "runs/a"], ["-run_dir=runs/a"]],
)
def test_a_command_leaves_the_machine_without_its_run_directory(run_dir):
    command = ["python", "-m", "acktr_tf.launch", *run_dir, "--seed=1"]
    assert run_directory.without_run_dir(command) == [*command[:3], "--seed=1"]


def test_a_setting_that_the_file_lacks_takes_its_default(tmp_path):
    run_directory.write_config(tmp_path, CONFIG, COMMAND)
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    del document["settings"]["log_period"]
    path.write_text(json.dumps(document))
    assert run_directory.read_config(tmp_path)[0] == CONFIG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged: it must be JSON"),
        ('{"settings": {"se', "damaged: it must be JSON"),
        ("[1]", "damaged: it must hold values by name"),
        ('{"seed": 3}', "damaged: it must hold `settings`"),
        ('{"settings": {"sed": 3}}', "another version.* Unknown setting `sed`.*seed"),
        ('{"settings": {"seed": -1}}', "another version.*seed=-1"),
        ('{"settings": {"seed": "3"}}', "another version.*seed='3'"),
    ],
)
def test_a_damaged_file_is_named(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json .*{message}"):
        run_directory.read_config(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("command", None),
        ("command", "python"),
        ("command", ["python", 3]),
        ("versions", ["3.11"]),
        ("versions", {"keras": [3]}),
        ("step", "7"),
        ("step", -1),
        ("step", 7.5),
        ("step", True),
        ("files", ["saved_model.pb"]),
        ("observation", "Box"),
        ("action", [[["x" * 300]]]),
    ],
)
def test_an_entry_of_an_odd_type_is_named(entry, value, tmp_path):
    run_directory.write_config(tmp_path, CONFIG, COMMAND, {"step": 7})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    with pytest.raises(UserError, match=rf"json is damaged: `{entry}` .*Rec") as error:
        run_directory.read_config(tmp_path)
    assert len(str(error.value)) < 300


def test_a_file_that_is_nested_too_deep_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"settings":' + "[" * 100_000)
    with pytest.raises(
        UserError, match=r"config.json is damaged: it must be JSON, but"
    ):
        run_directory.read_config(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"config.json is damaged: it must be JSON"):
        run_directory.read_config(tmp_path)


def test_what_has_no_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        run_directory.read_config(tmp_path)
    with pytest.raises(UserError, match=r"missing is neither .* does not exist"):
        run_directory.read_config(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is neither"):
        run_directory.read_config(tmp_path / "file")


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    run_directory.write_config(tmp_path, CONFIG, COMMAND)
    before = contents(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        run_directory.write_config(tmp_path, Config(), COMMAND)
    assert contents(tmp_path) == before


# The directory ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [True, False])
def test_a_new_directory_is_opened(make, tmp_path):
    run_dir = tmp_path / "a" / "b"
    if make:
        run_dir.mkdir(parents=True)
    run_directory.check(run_dir, CONFIG)
    with run_directory.opened(run_dir, CONFIG, COMMAND):
        assert run_directory.read_config(run_dir)[0] == CONFIG
    assert os.listdir(run_dir) == ["config.json"]


def test_a_run_is_opened_again_and_its_config_stays(tmp_path):
    with run_directory.opened(tmp_path, CONFIG, COMMAND):
        before = contents(tmp_path)
    again = CONFIG.replace(checkpoints_kept=5, run_dir="elsewhere")
    run_directory.check(tmp_path, again)
    with run_directory.opened(tmp_path, again, ["another"]):
        pass
    assert contents(tmp_path) == before


def test_a_run_is_made_longer(tmp_path):
    start = CONFIG.replace(
        total_steps=100, learning_rate_schedule="constant", target_kl=None
    )
    with run_directory.opened(tmp_path, start, COMMAND):
        pass
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    document["versions"]["keras"] = "2.0"
    path.write_text(json.dumps(document))
    longer = start.replace(total_steps=300, checkpoints_kept=9)
    again = [*COMMAND, "--total_steps=300"]
    run_directory.check(tmp_path, longer)
    assert json.loads(path.read_text()) == document
    with run_directory.opened(tmp_path, longer, again):
        document["settings"]["total_steps"] = 300
        assert json.loads(path.read_text()) == {**document, "command": again}
    # It is as long as that from now on.
    with pytest.raises(UserError, match="total_steps: started with 300, now 100"):
        run_directory.check(tmp_path, start)


def test_a_run_that_cannot_be_made_longer_says_why(tmp_path):
    with run_directory.opened(tmp_path, CONFIG, COMMAND):
        pass
    longer = CONFIG.replace(total_steps=CONFIG.run.total_steps + 1)
    message = "in use by learning_rate_schedule=linear.* another `--run_dir`"
    with pytest.raises(UserError, match=message) as error:
        run_directory.check(tmp_path, longer)
    assert "\n" not in str(error.value)


def test_other_settings_are_refused_by_name(tmp_path):
    with run_directory.opened(tmp_path, CONFIG, COMMAND):
        pass
    before = contents(tmp_path)
    other = CONFIG.replace(seed=4, damping=0.5)
    with pytest.raises(UserError, match=r"damping: .* now 0\.5; seed: .* 3, now 4"):
        run_directory.check(tmp_path, other)
    assert contents(tmp_path) == before


def test_what_is_no_run_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"must be a directory\. Received a file"):
        run_directory.check(file, CONFIG)
    with pytest.raises(UserError, match=r"no config\.json and holds file"):
        run_directory.check(tmp_path, CONFIG)
    with (
        pytest.raises(UserError, match="must be a directory that can be written"),
        run_directory.opened(file / "below", CONFIG, COMMAND),
    ):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch):
    # Not by chmod, which does not stop a superuser.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with (
        pytest.raises(UserError, match="permission denied"),
        run_directory.opened(tmp_path, CONFIG, COMMAND),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_run_killed_at_its_first_file_can_start_anew(tmp_path):
    (tmp_path / ".saving-123-config.json").write_text("{")
    run_directory.check(tmp_path, CONFIG)
    with run_directory.opened(tmp_path, CONFIG, COMMAND):
        assert os.listdir(tmp_path) == ["config.json"]


def test_a_directory_is_held_by_one_run_at_a_time(tmp_path):
    with (
        run_directory.opened(tmp_path, CONFIG, COMMAND),
        pytest.raises(UserError, match="Another process trains in"),
        run_directory.opened(tmp_path, CONFIG, COMMAND),
    ):
        pass
    with run_directory.opened(tmp_path, CONFIG, COMMAND):
        pass


# The policy -------------------------------------------------------------------------


def test_the_newest_checkpoint_is_restored_or_the_one_that_is_named(tmp_path):
    run_directory.write_config(tmp_path, CONFIG, COMMAND)
    policies = {step: save_policy(tmp_path, CONFIG, step) for step in (10, 20)}
    observation = np.ones((5, 4), np.float32)
    for path, step in [
        (None, 20),
        (tmp_path / "checkpoints" / "000000000010", 10),
    ]:
        restored = run_directory.restored_policy(tmp_path, path)
        assert (restored.step, restored.config) == (step, CONFIG)
        assert restored.path.name == f"{step:012d}"
        expected = policies[step](observation)
        found = restored.policy(observation)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_without_a_checkpoint_there_is_no_policy(tmp_path):
    run_directory.write_config(tmp_path, CONFIG, COMMAND)
    with pytest.raises(UserError, match="has no policy yet"):
        run_directory.restored_policy(tmp_path)
    with pytest.raises(UserError, match=r"There is no checkpoint .*missing"):
        run_directory.restored_policy(tmp_path, tmp_path / "missing")
    save_policy(tmp_path, CONFIG, 10)
    (tmp_path / "checkpoints" / "000000000010" / "arrays.npz").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        run_directory.restored_policy(tmp_path)


def test_a_policy_that_does_not_fit_its_run_is_named(tmp_path):
    run_directory.write_config(tmp_path, CONFIG, COMMAND)
    save_policy(tmp_path, CONFIG.replace(hidden_size=9), 10)
    with pytest.raises(
        UserError,
        match=r"10 is damaged: learner/policy/0000\S+ is float32\[4, 9\] where .* 8\]",
    ):
        run_directory.restored_policy(tmp_path)
