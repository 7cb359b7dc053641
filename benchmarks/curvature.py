"""What each part of K-FAC costs, beside what the machine could do, and how it grows.

    python benchmarks/curvature.py parts [--network=nature_cnn_32,mlp] [--examples=N] \
        [--repeats=30] [--json=FILE]
    python benchmarks/curvature.py width|batch|environments --flagfile=mujoco.flags \
        [--flags="--critic.updates=1"] [--values=64,256,1024] [--rounds=3] \
        [--updates=20] [--json=FILE] [--picture=FILE]

`parts`: for each layer of a network (see update_cost.py) its statistics (the moments of
one batch), running means, inverses and the product of the inverse and the gradient,
each by itself. Beside the time stand floating-point operations, and the bytes that must
be read and written at least once; the last column is the share of the time that the
machine would need, if it did these as fast as a product of large matrices and a sum of
large arrays, which are measured first. (What fits in a cache is read faster than that.)

The others train with flags of a run, each time with another `hidden_size`, batch (by
`unroll_length`) or `num_envs` (with the same batch): ACKTR, and A2C with the same
network and batch, in turns and each in a process of its own (see phases.py). Printed
are microseconds a sample (the median of the rounds' means), the ratio of ACKTR's to
A2C's, the slowest update over the median one, and the memory of the process.
"""

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from arguments import names, output_file
from machine import machine
from throughput import run
from update_cost import NETWORKS, Problem

from acktr_tf import kfac
from acktr_tf.cli.flags import config_from
from acktr_tf.config import Config
from acktr_tf.config.setting import show
from acktr_tf.kfac.blocks.kronecker import KroneckerBlock
from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.statistics.overlap import patches_overlap

FLOAT = 4
"""Bytes of a number."""
PHASES = Path(__file__).with_name("phases.py")
ALGORITHMS = ("acktr", "a2c")


# Parts ------------------------------------------------------------------------------
class Work(NamedTuple):
    """What a part has to do: floating-point operations, and bytes read and written."""

    operations: float
    bytes: float


