"""Command: ship the policy of a run as a SavedModel, with a card that describes it.

python -m acktr_tf.export --run_dir=runs/pong --model=models/pong --card
"""

import dataclasses
import gzip
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl.flags import FlagValues

from acktr_tf.backend import load_tensorflow
from acktr_tf.cli.command import run_command
from acktr_tf.cli.flags import define
from acktr_tf.config.setting import Settings, group, setting
from acktr_tf.errors import UserError
from acktr_tf.evaluate import ScoringSettings, play

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from acktr_tf.runs.saved_model import LoadedPolicy
    from acktr_tf.training.scoring import Scores

PROGRAM = "acktr_tf.export"
SUMMARY = (
    "Writes the policy of a run, from its newest checkpoint, as a SavedModel that "
    "needs TensorFlow alone. An earlier export in the same place is replaced, anything "
    "else is not."
)
WINDOW = 100
"""Games over which the learning curve is averaged."""


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
    """Flags of the command."""

    heading = "Export"

    run_dir: str | None = setting(None, "Directory of the run.", none="none")
    model: str | None = setting(
        None, "Directory to export to: models/pong.", none="none"
    )
    checkpoint: str | None = setting(
        None, "A checkpoint of the run; auto takes the newest.", none="auto"
    )
    best: bool = setting(False, "The policy that scored best in the run's evaluations.")
    card: bool = setting(
        False,
        "Score the policy, greedy and sampled, and add a card (README.md), the "
        "learning curve, the episodes of the training and the scores.",
    )
    scoring: ScoringSettings = group(ScoringSettings(), heading="Scores of the card")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `acktr_tf.cli.command.run_command` for the exit status.

    Args:
      argv: Command line without the program; None takes that of the process.
    """
    return run_command(
        PROGRAM, SUMMARY, lambda values, _: define_flags(values), export, argv
    )


def define_flags(values: FlagValues) -> None:
    """Defines the flags of the command."""
    define(values, ExportSettings().entries())


def export(values: FlagValues) -> int:
    """Exports the policy that the flags name."""
    for name in ("run_dir", "model"):
        if not values[name].value:
            raise UserError(f"--{name} must be given: --{name}=<directory>.")
    if values.best and values.checkpoint:
        raise UserError("Give --best or --checkpoint, not both.")
    load_tensorflow()
    from acktr_tf.runs import saved_model

    run_dir = Path(values.run_dir).expanduser()
    model = Path(values.model).expanduser()
    # Everything that can be wrong is found before the games, which take a while.
    training = read_training(run_dir)
    if values.card and not len(training.returns):
        raise UserError(f"{run_dir} has no finished episode to describe in a card.")
    saved_model.check_replaceable(model)
    path, write_model = _source(run_dir, values, training)

    def write(target: Path) -> None:
        write_model(target)
        if not values.card:
            return
        policy = saved_model.load_policy(target)
        scores = {
            actions: play(
                policy,
                greedy=actions == "greedy",
                games=values.games,
                num_envs=values.num_envs,
                seed=values.seed,
                max_steps=values.max_steps,
            )
            for actions in ("greedy", "sampled")
        }
        write_card(target, model, policy, training, scores, values.seed)

    saved_model.replace_export(model, write)
    print(f"{path} is exported to {model}")
    return 0


def _source(
    run_dir: Path, values: FlagValues, training: "Training"
) -> tuple[Path, Callable[[Path], None]]:
    """Returns where the policy comes from, and a function that writes it."""
    from acktr_tf.runs import checkpoints, saved_model
    from acktr_tf.runs import directory as run_directory

    final = run_dir / run_directory.EXPORT
    best = final / run_directory.BEST
    if values.best and not saved_model.is_export(best):
        raise UserError(
            f"{run_dir} has no best policy. A run keeps one if it is started with "
            "--evaluation_period."
        )
    path = Path(values.checkpoint).expanduser() if values.checkpoint else None
    without_checkpoint = (
        path is None and checkpoints.latest(run_dir / run_directory.CHECKPOINTS) is None
    )
    if values.best or (without_checkpoint and saved_model.is_export(final)):
        source = best if values.best else final
        saved_model.load_policy(source)
        return source, lambda target: saved_model.copy_export(source, target)
    restored = run_directory.restored_policy(run_dir, path)
    extra = {"step": restored.step, "command": training.command}
    return restored.path, lambda target: saved_model.write_policy(
        restored.policy,
        restored.config,
        target,
        extra,
    )


# What is known of the training ------------------------------------------------------
class Training(NamedTuple):
    """Training of a policy, as its run directory records it.

    Attributes:
      run_dir: The run directory.
      command: Command that started the run, without its `--run_dir`.
      versions: Versions of Python and packages when the run started.
      steps: `[E]`, agent steps of the run when each episode ended.
      returns: `[E]`, raw return of each episode.
      wall_times: `[E]`, seconds of the run when each episode ended.
    """

    run_dir: Path
    command: list[str]
    versions: dict[str, str]
    steps: "npt.NDArray[np.float64]"
    returns: "npt.NDArray[np.float64]"
    wall_times: "npt.NDArray[np.float64]"


def read_training(run_dir: Path) -> Training:
    """Reads `config.json` and `episodes.csv` of a run.

    Raises:
      UserError: One of them is missing or damaged.
    """
    from acktr_tf.runs.csv_files import read_columns
    from acktr_tf.runs.directory import read_config, without_run_dir
    from acktr_tf.runs.logs import EPISODES_FILE

    _, document = read_config(run_dir)
    path = run_dir / EPISODES_FILE
    try:
        columns = read_columns(path, ("step", "episode_return", "seconds"))
    except OSError as error:
        raise UserError(
            f"{run_dir} is not a run: {path} cannot be read: {error.strerror}."
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
    scores: "Mapping[str, Scores]",
    seed: int,
) -> None:
    """Adds the card, and the files that it refers to, to an exported policy.

    Args:
      directory: The export.
      model: What the export will be called.
      policy: The policy in it.
      training: Its training.
      scores: `greedy` and `sampled`.
      seed: Seed of the scores.
    """
    document = {
        "env": policy.config.environment.env,
        "seed": seed,
        **{actions: score.to_dict() for actions, score in scores.items()},
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
    scores: "Mapping[str, Scores]",
    seed: int,
) -> str:
    """Returns the card of an exported policy, in Markdown; see `write_card`."""
    from acktr_tf.spaces.observations import OBSERVATION

    env, run = policy.config.environment.env, policy.config.run
    games = len(training.steps)
    if policy.step is not None:
        # Those of the training that made this policy; the run may have gone on.
        games = int((training.steps <= policy.step).sum())
    last = training.returns[:games][-WINDOW:]
    facts = {
        "environment": f"`{env}`",
        "algorithm": run.algorithm.upper(),
        "training seed": run.seed,
        "agent steps": "unknown" if policy.step is None else f"{policy.step:,}",
    }
    if len(last):
        facts["wall time"] = _duration(float(training.wall_times[games - 1]))
        facts[f"last {len(last)} training games"] = f"mean {last.mean():.2f}"
    rows = [
        [
            actions,
            str(len(s.returns)),
            *(
                f"{number:.2f}"
                for number in (
                    s.mean,
                    s.standard_deviation,
                    s.median,
                    s.minimum,
                    s.maximum,
                )
            ),
        ]
        for actions, s in scores.items()
    ]
    seeds = next(iter(scores.values())).seeds
    command = shlex.join(training.command) or "unknown"
    if policy.input_names == [OBSERVATION]:
        inputs, parts = f"{OBSERVATION}=observations", ""
    else:
        names = ", ".join(f"`{name}`" for name in policy.input_names)
        inputs, parts = "**observations", f", a dictionary of {names}"
    sections = [
        f"# {model.name}: {run.algorithm.upper()} on {env}",
        "A policy trained with acktr_tf. Written by "
        "`python -m acktr_tf.export --card`, which computed every number here.",
        _rows(["", ""], [[name, str(value)] for name, value in facts.items()]),
        "## Scores",
        _rows(["actions", "games", "mean", "std", "median", "min", "max"], rows),
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
        _rows(["package", "version"], [[n, v] for n, v in training.versions.items()]),
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
    import numpy as np
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
    env, run = policy.config.environment.env, policy.config.run
    axes.set_title(f"{run.algorithm.upper()} on {env}, seed {run.seed}")
    axes.set_xlabel("agent steps")
    axes.set_ylabel("raw return")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _compress_episodes(run_dir: Path, directory: Path) -> None:
    from acktr_tf.runs.csv_files import whole_lines
    from acktr_tf.runs.logs import EPISODES_FILE

    # Without a date, so that equal runs give equal files.
    with (
        (directory / f"{EPISODES_FILE}.gz").open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
    ):
        compressed.write(whole_lines(run_dir / EPISODES_FILE).encode())


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


if __name__ == "__main__":
    sys.exit(main())
