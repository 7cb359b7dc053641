"""Imports run one way, flags stay in the commands, and the package loads lightly."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "acktr_tf"

# From the foundations to the commands. A file imports from its own layer and from those
# above it in this table; a folder is one entry. A new file gets its place here.
LAYERS = {
    "foundations": "errors types states random_keys backend modules",
    "settings": "config",
    "spaces": "spaces",
    "parts": "environments kfac",
    "policies": "policies",
    "algorithms": "algorithms",
    "runs": "runs",
    "training": "training",
    "command line": "cli",
    "suites": "suites",
    "commands": "launch evaluate export benchmark",
}
LAYER_OF = {
    unit: number
    for number, units in enumerate(LAYERS.values())
    for unit in units.split()
}
COMMANDS = [*LAYERS["commands"].split(), "cli", "suites"]
INDEPENDENT = ["kfac"]
SLOW_LIBRARIES = ("tensorflow", "keras", "tensorflow_probability", "tf_keras")


def unit_of(module: str) -> str:
    """`acktr_tf.kfac.linalg` → `kfac`; the package itself → ``."""
    return ".".join(module.split(".")[1:2])


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that `source` imports anywhere, relative ones resolved."""
    names = set()
    parent = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = parent[: len(parent) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from package import name` may name a module, and is then an import of it.
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def imported(module: str, path: Path) -> set[str]:
    return imports(path.read_text("utf-8"), module, path.name == "__init__.py")


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_place_and_imports_only_towards_the_foundations(module):
    unit = unit_of(module)
    used = {
        unit_of(name)
        for name in imported(module, MODULES[module])
        if name.split(".")[0] == "acktr_tf"
    } - {unit}
    # `from acktr_tf import __version__` is an import of the package alone.
    used = {name for name in used if name in LAYER_OF or f"acktr_tf.{name}" in MODULES}
    if not unit:
        assert not used, f"the package itself must import nothing of its own: {used}"
        return
    assert unit in LAYER_OF, f"place {unit} in the table of layers of this test"
    unplaced = used - set(LAYER_OF)
    assert not unplaced, f"place {unplaced} in the table of layers of this test"
    upwards = {name for name in used if LAYER_OF[name] > LAYER_OF[unit]}
    assert not upwards, f"{module} imports from a later layer: {sorted(upwards)}"
    if unit in INDEPENDENT:
        assert not used, f"{module} must import nothing of the rest: {sorted(used)}"


def test_no_two_units_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        used = {unit_of(n) for n in imported(module, path) if n.startswith("acktr_tf.")}
        graph.setdefault(unit_of(module), set()).update(used - {unit_of(module)})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_only_commands_know_flags(module):
    flags = {
        name
        for name in imported(module, MODULES[module])
        if name.startswith(("absl.flags", "absl.app"))
    }
    assert not flags or unit_of(module) in COMMANDS, f"{module} imports {sorted(flags)}"


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in MODULES.values()}
    missing = [str(f) for f in folders if not (f / "__init__.py").is_file()]
    assert not missing


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import acktr_tf.policies\n"
        "from acktr_tf import algorithms\n"
        "from . import returns\n"
        "from .kfac.linalg import damped_inverse\n"
        "def late():\n"
        "    from ..config import Config\n"
    )
    assert imports(source, "acktr_tf.algorithms.acktr") == {
        "acktr_tf.policies",
        "acktr_tf.algorithms",
        "acktr_tf.algorithms.returns",
        "acktr_tf.algorithms.kfac.linalg.damped_inverse",
        "acktr_tf.config.Config",
    }
    assert imports("from .capture import f", "acktr_tf.kfac", is_package=True) == {
        "acktr_tf.kfac.capture.f"
    }


def test_flags_and_messages_come_before_tensorflow_is_loaded():
    # `--help` and every refused flag answer at once, and `import acktr_tf` is free.
    # Processes that draw cannot have TensorFlow beside the drawing library.
    units = ["errors", "types", "config", "environments", *COMMANDS]
    light = ["acktr_tf", *(f"acktr_tf.{unit}" for unit in units)]
    script = (
        "import importlib, sys\n"
        f"for module in {[m for m in light if m in MODULES]}:\n"
        "    importlib.import_module(module)\n"
        f"    loaded = [n for n in {SLOW_LIBRARIES} if n in sys.modules]\n"
        "    assert not loaded, f'importing {module} loads {loaded}'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
