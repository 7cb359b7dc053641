"""Every scalar by name and unit, and where it goes: CSV, TensorBoard, progress bar."""

import contextlib
import csv
import io
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from acktr_tf.config.config import Config, settings
from acktr_tf.errors import RunError, UserError
from acktr_tf.types import Episode


class Scalar(NamedTuple):
    """What is known of one scalar beside its name.

    Attributes:
      unit: Unit of the value, empty if it has none.
      help: What it is, in a sentence.
      tag: Its tag in TensorBoard, `group/name`.
    """

    unit: str
    help: str
    tag: str


SCALARS: Mapping[str, Scalar] = MappingProxyType(
    {
        "episode_return": Scalar(
            "score",
            "Mean raw return of the last 100 episodes; nan before the first.",
            "episode/return",
        ),
        "episode_length": Scalar(
            "agent steps",
            "Mean length of the last 100 episodes; nan before the first.",
            "episode/length",
        ),
        "episodes": Scalar("episodes", "Episodes finished so far.", "episode/count"),
        "policy_loss": Scalar(
            "nats", "Policy gradient loss, the mean over the batch.", "loss/policy"
        ),
        "value_loss": Scalar(
            "return²",
            "One half of the squared error of the value, the mean over the batch.",
            "loss/value",
        ),
        "entropy": Scalar(
            "nats", "Entropy of the policy, the mean over the batch.", "loss/entropy"
        ),
        "explained_variance": Scalar(
            "",
            "Share of the variance of the returns that the value explains: 1 is "
            "perfect, 0 no better than their mean.",
            "loss/explained_variance",
        ),
        "gradient_norm": Scalar(
            "", "Global norm of the gradient of the loss.", "optimizer/gradient_norm"
        ),
        "learning_rate": Scalar(
            "", "Step size that the schedule asks for.", "optimizer/learning_rate"
        ),
        "entropy_cost": Scalar(
            "", "Weight of the entropy that the schedule asks for.", "loss/entropy_cost"
        ),
        "predicted_kl": Scalar(
            "nats",
            "KL divergence that the Fisher matrix predicts for the step applied, "
            "½ΔᵀFΔ.",
            "kl/predicted",
        ),
        "exact_kl": Scalar(
            "nats",
            "KL divergence from the policy before the step to the one after it, the "
            "mean over the batch.",
            "kl/exact",
        ),
        "exact_kl_joint": Scalar(
            "nats",
            "`exact_kl` and the divergence of the value together: what `predicted_kl` "
            "predicts with critic=joint. With critic=separate that is `exact_kl`.",
            "kl/exact_joint",
        ),
        "trust_region_scale": Scalar(
            "",
            "Factor by which the trust region shortened the step; 1 left it alone.",
            "optimizer/trust_region_scale",
        ),
        "kl_radius": Scalar(
            "nats", "Largest predicted KL of a step, as set.", "kl/radius"
        ),
        "kl_target": Scalar(
            "nats", "Exact KL of the policy that the schedule asks for.", "kl/target"
        ),
        "critic_predicted_kl": Scalar(
            "nats",
            "As `predicted_kl`, of the separate critic's last step.",
            "critic/predicted_kl",
        ),
        "critic_trust_region_scale": Scalar(
            "",
            "As `trust_region_scale`, of the separate critic's last step.",
            "critic/trust_region_scale",
        ),
        "reward_scale": Scalar(
            "score", "What rewards were divided by to learn from.", "episode/scale"
        ),
        "damping": Scalar(
            "", "Damping of the Fisher matrix in use.", "optimizer/damping"
        ),
        "failed_factorizations": Scalar(
            "",
            "Factorizations that failed so far and were repeated with more damping.",
            "optimizer/failed_factorizations",
        ),
        "steps_per_second": Scalar(
            "agent steps/s",
            "Agent steps a second since the row before.",
            "time/steps_per_second",
        ),
        "share_acting": Scalar(
            "", "Share of the time spent choosing actions.", "time/share_acting"
        ),
        "share_environments": Scalar(
            "",
            "Share of the time spent stepping the environments.",
            "time/share_environments",
        ),
        "share_gradients": Scalar(
            "", "Share of the time spent on gradients.", "time/share_gradients"
        ),
        "share_curvature": Scalar(
            "",
            "Share of the time spent on the factors of the Fisher matrix.",
            "time/share_curvature",
        ),
        "share_critic": Scalar(
            "", "Share of the time spent on the separate critic.", "time/share_critic"
        ),
        "share_inverses": Scalar(
            "", "Share of the time spent inverting the factors.", "time/share_inverses"
        ),
        "share_other": Scalar(
            "", "Share of the time spent on anything else.", "time/share_other"
        ),
        "updates": Scalar("updates", "Learner updates so far.", "run/updates"),
        "seconds": Scalar(
            "s", "Wall time of the run, all its continuations together.", "run/seconds"
        ),
        "memory": Scalar("MiB", "Resident memory of the process.", "run/memory"),
        "evaluation_return": Scalar(
            "score",
            "Mean raw return of the evaluation after this update, if there was one.",
            "evaluation/return",
        ),
    }
)
"""Every scalar of a run by name, in the order of the columns of `progress.csv`."""

