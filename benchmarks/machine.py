"""What a benchmark was measured on."""

import platform
from pathlib import Path
from typing import Any

from acktr_tf.suites.jobs import cores


def machine() -> dict[str, Any]:
    """Processor, cores and Python."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        names = [line for line in lines if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else ""
    return {
        "processor": model or platform.processor(),
        "cores": cores(),
        "python": platform.python_version(),
    }
