"""Steps a second of whole training runs, beside what the machine could do at most.

    python benchmarks/throughput.py --flagfile=mujoco.flags \
        [--flags="--env=Hopper-v5"] [--other="mujoco_a2c.flags [--flag ...]" ...] \
        [--sb3_python=PYTHON] [--sb3=ppo,a2c,trpo] [--steps=200000] [--rounds=3] \
        [--windows=4] [--json=FILE] [--picture=FILE]

In each of some rounds, one after the other and alone: the environments of the flag file
stepped with random actions and nothing else; a training run of each flag file; and, in
PYTHON, training runs of Stable-Baselines3 (see sb3_run.py). The first quarter of each
run, which compiles and warms up, is left out; the rest is cut into windows, of lines of
the runs' logs (so that short runs want --flags="--log_period=5"). Printed are the
median, the least and the most steps a second over the windows of all rounds, the share
of each phase, and the median of the first flag file over each other.

--other is a flag file, and flags that come after it. An Atari game is stepped by
Stable-Baselines3 with its own preprocessing; its A2C there has batches of as many
environments and steps as the flag file's, its PPO those that its authors chose.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from arguments import output_file
from machine import machine

from acktr_tf.cli.flags import config_from
from acktr_tf.config import Config
from acktr_tf.environments.atari import find_game

ENVIRONMENTS = "environments alone"
WARM_UP = 0.25
WORKER = Path(__file__).with_name("sb3_run.py")


def window_speeds(step: np.ndarray, seconds: np.ndarray, windows: int) -> np.ndarray:
    """`[windows]`, steps a second after the first quarter of the steps.

    Args:
      step: `[R]`, agent steps done at each line of a log.
      seconds: `[R]`, and the time by then.
      windows: How many, of equal numbers of lines.
    """
    begin = int(np.searchsorted(step, WARM_UP * step[-1]))
    if len(step) - begin <= windows:
        raise SystemExit(
            f"The log has {len(step) - begin} lines after the warm-up: too few for "
            f"{windows} windows. Give more --steps."
        )
    ends = np.linspace(begin, len(step) - 1, windows + 1).round().astype(int)
    return np.diff(step[ends]) / np.diff(seconds[ends])


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a progress.csv; what there is not is nan."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]
    }


def step_environments(flags: list[str], steps: int) -> dict[str, np.ndarray]:
    """A log of the environments stepped with random actions."""
    from acktr_tf.environments import make_vector_env

    config = config_from(flags)
    environments = make_vector_env(config.environment, config.run.seed)
    environments.action_space.seed(0)
    environments.reset()
    done, seconds, log = 0, 0.0, []
    while done < steps:
        # Drawing actions is acting's business: it is not timed.
        actions = [
            np.stack(
                [
                    environments.action_space.sample()
                    for _ in range(environments.num_envs)
                ]
            )
            for _ in range(config.run.unroll_length)
        ]
        before = time.perf_counter()
        for action in actions:
            environments.step(action)
        seconds += time.perf_counter() - before
        done += config.batch_size
        log.append((done, seconds))
    environments.close()
    return dict(zip(("step", "seconds"), np.array(log).T, strict=True))


def train(flags: list[str], steps: int) -> dict[str, np.ndarray]:
    """The log of a training run."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        command = [sys.executable, "-m", "acktr_tf.launch", *flags, "--noprogress_bar"]
        command += [f"--total_steps={steps}", f"--run_dir={run_dir}"]
        command += ["--evaluation_period=none"]
        run(command)
        return read_log(run_dir / "progress.csv")


def train_sb3(
    python: str, algorithm: str, config: Config, steps: int
) -> dict[str, np.ndarray]:
    """The log of a training run of Stable-Baselines3."""
    env = config.environment.env
    with tempfile.TemporaryDirectory() as directory:
        command = [python, str(WORKER), f"--algorithm={algorithm}", f"--env={env}"]
        command += ["--seed=0", f"--directory={directory}", f"--total_steps={steps}"]
        if algorithm == "a2c" and find_game(env):
            command += [f"--num_envs={config.environment.num_envs}"]
            command += [f"--unroll_length={config.run.unroll_length}"]
        run([*command, "--games=0"])
        return read_log(Path(directory) / "run" / "progress.csv")


