"""The policies in models/ play as their cards say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acktr_tf import evaluate

ROOT = Path(__file__).parents[1]
MODELS = sorted(path.parent for path in ROOT.glob("models/*/saved_model.pb"))
GAMES = 3


MUJOCO = {
    "ant",
    "half_cheetah",
    "hopper",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "reacher",
    "swimmer",
    "walker2d",
}

# All that a process needs that is to use a policy of MuJoCo.
PLAY = """
import json, sys
import gymnasium, numpy, tensorflow
sys.modules["acktr_tf"] = None  # Its import would be an error.
act = tensorflow.saved_model.load(sys.argv[1]).signatures["serving_default"]
environment = gymnasium.make(sys.argv[2])
returns = []
for seed in json.loads(sys.argv[3]):
    observation, _ = environment.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        batch = tensorflow.constant(observation[None], tensorflow.float32)
        action = act(observation=batch)["action"].numpy()[0]
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, over = total + reward, terminated or truncated
    returns.append(float(total))
print(json.dumps(returns))
"""


def test_the_policies_that_the_readme_names_are_there():
    assert {"cartpole", "pong"} | MUJOCO <= {model.name for model in MODELS}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # Rounding grows on legs, but not from a good gait to a bad one.
    [("reacher", 1e-3), ("inverted_pendulum", 1e-6), ("half_cheetah", 0.1)],
)
def test_a_process_without_the_package_scores_the_same(name, tolerance, tmp_path):
    model = ROOT / "models" / name
    expected = json.loads((model / "scores.json").read_text())["greedy"]
    task = json.loads((model / "config.json").read_text())["settings"]["env"]
    seeds = json.dumps(expected["seeds"][:GAMES])
    process = subprocess.run(
        [sys.executable, "-c", PLAY, str(model), task, seeds],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    found = json.loads(process.stdout.splitlines()[-1])
    np.testing.assert_allclose(found, expected["returns"][:GAMES], rtol=tolerance)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_policy_plays_the_games_of_its_card(model, capsys):
    expected = json.loads((model / "scores.json").read_text())["greedy"]
    status = evaluate.main(
        [f"--model={model}", "--greedy", f"--games={GAMES}", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert found["seeds"] == expected["seeds"][:GAMES]
    if model.name == "cartpole":
        for name in ("returns", "lengths"):
            assert found[name] == expected[name][:GAMES]
    else:
        # A convolution rounds otherwise on another processor, which may change a game.
        spread = expected["standard_deviation"]
        assert found["mean"] >= expected["mean"] - 5.0 * spread
    card = (model / "README.md").read_text()
    # Where it is for whoever reads the card, and not where it was made.
    assert f"--model=models/{model.name}\n" in card
    assert f"| greedy | {expected['games']} | {expected['mean']:.2f} |" in card
