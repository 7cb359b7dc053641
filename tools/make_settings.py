"""Writes docs/settings.md from the settings that the package defines.

python tools/make_settings.py
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from acktr_tf.config import Entry, Settings, entries
from acktr_tf.config.algorithms import ALGORITHMS
from acktr_tf.config.first_order import LearningRateSettings, RMSpropSettings
from acktr_tf.config.kfac import KFACSettings
from acktr_tf.config.losses import ActorCriticLossSettings
from acktr_tf.config.setting import describe, show

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Written by tools/make_settings.py from acktr_tf/config. Do not edit. -->

Every setting of a run is a flag of `python -m acktr_tf.launch`, of the same name:

```
python -m acktr_tf.launch --flagfile=atari.flags --env=BreakoutNoFrameskip-v4 --seed=1
```

From Python, `acktr_tf.config.configure(num_envs=16, **{"critic.damping": 0.1})` makes
the same settings from the same names. A run prints the settings in effect when it
starts, and keeps them in its `config.json`.

A value follows its flag by `=` or as the next argument. A switch is turned on by
`--deterministic` or `--deterministic=true`, and off by `--nodeterministic` or
`--deterministic=false`. Settings that may be without a value take `none` or `auto`, as
the tables say: `--target_kl=none`, `--env_threads=auto`. `--verbosity=1` shows where in
the code an error arose.

## The algorithm

A run has the settings of the environment, the policy, the returns and the run, and
those of its algorithm. `--algorithm` is read first, wherever it stands. A flag of
another algorithm is an error that names the algorithm and, in a flag file, the line.
`--algorithm=a2c --help` shows the settings of a run of A2C in the terminal.

`--algorithm=my_module:MyAlgorithm` takes an algorithm of your own, from a module in the
working directory or an installed package. Its attribute `Settings`, a subclass of
`acktr_tf.config.Settings`, says which flags it has:

```python
import dataclasses

from acktr_tf.config import Settings, setting


@dataclasses.dataclass(frozen=True)
class MySettings(Settings):
    heading = "My algorithm"

    clip: float = setting(0.2, "Largest change of the probability ratio.", low=0.0)


class MyAlgorithm:
    Settings = MySettings
```

## Flag files

`--flagfile=<file>` reads flags from a file, one per line, as if they stood in its
place. Empty lines, and lines that begin with `#` or `//`, are skipped.

- **Order.** Of two values of a flag the later one wins. So what is to change a flag
  file comes after it: `--flagfile=atari.flags --num_envs=16`, not the other way round.
- **Several files, and files in files.** `--flagfile` may be given more than once, and
  may stand in a flag file; a file that includes itself is an error.
- **Lookup.** A name is looked up in the working directory, then in `launch/` beside the
  package, then where `pip` installed the package's own files (`share/acktr_tf/launch`
  below the environment, or below `~/.local`). That holds for names in a flag file too:
  they are not relative to the file. `~` is the home directory.
- **A comment has a line of its own.** Text after a value is part of the value, so that
  `--seed=1  # the first` is an error.
- **No quotes.** A flag file is not read by a shell: `--env="pong"` is an error too.
- **One flag per line**, with `=`: `--seed 1` works on the command line, not in a file.

## Continuing a run

Starting again with the same `--run_dir` continues the run. Settings marked *yes* in the
last column may then have another value. With another value of any other setting the run
is not continued, and the error names the setting.

`total_steps` may be larger than it was, whether the run is finished or not, as long as
nothing falls linearly to the end of the run: no `learning_rate_schedule`,
`entropy_cost_schedule` or `target_kl_schedule` that has an effect is `linear`. The run
then learns what a run begun with the larger number learns.
"""

COLUMNS = (
    "Setting",
    "Default",
    "Unit",
    "Accepted",
    "Meaning",
    "Source of the default",
    "May change",
)

COMPONENTS: dict[str, Settings] = {
    "Learning rate": LearningRateSettings(),
    "Actor-critic loss": ActorCriticLossSettings(),
    "K-FAC": KFACSettings(),
    "RMSprop": RMSpropSettings(),
}
"""Title → settings that algorithms are composed of, each explained once."""


class Place(NamedTuple):
    """Place of a component in an algorithm.

    Attributes:
      algorithm: Name of the algorithm.
      prefix: Prefix of the settings there, such as `critic.`.
    """

    algorithm: str
    prefix: str

    @property
    def title(self) -> str:
        """Title of a column of defaults."""
        return f"{self.algorithm}, `{self.prefix}`" if self.prefix else self.algorithm