def run(command: list[str]) -> None:
    """Runs a command to its end; its output is shown only if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{result.stderr[-2000:]}")


def phases(log: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of each phase in the time after the warm-up."""
    late = log["step"] >= WARM_UP * log["step"][-1]
    return {
        name.removeprefix("share_"): float(np.nanmean(column[late]))
        for name, column in log.items()
        if name.startswith("share_") and np.isfinite(column[late]).any()
    }


def tables(document: dict[str, Any]) -> str:
    """What was measured, in Markdown: speeds, and the phases of our own runs.

    Args:
      document: As --json writes it. Ratios are to its first training run.
    """
    results = document["results"]
    base = next(r["median"] for name, r in results.items() if name != ENVIRONMENTS)
    machine = document["machine"]
    lines = [
        f"{document['env']}, {machine['processor']}, {machine['cores']} cores:",
        "",
        "| | steps/s, median | least | most | our median over it |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {result['median']:,.0f} | {result['least']:,.0f} | "
        f"{result['most']:,.0f} | {base / result['median']:.2f} |"
        for name, result in results.items()
    ]
    own = {name: r["phases"] for name, r in results.items() if r["phases"]}
    names = list(dict.fromkeys(phase for found in own.values() for phase in found))
    lines += ["", f"| share of the time | {' | '.join(names)} |"]
    lines.append("|---|" + "---|" * len(names))
    for name, found in own.items():
        shares = (f"{found[each]:.1%}" if each in found else "" for each in names)
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def draw(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """A bar a contestant, from its least to its most a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(results)
    median = np.array([results[name]["median"] for name in names])
    low = median - [results[name]["least"] for name in names]
    high = [results[name]["most"] for name in names] - median
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.45 * len(names)), dpi=110)
    axes.barh(names, median, xerr=[low, high], capsize=3, height=0.6)
    axes.invert_yaxis()
    axes.set_xlabel("agent steps a second")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flagfile", required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("--other", action="append", default=[])
    parser.add_argument("--sb3_python", default="")
    parser.add_argument("--sb3", default="ppo,a2c,trpo")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--json", type=output_file)
    parser.add_argument("--picture", type=output_file)
    arguments = parser.parse_args()
    extra = shlex.split(arguments.flags)
    flags_of = {
        name: [f"--flagfile={name.split()[0]}", *extra, *shlex.split(name)[1:]]
        for name in [arguments.flagfile, *arguments.other]
    }
    first = flags_of[arguments.flagfile]
    config = config_from(first)
    sb3 = arguments.sb3.split(",") if arguments.sb3_python else []
    env = config.environment.env
    is_known = env.endswith("NoFrameskip-v4") and "trpo" not in sb3
    if sb3 and find_game(env) and not is_known:
        parser.error(
            "Stable-Baselines3 plays games called *NoFrameskip-v4, by ppo and a2c. "
            f"Received: {env}, --sb3={arguments.sb3}"
        )
    speeds: dict[str, list[float]] = {}
    shares: dict[str, dict[str, float]] = {}

    def record(name: str, log: dict[str, np.ndarray]) -> None:
        found = window_speeds(log["step"], log["seconds"], arguments.windows)
        speeds.setdefault(name, []).extend(found.tolist())
        shares.setdefault(name, phases(log))
        print(f"{name}: {np.median(found):.0f} steps/s", file=sys.stderr, flush=True)

    for _ in range(arguments.rounds):
        record(ENVIRONMENTS, step_environments(first, arguments.steps))
        for name, flags in flags_of.items():
            record(name, train(flags, arguments.steps))
        for algorithm in sb3:
            log = train_sb3(arguments.sb3_python, algorithm, config, arguments.steps)
            record(f"Stable-Baselines3 {algorithm.upper()}", log)

    results = {
        name: {
            "median": float(np.median(found)),
            "least": min(found),
            "most": max(found),
            "windows": found,
            "phases": shares[name],
        }
        for name, found in speeds.items()
    }
    document = {"env": env, "machine": machine(), "results": results}
    print(tables(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.picture:
        draw(arguments.picture, results)


if __name__ == "__main__":
    main()
