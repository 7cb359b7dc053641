"""One exported policy for all tests of exports."""

import shutil

import pytest


@pytest.fixture(scope="session")
def policy():
    """A policy for CartPole; tests must not change it."""
    # Most tests here are quicker without TensorFlow.
    from runs.policies import CARTPOLE, make_policy

    return make_policy(CARTPOLE)


@pytest.fixture(scope="session")
def exported(policy, tmp_path_factory):
    """An export of the policy; tests must not change it."""
    from runs.policies import CARTPOLE

    from acktr_tf.runs.saved_model import export_policy

    directory = tmp_path_factory.mktemp("exported") / "model"
    export_policy(policy, CARTPOLE, directory, {"step": 12, "mean": float("nan")})
    return directory


@pytest.fixture
def model(exported, tmp_path):
    """A copy of the export to change."""
    return shutil.copytree(exported, tmp_path / "copy")
