"""Programs that the tests run as processes of their own: `python writers.py WHAT ROOT ARGUMENT`."""

from __future__ import annotations

import sys
from itertools import count

from mlplatform.adapters.local import LocalStore
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import ConditionFailed
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, read_bytes

PART_BYTES = 256 * 1024
PARTS = 64


def say(number: int) -> None:
    """One line, at once: the test that reads it may kill us next."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def body_of(number: int) -> bytes:
    """A large body that says in each line which one it is."""
    return f"{number:09}\n".encode() * (20_000 + number % 7)


def part_of(index: int) -> bytes:
    """A part, different for each index."""
    return (f"part {index:04} " * (PART_BYTES // 10 + 1)).encode()[:PART_BYTES]


def replace_for_ever(store: LocalStore, argument: str) -> None:
    """Put one body after another under the same key."""
    for number in count(1):
        body = body_of(number)
        store.put("k", body, digests=digest_of(body))
        say(number)


def append_for_ever(store: LocalStore, argument: str) -> None:
    """A new key each time, create-only, as a journal does."""
    for number in count(1):
        store.put(f"j/{number:06}", body_of(number), when=ABSENT)
        say(number)


def upload_slowly(store: LocalStore, argument: str) -> None:
    """Send parts of one upload, and say which have arrived."""
    upload = store.begin("large", size_bytes=PARTS * PART_BYTES, part_bytes=PART_BYTES)
    for index in range(PARTS):
        body = part_of(index)
        upload.part(index, body, digests=digest_of(body))
        say(index)


def upload_for_ever(store: LocalStore, argument: str) -> None:
    """One small upload after another, replacing the same object."""
    for number in count(1):
        body = body_of(number)
        half = len(body) // 2 + 1
        upload = store.begin("k", size_bytes=len(body), part_bytes=half)
        parts = [
            upload.part(index, piece, digests=digest_of(piece))
            for index, piece in enumerate((body[:half], body[half:]))
        ]
        upload.complete(parts, digests=digest_of(body), when=ALWAYS)
        say(number)


def count_up(store: LocalStore, argument: str) -> None:
    """Raise a counter fifty times by compare-and-set."""
    for turn in range(50):
        while True:
            body, seen = read_bytes(store, "counter")
            raised = f"{int(body.split()[0]) + 1} {argument} {turn}".encode()
            try:
                store.put("counter", raised, when=Matches(seen.tag))
                break
            except ConditionFailed:
                continue


def claim_all(store: LocalStore, argument: str) -> None:
    """Try to create a hundred objects; say how many it was the first to."""
    won = 0
    for number in range(100):
        try:
            store.put(f"claims/{number:03}", argument.encode(), when=ABSENT)
            won += 1
        except ConditionFailed:
            continue
    say(won)


def come_and_go(store: LocalStore, argument: str) -> None:
    """Create and delete objects in a folder that empties again and again."""
    for number in range(100):
        store.put(f"a/b/{argument}-{number}", b"x", when=ABSENT)
        store.delete(f"a/b/{argument}-{number}")


if __name__ == "__main__":
    what, root, argument = sys.argv[1:]
    globals()[what](LocalStore(root), argument)