class Recorded:
    """What a tape saw of one layer, held."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def calls(self, _: keras.layers.Layer) -> list[Call]:
        """The layer's one call."""
        return [self._call]


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Of one call; the first three, which compile, are left out."""
    seconds = []
    for _ in range(3 + repeats):
        before = time.perf_counter()
        function()
        tf.test.experimental.sync_devices()
        seconds.append(time.perf_counter() - before)
    return float(np.median(seconds[3:]))


def limits(repeats: int) -> dict[str, float]:
    """Operations and bytes a second of the machine."""
    size = 3000
    matrix = tf.random.normal([size, size])
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    array = tf.random.normal([64 * 2**20 // FLOAT])
    variable = tf.Variable(array)

    @tf.function
    def add() -> None:
        # Reads two arrays and writes one, in memory that is there already.
        variable.assign_add(array, read_value=False)

    return {
        "operations": 2 * size**3 / median_seconds(product, repeats),
        "bytes": 3 * 64 * 2**20 / median_seconds(add, repeats),
    }


def work_of(
    block: KroneckerBlock, inputs: tf.Tensor, gradients: tf.Tensor
) -> dict[str, Work]:
    """What each part of a block must do at least.

    Args:
      block: With dense factors.
      inputs: Of its layer, `[N, ...]`.
      gradients: With respect to its outputs, `[N, ..., m]`.
    """
    n, m = block.num_inputs, block.num_outputs
    rows = math.prod(gradients.shape[:-1])
    factors = n * n + m * m
    products, seen = moment_of_inputs(block.layer, inputs, gradients)
    operations = 2.0 * (products + rows * m * m)
    sizes = math.prod(inputs.shape) + math.prod(gradients.shape) + 2 * seen
    return {
        "statistics": Work(operations, FLOAT * (sizes + factors)),
        "running means": Work(3.0 * factors, FLOAT * 3.0 * factors),
        "inverses": Work(float(n**3 + m**3), FLOAT * 2.0 * factors),
        "product": Work(2.0 * n * m * (n + m), FLOAT * (factors + 2.0 * n * m)),
    }


def moment_of_inputs(
    layer: Any, inputs: tf.Tensor, gradients: tf.Tensor
) -> tuple[float, float]:
    """Products of numbers that A takes, and numbers that are written before, at least.

    A convolution writes its patches, without the bias's ones; or, if these overlap, the
    strips they are made of, of which fewer are multiplied; see `statistics.overlap`.
    """
    rows = math.prod(gradients.shape[:-1])
    n = math.prod(layer.kernel.shape[:-1])
    whole = n + layer.use_bias
    if n == inputs.shape[-1]:
        return float(rows * whole**2), 0.0
    if not patches_overlap(inputs, layer):
        return float(rows * whole**2), float(rows * n)
    strips, positions = layer.kernel_size[0] // layer.strides[0], gradients.shape[1]
    of_row, width = rows // positions, n // strips
    products = strips * positions + strips * (strips - 1) // 2
    written = of_row * (positions + strips - 1) * width
    return float(of_row * products * width**2), float(written)


def captured(
    model: keras.Model, optimizer: kfac.KFAC, examples: tf.Tensor
) -> list[tuple[Call, tf.Tensor]]:
    """What each layer was given, and gradients of a log-likelihood at its outputs."""

    @tf.function
    def record() -> list[tuple[tf.Tensor, tf.Tensor]]:
        with optimizer.curvature_tape() as tape:
            outputs = model(examples)
            noise = tf.random.stateless_normal(tf.shape(outputs), [1, 2])
            likelihood = tf.reduce_sum(outputs * noise, axis=1)
        calls = [tape.calls(layer)[0] for layer in optimizer.layers]
        gradients = tape.gradient(likelihood, [call.outputs for call in calls])
        return [(c.inputs, g) for c, g in zip(calls, gradients, strict=True)]

    return [(Call(inputs, g, True), g) for inputs, g in record()]


def parts(problem: Problem, examples: int, repeats: int) -> list[dict[str, Any]]:
    """Of each layer and part its work and its seconds."""
    keras.utils.set_random_seed(0)
    shape = problem.inputs.shape[1:]
    model = kfac.Sequential([keras.Input(shape), *problem.layers()])
    optimizer = kfac.KFAC()
    optimizer.attach(model)
    held = captured(model, optimizer, tf.constant(problem.inputs[:examples]))
    lines = []
    blocks = [b for b in optimizer.blocks if isinstance(b, KroneckerBlock)]
    for block, (call, gradients) in zip(blocks, held, strict=True):
        functions = part_functions(block, call, gradients)
        for name, work in work_of(block, call.inputs, gradients).items():
            lines.append(
                {
                    "layer": block.layer.name,
                    "part": name,
                    "seconds": median_seconds(functions[name], repeats),
                    **work._asdict(),
                }
            )
    return lines


def part_functions(
    block: KroneckerBlock, call: Call, gradients: tf.Tensor
) -> dict[str, Callable[[], Any]]:
    """Name of each part → does it."""

    @tf.function
    def statistics(inputs: tf.Tensor, gradients: tf.Tensor) -> list[tf.Tensor]:
        recorded: Any = Recorded(call._replace(inputs=inputs))
        examples = tf.shape(gradients)[0]
        return block.statistics(recorded, [gradients], examples, tf.constant(0))

    found = statistics(call.inputs, gradients)
    update = tf.function(lambda *found: block.update_running_factors(found, 0.99))
    update(*found)
    a, g = (np.asarray(factor) for factor in block.factors())
    matrix = tf.random.normal([block.num_inputs, block.num_outputs])
    multiply = tf.function(block.multiply_inverse)
    return {
        "statistics": lambda: statistics(call.inputs, gradients),
        "running means": lambda: update(*found),
        "inverses": lambda: block.invert([a, g], 0.001),
        "product": lambda: multiply(matrix),
    }


def parts_table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    limit = Work(**document["limits"])
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores: "
        f"{limit.operations / 1e9:.0f} GFLOP/s, {limit.bytes / 1e9:.1f} GB/s."
    ]
    for network, about in document["networks"].items():
        lines += [
            "",
            f"| {network}, {about['examples']} examples | part | ms | MFLOP | GFLOP/s "
            "| MB | GB/s | of the limit |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for line in about["parts"]:
            seconds = line["seconds"]
            operations, size = line["operations"], line["bytes"]
            least = max(operations / limit.operations, size / limit.bytes)
            lines.append(
                f"| {line['layer']} | {line['part']} | {1e3 * seconds:.3f} | "
                f"{operations / 1e6:,.1f} | {operations / seconds / 1e9:.1f} | "
                f"{size / 1e6:,.1f} | {size / seconds / 1e9:.1f} | "
                f"{least / seconds:.0%} |"
            )
    return "\n".join(lines)


def measure_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The document of `parts`."""
    found = {}
    for name in arguments.network:
        problem = NETWORKS[name]()
        examples = min(arguments.examples, len(problem.inputs))
        found[name] = {
            "examples": examples,
            "parts": parts(problem, examples, arguments.repeats),
        }
    return {
        "machine": machine(),
        "limits": limits(arguments.repeats),
        "networks": found,
    }


# Growth -----------------------------------------------------------------------------
def width_flags(config: Config, value: int) -> list[str]:
    """Another width."""
    return [f"--hidden_size={value}"]


def batch_flags(config: Config, value: int) -> list[str]:
    """Another batch, of as many environments if it is a multiple of them."""
    num_envs = math.gcd(config.environment.num_envs, value)
    return [f"--num_envs={num_envs}", f"--unroll_length={value // num_envs}"]


def environments_flags(config: Config, value: int) -> list[str]:
    """Another number of environments, and the same batch."""
    if config.batch_size % value:
        raise SystemExit(f"{value} does not divide the batch of {config.batch_size}.")
    return [f"--num_envs={value}", f"--unroll_length={config.batch_size // value}"]


class Axis(NamedTuple):
    """What grows.

    Attributes:
      title: Head of the table's first column.
      flags: Of a value.
      values: By default.
    """

    title: str
    flags: Callable[[Config, int], list[str]]
    values: Sequence[int]


