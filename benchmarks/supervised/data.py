"""Data that need no download: drawn curves, frames of Atari games, digits.

Everything is made from a seed, and kept in a file once it is made.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acktr_tf.suites.jobs import write_file

SIDE = 28
GAMES = (
    "pong",
    "breakout",
    "space_invaders",
    "seaquest",
    "beam_rider",
    "qbert",
    "enduro",
    "ms_pacman",
)

CURVE_POINTS = 100  # On each curve, at equal steps of its parameter.
CURVE_WIDTH = 0.75  # Standard deviation of the pen, in pixels.
CHUNK = 250  # Curves that are drawn at a time.

PATCH_SIDE = 12
FRAME_SKIP = 4  # Emulator frames for which the random policy repeats an action.
ACTIONS_BETWEEN = 2  # Actions from one recorded frame to the next.


class Data(NamedTuple):
    """Pictures, and what they are of.

    Attributes:
      pictures: `[N, height, width]`, uint8, of which 255 stands for 1.
      labels: `[N]`, int64.
      held_out_pictures: `[M, height, width]`.
      held_out_labels: `[M]`.
    """

    pictures: np.ndarray
    labels: np.ndarray
    held_out_pictures: np.ndarray
    held_out_labels: np.ndarray


# Curves -----------------------------------------------------------------------------
def curves(training: int = 20_000, held_out: int = 5_000, seed: int = 0) -> Data:
    """Random smooth curves, after Hinton & Salakhutdinov (2006).

    Theirs are curves that three random points of the plane define, 20,000 of them for
    training; the files are not available offline, nor is it published how exactly they
    were drawn. Ours: three points p, q, r are drawn uniformly from the square that is
    two pixels smaller than the picture on every side. They are the control points of a
    quadratic Bézier curve,

        c(t) = (1 − t)² p + 2 t (1 − t) q + t² r,    0 ≤ t ≤ 1,

    which stays in their triangle. A pixel at distance d from the nearest of 100 points
    of the curve, at equal steps of t, has the intensity exp(−d² / 2w²), w = 0.75
    pixels, rounded to a multiple of 1/255.

    Args:
      training: How many to train with.
      held_out: How many not to.
      seed: Of the points.
    """
    rng = np.random.default_rng(seed)
    corners = rng.uniform(2.0, SIDE - 2.0, (training + held_out, 3, 2))
    t = np.linspace(0.0, 1.0, CURVE_POINTS)
    weights = np.stack([(1.0 - t) ** 2, 2.0 * t * (1.0 - t), t**2])
    pictures = np.concatenate(
        [
            _draw(np.einsum("npc,pt->ntc", part, weights))
            for part in np.array_split(corners, -(-len(corners) // CHUNK))
        ]
    )
    labels = np.zeros(len(pictures), np.int64)
    return Data(
        pictures[:training], labels[:training], pictures[training:], labels[training:]
    )


def _draw(points: np.ndarray) -> np.ndarray:
    """Curves `[N, T, 2]`, in pixels, as pictures `[N, 28, 28]`."""
    centres = np.arange(SIDE) + 0.5
    # exp(−d²) of the nearest point is the largest; it is a product over both axes.
    falloff = np.exp(-0.5 * ((points[..., None] - centres) / CURVE_WIDTH) ** 2)
    falloff = falloff.astype(np.float32)
    pictures = np.zeros((len(points), SIDE, SIDE), np.float32)
    for point in range(points.shape[1]):
        x, y = falloff[:, point, 0], falloff[:, point, 1]
        np.maximum(pictures, y[:, :, None] * x[:, None, :], out=pictures)
    return np.rint(255.0 * pictures).astype(np.uint8)


# Frames -----------------------------------------------------------------------------
def frames(
    training: int = 2_000,
    held_out: int = 500,
    seed: int = 0,
    games: tuple[str, ...] = GAMES,
) -> Data:
    """Frames of Atari games under a random policy; labels say which game it is.

    Every action is drawn uniformly from the game's minimal set and repeated for four
    emulator frames. After each second one the screen is recorded: grey, brought to
    28x28 by the mean over areas. Frames for training and held-out ones are of
    different episodes, with seeds of their own, and all frames of a game differ.

    Args:
      training: How many of each game to train with.
      held_out: How many of each game not to.
      seed: Of the policy and the emulator.
      games: By their names in ale-py.
    """
    parts: list[list[np.ndarray]] = [[], []]
    for number, game in enumerate(games):
        seen: set[bytes] = set()
        for part, count in enumerate((training, held_out)):
            source = _screens(game, 2 * (len(games) * seed + number) + part)
            found: list[np.ndarray] = []
            while len(found) < count:
                screen = next(source)
                if screen.tobytes() not in seen:
                    seen.add(screen.tobytes())
                    found.append(screen)
            parts[part].append(np.stack(found))
    labels = [
        np.repeat(np.arange(len(games)), count).astype(np.int64)
        for count in (training, held_out)
    ]
    pictures = [np.concatenate(part) for part in parts]
    return Data(pictures[0], labels[0], pictures[1], labels[1])


def _screens(game: str, seed: int) -> Iterator[np.ndarray]:
    """Screens `[28, 28]` of a game without end."""
    import ale_py
    from PIL import Image

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", seed)
    emulator.setFloat("repeat_action_probability", 0.0)
    rom = ale_py.roms.get_rom_path(game)
    assert rom is not None
    emulator.loadROM(rom)
    actions = emulator.getMinimalActionSet()
    rng = np.random.default_rng(seed)
    while True:
        for action in rng.integers(len(actions), size=ACTIONS_BETWEEN):
            for _ in range(FRAME_SKIP):
                emulator.act(actions[action])
        if emulator.game_over():
            emulator.reset_game()
        screen = Image.fromarray(np.squeeze(emulator.getScreenGrayscale()))
        yield np.asarray(screen.resize((SIDE, SIDE), Image.Resampling.BOX))


# Patches ----------------------------------------------------------------------------
def patches(training: int = 2_000, held_out: int = 500, seed: int = 0) -> Data:
    """A 12x12 piece of each frame, at a random place; labels say which game it is.

    Whole frames are told apart without an error after a few updates. Some pieces are
    as black in one game as in another, and no network tells these apart.

    Args:
      training: How many of each game to train with.
      held_out: How many of each game not to.
      seed: Of the frames and the places.
    """
    whole = frames(training, held_out, seed)
    rng = np.random.default_rng(seed)

    def pieces(pictures: np.ndarray) -> np.ndarray:
        places = rng.integers(SIDE - PATCH_SIDE + 1, size=(len(pictures), 2))
        return np.stack(
            [
                picture[row : row + PATCH_SIDE, column : column + PATCH_SIDE]
                for picture, (row, column) in zip(pictures, places, strict=True)
            ]
        )

    return whole._replace(
        pictures=pieces(whole.pictures),
        held_out_pictures=pieces(whole.held_out_pictures),
    )


# Digits -----------------------------------------------------------------------------
def digits(training: int = 1_437, seed: int = 0) -> Data:
    """The 1,797 handwritten digits of scikit-learn, 8x8; those not taken are held out.

    Args:
      training: How many to train with.
      seed: Of which these are.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.images))
    pictures = np.rint(found.images[order] * (255.0 / 16.0)).astype(np.uint8)
    labels = found.target[order].astype(np.int64)
    return Data(
        pictures[:training], labels[:training], pictures[training:], labels[training:]
    )


# Files ------------------------------------------------------------------------------
MAKERS: dict[str, Callable[[], Data]] = {
    "curves": curves,
    "frames": frames,
    "patches": patches,
    "digits": digits,
}


def load(name: str, directory: Path) -> Data:
    """Data by their name, from a file in `directory`, which is made if need be."""
    path = directory / f"{name}.npz"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.savez_compressed(file, **MAKERS[name]()._asdict())
        write_file(path, file.getvalue())
    with np.load(path) as arrays:
        return Data(**arrays)
