"""Every setting of a run: one frozen dataclass, and nothing that imports TensorFlow.

Each field carries its help text, unit, accepted range and the source of its default;
the launcher makes its flags, `--help`, and `docs/settings.md` from them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, cast

from acktr_tf.config.setting import Setting, checked, closest
from acktr_tf.errors import UserError

ALGORITHMS = ("acktr", "a2c")
NETWORKS = ("auto", "nature_cnn", "mlp", "separate_cnns")
SCHEDULES = ("linear", "constant")
TRUST_REGIONS = ("gradient", "applied")
CONV_POSITIONS = ("uncorrelated", "correlated")
CONV_INITIALIZERS = ("zero_mean_orthogonal", "orthogonal")
VECTORIZATIONS = ("sync", "async")
ACTION_BOUNDS = ("clip", "squash")
ACTIVATIONS = ("tanh", "elu", "relu")
CRITICS = ("joint", "separate")
CRITIC_NORMS = ("gauss_newton", "adaptive_gauss_newton", "euclidean")
KL_ADAPTATIONS = ("radius", "learning_rate")

PAPER = "Wu et al. 2017"
RELEASED = "released code of Wu et al. 2017"


def _setting(default: Any, group: str, help: str, **details: Any) -> Any:
    if "choices" in details:
        details["choices"] = tuple(details["choices"])
    return dataclasses.field(
        default=default, metadata={"setting": Setting(group, help, **details)}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run. See `docs/settings.md` for the table.

    Raises:
      UserError: On construction, if a value has the wrong type or is out of range; the
        message names the setting, what was received and what is accepted.
    """

    # Environment ----------------------------------------------------------------
    env: str = _setting(
        "pong",
        "environment",
        "Environment: an Atari game by its Gymnasium name (ALE/Pong-v5, "
        "PongNoFrameskip-v4) or plain name (pong), or any Gymnasium id (CartPole-v1), "
        "your own with its module (my.module:Name-v0).",
    )
    num_envs: int = _setting(
        32,
        "environment",
        "Environments stepped together.",
        low=1,
        source=f"{RELEASED}: 32",
    )
    repeat_action_probability: float = _setting(
        -1.0,
        "environment",
        "Atari only: probability that the emulator repeats the last action instead "
        "(sticky actions); -1 takes what the game's name stands for: 0.25 for "
        "ALE/*-v5 and *-v0, 0 for *-v4 and plain names.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        also=-1.0,
        source="Gymnasium's registry",
    )
    clip_rewards: bool = _setting(
        True,
        "environment",
        "Atari only: learn from rewards clipped to [-1, 1]. Scores stay raw.",
        source="Mnih et al. 2015",
    )
    life_loss_terminates: bool = _setting(
        True,
        "environment",
        "Atari only: a lost life ends the episode for learning. Scores stay those of "
        "whole games.",
        source="Mnih et al. 2015",
    )
    env_threads: int = _setting(
        0,
        "environment",
        "Atari only: emulator threads; 0 takes one a core.",
        low=0,
        resumable=True,
    )
    vectorization: str = _setting(
        "sync",
        "environment",
        "Not for Atari: environments in one process (sync), or each in one of its own "
        "(async), which pays for slow simulators. With pixels always async.",
        choices=VECTORIZATIONS,
        resumable=True,
    )
    pixels: int = _setting(
        0,
        "environment",
        "Not for Atari: observe pictures of the environment instead, of this height "
        "and width; 0 takes its own observations.",
        unit="pixels",
        low=0,
        source=f"{PAPER}, MuJoCo from pixels: 42",
    )
    frame_stack: int = _setting(
        1,
        "environment",
        "Not for Atari, which has 4: how many observations in a row, up to the current "
        "one, the networks are given.",
        low=1,
        source=f"{PAPER}, MuJoCo: 2",
    )
    stagger_episodes: bool = _setting(
        False,
        "environment",
        "Not for Atari: cut the first episode of each environment off at another part "
        "of its time limit, so that each batch has all times of an episode in it. No "
        "effect without a time limit.",
        source="own choice: off; see docs/mujoco.md",
    )
    normalize_observations: bool = _setting(
        False,
        "environment",
        "Give the networks observations less their running mean, divided by their "
        "running standard deviation; not for images.",
        source="Schulman et al. 2015; off for Atari",
    )
    observation_clip: float = _setting(
        10.0,
        "environment",
        "With normalize_observations: what is further from the mean is cut off there.",
        unit="standard deviations",
        low=0.0,
        exclusive_low=True,
        source=f"{RELEASED}: 5 or 10",
    )
    normalize_rewards: bool = _setting(
        False,
        "environment",
        "Learn from rewards divided by the running standard deviation of the "
        "discounted return. Scores stay raw.",
        source="Engstrom et al. 2020; off for Atari",
    )
    action_bounds: str = _setting(
        "clip",
        "environment",
        "How actions of a Box are kept in its bounds: by clipping (clip) or by a tanh "
        "(squash).",
        choices=ACTION_BOUNDS,
        source=f"{RELEASED}: clip",
    )
    # Agent ----------------------------------------------------------------------
    algorithm: str = _setting(
        "acktr", "agent", "Learning algorithm.", choices=ALGORITHMS, source=PAPER
    )
    network: str = _setting(
        "auto",
        "agent",
        "Network: nature_cnn (conv trunk shared by policy and value, for Atari), mlp "
        "(two separate networks), separate_cnns (two for pictures in colour), or auto "
        "(by the shape of the observations).",
        choices=NETWORKS,
    )
    conv3_filters: int = _setting(
        32,
        "agent",
        "Filters of the third convolution of nature_cnn.",
        low=1,
        source=f"{RELEASED}: 32 for ACKTR, 64 for A2C",
    )
    conv_initializer: str = _setting(
        "zero_mean_orthogonal",
        "agent",
        "Initial filters of nature_cnn: orthogonal, or orthogonal and each with a sum "
        "of zero, so that no unit is on or off for the background alone.",
        choices=CONV_INITIALIZERS,
        source="found on Pong; see docs/atari.md",
    )
    hidden_size: int = _setting(
        64,
        "agent",
        "Units of each of the two hidden layers of mlp.",
        low=1,
        source=f"{PAPER}, MuJoCo: 2x64",
    )
    policy_activation: str = _setting(
        "tanh",
        "agent",
        "Activation of the hidden layers of mlp and separate_cnns, for the policy.",
        choices=ACTIVATIONS,
        source=f"{PAPER}, MuJoCo: tanh",
    )
    value_activation: str = _setting(
        "tanh",
        "agent",
        "Activation of the hidden layers of mlp and separate_cnns, for the value.",
        choices=ACTIVATIONS,
        source=f"{PAPER}, MuJoCo: elu",
    )
    initial_log_std: float = _setting(
        0.0,
        "agent",
        "Logarithm of the standard deviation of a Box's actions at the start, in units "
        "of half the distance of their bounds.",
        unit="nats",
        source=f"{RELEASED}: 0",
    )
    # Learning -------------------------------------------------------------------
    total_steps: int = _setting(
        10_000_000,
        "learning",
        "Length of the run, rounded up to whole updates.",
        unit="agent steps",
        low=1,
        source=f"{PAPER}: 10M for the plots",
    )
    unroll_length: int = _setting(
        20,
        "learning",
        "Steps of each environment between two updates; the batch is "
        "num_envs x unroll_length.",
        unit="agent steps",
        low=1,
        source=f"{RELEASED}: 20",
    )
    discount: float = _setting(
        0.99,
        "learning",
        "Discount of future rewards.",
        low=0.0,
        high=1.0,
        source=f"{PAPER}: 0.99",
    )
    gae_lambda: float = _setting(
        0.95,
        "learning",
        "Decay of the generalized advantage estimate; 1 gives k-step returns.",
        low=0.0,
        high=1.0,
        source="found on Pong; see docs/atari.md",
    )
    value_lambda: float = _setting(
        -1.0,
        "learning",
        "As gae_lambda, for the returns that the value learns: 1 takes those that are "
        "bootstrapped at the end of a batch only; -1 takes gae_lambda.",
        low=0.0,
        high=1.0,
        also=-1.0,
        source=f"{RELEASED}, MuJoCo: 1",
    )
    entropy_cost: float = _setting(
        0.01,
        "learning",
        "Weight of the policy's entropy in the loss.",
        low=0.0,
        source=f"{RELEASED}: 0.01",
    )
    entropy_cost_schedule: str = _setting(
        "constant",
        "learning",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source=f"{RELEASED}: constant",
    )
    value_cost: float = _setting(
        0.25,
        "learning",
        "Weight of the value loss, one half of the squared error, in the loss.",
        low=0.0,
        source="found on Pong; see docs/atari.md",
    )
    learning_rate: float = _setting(
        0.5,
        "learning",
        "Step size at the start; with ACKTR the most that the trust region allows.",
        low=0.0,
        exclusive_low=True,
        source="found on Pong; see docs/atari.md",
    )
    learning_rate_schedule: str = _setting(
        "linear",
        "learning",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source=f"{RELEASED}: linear",
    )
    # K-FAC ----------------------------------------------------------------------
    kl_radius: float = _setting(
        0.001,
        "acktr",
        "Trust region: largest predicted KL of a step, one half of its squared "
        "Fisher norm.",
        unit="nats",
        low=0.0,
        exclusive_low=True,
        source="found on Pong; see docs/atari.md",
    )
    kl_target: float = _setting(
        0.0004,
        "acktr",
        "Exact KL of the policy that a step should have, at the start: the radius is "
        "adapted until it does, starting from kl_radius. 0 keeps the radius.",
        unit="nats",
        low=0.0,
        source="found on Pong; see docs/atari.md",
    )
    kl_target_schedule: str = _setting(
        "linear",
        "acktr",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source="found on Pong; see docs/atari.md",
    )
    kl_limit: float = _setting(
        0.0,
        "acktr",
        "Exact KL of the policy that no step may exceed: one that does is shortened; "
        "0 for none.",
        unit="nats",
        low=0.0,
        source="Schulman et al. 2015: a line search on the exact KL",
    )
    trust_region: str = _setting(
        "gradient",
        "acktr",
        "What the radius bounds: the natural gradient before momentum (gradient), or "
        "the step applied to the weights (applied).",
        choices=TRUST_REGIONS,
        source=f"{PAPER}: gradient",
    )
    momentum: float = _setting(
        0.9,
        "acktr",
        "Decay of the running mean of steps that is applied to the weights.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source=f"{RELEASED}: 0.9",
    )
    damping: float = _setting(
        0.0005,
        "acktr",
        "Tikhonov damping of the Fisher matrix, split between the two factors of a "
        "layer.",
        low=0.0,
        exclusive_low=True,
        source="found on Pong; see docs/atari.md",
    )
    factor_decay: float = _setting(
        0.97,
        "acktr",
        "Decay of the running means of the Kronecker factors.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source="found on Pong; see docs/atari.md",
    )
    factor_update_period: int = _setting(
        1,
        "acktr",
        "Updates between two updates of the factors; in the first period they are "
        "updated at every one.",
        unit="updates",
        low=1,
        source=f"{RELEASED}: 1",
    )
    inverse_update_period: int = _setting(
        10,
        "acktr",
        "Updates between two inversions of the factors.",
        unit="updates",
        low=1,
        source="found on Pong; see docs/atari.md",
    )
    curvature_fraction: float = _setting(
        0.125,
        "acktr",
        "Share of each batch, drawn at random, that the factors are estimated from.",
        low=0.0,
        high=1.0,
        exclusive_low=True,
        source="found on Pong; see docs/atari.md",
    )
    conv_positions: str = _setting(
        "uncorrelated",
        "acktr",
        "What is assumed of the gradients at the positions of a convolution: "
        "uncorrelated, as in KFC, or correlated, an upper bound.",
        choices=CONV_POSITIONS,
        source=f"{PAPER}: KFC",
    )
    patch_period: int = _setting(
        1,
        "acktr",
        "Of the positions of a convolution, one in so many along each axis has its "
        "patch in the factor of the inputs; another one in each update of the factors.",
        low=1,
        source=f"{RELEASED}: 1",
    )
    kl_adaptation: str = _setting(
        "radius",
        "acktr",
        "What is adapted until steps have the kl_target: the radius, or the learning "
        "rate.",
        choices=KL_ADAPTATIONS,
        source=f"{RELEASED}, MuJoCo: learning_rate",
    )
    # Critic ---------------------------------------------------------------------
    critic: str = _setting(
        "joint",
        "acktr",
        "Whether the value is learnt in one step with the policy, by the "
        "Fisher matrix of both (joint), or by an optimizer of its own (separate), "
        "which needs the network mlp.",
        choices=CRITICS,
        source=f"{PAPER}: joint on Atari, separate on MuJoCo",
    )
    critic_norm: str = _setting(
        "gauss_newton",
        "critic",
        "Metric of the separate critic's steps: Gauss-Newton with a variance of 1, "
        "with that of the Bellman error (adaptive_gauss_newton), or none (euclidean, "
        "which is RMSprop).",
        choices=CRITIC_NORMS,
        source=f"{PAPER}: gauss_newton",
    )
    critic_updates: int = _setting(
        5,
        "critic",
        "Steps of the separate critic on each batch.",
        unit="updates",
        low=1,
    )
    critic_learning_rate: float = _setting(
        0.5,
        "critic",
        "As learning_rate, for the separate critic.",
        low=0.0,
        exclusive_low=True,
    )
    critic_kl_radius: float = _setting(
        0.01,
        "critic",
        "As kl_radius, for the separate critic: half of the mean squared change of "
        "the value, in units of the variance of critic_norm.",
        unit="nats",
        low=0.0,
        exclusive_low=True,
    )
    critic_momentum: float = _setting(
        0.0,
        "critic",
        "As momentum, for the separate critic.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
    )
    critic_damping: float = _setting(
        0.01,
        "critic",
        "As damping, for the separate critic.",
        low=0.0,
        exclusive_low=True,
    )
    critic_factor_decay: float = _setting(
        0.95,
        "critic",
        "As factor_decay, for the separate critic.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source=f"{RELEASED}, MuJoCo: 0.95",
    )
    # A2C ------------------------------------------------------------------------
    max_gradient_norm: float = _setting(
        0.5,
        "a2c",
        "Global norm that gradients are clipped to.",
        low=0.0,
        exclusive_low=True,
        source="openai/baselines a2c: 0.5",
    )
    rmsprop_decay: float = _setting(
        0.99,
        "a2c",
        "Decay of RMSprop's running mean of squared gradients.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source="openai/baselines a2c: 0.99",
    )
    rmsprop_epsilon: float = _setting(
        1e-5,
        "a2c",
        "Added to RMSprop's mean of squared gradients before the root is taken.",
        low=0.0,
        exclusive_low=True,
        source="openai/baselines a2c: 1e-5",
    )
    # Run ------------------------------------------------------------------------
    run_dir: str = _setting(
        "",
        "run",
        "Where the run is kept, and continued if it is there; empty makes "
        "runs/<environment>-<algorithm>-<seed>-<time>.",
        resumable=True,
    )
    seed: int = _setting(
        0,
        "run",
        "Seed of everything random.",
        low=0,
        high=2**31 - 1,
    )
    deterministic: bool = _setting(
        False,
        "run",
        "Use only TensorFlow kernels that give the same bits every time (slower).",
    )
    checkpoint_seconds: float = _setting(
        120.0,
        "run",
        "Time between two checkpoints.",
        unit="seconds",
        low=0.0,
        resumable=True,
    )
    checkpoints_kept: int = _setting(
        2,
        "run",
        "Checkpoints kept.",
        low=1,
        resumable=True,
    )
    log_period: int = _setting(
        10,
        "run",
        "Updates between two rows of progress.csv and of TensorBoard's scalars.",
        unit="updates",
        low=1,
    )
    evaluation_period: int = _setting(
        0,
        "run",
        "Steps between two evaluations, the best of which is exported to export/best; "
        "0 for none.",
        unit="agent steps",
        low=0,
    )
    evaluation_games: int = _setting(
        10,
        "run",
        "Games of each evaluation.",
        unit="games",
        low=1,
    )
    progress_bar: bool = _setting(
        True,
        "run",
        "Show a progress bar.",
        resumable=True,
    )

    def __post_init__(self) -> None:
        for name, (setting, kind, _) in settings().items():
            value = checked(name, getattr(self, name), setting, kind)
            # The one door of a frozen dataclass; an int given for a float is a float.
            object.__setattr__(self, name, value)

    @property
    def batch_size(self) -> int:
        """Samples an update learns from, `num_envs * unroll_length`."""
        return self.num_envs * self.unroll_length

    @property
    def value_target_lambda(self) -> float:
        """λ of the returns that the value learns."""
        return self.gae_lambda if self.value_lambda < 0 else self.value_lambda

    @property
    def total_updates(self) -> int:
        """Updates of the whole run: `total_steps` rounded up to whole batches."""
        return -(-self.total_steps // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, in the order of their definition."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a dictionary as `to_dict` makes it.

        Raises:
          UserError: A name is unknown, a type is wrong or a value is out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise UserError(
                    f"Unknown setting `{name}`.{closest(name, names)} "
                    "The settings are listed in docs/settings.md."
                )
        return cls(**values)


def settings() -> dict[str, tuple[Setting, type, Any]]:
    """Name → (description, type, default) of every setting, in order of definition."""
    return {
        field.name: (
            cast(Setting, field.metadata["setting"]),
            type(field.default),
            field.default,
        )
        for field in dataclasses.fields(Config)
    }


def differences(started: Config, requested: Config) -> list[str]:
    """Settings in which a continued run may not differ from its start, but does.

    Args:
      started: The settings that the run was started with.
      requested: The settings that it is to be continued with.

    Returns:
      One text `name: started with X, now Y` a setting, empty if there is none.
    """
    return [
        f"{name}: started with {getattr(started, name)!r}, "
        f"now {getattr(requested, name)!r}"
        for name, (setting, _, _) in settings().items()
        if not setting.resumable and getattr(started, name) != getattr(requested, name)
    ]