AXES = {
    "width": Axis("units a layer", width_flags, [64, 128, 256, 512, 1024, 2048]),
    "batch": Axis(
        "samples a batch", batch_flags, [160, 320, 640, 1280, 2560, 5120, 10240]
    ),
    "environments": Axis(
        "environments", environments_flags, [1, 2, 4, 8, 16, 32, 64, 128, 256]
    ),
}


def measure_point(flags: Sequence[str], updates: int) -> dict[str, Any]:
    """A document of phases.py."""
    flagfile, *rest = flags
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "phases.json"
        command = [sys.executable, str(PHASES), flagfile, f"--json={path}"]
        command += [f"--flags={shlex.join(rest)}", f"--updates={updates}"]
        run(command)
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def flags_with(config: Config, algorithm: str, flags: list[str]) -> list[str]:
    """Returns the flags of the same run with another algorithm, as it is by default.

    Args:
      config: Settings of the run.
      algorithm: Name of the algorithm.
      flags: Flags of the run, for its own algorithm.
    """
    if algorithm == config.run.algorithm:
        return flags
    own = {entry.path for entry in config.algorithm.entries()}
    return [
        f"--{path}={show(entry.default, entry.setting)}"
        for path, entry in config.replace(run_dir=None).entries().items()
        if path not in own and path != "algorithm"
    ] + [f"--algorithm={algorithm}"]


def measure_growth(arguments: argparse.Namespace) -> dict[str, Any]:
    """The document of one axis."""
    axis = AXES[arguments.what]
    flags = [f"--flagfile={arguments.flagfile}", *shlex.split(arguments.flags)]
    config = config_from(flags)
    values = arguments.values or axis.values
    points: dict[int, dict[str, list[dict[str, Any]]]] = {
        value: {name: [] for name in ALGORITHMS} for value in values
    }
    for _ in range(arguments.rounds):
        for value, found in points.items():
            for name in ALGORITHMS:
                changed = [*flags, *axis.flags(config, value)]
                here = flags_with(config_from(changed), name, changed)
                found[name].append(measure_point(here, arguments.updates))
                speed = found[name][-1]["steps_per_second"]
                print(f"{value} {name}: {speed:.0f} steps/s", file=sys.stderr)
    return {
        "machine": machine(),
        "what": arguments.what,
        "flags": shlex.join(flags),
        "points": points,
    }


def microseconds(rounds: Sequence[dict[str, Any]]) -> float:
    """A sample, the median of some rounds of one algorithm at one point."""
    return float(np.median([1e6 / each["steps_per_second"] for each in rounds]))


def growth_table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, `{document['flags']}`:",
        "",
        f"| {AXES[document['what']].title} | ACKTR, µs a sample | A2C | ACKTR / A2C | "
        "slowest / median update, ACKTR | ACKTR, MiB | A2C, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for value, found in document["points"].items():
        acktr, a2c = (microseconds(found[name]) for name in ALGORITHMS)
        slowest = np.median(
            [e["phases"]["total"]["slowest_over_median"] for e in found["acktr"]]
        )
        memory = (
            max(each["memory"] for each in found[name]) / 2**20 for name in ALGORITHMS
        )
        lines.append(
            f"| {value} | {acktr:.1f} | {a2c:.1f} | {acktr / a2c:.2f} | {slowest:.2f} "
            f"| {' | '.join(f'{each:,.0f}' for each in memory)} |"
        )
    return "\n".join(lines)


def draw(path: Path, document: dict[str, Any]) -> None:
    """Microseconds a sample of every round, and a line through their medians."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    values = [int(value) for value in document["points"]]
    for name, label in zip(ALGORITHMS, ("ACKTR", "A2C"), strict=True):
        found = np.array(
            [
                [1e6 / each["steps_per_second"] for each in point[name]]
                for point in document["points"].values()
            ]
        )
        (line,) = axes.plot(values, np.median(found, axis=1), label=label)
        axes.plot(values, found, ".", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(AXES[document["what"]].title)
    axes.set_ylabel("µs a sample")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("parts")
    command.add_argument("--network", type=names(NETWORKS), default="nature_cnn_32,mlp")
    command.add_argument("--examples", type=int, default=128)
    command.add_argument("--repeats", type=int, default=30)
    command.add_argument("--json", type=output_file)
    for name in AXES:
        command = commands.add_parser(name)
        command.add_argument("--flagfile", required=True)
        command.add_argument("--flags", default="")
        command.add_argument(
            "--values", type=lambda text: [int(each) for each in text.split(",")]
        )
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--updates", type=int, default=20)
        command.add_argument("--json", type=output_file)
        command.add_argument("--picture", type=output_file)
    arguments = parser.parse_args()
    if arguments.what == "parts":
        document = measure_parts(arguments)
        print(parts_table(document))
    else:
        document = measure_growth(arguments)
        print(growth_table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.what != "parts" and arguments.picture:
        draw(arguments.picture, document)


if __name__ == "__main__":
    main()
