"""All settings of a run, composed of the groups of its components."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.config.algorithms import ALGORITHMS, find_algorithm
from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.config.policy import PolicySettings
from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.config.run import RunSettings
from acktr_tf.config.setting import Entry, Settings, did_you_mean
from acktr_tf.errors import UserError

_SHARED = (EnvironmentSettings, PolicySettings, ReturnsSettings, RunSettings)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run. See `docs/settings.md` for the table.

    Most callers make it by `configure`, from settings by name.

    Attributes:
      environment: Environments.
      policy: Network, inputs and actions.
      returns: Advantages and value targets.
      algorithm: Settings of the algorithm that `run.algorithm` names.
      run: Length, seed, files and reports.
    """

    environment: EnvironmentSettings = EnvironmentSettings()
    policy: PolicySettings = PolicySettings()
    returns: ReturnsSettings = ReturnsSettings()
    algorithm: Settings = ACKTRSettings()
    run: RunSettings = RunSettings()

    @property
    def batch_size(self) -> int:
        """Samples in a rollout, `num_envs * unroll_length`."""
        return self.environment.num_envs * self.run.unroll_length

    @property
    def total_updates(self) -> int:
        """Updates of the whole run: `total_steps` rounded up to whole rollouts."""
        return -(-self.run.total_steps // self.batch_size)

    def entries(self) -> dict[str, Entry]:
        """Lists all settings by path, with their values as `default`."""
        groups = (getattr(self, field.name) for field in dataclasses.fields(self))
        return {entry.path: entry for group in groups for entry in group.entries()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings by path, in the order of their definition."""
        return {path: entry.default for path, entry in self.entries().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes a config from settings by path; those left out take their defaults.

        A default may depend on the algorithm: see `Settings.defaults`.

        Args:
          values: Path → value, as `to_dict` returns them.

        Raises:
          UserError: A name is unknown or belongs to another algorithm, a type is wrong
            or a value is out of range.
        """
        name = values.get("algorithm", RunSettings().algorithm)
        # A wrong type is reported with the words of the setting.
        RunSettings.from_paths({"algorithm": name})
        known = entries(name)
        for path in values:
            if path not in known:
                raise UserError(
                    unknown_setting(path, name, list(known))
                    + " The settings are listed in docs/settings.md."
                )
        settings = find_algorithm(name).settings
        given = {**settings.defaults, **values}
        return cls(
            EnvironmentSettings.from_paths(given),
            PolicySettings.from_paths(given),
            ReturnsSettings.from_paths(given),
            settings.from_paths(given),
            RunSettings.from_paths(given),
        )

    def replace(self, **values: Any) -> Self:
        """Returns a copy with other values of some settings, given by path."""
        return self.from_dict({**self.to_dict(), **values})


def configure(**values: Any) -> Config:
    """Makes the settings of a run from settings by name; see `Config.from_dict`.

    Args:
      **values: Path → value; one with a dot is given as `**{"critic.damping": 0.1}`.
    """
    return Config.from_dict(values)


def entries(algorithm: str) -> dict[str, Entry]:
    """Lists all settings of a run of one algorithm by path, with their defaults.

    Args:
      algorithm: Name of the algorithm, see `find_algorithm`.

    Raises:
      UserError: The algorithm is unknown.
    """
    settings = find_algorithm(algorithm).settings
    shared = [cls.from_paths(settings.defaults) for cls in _SHARED]
    *before, run = shared
    groups = [*before, settings(), run]
    found = {entry.path: entry for group in groups for entry in group.entries()}
    for path in settings.defaults:
        about = found[path].setting
        source = dataclasses.replace(about, source=settings.defaults_source)
        found[path] = found[path]._replace(setting=source)
    return found


def unknown_setting(path: str, algorithm: str, known: list[str], dash: str = "") -> str:
    """Returns what is wrong with a setting that a run of `algorithm` does not have.

    For a setting of another algorithm, the text says what to do.

    Args:
      path: Name of the setting.
      algorithm: Name of the run's algorithm.
      known: Names of the settings that there are.
      dash: Prefix of names in the message, such as `--`.
    """
    owners = [
        name
        for name, other in ALGORITHMS.items()
        if name != algorithm
        and path in {entry.path for entry in other.settings().entries()}
    ]
    if owners:
        return (
            f"`{dash}{path}` belongs to {' and '.join(owners)}; the run's algorithm is "
            f"{algorithm}. Leave it out, or choose {dash}algorithm={owners[0]}."
        )
    names = [f"{dash}{name}" for name in known]
    noun = "flag" if dash else "setting"
    return f"Unknown {noun} `{dash}{path}`.{did_you_mean(f'{dash}{path}', names)}"


def differences(started: Config, requested: Config) -> list[str]:
    """Lists the settings in which a continued run differs from its start but may not.

    Args:
      started: Settings that the run was started with.
      requested: Settings that it is to be continued with.

    A run may be made longer, unless something else depends on its length; see
    `Settings.depends_on_total_steps`.

    Returns:
      One text `name: started with X, now Y` per setting, empty if there is none. That
      of a larger `total_steps` says what depends on it.
    """
    before, after = started.to_dict(), requested.to_dict()
    known = {**started.entries(), **requested.entries()}
    if started.run.algorithm != requested.run.algorithm:
        known = {"algorithm": known["algorithm"]}
    found = {
        path: f"{path}: started with {before.get(path)!r}, now {after.get(path)!r}"
        for path, entry in known.items()
        if not entry.setting.resumable and before.get(path) != after.get(path)
    }
    if "total_steps" in found and after["total_steps"] > before["total_steps"]:
        if dependent := started.algorithm.depends_on_total_steps():
            values = ", ".join(f"{path}={before.get(path)}" for path in dependent)
            found["total_steps"] += f", and in use by {values}"
        else:
            del found["total_steps"]
    return list(found.values())
