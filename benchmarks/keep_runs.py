"""Keeps the finished runs of a benchmark in one small file, to go on elsewhere.

    python benchmarks/keep_runs.py pack DIRECTORY FILE.tar.xz
    python benchmarks/keep_runs.py unpack FILE.tar.xz DIRECTORY

The file has of each finished and evaluated run what reports are made of: how it ended,
its scores, when each episode ended and its return, and the last line of the progress.
Unpacked, these runs count as finished: `acktr_tf.benchmark` and side_by_side.py make
the others, and report on all. Checkpoints, logs and paths of the machine stay behind. A
run that DIRECTORY has already is left alone.
"""

import argparse
import csv
import io
import json
import tarfile
from pathlib import Path

from acktr_tf.runs.logs import EPISODES_FILE, PROGRESS_FILE
from acktr_tf.suites.jobs import (
    FINISHED,
    OUTCOME,
    RUN,
    SCORES,
    read_outcome,
    write_file,
)

COLUMNS = ("step", "episode_return")
SCORES_KEPT = ("games", "mean", "returns")


def files_of(directory: Path) -> dict[str, str]:
    """What is kept of a finished run: path below its directory → text."""
    outcome = read_outcome(directory)
    if outcome is None:
        raise ValueError(f"{directory} has no {OUTCOME}.")
    own = ("--run_dir=", "--directory=")
    command = [part for part in outcome.command if not part.startswith(own)]
    command[:1] = ["python"] * bool(command)
    scores = json.loads((directory / SCORES).read_text())
    scores = {key: scores[key] for key in SCORES_KEPT if key in scores}
    episodes = io.StringIO()
    writer = csv.writer(episodes, lineterminator="\n")
    writer.writerow(COLUMNS)
    with (directory / RUN / EPISODES_FILE).open(newline="") as file:
        for row in csv.DictReader(file):
            writer.writerow([row["step"], f"{float(row['episode_return']):.7g}"])
    progress = (directory / RUN / PROGRESS_FILE).read_text().splitlines()
    return {
        OUTCOME: json.dumps(outcome._replace(command=command)._asdict(), indent=2),
        SCORES: json.dumps(scores),
        f"{RUN}/{EPISODES_FILE}": episodes.getvalue(),
        f"{RUN}/{PROGRESS_FILE}": "\n".join([progress[0], *progress[1:][-1:]]) + "\n",
    }


def pack(directory: Path, file: Path) -> int:
    """Writes the file; returns how many runs are in it."""
    runs = [path.parent for path in sorted(directory.rglob(SCORES))]
    finished = []
    for run in runs:
        outcome = read_outcome(run)
        if outcome is not None and outcome.status == FINISHED:
            finished.append(run)
    with tarfile.open(file, "w:xz") as archive:
        for run in finished:
            for name, text in files_of(run).items():
                data = text.encode()
                # Without owner and time: the same runs make the same file.
                member = tarfile.TarInfo(str(run.relative_to(directory) / name))
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return len(finished)


def unpack(file: Path, directory: Path) -> int:
    """Puts the runs into a directory; returns how many were not there."""
    with tarfile.open(file) as archive:
        members = archive.getmembers()
        runs = [
            Path(member.name).parent
            for member in members
            if Path(member.name).name == OUTCOME
        ]
        new = [run for run in runs if not (directory / run / OUTCOME).exists()]
        # How it ended comes last: a run that is not there whole must not count.
        for member in sorted(members, key=lambda each: each.name.endswith(OUTCOME)):
            if any(Path(member.name).is_relative_to(run) for run in new):
                content = archive.extractfile(member)
                if content is None or not _is_inside(Path(member.name)):
                    raise SystemExit(
                        f"{file} is not of this script's making: it has {member.name}."
                    )
                path = directory / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, content.read())
    return len(new)


def _is_inside(path: Path) -> bool:
    """Whether it stays in the directory to which it is relative."""
    return not path.is_absolute() and ".." not in path.parts


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    if not arguments.source.exists():
        parser.error(f"There is no {arguments.source}.")
    act = pack if arguments.action == "pack" else unpack
    print(f"{act(arguments.source, arguments.target)} runs")


if __name__ == "__main__":
    main()
