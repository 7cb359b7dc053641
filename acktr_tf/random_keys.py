"""Random keys from the run's seed and a counter, so that no generator has a state."""

import zlib

import numpy as np
import numpy.typing as npt


class KeyStream:
    """Keys for TensorFlow's stateless random operations.

    Args:
      seed: The run's seed.
      purpose: What the keys are for; streams of different purposes are independent.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
        self._first = int(sequence.generate_state(1)[0] >> 1)

    def key(self, index: int) -> npt.NDArray[np.int32]:
        """The key `[2]` of the `index`-th draw, the same whenever it is asked for.

        Args:
          index: In [0, 2⁶³); no two have the same key.
        """
        # The second number is the index as far as 32 bits hold it. Beyond that the
        # first one is negative, which it is not for an index below 2³².
        rounds, low = divmod(index, 2**32)
        first = ~((self._first + rounds) % 2**31) if rounds else self._first
        return np.array([first, low], np.int64).astype(np.int32)
