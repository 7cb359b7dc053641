import json

import gymnasium
import numpy as np
import pytest
from absl.flags import FlagValues

from acktr_tf import evaluate
from acktr_tf.config import configure
from acktr_tf.environments import (
    AtariEnvironment,
    GymEnvironment,
    VectorEnvironment,
    training_seeds,
)
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.scoring import (
    EVALUATION,
    MAX_STEPS,
    VALIDATION,
    EndlessGameError,
    Scores,
    evaluation_seeds,
    game_seed,
    score,
    score_policy,
)

CARTPOLE = configure(env="CartPole-v1", num_envs=2)


class Plays:
    """A policy that is one function, whichever actions are asked for."""

    def __init__(self, act):
        self._act = act

    def predict(self, observation, key, *, deterministic=False):
        return self._act(observation, key)


def lean(observation, key):
    """Pushes towards where the pole falls: games of many different lengths."""
    return (observation @ np.array([0.0, 0.0, 1.0, 0.0]) > 0).astype(np.int64)


def cartpole(num_envs, seed=0):
    return GymEnvironment("CartPole-v1", num_envs, evaluation_seeds(seed, num_envs))


class Countdown(VectorEnvironment):
    """Games as long as `seed % 50` says, with that return; each step loses a life."""

    def __init__(self, num_envs, episode_seeds, length=lambda seed: 1 + seed % 50):
        space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        actions = gymnasium.spaces.Discrete(2)
        super().__init__("Countdown", num_envs, space, actions, episode_seeds)
        self._length = length
        self._left = np.zeros(num_envs, np.int64)
        self.shown = []

    def _reset_some(self, mask, seeds):
        self._left[mask] = [self._length(int(seed)) for seed in seeds]
        return np.zeros((self.num_envs, 1), np.float32)

    def _step_all(self, actions):
        self._left -= 1
        observation = np.zeros((self.num_envs, 1), np.float32)
        reward = np.full(self.num_envs, 2.0)
        return observation, reward, self._left == 0, np.zeros(self.num_envs, bool)

    def _learning_reward(self, reward):
        return np.clip(reward, -1, 1)

    def _learning_terminated(self, terminated):
        return np.ones_like(terminated)

    def render(self):
        return [np.array(left) for left in self._left]

    def close(self):
        pass


def still(observation, key):
    return np.zeros(len(observation), np.int64)


def test_each_game_is_what_a_single_environment_plays():
    scores = score(Plays(lean), cartpole(3), 7)
    single = gymnasium.make("CartPole-v1")
    for j in range(7):
        assert scores.seeds[j] == game_seed(0, j)
        observation, _ = single.reset(seed=game_seed(0, j))
        total, length, over = 0.0, 0, False
        while not over:
            action = lean(observation, None)
            observation, reward, terminated, truncated, _ = single.step(int(action))
            total, length = total + float(reward), length + 1
            over = terminated or truncated
        assert (scores.returns[j], scores.lengths[j]) == (total, length)
    assert len(set(scores.returns)) > 3


def test_scores_do_not_depend_on_the_number_of_environments():
    scores = [score(Plays(lean), cartpole(n), 6).to_dict() for n in (1, 4, 6, 9)]
    assert scores[1:] == scores[:-1]


def test_short_games_are_not_preferred_and_scores_are_raw_over_all_lives():
    scores = score(Plays(still), Countdown(4, evaluation_seeds(0, 4)), 30)
    lengths = [1 + game_seed(0, j) % 50 for j in range(30)]
    assert scores.lengths.tolist() == lengths
    assert scores.returns.tolist() == [2.0 * length for length in lengths]


def test_a_life_lost_in_an_atari_game_does_not_end_it():
    def jerk(observation, key):
        return observation[:, 3].sum((1, 2), dtype=np.int64) % 4

    def play(life_loss_terminates):
        environments = AtariEnvironment(
            "breakout",
            2,
            evaluation_seeds(0, 2),
            life_loss_terminates=life_loss_terminates,
            threads=1,
        )
        scores = score(Plays(jerk), environments, 2)
        environments.close()
        return scores.to_dict()

    assert play(True) == play(False)


