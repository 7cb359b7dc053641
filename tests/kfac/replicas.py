"""Two logical CPUs beside one, in a process of its own; test_replicas.py starts it.

    python tests/kfac/replicas.py fit lookahead optimizer  # or `fit-slow`

Prints, as the last line, program → traceback as JSON; of what passed it is empty.
"""

import json
import sys
import traceback

import tensorflow as tf

from kfac import fit_replicas, lookahead_replicas, optimizer_replicas

PROGRAMS = {
    "optimizer": optimizer_replicas.check,
    "fit": fit_replicas.check,
    "lookahead": lookahead_replicas.check,
    "fit-slow": fit_replicas.check_all,
}


def main(names: list[str]) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # One for all: a second one would number its collective operations from the start.
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for name in names:
        try:
            PROGRAMS[name](mirrored)
        except Exception:
            found[name] = traceback.format_exc()
        else:
            found[name] = ""
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
