"""Seconds an update of K-FAC, beside DeepMind's kfac-jax.

    python benchmarks/against_kfac_jax.py --kfac_jax_python=PYTHON \
        [--networks=mlp,cnn] [--batch=500] [--inverse_update_period=10] [--rounds=5] \
        [--windows=4] [--periods=2] [--json=FILE]

PYTHON is that of an environment of its own (JAX 0.9 changed a function that kfac-jax
0.0.8 calls):

    python -m venv ENV
    ENV/bin/pip install "kfac-jax==0.0.8" "jax<0.9"

An update is the same work in both, and tests/kfac/test_kfac_jax.py holds that it has
the same result: from equal weights, on one batch that lies in memory,

- the gradient of the mean cross-entropy, of the whole batch;
- a target sampled for each example of the whole batch from the network's predictions,
  and the two factors of every layer by these, at every update;
- inverses of the running factors by Cholesky, with π-factored damping, at every
  --inverse_update_period updates;
- the preconditioned gradient, its norm constraint, momentum, and new weights.

kfac-jax has two ways to take the second moments of patches. By itself it uses the one
that is meant for accelerators; where there are convolutions it is also run with the
other, which lays patches out as the package does.

Both compute in float32, on all cores. Each runs in a process of its own (kfac_run.py,
kfac_jax_run.py), one after the other and alone; the order turns round from round to
round. The updates of two periods warm up; what follows is timed in windows of --periods
whole periods each. Printed are, over the windows of all rounds, the median, the least
and the most milliseconds an update, and the ratio of the medians, ours over the
other's. Beside it stand the seconds in which the optimizer was made and the first
update compiled and done, and the loss before and at the end: not quite equal, as each
samples targets of its own.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from arguments import names as names_of
from arguments import output_file
from machine import machine
from throughput import run

OURS = "acktr_tf"
WORKERS = {
    OURS: ["kfac_run.py"],
    "kfac-jax": ["kfac_jax_run.py"],
    "kfac-jax, explicit patches": ["kfac_jax_run.py", "--explicit_patches"],
}
CLASSES = 10

# A dense layer is [units]; a convolution [filters, kernel size, strides], padded to the
# same size. All but the last layer have rectifiers.
NETWORKS: dict[str, tuple[tuple[int, ...], list[list[int]]]] = {
    "mlp": ((784,), [[400], [200], [100], [CLASSES]]),
    "cnn": ((28, 28, 1), [[16, 5, 2], [32, 3, 2], [128], [CLASSES]]),
}
SETTINGS = {
    "learning_rate": 0.01,
    "momentum": 0.9,
    "damping": 0.01,
    "factor_decay": 0.95,
    # In kfac-jax's convention: of η² ΔᵀFΔ, before momentum.
    "norm_constraint": 1e-5,
}


def write_problem(path: Path, name: str, batch: int, settings: dict[str, Any]) -> None:
    """A network with weights, a batch and settings, as both workers read them."""
    rng = np.random.default_rng(0)
    inputs, layers = NETWORKS[name]
    arrays = {"x": rng.normal(size=(batch, *inputs)).astype(np.float32)}
    # Classes that can be learnt, of inputs that cannot be told apart by eye.
    directions = rng.normal(size=(int(np.prod(inputs)), CLASSES))
    scores = arrays["x"].reshape(batch, -1) @ directions
    arrays["y"] = np.argmax(scores, axis=1).astype(np.int32)
    *space, features = inputs
    for number, layer in enumerate(layers):
        outputs, *window = layer
        if window:
            size, stride = window
            shape = [size, size, features, outputs]
            space = [-(-length // stride) for length in space]
        else:
            shape = [int(np.prod(space)) * features, outputs]
            space = []
        features = outputs
        scale = np.sqrt(2.0 / np.prod(shape[:-1]))
        arrays[f"kernel{number}"] = rng.normal(0, scale, shape).astype(np.float32)
        arrays[f"bias{number}"] = np.zeros(outputs, np.float32)
    about = json.dumps({"layers": layers, **settings})
    # mypy takes the rest for the option that follows.
    np.savez(path, about=np.array(about), **arrays)  # type: ignore[arg-type]


def contestants(network: str) -> list[str]:
    """Those whose work is another one in this network."""
    _, layers = NETWORKS[network]
    convolves = any(len(layer) > 1 for layer in layers)
    return [name for name in WORKERS if convolves or "patches" not in name]


def measure(python: str, name: str, problem: Path) -> dict[str, Any]:
    """What a worker finds in one round.

    Args:
      python: Runs it.
      name: One of WORKERS.
      problem: A file of `write_problem`.
    """
    worker, *flags = WORKERS[name]
    result = problem.with_name("result.json")
    command = [python, str(Path(__file__).with_name(worker)), *flags]
    run([*command, f"--problem={problem}", f"--result={result}"])
    return json.loads(result.read_text())


def measure_all(
    arguments: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Network → contestant → what was found of it."""
    networks: list[str] = arguments.networks
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        network: {name: [] for name in contestants(network)} for network in networks
    }
    with tempfile.TemporaryDirectory() as directory:
        problem = Path(directory) / "problem.npz"
        for number, network in itertools.product(range(arguments.rounds), networks):
            write_problem(problem, network, arguments.batch, settings)
            names = contestants(network)
            for name in names if number % 2 == 0 else names[::-1]:
                python = sys.executable if name == OURS else arguments.kfac_jax_python
                of_round = measure(python, name, problem)
                found[network][name].append(of_round)
                median = 1e3 * np.median(of_round["seconds"])
                print(f"{network}, {name}: {median:.2f} ms", file=sys.stderr)
    results: dict[str, dict[str, Any]] = {}
    for network, rounds_of in found.items():
        results[network] = {name: summary(rounds_of[name]) for name in rounds_of}
        ours = results[network][OURS]["median"]
        for result in results[network].values():
            result["ours_over_it"] = ours / result["median"]
    return results


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds an update over the windows of all rounds."""
    windows = 1e3 * np.concatenate([of_round["seconds"] for of_round in rounds])
    return {
        "median": float(np.median(windows)),
        "least": float(windows.min()),
        "most": float(windows.max()),
        "windows": windows.tolist(),
        "seconds_of_first_update": [of_round["first"] for of_round in rounds],
        "loss_before": rounds[0]["loss_before"],
        "loss_after": [of_round["loss_after"] for of_round in rounds],
        "versions": rounds[0]["versions"],
    }


def table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores:",
        "",
        "| | ms an update, median | least | most | ours over it | first update, s | "
        "loss before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, results in document["results"].items():
        lines += [
            f"| {network}, {name} | {result['median']:.2f} | {result['least']:.2f} | "
            f"{result['most']:.2f} | {result['ours_over_it']:.2f} | "
            f"{np.median(result['seconds_of_first_update']):.1f} | "
            f"{result['loss_before']:.3f} | {np.median(result['loss_after']):.3f} |"
            for name, result in results.items()
        ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kfac_jax_python", required=True)
    parser.add_argument("--networks", type=names_of(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--inverse_update_period", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--periods", type=int, default=2)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    settings = {
        **SETTINGS,
        "inverse_update_period": arguments.inverse_update_period,
        "windows": arguments.windows,
        "periods": arguments.periods,
    }
    results = measure_all(arguments, settings)
    document = {
        "machine": machine(),
        "settings": {**settings, "batch": arguments.batch, "rounds": arguments.rounds},
        "networks": {network: NETWORKS[network] for network in results},
        "results": results,
    }
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
