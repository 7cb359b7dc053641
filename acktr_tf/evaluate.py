"""Command: score a frozen policy over whole games, and film it.

python -m acktr_tf.evaluate --model=models/pong
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl.flags import FlagValues

from acktr_tf.backend import load_tensorflow
from acktr_tf.cli.command import run_command
from acktr_tf.cli.flags import define
from acktr_tf.cli.streams import tell
from acktr_tf.config.setting import Settings, group, setting
from acktr_tf.errors import UserError
from acktr_tf.runs.film import check_video, filming

if TYPE_CHECKING:
    from acktr_tf.runs.loaded_policy import LoadedPolicy
    from acktr_tf.training.scoring import Scores

PROGRAM = "acktr_tf.evaluate"
SUMMARY = (
    "Scores a policy over whole games, by their raw returns: an exported policy, or "
    "that of a run (its export, or the newest checkpoint while there is none)."
)

_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ScoringSettings(Settings):
    """Flags of every command that plays games."""

    games: int = setting(100, "Whole games to score.", unit="games", low=1)
    num_envs: int = setting(
        8,
        "Environments stepped together, at most --games; they change the draws, not "
        "the games.",
        low=1,
    )
    seed: int = setting(
        0, "Decides the games and the draws.", low=0, high=_LARGEST_SEED
    )
    max_steps: int = setting(
        100_000,
        "A game that has not ended by then is an error.",
        unit="agent steps",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Flags of the command."""

    heading = "Evaluation"

    model: str | None = setting(
        None, "Directory of an exported policy: models/pong.", none="none"
    )
    run_dir: str | None = setting(None, "Directory of a run.", none="none")
    best: bool = setting(
        False, "With --run_dir: the policy that scored best in the run's evaluations."
    )
    scoring: ScoringSettings = group(ScoringSettings())
    greedy: bool = setting(
        False,
        "Take the most probable action; actions are drawn otherwise, as in training.",
    )
    env: str | None = setting(
        None,
        "Another environment than the policy was trained on; auto takes that one.",
        none="auto",
    )
    video: str | None = setting(
        None, "Film the first game: a file ending in .mp4 or .gif.", none="none"
    )
    json: bool = setting(False, "Print the scores as JSON, game by game.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `acktr_tf.cli.command.run_command` for the exit status.

    Args:
      argv: Command line without the program; None takes that of the process.
    """
    return run_command(
        PROGRAM, SUMMARY, lambda values, _: define_flags(values), evaluate, argv
    )


def define_flags(values: FlagValues) -> None:
    """Defines the flags of the command."""
    define(values, EvaluationSettings().entries())


def evaluate(values: FlagValues) -> int:
    """Scores the policy that the flags name, and prints the scores."""
    if bool(values.model) == bool(values.run_dir):
        raise UserError(
            "Give either --model=<exported policy> or --run_dir=<run>. "
            f"Received: --model={values.model or 'none'} "
            f"--run_dir={values.run_dir or 'none'}"
        )
    if values.best and values.model:
        raise UserError("--best goes with --run_dir, not with --model.")
    video = None if values.video is None else Path(values.video).expanduser()
    if video is not None:
        check_video(video)
    load_tensorflow()
    source, policy = _load(values)
    start = time.perf_counter()
    scores = play(
        policy,
        greedy=values.greedy,
        games=values.games,
        num_envs=values.num_envs,
        seed=values.seed,
        max_steps=values.max_steps,
        env=values.env,
        video=video,
    )
    seconds = time.perf_counter() - start
    about = {
        "policy": str(source),
        "policy_step": policy.step,
        "env": values.env or policy.config.environment.env,
        "actions": "greedy" if values.greedy else "sampled",
        "seed": values.seed,
        "seconds": round(seconds, 3),
    }
    if values.json:
        tell(json.dumps({**about, **scores.to_dict()}, indent=2))
    else:
        tell(table(about, scores))
        if video is not None:
            tell(f"game 0 is filmed in {video}")
    return 0


def play(
    policy: "LoadedPolicy",
    *,
    greedy: bool,
    games: int,
    num_envs: int,
    seed: int,
    max_steps: int,
    env: str | None = None,
    video: Path | None = None,
) -> "Scores":
    """Scores an exported policy.

    Args:
      policy: The policy.
      greedy: Whether to take the most probable action, or to draw.
      games: Games to count.
      num_envs: Environments stepped together, at most `games`.
      seed: Decides the games and the draws.
      max_steps: See `acktr_tf.training.scoring.score`.
      env: Environment; None takes that of the policy's training.
      video: Where to film game 0.

    Raises:
      UserError: The policy does not fit the environment, or that cannot be filmed.
      RunError: A game does not end, or the simulator failed.
    """
    from acktr_tf.environments import make_vector_env
    from acktr_tf.training.scoring import evaluation_seeds, score

    settings = policy.config.environment
    settings = dataclasses.replace(settings, env=env or settings.env)
    num_envs = min(num_envs, games)
    environments = make_vector_env(
        settings,
        seed,
        num_envs=num_envs,
        episode_seeds=evaluation_seeds(seed, num_envs),
        render=video is not None,
    )
    try:
        policy.check_fits(environments)
        with contextlib.ExitStack() as stack:
            watch = None
            if video is not None:
                watch = stack.enter_context(filming(environments, video))
            return score(
                policy,
                environments,
                games,
                deterministic=greedy,
                max_steps=max_steps,
                watch=watch,
            )
    finally:
        environments.close()


def table(about: dict[str, Any], scores: "Scores") -> str:
    """Returns the scores as a table for people."""
    how = (
        "the most probable" if about["actions"] == "greedy" else "drawn as in training"
    )
    trained = "" if about["policy_step"] is None else f", {about['policy_step']} steps"
    rows = {
        "policy": f"{about['policy']}{trained}",
        "environment": about["env"],
        "actions": f"{about['actions']} ({how})",
        "games": len(scores.returns),
        "mean": f"{scores.mean:.2f}",
        "std": f"{scores.standard_deviation:.2f}",
        "median": f"{scores.median:.2f}",
        "min": f"{scores.minimum:.2f}",
        "max": f"{scores.maximum:.2f}",
        "seeds": f"{scores.seeds[0]}..{scores.seeds[-1]} (game j: "
        f"acktr_tf.training.scoring.game_seed({about['seed']}, j))",
        "steps": scores.steps,
        "seconds": f"{about['seconds']:.1f}",
    }
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


# Where the policy comes from --------------------------------------------------------
def _load(values: FlagValues) -> tuple[Path, "LoadedPolicy"]:
    from acktr_tf.runs import directory as run_directory
    from acktr_tf.runs.loaded_policy import find_best, is_export, load_policy
    from acktr_tf.runs.saved_model import write_policy

    if values.model:
        path = Path(values.model).expanduser()
        return path, load_policy(path)
    run_dir = Path(values.run_dir).expanduser()
    run_directory.read_config(run_dir)
    export = run_dir / run_directory.EXPORT
    if values.best:
        best = find_best(run_dir)
        return best, load_policy(best)
    if is_export(export):
        return export, load_policy(export)
    restored = run_directory.restored_policy(run_dir)
    # Played as it would be shipped, by the same code as every other policy.
    with tempfile.TemporaryDirectory() as directory:
        write_policy(
            restored.policy,
            restored.config,
            Path(directory),
            {"step": restored.step},
        )
        return restored.path, load_policy(Path(directory))


if __name__ == "__main__":
    sys.exit(main())
