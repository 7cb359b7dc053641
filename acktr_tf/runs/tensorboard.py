"""Event files for TensorBoard: scalars, and the settings for its HParams tab."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from acktr_tf.config.config import Config
from acktr_tf.runs.files import AppendOnlyFile
from acktr_tf.types import Scalar

HPARAMS_METRICS = ("episode_return", "episode_length", "exact_kl", "steps_per_second")
"""Scalars that the HParams tab shows beside the settings, if the run reports them."""


class EventWriter:
    """One session of TensorBoard, in an event file of its own.

    Args:
      directory: Where the event files of the run are; it must exist.
      config: The settings, for the HParams tab.
      scalars: Scalars of the run by name.
      first_step: TensorBoard drops what earlier sessions wrote at this step and later.

    Raises:
      OSError: The file cannot be written, then or by any method. The error has its
        name.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        scalars: Mapping[str, Scalar],
        first_step: int,
    ) -> None:
        self._scalars = scalars
        self._file = AppendOnlyFile(_next_event_file(directory), 0)
        self._records = RecordWriter(self._file)
        self._write_event(file_version="brain.Event:2")
        self._write_event(
            step=first_step,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )
        for summary in (_hparams_experiment(config, scalars), _hparams_trial(config)):
            self._write_event(step=0, summary=summary)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars, given by name, at an agent step."""
        summary = summary_pb2.Summary()
        for name, value in values.items():
            scalar = self._scalars[name]
            # As a plain value, not a tensor: all readers know it, and purge it.
            metadata = scalar_metadata.create_summary_metadata(
                display_name=None, description=_description(scalar)
            )
            summary.value.add(
                tag=scalar.tag, simple_value=float(value), metadata=metadata
            )
        self._write_event(step=step, summary=summary)

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._file.close()

    def _write_event(self, **fields: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def _next_event_file(directory: Path) -> Path:
    """Returns a new event file, named so that TensorBoard reads it after all others.

    TensorBoard reads in the order of names, which begin with the second of opening.
    """
    second = int(time.time())
    for path in directory.glob("events.out.tfevents.*"):
        earlier = path.name.split(".")[3]
        if earlier.isdecimal():
            second = max(second, int(earlier) + 1)
    name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
    return directory / name


def _hparams_trial(config: Config) -> summary_pb2.Summary:
    """Makes the settings of the run, without those that are None.

    TensorBoard leaves their cells empty; a word in a column of numbers would keep it
    from sorting them.
    """
    given = {n: value for n, value in config.to_dict().items() if value is not None}
    # Without a trial's name, TensorBoard shows each run directory as a trial.
    return hparams_summary.hparams_pb(given, trial_id="")


def _hparams_experiment(
    config: Config, scalars: Mapping[str, Scalar]
) -> summary_pb2.Summary:
    """Describes the settings, and the scalars to judge them by."""
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(
                name=path,
                description=entry.setting.help,
                type=_hparam_type(entry.kind),
            )
            for path, entry in config.entries().items()
        ],
        metric_infos=[
            hparams_summary.Metric(
                scalars[name].tag, group="", description=_description(scalars[name])
            ).as_proto()
            for name in HPARAMS_METRICS
            if name in scalars
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


def _description(scalar: Scalar) -> str:
    return f"{scalar.help} [{scalar.unit}]" if scalar.unit else scalar.help
