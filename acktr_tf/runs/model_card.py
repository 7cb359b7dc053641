"""Card of an exported policy: its scores, its learning curve, its training, its use."""

import gzip
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acktr_tf.errors import UserError
from acktr_tf.runs import markdown
from acktr_tf.runs.csv_files import read_columns, read_complete_lines
from acktr_tf.runs.directory import read_config, without_run_dir
from acktr_tf.runs.files import reason
from acktr_tf.runs.logs import EPISODES_FILE
from acktr_tf.spaces.observations import OBSERVATION

if TYPE_CHECKING:
    from acktr_tf.runs.loaded_policy import LoadedPolicy

WINDOW = 100
"""Games over which the learning curve is averaged."""

Scores = Mapping[str, Any]
"""Scores of whole games, as `acktr_tf.training.scoring.Scores.to_dict` returns them."""


# The training -----------------------------------------------------------------------
class Training(NamedTuple):
    """Record of a training in its run directory.

    Attributes:
      run_dir: The run directory.
      command: Command that started the run, without its `--run_dir`.
      versions: Versions of Python and packages when the run started.
      steps: `[E]`, agent steps of the run when each episode ended.
      returns: `[E]`, its raw return.
      wall_times: `[E]`, in seconds, of the run then.
    """

    run_dir: Path
    command: list[str]
    versions: dict[str, str]
    steps: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    wall_times: npt.NDArray[np.float64]


def read_training(run_dir: Path) -> Training:
    """Reads `config.json` and `episodes.csv` of a run.

    Raises:
      UserError: One of them is missing or damaged.
    """
    _, document = read_config(run_dir)
    path = run_dir / EPISODES_FILE
    try:
        columns = read_columns(path, ("step", "episode_return", "seconds"))
    except OSError as error:
        raise UserError(
            f"{run_dir} is not a run: {path} cannot be read: {reason(error)}."
        ) from error
    steps, returns, wall_times = columns.T
    return Training(
        run_dir,
        without_run_dir(document.get("command", ())),
        dict(document.get("versions", {})),
        steps,
        returns,
        wall_times,
    )


# The card ---------------------------------------------------------------------------
def write_card(
    directory: Path,
    model: Path,
    policy: "LoadedPolicy",
    training: Training,
    scores: Mapping[str, Scores],
    seed: int,
) -> None:
    """Adds the card and what it refers to to an exported policy.

    Args:
      directory: The export.
      model: Path that the export will have.
      policy: The policy in it.
      training: The training that it comes from.
      scores: Scores of `greedy` and of `sampled` play.
      seed: Seed of the scores.
    """
    document = {
        "env": policy.config.environment.env,
        "seed": seed,
        **scores,
    }
    (directory / "scores.json").write_text(json.dumps(document) + "\n", "utf-8")
    _compress_episodes(training.run_dir, directory)
    plot_learning_curve(directory / "learning_curve.png", policy, training)
    text = card(model, policy, training, scores, seed)
    (directory / "README.md").write_text(text, encoding="utf-8")


def card(
    model: Path,
    policy: "LoadedPolicy",
    training: Training,
    scores: Mapping[str, Scores],
    seed: int,
) -> str:
    """Returns the card of an exported policy, in Markdown; see `write_card`."""
    title = _title(policy)
    games = len(training.steps)
    if policy.step is not None:
        # Those of the training that made this policy; the run may have gone on.
        games = int((training.steps <= policy.step).sum())
    last = training.returns[:games][-WINDOW:]
    facts = {
        "environment": f"`{policy.config.environment.env}`",
        "algorithm": _algorithm(policy),
        "training seed": policy.config.run.seed,
        "agent steps": "unknown" if policy.step is None else f"{policy.step:,}",
    }
    if len(last):
        facts["wall time"] = _duration(float(training.wall_times[games - 1]))
        facts[f"last {len(last)} training games"] = f"mean {last.mean():.2f}"
    numbers = ("mean", "standard_deviation", "median", "minimum", "maximum")
    rows = [
        [actions, str(score["games"]), *(f"{score[name]:.2f}" for name in numbers)]
        for actions, score in scores.items()
    ]
    seeds = next(iter(scores.values()))["seeds"]
    command = shlex.join(training.command) or "unknown"
    if policy.input_names == [OBSERVATION]:
        inputs, parts = f"{OBSERVATION}=observations", ""
    else:
        names = ", ".join(f"`{name}`" for name in policy.input_names)
        inputs, parts = "**observations", f", a dictionary of {names}"
    sections = [
        f"# {model.name}: {title}",
        "A policy trained with acktr_tf. Written by "
        "`python -m acktr_tf.export --card`, which computed every number here.",
        markdown.table(["", ""], [[name, str(value)] for name, value in facts.items()]),
        "## Scores",
        markdown.table(
            ["actions", "games", "mean", "std", "median", "min", "max"], rows
        ),
        "Raw returns of whole games. *Greedy* takes the most probable action, "
        "*sampled* draws actions as in training. Game j is reset with the seed "
        f"`acktr_tf.training.scoring.game_seed({seed}, j)`, from {seeds[0]} to "
        f"{seeds[-1]}; "
        "`scores.json` has every game.",
        "## Learning curve",
        f"![Returns of the training games and their {WINDOW}-game mean]"
        "(learning_curve.png)",
        "Raw returns of every training game, with the actions drawn; the numbers are "
        "in `episodes.csv.gz`.",
        "## Training",
        f"```\n{command}\n```",
        "All settings are in `config.json`.",
        markdown.table(
            ["package", "version"], [[n, v] for n, v in training.versions.items()]
        ),
        "## Use",
        f"```\npython -m acktr_tf.evaluate --model={model}\n```",
        "or with TensorFlow alone, on observations as the environment gives them"
        f"{parts}:",
        "```python\n"
        "import tensorflow as tf\n\n"
        f'policy = tf.saved_model.load("{model}")\n'
        f'outputs = policy.signatures["serving_default"]({inputs})\n'
        'outputs["action"], outputs["value"]  # of greedy play; "sample" draws\n'
        "```",
    ]
    return "\n\n".join(sections) + "\n"


def plot_learning_curve(path: Path, policy: "LoadedPolicy", training: Training) -> None:
    """Draws every episode as a dot, and the mean of the last 100 as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, returns = training.steps, training.returns
    window = min(WINDOW, len(returns))
    means = np.convolve(returns, np.full(window, 1 / window), "valid")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, returns, ".", markersize=2, alpha=0.4, label="a game")
    axes.plot(steps[window - 1 :], means, label=f"mean of {window} games")
    if policy.step is not None:
        axes.axvline(policy.step, color="0.5", linestyle=":", label="this policy")
    axes.set_title(f"{_title(policy)}, seed {policy.config.run.seed}")
    axes.set_xlabel("agent steps")
    axes.set_ylabel("raw return")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _title(policy: "LoadedPolicy") -> str:
    return f"{_algorithm(policy)} on {policy.config.environment.env}"


def _algorithm(policy: "LoadedPolicy") -> str:
    name = policy.config.run.algorithm
    # One of the user's own is named by its class, my_module:MyAlgorithm.
    return name.partition(":")[2] or name.upper()


def _compress_episodes(run_dir: Path, directory: Path) -> None:
    # Without a date, so that equal runs give equal files.
    with (
        (directory / f"{EPISODES_FILE}.gz").open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
    ):
        compressed.write(read_complete_lines(run_dir / EPISODES_FILE).encode())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
