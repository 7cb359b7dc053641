import csv
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from runs.policies import contents, save_policy

from acktr_tf import evaluate, export
from acktr_tf.config.config import configure
from acktr_tf.runs import directory as run_directory
from acktr_tf.runs import model_card
from acktr_tf.runs.loaded_policy import load_policy
from acktr_tf.runs.saved_model import export_policy
from acktr_tf.training import scoring

CONFIG = configure(env="CartPole-v1", num_envs=2, hidden_size=8, seed=4)
COMMAND = ["python", "-m", "acktr_tf.launch", "--seed=4", "--run_dir=my run"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("template") / "run"
    run_directory.write_config(run_dir, CONFIG, COMMAND)
    save_policy(run_dir, CONFIG, 1000)
    save_policy(run_dir, CONFIG, 3000)
    with (run_dir / "episodes.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "episode_return", "episode_length", "seconds"])
        for i in range(1, 301):
            writer.writerow([10 * i, i, i, f"{2 * i:.3f}"])
    for name, step in [("export/best", 2000), ("export", 3000)]:
        policy = save_policy(run_dir.parent / "other", CONFIG, step)
        export_policy(policy, CONFIG, run_dir / name, {"step": step})
    return run_dir


@pytest.fixture
def run_dir(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(template, tmp_path / "run")


def run(*arguments, capsys):
    capsys.readouterr()
    status = export.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def weights(directory):
    """Something that tells policies apart."""
    loaded = load_policy(directory)
    outputs = loaded.signatures["serving_default"](
        observation=np.ones((1, 4), np.float32)
    )
    return outputs["logits"].numpy().tolist()


@pytest.mark.parametrize(
    ("flags", "step", "same_as"),
    [
        ([], 3000, "run/export"),
        (["--checkpoint=run/checkpoints/000000001000"], 1000, None),
        (["--best"], 2000, "run/export/best"),
    ],
)
def test_a_policy_of_the_run_is_exported(flags, step, same_as, run_dir, capsys):
    before = contents(run_dir)
    status, out, err = run("--run_dir=run", "--model=a/b", *flags, capsys=capsys)
    assert (status, err) == (0, "")
    assert out.endswith("is exported to a/b\n")
    loaded = load_policy(Path("a/b"))
    assert (loaded.step, loaded.config) == (step, CONFIG)
    if same_as:
        assert weights(Path("a/b")) == weights(Path(same_as))
    assert os.listdir("a") == ["b"]
    assert contents(run_dir) == before


def test_the_final_export_is_copied_where_no_checkpoint_is_left(run_dir, capsys):
    shutil.rmtree(run_dir / "checkpoints")
    assert run("--run_dir=run", "--model=m", capsys=capsys)[0] == 0
    copied = contents(run_dir / "export")
    assert contents(Path("m")) == {
        name: data for name, data in copied.items() if not name.startswith("best")
    }
    shutil.rmtree(run_dir / "export")
    status, _, err = run("--run_dir=run", "--model=n", capsys=capsys)
    assert status == 2
    assert "has no policy yet" in err


def test_the_card_says_what_was_measured(run_dir, capsys):
    status, _, err = run(
        "--run_dir=run", "--model=models/pole", "--card", "--games=6", capsys=capsys
    )
    assert (status, err) == (0, "")
    model = Path("models/pole")
    card = (model / "README.md").read_text()
    scores = json.loads((model / "scores.json").read_text())
    for actions in ("greedy", "sampled"):
        capsys.readouterr()
        flags = [f"--model={model}", "--games=6", "--json"]
        evaluate.main([*flags, *(["--greedy"] if actions == "greedy" else [])])
        measured = json.loads(capsys.readouterr().out)
        assert {n: measured[n] for n in scores[actions]} == scores[actions]
        summary = ("mean", "standard_deviation", "median", "minimum", "maximum")
        cells = " | ".join(f"{measured[name]:.2f}" for name in summary)
        assert f"| {actions} | 6 | {cells} |" in card
    seeds = scores["greedy"]["seeds"]
    assert f"from {seeds[0]} to {seeds[-1]}" in card
    _, document = run_directory.read_config(run_dir)
    for line in [
        "# pole: ACKTR on CartPole-v1",
        "| environment | `CartPole-v1` |",
        "| algorithm | ACKTR |",
        "| training seed | 4 |",
        "| agent steps | 3,000 |",
        # Episodes 201 to 300 have these numbers as returns; the last ended at 600 s.
        "| last 100 training games | mean 250.50 |",
        "| wall time | 10 min 0 s |",
        # Where the run was kept is left out.
        "python -m acktr_tf.launch --seed=4",
        "python -m acktr_tf.evaluate --model=models/pole",
        *(f"| {name} | {found} |" for name, found in document["versions"].items()),
    ]:
        assert line in card.splitlines()
    document = json.loads((model / "config.json").read_text())
    assert document["settings"]["run_dir"] is None
    for name in re.findall(r"`([\w.]+\.(?:json|gz))`|\(([\w.]+\.png)\)", card):
        assert (model / "".join(name)).is_file()
    episodes = gzip.decompress((model / "episodes.csv.gz").read_bytes())
    assert episodes == (run_dir / "episodes.csv").read_bytes()
    picture = matplotlib.image.imread(model / "learning_curve.png")
    assert picture.shape == (480, 840, 4)
    assert np.ptp(picture[..., :3]) > 0.5


def test_a_line_that_a_power_cut_left_is_no_episode(run_dir, capsys):
    path = run_dir / "episodes.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"3010,301")
    status, _, err = run(
        "--run_dir=run", "--model=m", "--card", "--games=1", capsys=capsys
    )
    assert (status, err) == (0, "")
    card = Path("m/README.md").read_text()
    assert "| last 100 training games | mean 250.50 |" in card
    assert gzip.decompress(Path("m/episodes.csv.gz").read_bytes()) == whole


def test_the_card_shows_how_parts_of_an_observation_are_given(run_dir):
    class Policy:
        config, step, input_names = CONFIG, 3000, ["body_arm", "key"]

    scores = scoring.Scores(np.ones(2), np.ones(2, int), np.arange(2)).to_dict()
    text = model_card.card(
        Path("m"), Policy(), model_card.read_training(run_dir), {"greedy": scores}, 0
    )
    assert "gives them, a dictionary of `body_arm`, `key`:" in text
    assert 'policy.signatures["serving_default"](**observations)' in text


def test_the_card_of_an_earlier_policy_tells_of_its_own_training(run_dir, capsys):
    flags = ("--checkpoint=run/checkpoints/000000001000", "--card", "--games=1")
    assert run("--run_dir=run", "--model=m", *flags, capsys=capsys)[0] == 0
    card = Path("m/README.md").read_text().splitlines()
    assert "| agent steps | 1,000 |" in card
    # Episodes 1 to 100, the last of which ended at 200 s.
    assert "| last 100 training games | mean 50.50 |" in card
    assert "| wall time | 3 min 20 s |" in card


def test_the_learning_curve_is_that_of_the_episodes(run_dir, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    plot = Axes.plot

    def remember(axes, x, y, *arguments, **options):
        drawn[options["label"]] = (np.array(x), np.array(y))
        return plot(axes, x, y, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", remember)
    training = model_card.read_training(run_dir)
    policy = load_policy(run_dir / "export")
    model_card.plot_learning_curve(run_dir / "curve.png", policy, training)
    steps, returns = drawn["a game"]
    assert (steps[0], steps[-1], returns[0], returns[-1]) == (10, 3000, 1, 300)
    steps, means = drawn["mean of 100 games"]
    assert (len(means), steps[0], steps[-1]) == (201, 1000, 3000)
    assert means[0] == pytest.approx(50.5)
    assert means[-1] == pytest.approx(250.5)
    # Fewer games than the window.
    few = training._replace(steps=training.steps[:3], returns=training.returns[:3])
    model_card.plot_learning_curve(run_dir / "curve.png", policy, few)
    assert drawn["mean of 3 games"][1].tolist() == pytest.approx([2.0])


def test_an_earlier_export_is_replaced_with_its_card(run_dir, capsys):
    flags = ("--run_dir=run", "--model=m")
    assert run(*flags, "--card", "--games=1", capsys=capsys)[0] == 0
    assert Path("m/README.md").exists()
    old = "--checkpoint=run/checkpoints/000000001000"
    assert run(*flags, old, capsys=capsys)[0] == 0
    assert load_policy(Path("m")).step == 1000
    # The card was of the other policy.
    assert not Path("m/README.md").exists()


def test_a_card_that_fails_leaves_the_earlier_export(run_dir, capsys):
    flags = ("--run_dir=run", "--model=m")
    assert run(*flags, capsys=capsys)[0] == 0
    before = contents(Path("m"))
    status, _, err = run(*flags, "--card", "--max_steps=1", capsys=capsys)
    assert status == 1
    assert "has not ended after 1 agent steps" in err
    assert contents(Path("m")) == before
    assert sorted(os.listdir()) == ["m", "run"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=m"], "--run_dir must be given"),
        (["--run_dir=run"], "--model must be given"),
        (["--run_dir=run", "--model=m", "--best", "--checkpoint=c"], "not both"),
        (["--run_dir=missing", "--model=m"], "missing is neither a run directory"),
        (["--run_dir=run/export", "--model=m"], "is not a run"),
        (["--run_dir=run", "--model=run"], "which is not of an export"),
        (["--run_dir=run", "--model=file"], "file is not a directory"),
        (["--run_dir=run", "--model=file/m"], "must be a directory that can be writ"),
        (["--run_dir=run", "--model=m", "--checkpoint=c"], "There is no checkpoint c"),
        (["--run_dir=bad", "--model=m"], "episodes.csv is damaged"),
        (["--run_dir=new", "--model=m", "--card"], "no finished episode"),
        (["--run_dir=new", "--model=m", "--best"], "has no best policy"),
        (["--run_dir=run", "--model=m", "--card", "--games=-1"], "`games` must be"),
    ],
)
def test_bad_input_is_one_line(flags, message, run_dir, capsys):
    Path("file").touch()
    header = "step,episode_return,episode_length,seconds\n"
    for name, text in [("bad", header + "1,x,2,3\n"), ("new", header)]:
        shutil.copytree(run_dir, name, ignore=shutil.ignore_patterns("export"))
        Path(name, "episodes.csv").write_text(text)
    before = contents(Path())
    status, out, err = run(*flags, capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith("acktr_tf.export: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert contents(Path()) == before
