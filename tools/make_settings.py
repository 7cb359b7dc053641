"""Writes docs/settings.md from the settings that the package defines.

python tools/make_settings.py
"""

import re
from pathlib import Path

from acktr_tf.config.config import settings
from acktr_tf.config.setting import Setting, described

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Written by tools/make_settings.py from acktr_tf/config.py. Do not edit. -->

Every setting of a run is a flag of `python -m acktr_tf.launch`, of the same name:

```
python -m acktr_tf.launch --flagfile=atari.flags --env=BreakoutNoFrameskip-v4 --seed=1
```

`--help` shows this page in the terminal. A run prints the settings in effect when it
starts, and keeps them in its `config.json`.

A value follows its flag by `=` or as the next argument. A switch is turned on by
`--deterministic` or `--deterministic=true`, and off by `--nodeterministic` or
`--deterministic=false`. `--verbosity=1` shows where in the code an error arose.

## Flag files

`--flagfile=<file>` reads flags from a file, one a line, as if they stood in its place.
Empty lines, and lines that begin with `#` or `//`, are skipped.

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
- **One flag a line**, with `=`: `--seed 1` works on the command line, not in a file.

## Continuing a run

Starting again with the same `--run_dir` continues the run. Settings marked *yes* in the
last column may then have another value; with another value of any other one the run is
not continued, and the setting is named.
"""

HEADINGS = {
    "environment": "Environment",
    "agent": "Agent",
    "learning": "Learning",
    "acktr": "ACKTR (`--algorithm=acktr`)",
    "critic": "Critic of its own (`--critic=separate`)",
    "a2c": "A2C (`--algorithm=a2c`)",
    "run": "Run",
}

COLUMNS = (
    "Setting",
    "Default",
    "Unit",
    "Accepted",
    "Meaning",
    "Source of the default",
    "May change",
)


def page() -> str:
    """The text of docs/settings.md."""
    known = settings()
    parts = [INTRODUCTION]
    for group in dict.fromkeys(setting.group for setting, _, _ in known.values()):
        parts += [
            f"\n## {HEADINGS[group]}\n\n",
            _line(*COLUMNS),
            _line(*["---"] * len(COLUMNS)),
        ]
        parts += [
            _row(name, setting, kind, default)
            for name, (setting, kind, default) in known.items()
            if setting.group == group
        ]
    return "".join(parts)


def _row(name: str, setting: Setting, kind: type, default: object) -> str:
    text = str(default).lower() if kind is bool else str(default)
    return _line(
        f"`{name}`",
        f"`{text}`" if text else "empty",
        setting.unit,
        described(setting, kind),
        setting.help,
        setting.source or "own choice",
        "yes" if setting.resumable else "no",
    )


def _line(*cells: str) -> str:
    escaped = [re.sub(r"([|*<])", r"\\\1", cell) for cell in cells]
    return f"| {' | '.join(escaped)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
