"""Killed at half, run again: how many bytes went over the wire in all.

A proxy between the client and the target counts them, headers and all. The client is killed
(SIGKILL) as soon as half of the model has passed. The second run must send no more than what is
missing, and what was in flight again. The peer, killed the same way, starts from zero.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.measure import GIB, MIB, Result, Row, run
from benchmarks.rig import MLPLATFORM, PREFIX, Rig, outcomes, rig, write_safetensors
from mlplatform.replication.transfer import BUDGET_BYTES
from tests.real.servers.catalogue import BY_NAME

SIZE_BYTES = GIB
ROUNDS = 3
_CHUNK = 256 * 1024


def measure(rounds: int, *, size_bytes: int = SIZE_BYTES) -> Result:
    """Bytes sent in both runs together, as a multiple of the model's size."""
    ours: list[float] = []
    peer: list[float] = []
    again: list[float] = []
    with rig() as real, counted(real) as (found, counter):
        artefact = found.folder / "model.safetensors"
        write_safetensors(artefact, size_bytes)
        source = found.publish(artefact)
        artefact.unlink()
        bucket = source.removeprefix("s3://").partition("?")[0]
        for _ in range(rounds):
            buckets = real.new_buckets(2)
            found.use(source, target=found.url(buckets[0]))
            counter.reset()
            command = [*MLPLATFORM, "replicate", "--topology", str(found.topology)]
            run(command, found.env, stop=lambda: counter.sent > size_bytes / 2)
            outcome = outcomes(found.mlplatform("resume", "--wait"))[0]
            ours.append(counter.sent / size_bytes)
            again.append(outcome["measured"]["sent_bytes"] / size_bytes)
            counter.reset()
            copy = ("copy", f"home:{bucket}/{PREFIX}", f"away:{buckets[1]}/{PREFIX}")
            run(
                [BY_NAME["rclone"].path, *copy],
                found.env,
                stop=lambda: counter.sent > size_bytes / 2,
            )
            found.rclone(*copy)
            peer.append(counter.sent / size_bytes)
            real.drop(buckets)
    limit = 1 + BUDGET_BYTES / size_bytes
    result = Result(
        "resume",
        f"{size_bytes / GIB:g} GiB to one target, killed at half and run again; "
        f"medians of {rounds} rounds",
        peer="rclone copy, killed and run again the same way",
    )
    result.rows = [
        Row("bytes over the wire / size", "x", ours, limit=limit),
        Row("the same, the peer", "x", peer),
        Row("sent by the second run / size", "x", again),
    ]
    result.notes = [f"the limit is the size and {BUDGET_BYTES // MIB} MiB, the parts in flight"]
    return result


class Counter:
    """Bytes from the client to the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent = 0

    def add(self, count: int) -> None:
        """So many more."""
        with self._lock:
            self.sent += count

    def reset(self) -> None:
        """Begin at zero."""
        with self._lock:
            self.sent = 0


@contextlib.contextmanager
def counted(found: Rig) -> Iterator[tuple[Rig, Counter]]:
    """The same rig, its other server behind a proxy that counts."""
    counter = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(
            target=_serve, args=(listener, (found.away.host, found.away.port), counter), daemon=True
        ).start()
        away = replace(found.away, port=port, url=f"http://127.0.0.1:{port}")
        yield replace(found, away=away), counter


def _serve(listener: socket.socket, server: tuple[str, int], counter: Counter) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            there = socket.create_connection(server)
            for source, sink, count in (
                (client, there, counter.add),
                (there, client, lambda _: None),
            ):
                threading.Thread(target=_pour, args=(source, sink, count), daemon=True).start()


def _pour(source: socket.socket, sink: socket.socket, count: Callable[[int], None]) -> None:
    buffer = memoryview(bytearray(_CHUNK))
    with contextlib.suppress(OSError):
        while received := source.recv_into(buffer):
            count(received)
            sink.sendall(buffer[:received])
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
