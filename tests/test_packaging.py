"""What the wheel holds and where it installs it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import acktr_tf

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text("utf-8")
PRESETS = [
    path
    for suffix in ("flags", "suite")
    for path in (REPOSITORY / "launch").glob(f"*.{suffix}")
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository, built without a network."""
    pytest.importorskip("setuptools", "77", "building the wheel needs `.[dev]`")
    source = tmp_path_factory.mktemp("source")
    for name in ("acktr_tf", "launch", "tests"):
        shutil.copytree(
            REPOSITORY / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(REPOSITORY / name, source)
    (source / "models").mkdir()
    (source / "models" / "README.md").write_text("not for the wheel")
    build = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)],
        # Newer releases of the packaging tools must not fail the test by warning.
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_owns_one_name_and_puts_presets_under_share(wheel):
    stem = f"acktr_tf-{PROJECT['version']}"
    shared = f"{stem}.data/data/share/acktr_tf/launch/"
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "acktr_tf").rglob("*.py")
    }
    expected |= {"acktr_tf/py.typed"}
    expected |= {shared + path.name for path in PRESETS}
    metadata = f"{stem}.dist-info/"
    held = {name for name in wheel.namelist() if not name.startswith(metadata)}
    assert held == expected
    assert metadata + "licenses/LICENSE" in wheel.namelist()


def test_presets_arrive_unchanged(wheel):
    shared = f"acktr_tf-{PROJECT['version']}.data/data/share/acktr_tf/launch/"
    assert {path.suffix for path in PRESETS} == {".flags", ".suite"}
    for path in PRESETS:
        assert wheel.read(shared + path.name) == path.read_bytes()


def test_the_package_knows_its_version():
    assert acktr_tf.__version__ in (PROJECT["version"], "0+unknown")
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = acktr_tf.absent


def test_every_direct_dependency_is_locked_once():
    def plain(requirement):
        name = re.match(r"[\w.-]+", requirement)[0]
        return re.sub(r"[-_.]+", "-", name).lower()

    locked = [plain(x) for x in CONSTRAINTS.splitlines() if x and x[0] != "#"]
    assert len(locked) == len(set(locked))
    extras = PROJECT["optional-dependencies"].values()
    direct = {plain(x) for group in (PROJECT["dependencies"], *extras) for x in group}
    assert direct - {plain(PROJECT["name"])} <= set(locked)
