"""The programs of the README run as they stand there."""

import re
import runpy
from pathlib import Path
from typing import Any

import keras

PAGE = Path(__file__).parents[2] / "README.md"


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_programs_of_the_readme_train(tmp_path):
    keras.utils.set_random_seed(0)
    fit, loop = programs()
    names: dict[str, Any] = {}
    quiet = fit.replace("epochs=10", "epochs=10, verbose=0")
    for number, program in enumerate((quiet, loop)):
        # AutoGraph reads the source from the file.
        path = tmp_path / f"program_{number}.py"
        path.write_text(program, "utf-8")
        names.update(runpy.run_path(str(path), names))
        if number == 0:
            _, accuracy = names["model"].evaluate(names["x"], names["y"], verbose=0)
            assert accuracy > 0.95
    assert float(names["step"](names["x"][:256], names["y"][:256])) < 0.5
