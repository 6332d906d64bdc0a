"""How many processor cores this process may use: from affinity and cgroup, never from the host."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")


def available(cgroup: Path = _CGROUP_V2) -> int:
    """Whole cores that may be used at once, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or no quota: affinity alone decides
    return max(1, allowed)
