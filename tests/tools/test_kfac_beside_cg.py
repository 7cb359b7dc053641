"""K-FAC beside conjugate gradients: the published table, and the benchmark itself."""

import json
import math
from pathlib import Path

import pytest
from paths import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_the_table_is_that_of_the_data(docs_script) -> None:
    make_kfac_page = docs_script("make_kfac_page")
    assert make_kfac_page.page(DOCS) == (DOCS / "kfac.md").read_text("utf-8")


def test_it_measures_a_short_run(benchmark_script, tmp_path: Path, monkeypatch) -> None:
    benchmark = benchmark_script("kfac_beside_cg")
    flags = (
        "--env=CartPole-v1 --num_envs=4 --unroll_length=16 --total_steps=384 "
        "--hidden_size=8 --kl_radius=0.00001"
    )
    path = tmp_path / "found.json"
    monkeypatch.setattr(
        "sys.argv",
        [
            "kfac_beside_cg.py",
            "--flagfile=mujoco.flags",
            f"--flags={flags}",
            "--batches=1",
            f"--json={path}",
        ],
    )
    benchmark.main()
    results = json.loads(path.read_text())["results"]
    for part in ("early", "late"):
        found = {name: values[0] for name, values in results[part].items()}
        assert all(math.isfinite(value) for value in found.values())
        assert 0.0 < found["cosine"] <= 1.0
        assert 0.0 < found["cosine in the Fisher metric"] <= 1.0
        # The prediction of the exact matrix is right to second order.
        assert found["exact KL of the CG step"] == pytest.approx(1e-5, rel=0.1)


def test_a_joint_critic_is_refused(benchmark_script) -> None:
    from acktr_tf.config import configure

    benchmark = benchmark_script("kfac_beside_cg")
    with pytest.raises(SystemExit, match="critic=separate"):
        benchmark.measure(configure(env="CartPole-v1"), 1)
