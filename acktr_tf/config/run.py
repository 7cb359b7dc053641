"""Settings of the run as a whole."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import PAPER, RELEASED


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """Length, seed, files and reports of a run."""

    heading = "Run"

    algorithm: str = setting(
        "acktr",
        "Learning algorithm: acktr, a2c, or one of your own by the name of its class, "
        "my_module:MyAlgorithm.",
        source=PAPER,
    )
    total_steps: int = setting(
        10_000_000,
        "Length of the run, rounded up to whole updates. A run without linear "
        "schedules may be continued with a larger one.",
        unit="agent steps",
        low=1,
        source=f"{PAPER}: 10M for the plots",
    )
    unroll_length: int = setting(
        20,
        "Steps of each environment between two updates; the batch is "
        "num_envs x unroll_length.",
        unit="agent steps",
        low=1,
        source=f"{RELEASED}: 20",
    )
    run_dir: str | None = setting(
        None,
        "Where the run is kept, and continued if it is there; auto makes "
        "runs/<environment>-<algorithm>-<seed>-<time>.",
        none="auto",
        resumable=True,
    )
    seed: int = setting(
        0,
        "Seed of everything random.",
        low=0,
        high=2**31 - 1,
    )
    deterministic: bool = setting(
        False,
        "Use only TensorFlow kernels that give the same bits every time (slower).",
    )
    checkpoint_seconds: float = setting(
        120.0,
        "Time between two checkpoints.",
        unit="seconds",
        low=0.0,
        resumable=True,
    )
    checkpoints_kept: int = setting(
        2,
        "Checkpoints kept.",
        low=1,
        resumable=True,
    )
    log_period: int = setting(
        10,
        "Updates between two rows of progress.csv and of TensorBoard's scalars.",
        unit="updates",
        low=1,
    )
    evaluation_period: int | None = setting(
        None,
        "Steps between two evaluations, the best of which is exported to export/best; "
        "none for none.",
        unit="agent steps",
        low=1,
        none="none",
    )
    evaluation_games: int = setting(
        10,
        "Games of each evaluation.",
        unit="games",
        low=1,
    )
    progress_bar: bool = setting(
        True,
        "Show a progress bar.",
        resumable=True,
    )
