"""Command: ship the policy of a run as a SavedModel, with a card that describes it.

python -m acktr_tf.export --run_dir=runs/pong --model=models/pong --card
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl.flags import FlagValues

from acktr_tf.backend import load_tensorflow
from acktr_tf.cli.command import run_command
from acktr_tf.cli.flags import define
from acktr_tf.cli.streams import tell
from acktr_tf.config.setting import Settings, group, setting
from acktr_tf.errors import UserError
from acktr_tf.evaluate import ScoringSettings, play

if TYPE_CHECKING:
    from acktr_tf.runs.model_card import Training

PROGRAM = "acktr_tf.export"
SUMMARY = (
    "Writes the policy of a run, from its newest checkpoint, as a SavedModel that "
    "needs TensorFlow alone. An earlier export in the same place is replaced, anything "
    "else is not."
)


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
    from acktr_tf.runs import model_card, saved_model
    from acktr_tf.runs.loaded_policy import load_policy

    run_dir = Path(values.run_dir).expanduser()
    model = Path(values.model).expanduser()
    # Everything that can be wrong is found before the games, which take a while.
    training = model_card.read_training(run_dir)
    if values.card and not len(training.returns):
        raise UserError(f"{run_dir} has no finished episode to describe in a card.")
    saved_model.check_replaceable(model)
    path, write_model = _source(run_dir, values, training)

    def write(target: Path) -> None:
        write_model(target)
        if not values.card:
            return
        policy = load_policy(target)
        scores = {
            actions: play(
                policy,
                greedy=actions == "greedy",
                games=values.games,
                num_envs=values.num_envs,
                seed=values.seed,
                max_steps=values.max_steps,
            ).to_dict()
            for actions in ("greedy", "sampled")
        }
        model_card.write_card(target, model, policy, training, scores, values.seed)

    saved_model.replace_export(model, write)
    tell(f"{path} is exported to {model}")
    return 0


def _source(
    run_dir: Path, values: FlagValues, training: "Training"
) -> tuple[Path, Callable[[Path], None]]:
    """Finds where the policy comes from, and what writes it as a SavedModel."""
    from acktr_tf.runs import checkpoints, saved_model
    from acktr_tf.runs import directory as run_directory
    from acktr_tf.runs.loaded_policy import find_best, is_export, load_policy

    final = run_dir / run_directory.EXPORT
    path = Path(values.checkpoint).expanduser() if values.checkpoint else None
    without_checkpoint = (
        path is None and checkpoints.latest(run_dir / run_directory.CHECKPOINTS) is None
    )
    if values.best or (without_checkpoint and is_export(final)):
        source = find_best(run_dir) if values.best else final
        load_policy(source)
        return source, lambda target: saved_model.copy_export(source, target)
    restored = run_directory.restored_policy(run_dir, path)
    extra = {"step": restored.step, "command": training.command}
    return restored.path, lambda target: saved_model.write_policy(
        restored.policy,
        restored.config,
        target,
        extra,
    )


if __name__ == "__main__":
    sys.exit(main())
