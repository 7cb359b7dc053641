import pytest

from acktr_tf.config.setting import Setting, closest, described


@pytest.mark.parametrize(
    ("setting", "kind", "words"),
    [
        (Setting("g", "h"), float, "a number"),
        (Setting("g", "h", low=1), int, "an integer >= 1"),
        (
            Setting("g", "h", low=0, high=1, exclusive_low=True),
            float,
            "a number > 0 and <= 1",
        ),
        (Setting("g", "h", high=2, exclusive_high=True), float, "a number < 2"),
        (Setting("g", "h", high=2**31 - 1), int, "an integer <= 2147483647"),
        (Setting("g", "h", choices=("a", "b")), str, "one of a, b"),
        (Setting("g", "h"), bool, "true or false"),
        (Setting("g", "h"), str, "text"),
    ],
)
def test_accepted_values_in_words(setting, kind, words):
    assert described(setting, kind) == words


def test_closest():
    assert closest("sed", ["seed", "env"]) == " Did you mean seed?"
    assert closest("zzz", ["seed", "env"]) == ""