def page() -> str:
    """Returns the text of docs/settings.md."""
    own = {name: known.settings().entries() for name, known in ALGORITHMS.items()}
    algorithms = {entry.path for found in own.values() for entry in found}
    shared = [e for e in entries("acktr").values() if e.path not in algorithms]
    parts = [INTRODUCTION]
    for heading in dict.fromkeys(entry.heading for entry in shared):
        parts.append(f"\n## {heading}\n\n")
        parts += _table(entry for entry in shared if entry.heading == heading)
    for name, found in own.items():
        parts.append(f"\n## {found[0].heading} (`--algorithm={name}`)\n\n")
        parts.append(_composition(found))
        rest = [entry for entry in found if not _component(entry)]
        parts += ["\n", *_table(rest)] if rest else []
    for title, settings in COMPONENTS.items():
        parts += [f"\n## {title}\n\n", *_component_table(settings, own)]
    return "".join(parts)


def _component(entry: Entry) -> str:
    """Returns the title of the component that a setting is part of, or nothing."""
    name = entry.path.rpartition(".")[2]
    for title, settings in COMPONENTS.items():
        if name in {each.path for each in settings.entries()}:
            return title
    return ""


def _prefix(entry: Entry) -> str:
    return entry.path[: entry.path.rfind(".") + 1]


def _composition(found: list[Entry]) -> str:
    """Returns the sentence that says which components an algorithm has."""
    titles: dict[str, list[str]] = {}
    for entry in found:
        if title := _component(entry):
            titles.setdefault(_prefix(entry), []).append(title)
    sentences = []
    for prefix, each in titles.items():
        links = [f"[{t}](#{t.lower().replace(' ', '-')})" for t in dict.fromkeys(each)]
        names = " and ".join([", ".join(links[:-1]), links[-1]])
        beginning = f"With the prefix `{prefix}`, those" if prefix else "The settings"
        sentences.append(f"{beginning} of {names}.")
    return " ".join(sentences) + "\n"


def _table(rows: Iterable[Entry]) -> list[str]:
    lines = [_line(*COLUMNS), _line(*["---"] * len(COLUMNS))]
    for entry in rows:
        about = entry.setting
        lines.append(
            _line(
                f"`{entry.path}`",
                _default(entry),
                about.unit,
                describe(about, entry.kind),
                about.help,
                _source(entry),
                "yes" if about.resumable else "no",
            )
        )
    return lines


def _default(entry: Entry) -> str:
    """Returns the default, and those of algorithms that have another one."""
    text = _code(entry)
    for name, known in ALGORITHMS.items():
        if entry.path in known.settings.defaults:
            text += f"; {name}: {_code(entries(name)[entry.path])}"
    return text


def _source(entry: Entry) -> str:
    """Returns the source of the default, and of those of other algorithms."""
    text = entry.setting.source or "own choice"
    for name, known in ALGORITHMS.items():
        if entry.path in known.settings.defaults:
            text += f"; {name}: {known.settings.defaults_source or 'own choice'}"
    return text


def _code(entry: Entry) -> str:
    return f"`{show(entry.default, entry.setting)}`"


def _component_table(settings: Settings, own: dict[str, list[Entry]]) -> list[str]:
    names = [entry.path for entry in settings.entries()]
    places: dict[Place, dict[str, Entry]] = {}
    for algorithm, found in own.items():
        for entry in found:
            name = entry.path.rpartition(".")[2]
            if name in names:
                place = Place(algorithm, _prefix(entry))
                places.setdefault(place, {})[name] = entry
    columns = [
        "Setting",
        *(f"Default: {place.title}" for place in places),
        *COLUMNS[2:5],
        "Sources of the defaults",
    ]
    lines = [_line(*columns), _line(*["---"] * len(columns))]
    for name in names:
        rows = {place: found[name] for place, found in places.items()}
        first = next(iter(rows.values()))
        lines.append(
            _line(
                f"`{name}`",
                *(_code(row) for row in rows.values()),
                first.setting.unit,
                describe(first.setting, first.kind),
                first.setting.help,
                _sources(rows),
            )
        )
    return lines


def _sources(rows: dict[Place, Entry]) -> str:
    sources = {place: row.setting.source or "own choice" for place, row in rows.items()}
    if len(set(sources.values())) == 1:
        return next(iter(sources.values()))
    return "; ".join(f"{place.title}: {source}" for place, source in sources.items())


def _line(*cells: str) -> str:
    escaped = [re.sub(r"([|*<])", r"\\\1", cell) for cell in cells]
    return f"| {' | '.join(escaped)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
