"""How many connections the process may hold: a descriptor each."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_OTHERS = 256
"""Descriptors for all that is no connection: models, logs, wakers, libraries."""


def room_for(connections_max: int) -> int:
    """Have the system allow so many connections, and as many as it allows; a shell's 1,024 files
    are for programs that open files. Warns where it allows fewer."""
    try:
        import resource
    except ImportError:  # no such limit on this system
        return connections_max
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections_max
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < wanted:
        room = max(1, allowed - _OTHERS)
        log.warning(
            "MAX_CONNECTIONS is %d instead of %d: the system allows %d open files (ulimit -n)",
            *(room, connections_max, allowed),
        )
        return room
    return connections_max
