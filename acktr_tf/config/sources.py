"""Sources that several defaults come from."""

PAPER = "Wu et al. 2017"
RELEASED = "released code of Wu et al. 2017"
ON_PONG = "found on Pong; see docs/atari.md"
