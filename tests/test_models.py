"""The policies in models/ play as their cards say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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

# Tasks of MuJoCo that are played, and how far off a return may be: rounding grows on
# legs, but not from a good gait to a bad one.
TOLERANCES = {"reacher": 1e-3, "inverted_pendulum": 1e-6, "half_cheetah": 0.1}
# All that a process needs that is to use policies of MuJoCo.
PLAY = """
import json, sys
import gymnasium, numpy, tensorflow
sys.modules["acktr_tf"] = None  # Its import would be an error.
found = []
for model, task, seeds in json.loads(sys.argv[1]):
    act = tensorflow.saved_model.load(model).signatures["serving_default"]
    environment = gymnasium.make(task)
    returns = []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            batch = tensorflow.constant(observation[None], tensorflow.float32)
            action = act(observation=batch)["action"].numpy()[0]
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + reward, terminated or truncated
        returns.append(float(total))
    found.append(returns)
print(json.dumps(found))
"""


def test_the_policies_that_the_readme_names_are_there():
    assert {"cartpole", "pong"} | MUJOCO <= {model.name for model in MODELS}


def greedy_scores(model: Path) -> dict[str, Any]:
    return json.loads((model / "scores.json").read_text())["greedy"]


def test_a_process_without_the_package_scores_the_same(tmp_path):
    todo, expected = [], []
    for name in TOLERANCES:
        model = ROOT / "models" / name
        scores = greedy_scores(model)
        task = json.loads((model / "config.json").read_text())["settings"]["env"]
        todo.append([str(model), task, scores["seeds"][:GAMES]])
        expected.append(scores["returns"][:GAMES])
    process = subprocess.run(
        [sys.executable, "-c", PLAY, json.dumps(todo)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    found = json.loads(process.stdout.splitlines()[-1])
    for name, mine, card in zip(TOLERANCES, found, expected, strict=True):
        np.testing.assert_allclose(mine, card, rtol=TOLERANCES[name], err_msg=name)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_card_is_of_its_policy(model):
    scores, card = greedy_scores(model), (model / "README.md").read_text()
    # Where it is for whoever reads the card, and not where it was made.
    assert f"--model=models/{model.name}\n" in card
    assert f"| greedy | {scores['games']} | {scores['mean']:.2f} |" in card


@pytest.mark.parametrize(
    "model",
    [
        # Of all sorts of games, the one that is over soonest.
        pytest.param(model, marks=[] if model.name == "cartpole" else pytest.mark.slow)
        for model in MODELS
    ],
    ids=lambda model: model.name,
)
def test_a_policy_plays_the_games_of_its_card(model, capsys):
    expected = greedy_scores(model)
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
