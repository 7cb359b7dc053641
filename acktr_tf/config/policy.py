"""Settings of the policy: its network, inputs and actions."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import ON_PONG, PAPER, RELEASED

NETWORKS = (
    "auto",
    "nature_cnn",
    "mlp",
    "separate_cnns",
    "grid_cnn",
    "multi_input",
)
CONV_INITIALIZERS = ("zero_mean_orthogonal", "orthogonal")
ACTIVATIONS = ("tanh", "elu", "relu")
ACTION_BOUNDS = ("clip", "squash")


@dataclasses.dataclass(frozen=True)
class PolicySettings(Settings):
    """Network, inputs and actions of a policy."""

    heading = "Policy"

    network: str = setting(
        "auto",
        "Network: nature_cnn (conv trunk shared by policy and value, for Atari and "
        "large pictures), mlp (two separate networks), separate_cnns (two for small "
        "pictures in colour), grid_cnn (two for grids of cells), multi_input (one for "
        "pictures and grids beside numbers), or auto (by the observations; see "
        "docs/environments.md).",
        choices=NETWORKS,
    )
    conv3_filters: int = setting(
        32,
        "Filters of the third convolution of nature_cnn, and of multi_input's for "
        "pictures.",
        low=1,
        source=f"{RELEASED}: 32 for ACKTR, 64 for A2C",
    )
    conv_initializer: str = setting(
        "zero_mean_orthogonal",
        "Initial filters of nature_cnn and multi_input: orthogonal, or orthogonal and "
        "each with a sum of zero, so that no unit is on or off for the background "
        "alone.",
        choices=CONV_INITIALIZERS,
        source=ON_PONG,
    )
    hidden_size: int = setting(
        64,
        "Units of each of the two hidden layers of mlp.",
        low=1,
        source=f"{PAPER}, MuJoCo: 2x64",
    )
    policy_activation: str = setting(
        "tanh",
        "Activation of the hidden layers of mlp, separate_cnns and grid_cnn, for the "
        "policy.",
        choices=ACTIVATIONS,
        source=f"{PAPER}, MuJoCo: tanh",
    )
    value_activation: str = setting(
        "tanh",
        "Activation of the hidden layers of mlp, separate_cnns and grid_cnn, for the "
        "value.",
        choices=ACTIVATIONS,
        source=f"{PAPER}, MuJoCo: elu",
    )
    initial_log_std: float = setting(
        0.0,
        "Logarithm of the standard deviation of a Box's actions at the start, in units "
        "of half the distance of their bounds.",
        unit="nats",
        source=f"{RELEASED}: 0",
    )
    action_bounds: str = setting(
        "clip",
        "How actions of a Box are kept in its bounds: by clipping (clip) or by a tanh "
        "(squash).",
        choices=ACTION_BOUNDS,
        source=f"{RELEASED}: clip",
    )
    normalize_observations: bool = setting(
        False,
        "Give the networks observations less their running mean, divided by their "
        "running standard deviation. Pictures are left as they are.",
        source="Schulman et al. 2015; off for Atari",
    )
    observation_clip: float = setting(
        10.0,
        "With normalize_observations: what is further from the mean is cut off there.",
        unit="standard deviations",
        low=0.0,
        exclusive_low=True,
        source=f"{RELEASED}: 5 or 10",
    )
