"""Command: score a frozen policy over whole games, and film it.

python -m acktr_tf.evaluate --model=models/pong
"""

import contextlib
import dataclasses
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl.flags import FlagValues

from acktr_tf.backend import load_tensorflow
from acktr_tf.cli.command import run_command
from acktr_tf.cli.flags import define
from acktr_tf.config.setting import Settings, group, setting
from acktr_tf.errors import RunError, UserError

if TYPE_CHECKING:
    from acktr_tf.environments import VectorEnvironment
    from acktr_tf.runs.saved_model import LoadedPolicy
    from acktr_tf.training.scoring import Scores

PROGRAM = "acktr_tf.evaluate"
SUMMARY = (
    "Scores a policy over whole games, by their raw returns: an exported policy, or "
    "that of a run (its export, or the newest checkpoint while there is none)."
)
VIDEO_SUFFIXES = (".mp4", ".gif")

_LARGEST_SEED = 2**31 - 1
_ATARI_FRAMES_PER_SECOND = 60


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
    video = Path(values.video).expanduser() if values.video else None
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
        print(json.dumps({**about, **scores.to_dict()}, indent=2))
    else:
        print(table(about, scores))
        if video is not None:
            print(f"game 0 is filmed in {video}")
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
    from acktr_tf.training.scoring import actor, evaluation_seeds, score

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
    act = actor(policy, greedy=greedy)
    try:
        policy.check_fits(environments)
        if video is None:
            return score(act, environments, games, max_steps=max_steps)
        with filming(environments, settings.env, video) as watch:
            return score(act, environments, games, max_steps=max_steps, watch=watch)
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


# Video ------------------------------------------------------------------------------
def check_video(path: Path) -> None:
    """Raises a `UserError` unless a video can be written to `path`."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(
            f"--video must end in {' or '.join(VIDEO_SUFFIXES)}. Received: {path}"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--video must be a file in a directory. Received: {path}")
    packages = [
        "imageio",
        *(["imageio_ffmpeg"] if path.suffix.lower() == ".mp4" else []),
    ]
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--video needs the package {package.replace('_', '-')}: "
                "pip install 'acktr-tf[video]'"
            ) from error


@contextlib.contextmanager
def filming(
    environments: "VectorEnvironment", env: str, path: Path
) -> Iterator[Callable[[], None]]:
    """Films the first of some environments.

    Args:
      environments: Made with `render`.
      env: What their environment is called.
      path: The file, which is there only if the body ends well.

    Yields:
      A function that adds the current picture to the film.
    """
    from imageio import v2 as imageio

    rate = frames_per_second(env)
    saving = path.with_name(f".saving-{path.name}")
    if path.suffix.lower() == ".gif":
        options: dict[str, Any] = {"duration": 1000 / rate, "loop": 0}
    else:
        # Pictures of even height and width are kept as they are.
        options = {"fps": rate, "macro_block_size": 2}

    def watch() -> None:
        writer.append_data(environments.render()[0])

    try:
        writer: Any
        with imageio.get_writer(saving, mode="I", **options) as writer:
            yield watch
        saving.replace(path)
    except OSError as error:
        raise RunError(f"Cannot film to {path}: {error.strerror or error}.") from error
    finally:
        saving.unlink(missing_ok=True)


def frames_per_second(env: str) -> float:
    """Returns the pictures per second at which a film of `env` has its own speed."""
    import gymnasium

    from acktr_tf.environments.atari import FRAME_SKIP, find_game

    if find_game(env):
        return _ATARI_FRAMES_PER_SECOND / FRAME_SKIP
    single = gymnasium.make(env)
    rate = float(single.metadata.get("render_fps", 30))
    single.close()
    return rate


# Where the policy comes from --------------------------------------------------------
def _load(values: FlagValues) -> tuple[Path, "LoadedPolicy"]:
    from acktr_tf.runs import directory as run_directory
    from acktr_tf.runs.saved_model import is_export, load_policy, write_policy

    if values.model:
        path = Path(values.model).expanduser()
        return path, load_policy(path)
    run_dir = Path(values.run_dir).expanduser()
    run_directory.read_config(run_dir)
    export = run_dir / run_directory.EXPORT
    if values.best:
        best = export / run_directory.BEST
        if not is_export(best):
            raise UserError(
                f"{run_dir} has no best policy. A run keeps one if it is started with "
                "--evaluation_period."
            )
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
