"""An Atari player on ALE's single emulator: no threads, no vectors, frame by frame."""

import functools

import ale_py
import numpy as np
import numpy.typing as npt
import scipy.sparse
from ale_py import roms

FRAME_SKIP = 4
FRAME_STACK = 4
FRAME_SIZE = 84


class Player:
    """Plays games as the agent's environment should, but without no-op starts."""

    def __init__(self, game: str, stickiness: float = 0.0) -> None:
        self._game = game
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", stickiness)
        self._pictures: list[npt.NDArray[np.uint8]] = []

    def start(self, seed: int) -> None:
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(roms.get_rom_path(self._game))
        self._ale.reset_game()
        self._buttons = self._ale.getMinimalActionSet()
        if ale_py.Action.FIRE in self._buttons:
            self._ale.act(ale_py.Action.FIRE)
        self._must_fire = False
        self.score = 0.0
        self.length = 0
        picture = self._ale.getScreenGrayscale()
        self._pictures = [np.zeros_like(picture)] * (FRAME_STACK - 1) + [picture]

    def observation(self) -> npt.NDArray[np.float64]:
        """The last four pictures, oldest first, before rounding."""
        return np.stack([shrink(picture) for picture in self._pictures])

    def step(self, action: int) -> tuple[float, bool, bool]:
        """The raw reward, whether a life was lost, and whether the game is over."""
        lives = self._ale.lives()
        button = ale_py.Action.FIRE if self._must_fire else self._buttons[action]
        reward = 0.0
        screens = []
        for _ in range(FRAME_SKIP):
            reward += self._ale.act(button)
            if self._ale.game_over():
                break
            screens.append(self._ale.getScreenGrayscale())
        over = self._ale.game_over()
        life_lost = not over and self._ale.lives() < lives
        self._must_fire = life_lost and ale_py.Action.FIRE in self._buttons
        self.score += reward
        self.length += 1
        if len(screens) == FRAME_SKIP:
            picture = np.maximum(screens[-1], screens[-2])
            self._pictures = [*self._pictures[1:], picture]
        return reward, life_lost, over


def shrink(screen: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The picture at 84×84, each pixel the mean of the area it covers."""
    rows = _coverage(screen.shape[0], FRAME_SIZE)
    columns = _coverage(screen.shape[1], FRAME_SIZE)
    return (columns @ (rows @ screen.astype(np.float64)).T).T


@functools.cache
def _coverage(size: int, smaller: int) -> scipy.sparse.csr_array:
    """`[smaller, size]`: the share of each old pixel in each new one."""
    edges = np.arange(smaller + 1) * size / smaller
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    weights = np.maximum(overlap, 0.0)
    return scipy.sparse.csr_array(weights / weights.sum(axis=1, keepdims=True))
