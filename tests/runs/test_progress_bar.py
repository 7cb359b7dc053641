"""The progress bar on a terminal, and the lines elsewhere."""

import io
import math
import re
import sys
import time

import pytest

from acktr_tf.runs import progress_bar
from acktr_tf.runs.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    bar = ProgressBar(1000, 0, True)
    time.sleep(0.11)
    bar.update(500, {"episode_return": 18.25, "exact_kl": 0.00123, "max_kl": 0.003})
    bar.write("best so far: 20")
    time.sleep(0.11)
    bar.update(1000, {})
    bar.close()
    bar.close()
    text = screen.getvalue()
    assert "500/1000" in text
    assert "steps/s" in text
    assert "return 18.2, KL 0.0012 (max 0.003)" in text
    assert re.search(r"(^|\r) *best so far: 20\n", text)
    assert "100%|" in text
    assert "1000/1000" in text


def test_plain_lines_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now)
    bar = ProgressBar(10_000, 1000, True)
    for second in range(1, 26):
        now = 100.0 + second
        bar.update(1000 + 100 * second, {"episode_return": math.nan})
    bar.write("hello")
    bar.update(3600, {"episode_return": 9.0, "exact_kl": 0.5})
    bar.close()
    bar.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "1100/10000 steps (11%), 100 steps/s, 01:29 left, return -",
        "2100/10000 steps (21%), 100 steps/s, 01:19 left, return -",
        "3100/10000 steps (31%), 100 steps/s, 01:09 left, return -",
        "hello",
        "3600/10000 steps (36%), 104 steps/s, 01:01 left, return 9.0, KL 0.5",
    ]


def test_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(1000, 0, False)
    bar.update(500, {"episode_return": 1.0})
    bar.write("still said")
    bar.close()
    assert capsys.readouterr().err == "still said\n"


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "KL 0.5"),
        ({"target_kl": 0.3}, "KL 0.5 (target 0.3)"),
        ({"max_kl": 0.7}, "KL 0.5 (max 0.7)"),
        ({"target_kl": 0.3, "max_kl": 0.7}, "KL 0.5 (target 0.3, max 0.7)"),
        # The radius bounds the predicted KL, which is another one.
        ({"kl_radius": 0.2}, "predicted KL 0.1 (radius 0.2)"),
        ({"kl_radius": 0.2, "target_kl": 0.3}, "KL 0.5 (target 0.3)"),
        ({"kl_radius": 0.2, "max_kl": 0.7}, "KL 0.5 (max 0.7)"),
        (
            {"kl_radius": 0.2, "target_kl": 0.3, "max_kl": 0.7},
            "KL 0.5 (target 0.3, max 0.7)",
        ),
    ],
)
@pytest.mark.parametrize("absent", ["left out", "nan"])
def test_a_kl_is_shown_beside_its_own_bounds(
    bounds: dict[str, float],
    text: str,
    absent: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if absent == "nan":
        names = ("kl_radius", "target_kl", "max_kl")
        bounds = {**dict.fromkeys(names, math.nan), **bounds}
    values = {"episode_return": 1.0, "exact_kl": 0.5, "predicted_kl": 0.1, **bounds}
    bar = ProgressBar(100, 0, True)
    bar.update(50, values)
    bar.close()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"return 1.0, {text}")


def test_a_run_without_a_kl_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(100, 0, True)
    bar.update(50, {"episode_return": 1.0, "kl_radius": 0.5})
    bar.close()
    assert capsys.readouterr().err.splitlines()[-1].endswith("return 1.0")