EPISODES_FILE = "episodes.csv"
PROGRESS_FILE = "progress.csv"
TENSORBOARD_DIRECTORY = "tensorboard"

_HEADERS = {
    EPISODES_FILE: ("step", "episode_return", "episode_length", "seconds"),
    PROGRESS_FILE: ("step", *SCALARS),
}
_HPARAMS_METRICS = ("episode_return", "episode_length", "exact_kl", "steps_per_second")


class RunLog:
    """Writes `episodes.csv`, `progress.csv` and `tensorboard/` of a run directory.

    A line of a CSV file is handed to the operating system in one write, so that a
    killed process leaves whole lines. Whatever a killed run wrote after its last
    checkpoint is cut off when it is continued: the CSV files by their length, the
    TensorBoard events by a session mark that TensorBoard itself obeys.

    Args:
      run_dir: The run directory. Made if it does not exist.
      config: The settings, for TensorBoard's HParams tab.
      position: What `position()` returned for the checkpoint that the run continues
        from, or None for a new run.

    Raises:
      UserError: Of a new run: there is a log already. Of a continued run: a CSV file is
        missing, shorter than at the checkpoint, or not the file that was written then.
        Nothing has been changed then.
      RunError: A file cannot be written.
    """

    def __init__(
        self, run_dir: Path, config: Config, position: Mapping[str, int] | None
    ) -> None:
        paths = {name: run_dir / name for name in _HEADERS}
        directory = run_dir / TENSORBOARD_DIRECTORY
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, path in paths.items():
                if position is None:
                    _check_unused(path, _line(_HEADERS[name]))
                else:
                    _check_continues(path, _line(_HEADERS[name]), position[name])
        except OSError as error:
            raise UserError(
                f"Cannot keep the logs in {run_dir}: {_reason(error)}. Give a "
                "`--run_dir` that is a directory and can be written."
            ) from error
        self._step = position["step"] if position else 0
        self._csv = {
            name: _AppendOnlyFile(path, position[name] if position else 0)
            for name, path in paths.items()
        }
        if position is None:
            for name, file in self._csv.items():
                file.write(_line(_HEADERS[name]))
        self._events_file = _AppendOnlyFile(_next_event_file(directory), 0)
        self._events = RecordWriter(self._events_file)
        self._start_session(config, self._step + 1 if position else 0)

    def episode(self, step: int, episode: Episode, seconds: float) -> None:
        """Appends a line to `episodes.csv`.

        Args:
          step: Agent steps of the run when the episode ended.
          episode: The episode, with its raw return.
          seconds: Wall time of the run then, all its continuations together.

        Raises:
          RunError: The file cannot be written.
        """
        self._step = max(self._step, step)
        self._csv[EPISODES_FILE].write(
            _line(
                (
                    step,
                    _number(episode.episode_return),
                    episode.episode_length,
                    f"{seconds:.3f}",
                )
            )
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line to `progress.csv` and the same values to TensorBoard.

        Args:
          step: Agent steps of the run so far.
          values: Scalars by their names in `SCALARS`. Those that are left out stay
            empty in the line and are absent from TensorBoard.

        Raises:
          ValueError: A name is not in `SCALARS`.
          RunError: A file cannot be written.
        """
        unknown = [name for name in values if name not in SCALARS]
        if unknown:
            raise ValueError(
                f"Every scalar must be in SCALARS. Received: {', '.join(unknown)}"
            )
        self._step = max(self._step, step)
        self._csv[PROGRESS_FILE].write(
            _line(
                (
                    step,
                    *(_number(values[n]) if n in values else "" for n in SCALARS),
                )
            )
        )
        summary = summary_pb2.Summary()
        for name, value in values.items():
            # As a plain value, not a tensor: all readers know it, and purge it.
            metadata = scalar_metadata.create_summary_metadata(
                display_name=None, description=_description(name)
            )
            summary.value.add(
                tag=SCALARS[name].tag, simple_value=float(value), metadata=metadata
            )
        self._write_event(step=step, summary=summary)

    def position(self) -> dict[str, int]:
        """Where the log stands, for the checkpoint, once all of it is on the disk.

        Returns:
          `step`, the last step logged, and the length in bytes of each CSV file.

        Raises:
          RunError: A file cannot be written.
        """
        self._events_file.sync()
        for file in self._csv.values():
            file.sync()
        return {
            "step": self._step,
            **{name: file.length for name, file in self._csv.items()},
        }

    def close(self) -> None:
        """Closes the files; safe to call twice."""
        for file in (self._events_file, *self._csv.values()):
            file.close()

    def _start_session(self, config: Config, first_step: int) -> None:
        """Opens a session of TensorBoard.

        Args:
          config: The settings.
          first_step: TensorBoard drops what earlier sessions wrote at this step and
            later ones.
        """
        self._write_event(file_version="brain.Event:2")
        self._write_event(
            step=first_step,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )
        # Without a trial's name, TensorBoard shows each run directory as a trial.
        trial = hparams_summary.hparams_pb(config.to_dict(), trial_id="")
        for summary in (_hparams_experiment(), trial):
            self._write_event(step=0, summary=summary)

    def _write_event(self, **fields: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._events.write(event.SerializeToString())


class ProgressBar:
    """Progress of a run on stderr: a bar on a terminal, else a plain line at times.

    Args:
      total_steps: Agent steps of the whole run, in whole updates.
      step: Agent steps done before, by the run that is continued.
      enabled: Whether to show anything but the lines given to `write`.
    """

    _PLAIN_PERIOD = 10.0  # seconds between two plain lines
    _FALLBACK_SIZE = (100, 24)  # of a terminal that does not say its size

    def __init__(self, total_steps: int, step: int, enabled: bool) -> None:
        self._total_steps = total_steps
        self._first_step = self._step = step
        self._values: dict[str, float] = {}
        self._started = time.monotonic()
        self._next_line = self._started
        self._bar: tqdm[Any] | None = None
        self._plain = enabled and not sys.stderr.isatty()
        if enabled and not self._plain:
            sized = _has_size(sys.stderr)
            columns, rows = (None, None) if sized else self._FALLBACK_SIZE
            self._bar = tqdm(
                total=total_steps,
                initial=step,
                file=sys.stderr,
                dynamic_ncols=sized,
                ncols=columns,
                nrows=rows,
                unit=" steps",
                bar_format=(
                    "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
                    " [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
                ),
            )

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves on to `step`.

        Args:
          step: Agent steps of the run so far.
          values: Scalars by their names in `SCALARS`; of those that it shows, the ones
            left out keep their last value.
        """
        self._step = step
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix_str(self._scores(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._plain and time.monotonic() >= self._next_line:
            self._print_line()

    def write(self, line: str) -> None:
        """Prints a line on stderr, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the last state on the screen; safe to call twice."""
        if self._bar is not None:
            self._bar.close()
        elif self._plain and self._step > self._first_step:
            self._print_line()
        self._bar, self._plain = None, False

    def _print_line(self) -> None:
        now = time.monotonic()
        self._next_line = now + self._PLAIN_PERIOD
        rate = (self._step - self._first_step) / max(now - self._started, 1e-9)
        left = (self._total_steps - self._step) / rate if rate else math.inf
        self.write(
            f"{self._step}/{self._total_steps} steps "
            f"({100 * self._step / self._total_steps:.0f}%), "
            f"{rate:.0f} steps/s, "
            f"{tqdm.format_interval(left) if math.isfinite(left) else '?'} left, "
            f"{self._scores()}"
        )

    def _scores(self) -> str:
        score = self._values.get("episode_return", math.nan)
        texts = [f"return {score:.1f}" if math.isfinite(score) else "return -"]
        if "exact_kl" in self._values:
            kl = f"KL {self._values['exact_kl']:.2g}"
            if "kl_radius" in self._values:
                kl += f" of {self._values['kl_radius']:.2g}"
            texts.append(kl)
        return ", ".join(texts)


class _AppendOnlyFile:
    """A file that grows by whole writes, each in the hands of the system at once.

    Args:
      path: The file, made if it does not exist.
      length: Bytes of it to keep; the rest is cut off.

    Attributes:
      length: Bytes of the file.

    Raises:
      RunError: The file cannot be opened or cut.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._path = path
        self._descriptor = -1
        with self._faults():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o666)
            os.ftruncate(self._descriptor, length)

    def write(self, data: bytes) -> None:
        """Appends all of `data`, or none of it and raises `RunError`."""
        with self._faults():
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
            except OSError:
                # A full disk takes a part before it refuses the rest.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self.length)
                raise
        self.length += len(data)

    def sync(self) -> None:
        """Returns when the file is on the disk."""
        with self._faults():
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with self._faults():
                os.close(descriptor)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"Cannot write {self._path}: {_reason(error)}. The last checkpoint is "
                "whole: the same command continues from it."
            ) from error


def _has_size(terminal: TextIO) -> bool:
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except OSError:
        return False


def _check_unused(path: Path, header: bytes) -> None:
    """Refuses a file that holds more than a header: a new run never overwrites."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(header) + 1)
    # A run killed before its first line leaves at most the header.
    if not header.startswith(start):
        raise UserError(
            f"{path} holds a log already, and the run has no checkpoint to continue "
            "from. Give another `--run_dir`, or move the file away."
        )


def _check_continues(path: Path, header: bytes, length: int) -> None:
    """Refuses a file that a checkpoint taken at `length` bytes cannot go on with."""
    if not path.exists():
        raise UserError(
            f"{path} is missing; the checkpoint goes on after its byte {length}. Put "
            "the file back, or start a new run in another `--run_dir`."
        )
    size = path.stat().st_size
    if size < length:
        raise UserError(
            f"{path} has {size} bytes; at the checkpoint it had {length}. Put the "
            "whole file back, or start a new run in another `--run_dir`."
        )
    with path.open("rb") as file:
        start = file.read(len(header))
        file.seek(max(length - 1, 0))
        end = file.read(1)
    if start != header or end != b"\n":
        raise UserError(
            f"{path} is not as it was at the checkpoint: its columns, or its lines "
            f"before byte {length}, differ. Put the original back, or start a new run "
            "in another `--run_dir`."
        )


def _next_event_file(directory: Path) -> Path:
    """A new event file, named so that TensorBoard reads it after all others.

    TensorBoard reads in the order of names, which begin with the second of opening.
    """
    second = int(time.time())
    for path in directory.glob("events.out.tfevents.*"):
        earlier = path.name.split(".")[3]
        if earlier.isdecimal():
            second = max(second, int(earlier) + 1)
    name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
    return directory / name


def _hparams_experiment() -> summary_pb2.Summary:
    """Describes to the HParams tab the settings, and the scalars to judge them by."""
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(
                name=name, description=setting.help, type=_hparam_type(kind)
            )
            for name, (setting, kind, _) in settings().items()
        ],
        metric_infos=[
            hparams_summary.Metric(
                SCALARS[name].tag, group="", description=_description(name)
            ).as_proto()
            for name in _HPARAMS_METRICS
        ],
        time_created_secs=time.time(),
    )
    summary = summary_pb2.Summary()
    summary.value.add(
        tag=hparams_metadata.EXPERIMENT_TAG,
        metadata=hparams_metadata.create_summary_metadata(
            plugin_data_pb2.HParamsPluginData(experiment=experiment)
        ),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return summary


def _hparam_type(kind: type) -> Any:
    if kind is bool:
        return api_pb2.DATA_TYPE_BOOL
    if kind is str:
        return api_pb2.DATA_TYPE_STRING
    return api_pb2.DATA_TYPE_FLOAT64


def _description(name: str) -> str:
    scalar = SCALARS[name]
    return f"{scalar.help} [{scalar.unit}]" if scalar.unit else scalar.help


def _line(row: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _number(value: float) -> str:
    # Ten digits: more than float32 has, and counts stay whole numbers.
    return f"{float(value):.10g}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
