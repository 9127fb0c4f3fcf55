"""How many connections the process may hold: a descriptor each, and a second one for some."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

SECOND_MAX = 1024
"""Connections that have one for the threads that answer, too (`Reply.at_once`). Of more than so
many, what the loop's waking costs one of them is not what is waited for."""
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
    wanted = connections_max + SECOND_MAX + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections_max
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < wanted:
        room = max(1, allowed - SECOND_MAX - _OTHERS)
        log.warning(
            "MAX_CONNECTIONS is %d instead of %d: the system allows %d open files (ulimit -n)",
            *(room, connections_max, allowed),
        )
        return room
    return connections_max
