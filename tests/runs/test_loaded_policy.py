"""Policies loaded from exports, and exports that are refused."""

import json
import shutil

import numpy as np
import pytest
from runs.policies import CARTPOLE, environment_of, observations

from acktr_tf.config.config import configure
from acktr_tf.errors import UserError
from acktr_tf.runs.files import make_manifest
from acktr_tf.runs.loaded_policy import find_best, load_policy

KEY = np.array([1, 2], np.int32)


def test_a_loaded_policy_plays_as_the_policy(exported, policy):
    loaded = load_policy(exported)
    assert loaded.config == CARTPOLE
    assert loaded.step == 12
    assert loaded.document["mean"] is None
    batch = observations(policy, 200)
    np.testing.assert_array_equal(
        loaded.predict(batch, KEY, deterministic=True),
        np.argmax(policy(batch)[0], axis=1),
    )
    draws = []
    for key in ([3, 1], [3, 1], [3, 2]):
        draws.append(loaded.predict(batch, np.array(key, np.int32)))
        np.testing.assert_array_equal(
            draws[-1], policy.act(batch, np.array(key, np.int32))[0]
        )
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize("env", ["Acrobot-v1", "Numbered-v0", "pong"])
def test_another_environment_must_fit(env, exported):
    environments = environment_of(configure(env=env))
    with pytest.raises(UserError, match=f"CartPole-v1, cannot play {env}: its obs"):
        load_policy(exported).check_fits(environments)
    environments.close()


def test_other_actions_do_not_fit(model):
    path = model / "config.json"
    document = json.loads(path.read_text())
    document["action"] = {"type": "Discrete", "n": 2, "start": 1}
    path.write_text(json.dumps(document))
    environments = environment_of(CARTPOLE)
    with pytest.raises(UserError, match="its actions are"):
        load_policy(model).check_fits(environments)


def test_what_is_no_export_is_named(tmp_path, model):
    with pytest.raises(UserError, match="missing: no such directory"):
        load_policy(tmp_path / "missing")
    with pytest.raises(UserError, match=r"has no saved_model\.pb\.$"):
        load_policy(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=f"a run directory: .* --run_dir={tmp_path}"):
        load_policy(tmp_path)
    (model / "config.json").unlink()
    with pytest.raises(UserError, match=r"copy is neither .* has no config\.json"):
        load_policy(model)


@pytest.mark.parametrize(
    "name",
    [
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_file_is_named(name, damage, model):
    path = model / name
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-10])
        message = f"{name} must have {len(data)} bytes and has {len(data) - 10}"
    elif damage == "changed":
        path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
        message = f"{name} must have the SHA-256 .*: its bytes were changed. Export"
    elif name == "saved_model.pb":
        message = "has no saved_model.pb"
    else:
        message = f"{name} is missing"
    with pytest.raises(UserError, match=message):
        load_policy(model)


@pytest.mark.parametrize("entry", ["files", "action", "observation"])
def test_a_config_without_an_entry_is_refused(entry, model):
    path = model / "config.json"
    document = json.loads(path.read_text())
    del document[entry]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"another version of it: it lacks '{entry}'"):
        load_policy(model)


def test_a_savedmodel_that_tensorflow_refuses_is_one_message(model):
    # Wrong already when it was written: its checksum is right.
    (model / "saved_model.pb").write_bytes(b"\xff" * 100)
    path = model / "config.json"
    document = json.loads(path.read_text())
    shutil.copy(path, model.parent)
    path.unlink()
    document["files"] = make_manifest(model)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(model)


def test_a_run_without_a_best_policy_is_told_how_to_keep_one(exported, tmp_path):
    with pytest.raises(UserError, match=r"no best policy.*--evaluation_period"):
        find_best(tmp_path)
    best = tmp_path / "export" / "best"
    shutil.copytree(exported, best)
    assert find_best(tmp_path) == best
