"""When each optimizer first reached Adam's final loss, and the tables that say so."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from supervised.optimizers import ADAM, KFAC, OPTIMIZERS, search
from supervised.problems import PROBLEMS

NOT_REACHED = "not reached"

Record = Mapping[str, Any]
"""A run, as train.py left it."""

Document = Mapping[str, Any]
"""All of a problem: `"machine"`; `"least"`, the entropy of the training and of the
held-out targets whose loss is measured; `"trials"` and `"runs"`, optimizer → records;
`"chosen"`, optimizer → settings."""


class Reached(NamedTuple):
    """When a run's training loss was first measured at or below another."""

    updates: int
    seconds: float


class Effort(NamedTuple):
    """What an optimizer needed to reach Adam's final loss.

    Attributes:
      reached: One a seed; None if that run did not.
      updates_ratio: Mean over the seeds, over Adam's; None if a seed did not.
      seconds_ratio: Likewise, of time.
    """

    reached: list[Reached | None]
    updates_ratio: float | None
    seconds_ratio: float | None


def final_loss(record: Record, part: str = "training") -> float | None:
    """The loss at the end of a run; None if it was not finite."""
    losses: Sequence[float | None] = record[part]
    return losses[-1]


def first_reached(record: Record, loss: float) -> Reached | None:
    """Where a run's training loss is at or below `loss` first; None if nowhere."""
    for updates, seconds, found in zip(
        record["at"], record["seconds"], record["training"], strict=True
    ):
        if found is not None and found <= loss:
            return Reached(updates, seconds)
    return None


def target(runs: Mapping[str, Sequence[Record]]) -> float:
    """Adam's training loss at the end, mean over its seeds.

    Raises:
      ValueError: Adam has no runs, or one that diverged.
    """
    losses = [final_loss(record) for record in runs.get(ADAM, [])]
    found = [loss for loss in losses if loss is not None]
    if not found or len(found) < len(losses):
        raise ValueError(f"Adam must have runs that all end. Received: {losses}")
    return float(np.mean(found))


def efforts(runs: Mapping[str, Sequence[Record]]) -> dict[str, Effort]:
    """What each optimizer needed to reach Adam's final loss.

    Adam's own updates and seconds are means over its seeds of where each was first at
    or below that mean; a seed that ends above it counts with its whole run.
    """
    loss = target(runs)
    of_adam = [
        first_reached(record, loss) or Reached(record["at"][-1], record["seconds"][-1])
        for record in runs[ADAM]
    ]
    base = np.mean(of_adam, axis=0)
    found = {}
    for name, records in runs.items():
        reached = [first_reached(record, loss) for record in records]
        whole = of_adam if name == ADAM else [each for each in reached if each]
        if len(whole) < len(records) or not whole:
            found[name] = Effort(reached, None, None)
        else:
            updates, seconds = np.mean(whole, axis=0) / base
            found[name] = Effort(reached, float(updates), float(seconds))
    return found


# Tables -----------------------------------------------------------------------------
def tables(name: str, document: Document) -> str:
    """What was found of a problem, in Markdown."""
    runs = {each: document["runs"].get(each, []) for each in OPTIMIZERS}
    runs = {each: records for each, records in runs.items() if records}
    parts = [
        f"![Losses of {name}](images/supervised_{name}.png)",
        f"Adam's final training loss: {_number(target(runs))}. "
        f"{document['machine']['processor']}, {document['machine']['cores']} cores.",
        _effort_table(name, runs, document["chosen"]),
        _bars(name, efforts(runs).get(KFAC)),
        _loss_table(runs),
        _trial_table(name, document["trials"], document["chosen"]),
    ]
    if KFAC in runs:
        tuned = search(PROBLEMS[name], KFAC).tuned
        rest = {k: v for k, v in document["chosen"][KFAC].items() if k not in tuned}
        parts.insert(3, f"Not tuned of K-FAC: {_settings(rest, list(rest))}.")
    return "\n\n".join(parts)


def _effort_table(
    problem: str, runs: Mapping[str, Sequence[Record]], chosen: Mapping[str, Any]
) -> str:
    found = efforts(runs)
    lines = [
        "| | settings | updates of a run | ms an update | updates to Adam's loss | "
        "over Adam's | seconds to it | over Adam's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, records in runs.items():
        effort = found[name]
        speeds = [
            1e3 * record["seconds"][-1] / max(1, record["at"][-1] - 1)
            for record in records
        ]
        updates = [f"{each.updates:,}" if each else "–" for each in effort.reached]
        seconds = [f"{each.seconds:.1f}" if each else "–" for each in effort.reached]
        cells = [
            name,
            _settings(chosen[name], search(PROBLEMS[problem], name).tuned),
            f"{records[0]['updates']:,}",
            f"{np.mean(speeds):.1f}",
            " · ".join(updates),
            _ratio(effort.updates_ratio),
            " · ".join(seconds),
            _ratio(effort.seconds_ratio),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _bars(name: str, effort: Effort | None) -> str:
    """How K-FAC's ratios are to the bars that were set before."""
    problem = PROBLEMS[name]
    sentences = []
    for what, bar, place in (
        ("updates", problem.updates_bar, "updates_ratio"),
        ("time", problem.seconds_bar, "seconds_ratio"),
    ):
        if bar is None:
            continue
        ratio = None if effort is None else getattr(effort, place)
        verdict = "missed" if ratio is None or ratio > bar else "met"
        sentences.append(
            f"at most {bar:g} of Adam's {what}: {_ratio(ratio)}, {verdict}"
        )
    return f"The bar for K-FAC: {'; '.join(sentences)}."


def _loss_table(runs: Mapping[str, Sequence[Record]]) -> str:
    lines = [
        "| | final training loss, each seed | final held-out loss, each seed |",
        "|---|---|---|",
    ]
    for name, records in runs.items():
        cells = [
            " · ".join(_number(final_loss(record, part)) for record in records)
            for part in ("training", "held_out")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _trial_table(
    problem: str, trials: Mapping[str, Sequence[Record]], chosen: Mapping[str, Any]
) -> str:
    lines = [
        "| | trial | updates | final training loss | chosen |",
        "|---|---|---|---|---|",
    ]
    for name in OPTIMIZERS:
        for record in trials.get(name, []):
            cells = [
                name,
                _settings(record["settings"], search(PROBLEMS[problem], name).tuned),
                f"{record['updates']:,}",
                _number(final_loss(record)),
                "yes" if record["settings"] == chosen.get(name) else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _settings(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    shown = {name: settings[name] for name in names}
    return " ".join(
        f"`{name}={found:g}`" if isinstance(found, float) else f"`{name}={found}`"
        for name, found in shown.items()
    )


def _number(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4g}"


def _ratio(ratio: float | None) -> str:
    return NOT_REACHED if ratio is None else f"{ratio:.2f}"
