"""What one controller costs that rolls a version out in three clusters with 1,000 servers.

Each cluster is a real control plane whose nodes and pods are simulated: 300 servers of the version
that serves, and room for 33 of the new one, which is a canary with 10 % of the requests in all
three at once. Every call of the controller to an API server goes through a proxy that counts it.
Told are the calls a minute while the canaries are watched, in windows of the length that is the
default, the calls until they are warm, and the most memory that the controller ever held.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import ClientFailed, Result, Row
from tests.real.rollout.world import POLICY, World, world_of
from tests.real.servers.cluster import clusters_in

REGIONS = ("us", "eu", "ap")
SERVERS, SURGE = 300, 33
_WATCHED_SECONDS = 60.0
_WINDOW_SECONDS = 60.0
_STRATEGY = {"weights": [10], "step_seconds": 3600, "surge_servers": SURGE}
_WAVES = {"order": [list(REGIONS)], "concurrency": 3, "bake_seconds": 1, "spare_region": False}
_LOADED_SECONDS = 600.0


def measure() -> Result:
    """One rollout, until its canaries have been watched for a minute; then it is interrupted."""
    result = Result(
        "rollout_fleet", f"one controller, 3 clusters, {3 * (SERVERS + SURGE)} simulated servers"
    )
    policy = {
        "strategy": _STRATEGY,
        "waves": _WAVES,
        "verdict": {**POLICY["verdict"], "window_seconds": _WINDOW_SECONDS},
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        clusters = stack.enter_context(clusters_in(REGIONS))
        for each in clusters.values():
            each.pods.in_a_crowd = True  # clients and golden requests are answered all the same
        world = stack.enter_context(
            world_of(
                clusters,
                Path(folder),
                versions=["v2"],
                servers=SERVERS,
                gpus=SERVERS + SURGE,
                policy=policy,
            )
        )
        # What pods say they hold, one test server answers for all of them, which is no measure.
        keepers = world.topology["rollout"]["models"]["resnet50"]["servers"]
        for region in REGIONS:
            keepers[region] += "&ask=false"
        world.write()
        controller = world.start("rollout apply resnet50@v2 --yes")
        try:
            _rolled(world, controller, result)
        finally:
            controller.kill()
            controller.wait()
    return result


def _rolled(world: World, controller: subprocess.Popen[str], result: Result) -> None:
    began = time.monotonic()
    while any(each.shares.get("v2") != 10 for each in world.regions.values()):
        if controller.poll() is not None or time.monotonic() - began > _LOADED_SECONDS:
            controller.kill()
            raise ClientFailed(f"no canary:\n{controller.communicate()[1]}")
        time.sleep(2.0)
    warm_seconds, before = time.monotonic() - began, _calls(world)
    time.sleep(_WATCHED_SECONDS)
    watched = _calls(world) - before
    said = Path(f"/proc/{controller.pid}/status").read_text()
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", said)
    result.rows += [
        Row("calls until canaries are warm", "", [float(before)]),
        Row("seconds until then", "s", [warm_seconds]),
        Row("calls a minute, watching", "", [60 * watched / _WATCHED_SECONDS]),
        Row("peak memory", "MiB", [int(kibibytes) / 1024]),
    ]


def _calls(world: World) -> int:
    """Of the controller to all API servers; the gateway and the tests have another way."""
    return sum(len(each.way.asked) for each in world.regions.values())


if __name__ == "__main__":
    print(measure())
