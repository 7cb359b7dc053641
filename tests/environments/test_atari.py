"""Atari: names, and whole games against an independent player."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from ale_py import roms
from oracles.atari import Player

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import AtariEnvironment, atari, make_vector_env
from acktr_tf.environments.atari import MULTI_PLAYER_GAMES, find_game, game_names
from acktr_tf.errors import UserError


def episode_seeds(environment: int, episode: int) -> int:
    return 1000 * environment + episode


@contextmanager
def playing(
    game: str, num_envs: int = 2, **options: object
) -> Iterator[AtariEnvironment]:
    environments = AtariEnvironment(game, num_envs, episode_seeds, threads=2, **options)
    try:
        yield environments
    finally:
        environments.close()


# Names ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pong", ("pong", 0.0)),
        ("space_invaders", ("space_invaders", 0.0)),
        ("ALE/Pong-v5", ("pong", 0.25)),
        ("ALE/SpaceInvaders-v5", ("space_invaders", 0.25)),
        ("ALE/TicTacToe3D-v5", ("tic_tac_toe_3d", 0.25)),
        ("PongNoFrameskip-v4", ("pong", 0.0)),
        ("PongNoFrameskip-v0", ("pong", 0.25)),
        ("CartPole-v1", None),
        ("MountainCar-v0", None),
        ("pongg", None),
    ],
)
def test_a_name_stands_for_a_game_and_its_sticky_actions(
    name: str, expected: tuple[str, float] | None
) -> None:
    assert find_game(name) == expected


def test_every_game_is_found_by_all_of_its_names() -> None:
    assert len(game_names()) == 104
    for game in game_names():
        pascal = game.title().replace("_", "")
        assert find_game(game) == (game, 0.0)
        assert find_game(f"ALE/{pascal}-v5") == (game, 0.25)
        assert find_game(f"{pascal}NoFrameskip-v4") == (game, 0.0)
        assert find_game(f"{pascal}NoFrameskip-v0") == (game, 0.25)
        atari.require_rom(game)


def test_names_mean_what_they_mean_in_gymnasiums_registry() -> None:
    compared = 0
    for name, spec in gymnasium.registry.items():
        if re.fullmatch(r"ALE/\w+-v5|\w+NoFrameskip-v[04]", name):
            arguments = spec.kwargs
            expected = (arguments["game"], arguments["repeat_action_probability"])
            assert find_game(name) == expected
            compared += 1
    assert compared > 200


def test_no_environment_of_another_is_taken_for_a_game() -> None:
    others = [
        name
        for name, spec in gymnasium.registry.items()
        if not str(spec.entry_point).startswith("ale_py.")
    ]
    assert "Blackjack-v1" in others  # Of which Atari has one, too.
    assert [name for name in others if find_game(name)] == []


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("pongg", "pong"),
        ("Breakout", "breakout"),
        ("ALE/Pnog-v5", "ALE/Pong-v5"),
        ("ALE/pong-v5", "ALE/Pong-v5"),
        ("ALE/Pong", "ALE/Pong-v5"),
        ("BreakotNoFrameskip-v4", "BreakoutNoFrameskip-v4"),
    ],
)
def test_an_unknown_game_gets_the_closest_names(name: str, closest: str) -> None:
    with pytest.raises(UserError) as error:
        make_vector_env(EnvironmentSettings(env=name), 0)
    message = str(error.value)
    assert name in message
    assert f" {closest}" in message.split("Did you mean")[1]
    assert "\n" not in message


@pytest.mark.parametrize(
    "name",
    [
        "Pong-v0",
        "Pong-v4",
        "Pong-v5",
        "PongDeterministic-v4",
        "Pong-ram-v4",
        "Pong-ramNoFrameskip-v4",
        "PongNoFrameskip-v5",
        "ALE/Pong-v4",
        "ALE/Pong-ram-v5",
    ],
)
def test_another_version_is_refused_with_the_accepted_names(name: str) -> None:
    with pytest.raises(UserError) as error:
        find_game(name)
    message = str(error.value)
    assert name in message
    for accepted in ["ALE/Pong-v5", "PongNoFrameskip-v4", "pong"]:
        assert find_game(accepted)
        assert accepted in message.split("Accepted:")[1]


@pytest.mark.parametrize("game", sorted(MULTI_PLAYER_GAMES))
def test_a_game_for_several_players_is_refused(game: str) -> None:
    pascal = game.title().replace("_", "")
    assert game not in game_names()
    for name in [game, f"ALE/{pascal}-v5", f"{pascal}NoFrameskip-v4", f"{pascal}-v4"]:
        with pytest.raises(UserError, match="several players") as error:
            find_game(name)
        assert name in str(error.value)


def test_games_for_several_players_are_those_gymnasium_does_not_register() -> None:
    registered = {
        spec.kwargs["game"]
        for name, spec in gymnasium.registry.items()
        if name.startswith("ALE/")
    }
    assert set(roms.get_all_rom_ids()) - registered == MULTI_PLAYER_GAMES


def test_the_sticky_actions_of_the_name_give_way_to_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received = []

    def record(*_: object, repeat_action_probability: float, **__: object) -> None:
        received.append(repeat_action_probability)

    monkeypatch.setattr("acktr_tf.environments.AtariEnvironment", record)
    for name in ["ALE/Pong-v5", "pong"]:
        for setting in [None, 0.0, 0.5]:
            make_vector_env(
                EnvironmentSettings(env=name, repeat_action_probability=setting), 0
            )
    assert received == [0.25, 0.0, 0.5, 0.0, 0.0, 0.5]


def test_a_missing_rom_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match="No ROM for the game `pong`") as error:
        make_vector_env(EnvironmentSettings(env="pong"), 0)
    assert "ALE_ROMS_DIR" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_rom_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pong.bin").write_bytes(b"no game")
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match="No ROM for the game `pong`") as error:
        make_vector_env(EnvironmentSettings(env="pong"), 0)
    assert "\n" not in str(error.value)


def test_a_directory_of_roms_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="No ROM for the game `pong`"):
        make_vector_env(EnvironmentSettings(env="pong"), 0)


# Games against an independent player ------------------------------------------------
@pytest.mark.parametrize(
    ("game", "stickiness", "steps", "games"),
    [
        ("breakout", 0.0, 500, 4),
        ("breakout", 0.25, 500, 4),
        ("ms_pacman", 0.0, 600, 2),
        ("pong", 0.25, 900, 1),
    ],
)
def test_whole_games_equal_those_of_an_independent_player(
    game: str,
    stickiness: float,
    steps: int,
    games: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atari, "NOOP_MAX", 0)
    num_envs = 2
    random = np.random.default_rng(7)
    players = [Player(game, stickiness) for _ in range(num_envs)]
    episode = [0] * num_envs
    finished, lives_lost, clipped = [], 0, 0
    with playing(game, num_envs, repeat_action_probability=stickiness) as environments:
        observation = environments.reset()
        for i, player in enumerate(players):
            player.start(episode_seeds(i, 0))
        assert observation.shape == (num_envs, 4, 84, 84)
        assert observation.dtype == np.uint8
        ended = False
        for t in range(steps):
            if t % 10 == 0 or ended:
                # The resampling differs in rounding alone.
                expected = [player.observation() for player in players]
                np.testing.assert_allclose(observation, expected, atol=1.0)
            actions = random.integers(0, environments.action_space.n, num_envs)
            step = environments.step(actions)
            observation = step.observation
            episodes = iter(step.episodes)
            for i, player in enumerate(players):
                reward, life_lost, over = player.step(int(actions[i]))
                assert step.reward[i] == np.clip(reward, -1, 1), t
                assert step.terminated[i] == (life_lost or over), t
                assert not step.truncated[i]
                lives_lost += life_lost
                clipped += abs(reward) > 1
                if over:
                    assert next(episodes) == (player.score, player.length)
                    finished.append(player.score)
                    episode[i] += 1
                    player.start(episode_seeds(i, episode[i]))
            assert next(episodes, None) is None
            ended = bool(step.episodes)
        assert step.reward.dtype == np.float32
    assert len(finished) >= games
    assert any(score != 0 for score in finished)
    if game == "pong":
        assert lives_lost == 0
    else:
        assert lives_lost > len(finished)
    assert (clipped > 0) == (game == "ms_pacman")


def test_rewards_and_lives_may_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atari, "NOOP_MAX", 0)
    player = Player("ms_pacman")
    random = np.random.default_rng(3)
    lives_lost = 0
    with playing(
        "ms_pacman", 1, clip_rewards=False, life_loss_terminates=False
    ) as environments:
        environments.reset()
        player.start(episode_seeds(0, 0))
        over = False
        while not over:
            action = random.integers(0, environments.action_space.n, 1)
            step = environments.step(action)
            reward, life_lost, over = player.step(int(action[0]))
            lives_lost += life_lost
            assert step.reward[0] == reward
            assert step.terminated[0] == over
    assert lives_lost == 2
    assert step.episodes == [(player.score, player.length)]


def test_fire_is_pressed_after_a_lost_life_and_the_agent_never_has_to() -> None:
    """An agent that only ever waits still loses all five lives of Breakout."""
    with playing("breakout", 2) as environments:
        environments.reset()
        waiting = np.zeros(2, np.int64)
        terminations, episodes = 0, []
        for _ in range(250):
            step = environments.step(waiting)
            terminations += int(step.terminated.sum())
            episodes += step.episodes
    assert len(episodes) >= 2
    assert terminations >= 5 * len(episodes)


def test_a_new_game_after_the_last_life_is_no_lost_life() -> None:
    """Five lives: a game ends with its fifth termination, and never with a sixth."""
    random = np.random.default_rng(0)
    with playing("breakout", 2) as environments:
        environments.reset()
        terminations = np.zeros(2, int)
        games = 0
        while games < 4:
            step = environments.step(random.integers(0, 4, 2))
            terminations += step.terminated
            if step.episodes:
                over = (terminations == 5) & step.terminated
                assert over.sum() == len(step.episodes)
                terminations[over] = 0
                games += len(step.episodes)
            assert (terminations < 5).all()


# Starts, limits, pictures -----------------------------------------------------------
def test_starts_vary_with_the_seed_and_repeat_with_it() -> None:
    with playing("pong", 2) as environments:
        first = environments.reset()
        again = environments.reset()
    assert np.array_equal(first, again)
    assert not first[:, :3].any(), "The stack starts with the newest frame alone."
    assert first[:, 3].any(axis=(1, 2)).all()
    # No-op starts differ in the frames that passed, seen in what happens next.
    with playing("space_invaders", 6) as environments:
        environments.reset()
        for _ in range(8):
            last = environments.step(np.zeros(6, np.int64)).observation
    assert len({frames.tobytes() for frames in last}) > 2


def test_the_oldest_frame_is_first() -> None:
    with playing("pong", 1) as environments:
        before = environments.reset()
        for _ in range(6):
            after = environments.step(np.array([2])).observation
            assert np.array_equal(after[:, :3], before[:, 1:])
            before = after
    assert not np.array_equal(after[:, 2], after[:, 3])


def test_a_game_that_is_cut_off_is_truncated_and_not_terminated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atari, "MAX_FRAMES", 40)
    with playing("pong", 2) as environments:
        environments.reset()
        for t in range(10):
            step = environments.step(np.zeros(2, np.int64))
            assert not step.terminated.any()
            assert step.truncated.all() == (t == 9)
            assert (step.final_observation is None) == (t < 9)
    assert [episode.episode_length for episode in step.episodes] == [10, 10]
    assert step.final_observation is not None
    # The next game begins at once, with one frame in its stack.
    assert step.final_observation[:, 0].any()
    assert not step.observation[:, 0].any()


def test_the_limit_is_half_an_hour_of_frames() -> None:
    assert atari.MAX_FRAMES == 30 * 60 * 60


def test_pictures_are_those_of_the_same_games() -> None:
    random = np.random.default_rng(5)
    with playing("breakout", 2, render=True) as environments:
        environments.reset()
        for _ in range(120):
            observation = environments.step(random.integers(0, 4, 2)).observation
            pictures = environments.render()
            assert [picture.shape for picture in pictures] == [(210, 160, 3)] * 2
            # The newest frame again, from the colours.
            grey = np.stack(pictures) @ [0.299, 0.587, 0.114]
            np.testing.assert_allclose(
                grey.mean(axis=(1, 2)),
                observation[:, 3].mean(axis=(1, 2)),
                rtol=0.05,
                atol=1.0,
            )
    with (
        playing("breakout", 1) as environments,
        pytest.raises(ValueError, match="render=True"),
    ):
        environments.render()


def test_a_game_for_several_players_never_reaches_ale() -> None:
    """ALE would end the process, so this is asked of one."""
    program = (
        "from acktr_tf.config.environment import EnvironmentSettings\n"
        "from acktr_tf.environments import make_vector_env\n"
        "from acktr_tf.errors import UserError\n"
        "try:\n"
        "    make_vector_env(EnvironmentSettings(env='warlords'), 0)\n"
        "except UserError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "refused"