@pytest.mark.parametrize("games", [1, 3])
def test_a_game_that_never_ends_is_an_error(games):
    # Only game 2 is endless, and with games=1 it is not among those that count.
    endless = game_seed(0, 2)
    environments = Countdown(
        2, evaluation_seeds(0, 2), lambda seed: 10**9 if seed == endless else 5
    )
    if games == 1:
        assert score(Plays(still), environments, 1, max_steps=5).lengths.tolist() == [5]
        return
    with pytest.raises(
        EndlessGameError, match=rf"Game 2 .*seed {endless}.* 20 .*--max_steps"
    ):
        score(Plays(still), environments, games, max_steps=20)


def test_what_is_watched_is_game_0_alone_and_whole():
    environments = Countdown(2, evaluation_seeds(0, 2))
    seen = []
    scores = score(
        Plays(still),
        environments,
        5,
        watch=lambda: seen.append(int(environments.render()[0])),
    )
    # One picture for each observation acted on, from the full length down.
    assert seen == list(range(scores.lengths[0], 0, -1))


def test_seeds_are_those_that_the_environments_were_given():
    environments = Countdown(2, lambda environment, episode: 10 * environment + episode)
    assert score(Plays(still), environments, 5).seeds.tolist() == [0, 10, 1, 11, 2]


def test_seeds_of_games_differ_from_each_other_and_from_those_of_training():
    training = training_seeds(3)
    seeds = [game_seed(3, j) for j in range(100)]
    seeds += [game_seed(4, j) for j in range(100)]
    seeds += [training(i, e) for i in range(10) for e in range(10)]
    assert len(set(seeds)) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_summary():
    scores = Scores(
        np.array([1.0, 2.0, 6.0, 3.0]), np.array([4, 5, 6, 7]), np.array([8, 9, 10, 11])
    )
    # Mean 3; deviations -2, -1, 3, 0: variance 14 / 4.
    assert scores.to_dict() == {
        "games": 4,
        "mean": 3.0,
        "standard_deviation": pytest.approx(3.5**0.5),
        "median": 2.5,
        "minimum": 1.0,
        "maximum": 6.0,
        "steps": 22,
        "returns": [1.0, 2.0, 6.0, 3.0],
        "lengths": [4, 5, 6, 7],
        "seeds": [8, 9, 10, 11],
    }
    assert json.loads(json.dumps(scores.to_dict()))["seeds"] == [8, 9, 10, 11]


def test_a_policy_is_scored_greedy_or_sampled_and_reproducibly():
    environments = cartpole(4, seed=CARTPOLE.run.seed)
    policy = ActorCritic(
        CARTPOLE.policy,
        environments.observation_space,
        environments.action_space,
        seed=0,
    )
    policy.network.get_layer("policy").bias.assign([0.0, 0.1])

    def largest_logit(observation, key):
        logits = policy(observation.astype(np.float32)).parameters
        return np.argmax(logits, axis=1)

    def scored(**options):
        options = {"purpose": EVALUATION, **options}
        return score_policy(policy, CARTPOLE.environment, 0, 4, **options).to_dict()

    greedy = scored(deterministic=True)
    assert greedy == score(Plays(largest_logit), environments, 4).to_dict()
    sampled = scored()
    assert sampled == scored()
    assert sampled["seeds"] == greedy["seeds"]
    assert sampled["returns"] != greedy["returns"]
    assert score(policy, environments, 4).to_dict() == sampled
    # A policy that was chosen by some games is judged by others.
    chosen_by = scored(purpose=VALIDATION)["seeds"]
    assert not set(chosen_by) & set(sampled["seeds"])
    assert chosen_by == [game_seed(0, j, VALIDATION) for j in range(4)]


def test_the_flag_and_the_function_wait_equally_long():
    values = FlagValues()
    evaluate.define_flags(values)
    assert values["max_steps"].default == MAX_STEPS
