"""Returns of a policy that draws actions uniformly: what a suite's scores start from.

    python benchmarks/random_policy.py Hopper-v5 HalfCheetah-v5 [--episodes=100]

Episode j begins by reset(seed=j); the action space is seeded with 0 once.
"""

import argparse

import gymnasium
import numpy as np


def returns(env_id: str, episodes: int) -> np.ndarray:
    """`[episodes]`, raw returns of whole episodes."""
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    found = []
    for episode in range(episodes):
        env.reset(seed=episode)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, ended = total + float(reward), terminated or truncated
        found.append(total)
    env.close()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env", nargs="+")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    for env_id in arguments.env:
        found = returns(env_id, arguments.episodes)
        print(f"{env_id:26} mean {found.mean():8.1f}  std {found.std():8.1f}")


if __name__ == "__main__":
    main()
