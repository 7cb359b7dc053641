"""Events as TensorBoard itself reads them."""

import math
from pathlib import Path

from runs.log_files import CONFIG, SCALARS, VALUES, open_log, points, reload
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import (
    EventMultiplexer,
)
from tensorboard.plugins.hparams import metadata as hparams_metadata


def test_tensorboard_has_every_scalar(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.scalars(640, VALUES)
    log.scalars(1280, {"exact_kl": math.nan, "predicted_kl": -math.inf})
    log.close()

    accumulator = reload(plugin_event_accumulator.EventAccumulator, tmp_path)
    tags = {tag for tag in accumulator.Tags()["tensors"] if "hparams" not in tag}
    assert tags == {scalar.tag for scalar in SCALARS.values()}
    for name, value in VALUES.items():
        assert points(tmp_path, name)[0] == (640, value)
        metadata = accumulator.SummaryMetadata(SCALARS[name].tag)
        assert metadata.plugin_data.plugin_name == "scalars"
        assert SCALARS[name].help in metadata.summary_description
    step, value = points(tmp_path, "exact_kl")[1]
    assert step == 1280
    assert math.isnan(value)
    assert points(tmp_path, "predicted_kl")[1] == (1280, -math.inf)
    assert len(points(tmp_path, "entropy")) == 1


def test_the_hparams_tab_has_the_settings(tmp_path: Path) -> None:
    log = open_log(tmp_path / "runs" / "one")
    log.close()
    multiplexer = EventMultiplexer(purge_orphaned_data=True)
    multiplexer.AddRunsFromDirectory(str(tmp_path / "runs")).Reload()
    contents = multiplexer.PluginRunToTagToContent("hparams")["one/tensorboard"]

    start = hparams_metadata.parse_session_start_info_plugin_data(
        contents[hparams_metadata.SESSION_START_INFO_TAG]
    )
    shown = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in start.hparams.items()
    }
    given = {name: v for name, v in CONFIG.to_dict().items() if v is not None}
    assert shown == given

    experiment = hparams_metadata.parse_experiment_plugin_data(
        contents[hparams_metadata.EXPERIMENT_TAG]
    )
    assert [info.name for info in experiment.hparam_infos] == list(CONFIG.entries())
    assert [info.name.tag for info in experiment.metric_infos] == [
        "episode/return",
        "episode/length",
        "kl/exact",
        "time/steps_per_second",
    ]


def test_no_orphans_of_a_killed_session_remain(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.scalars(20, {"updates": 1, "entropy": 1.0})
    log.scalars(40, {"updates": 2, "entropy": 2.0})
    state = log.state()
    log.scalars(60, {"updates": 3, "entropy": 3.0})
    log.scalars(80, {"updates": 4, "entropy": 4.0})
    log.close()

    log = open_log(tmp_path, state)
    assert points(tmp_path, "updates") == [(20, 1.0), (40, 2.0)]
    log.scalars(60, {"updates": 30})
    log.close()
    # And once more, within the same second.
    log = open_log(tmp_path, state)
    log.scalars(60, {"updates": 33})
    log.close()

    assert points(tmp_path, "updates") == [(20, 1.0), (40, 2.0), (60, 33.0)]
    assert points(tmp_path, "entropy") == [(20, 1.0), (40, 2.0)]


def test_a_run_killed_before_its_first_checkpoint_leaves_no_orphans(
    tmp_path: Path,
) -> None:
    log = open_log(tmp_path)
    log.scalars(20, {"updates": 1})
    log.close()
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    open_log(tmp_path).close()
    assert points(tmp_path, "updates") == []


def test_metrics_that_the_run_does_not_report_are_left_out(tmp_path: Path) -> None:
    scalars = {name: SCALARS[name] for name in ("episode_return", "entropy")}
    open_log(tmp_path, None, scalars).close()
    contents = reload(plugin_event_accumulator.EventAccumulator, tmp_path)
    experiment = hparams_metadata.parse_experiment_plugin_data(
        contents.PluginTagToContent("hparams")[hparams_metadata.EXPERIMENT_TAG]
    )
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags == ["episode/return"]
