"""Bad answers, by a proxy that reads what goes through: busy stores, lying paths, expired
credentials."""

from __future__ import annotations

import base64
import itertools
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.core.errors import MlplatformError
from mlplatform.ports.store import exists
from mlplatform.replication.verify import Depth, Verdict
from tests.real.servers.launch import Endpoint

from .conftest import MIB, SUBJECT, World
from .meddler import Asked, Meddler, Reply, flipped, meddling
from .sites import Site, fresh

WEIGHTS = f"{SUBJECT.prefix}weights.bin"


def error(scheme: str, status: int, code: str, **headers: str) -> Reply:
    """How each kind of store words an error."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if scheme == "gs":
        text = f'{{"error": {{"code": {status}, "message": "{code}", "errors": []}}}}'
        return Reply(status, text.encode(), {"Content-Type": "application/json", **fields})
    if scheme == "az":
        fields["x-ms-error-code"] = code
    document = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>"
    return Reply(status, document.encode(), {"Content-Type": "application/xml", **fields})


def busy(scheme: str, **headers: str) -> Reply:
    code = {"s3": "SlowDown", "az": "ServerBusy", "gs": "backendError"}[scheme]
    return error(scheme, 503, code, **headers)


def expired(scheme: str) -> Reply:
    if scheme == "gs":
        return error("gs", 401, "Invalid Credentials")
    code = {"s3": "ExpiredToken", "az": "AuthenticationFailed"}[scheme]
    return error(scheme, 400 if scheme == "s3" else 403, code)


def writes(asked: Asked) -> bool:
    """Whether it writes."""
    return asked.method in ("PUT", "POST")


class TestBusy:
    def test_a_target_that_is_busy_for_a_while(
        self, world: World, site: Site, proxy: Meddler
    ) -> None:
        """It is asked again when it said, by fewer at once; nothing is lost."""
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        since: list[float] = []

        def refuse(asked: Asked) -> Reply | None:
            if not writes(asked):
                return None
            since.append(time.monotonic())
            return busy(site.scheme, Retry_After="1") if since[-1] - since[0] < 1.5 else None

        proxy.refuse = refuse
        report = world.replicate()
        assert report.exit_code == 0, [o.detail for o in report.outcomes]
        # Eight senders, twice each: whoever is told to wait for a second waits for a second.
        assert 1 <= proxy.refused <= 20
        world.require_whole("far")

    def test_a_source_that_is_busy_for_a_while(
        self, world: World, site: Site, proxy: Meddler
    ) -> None:
        world.publish()
        world.regions["far"] = site.url()
        assert world.replicate().exit_code == 0
        world.regions |= {"far": site.url(proxy.url), "near": f"file://{world.folder}/near"}
        proxy.refuse = lambda asked: busy(site.scheme) if asked.number % 5 == 1 else None
        report = world.replicate("near", source="far")
        assert report.exit_code == 0, [o.detail for o in report.outcomes]
        assert proxy.refused > 3
        world.require_whole("near")

    def test_a_target_that_stays_busy(self, world: World, site: Site, proxy: Meddler) -> None:
        """The retry budget ends; the others are done; nothing shows there, and the next run sends
        it what is missing."""
        world.publish()
        far = site.url(proxy.url)
        world.regions |= {"far": far, "near": f"file://{world.folder}/near"}
        proxy.refuse = lambda asked: busy(site.scheme, Retry_After="0.1") if writes(asked) else None
        report = world.replicate(replicas=world.replicas(attempts=3))
        assert report.exit_code == 8
        failed = next(outcome for outcome in report.outcomes if not outcome.ok)
        assert (failed.error, "/far/" in failed.action) == ("Throttled", True)
        assert not world.is_visible("far")
        world.require_whole("near")
        proxy.calm()
        rest = world.replicate()
        assert [action.region for action in rest.plan.actions] == ["far"]
        world.require_whole("far")


class TestLiesOnTheWayIn:
    """Bytes are altered between us and the store."""

    def test_the_store_refuses_and_it_is_sent_again(
        self, world: World, site: Site, proxy: Meddler
    ) -> None:
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        altered: list[int] = []

        def alter(asked: Asked, body: bytes) -> bytes:
            if asked.is_large and len(altered) < 3:
                altered.append(asked.number)
                return flipped(asked, body)
            return body

        proxy.inward = alter
        report = world.replicate()
        assert report.exit_code == 0, [o.detail for o in report.outcomes]
        assert len(altered) == 3
        world.require_whole("far")
        assert world.check("far")["far"].verdict is Verdict.GOOD

    def test_for_ever(self, world: World, site: Site, proxy: Meddler) -> None:
        """A clear failure; neither file nor version is ever visible."""
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        proxy.inward = flipped
        report = world.replicate(replicas=world.replicas(attempts=3))
        assert report.exit_code == 3
        (outcome,) = report.outcomes
        assert outcome.error == "DigestMismatch", outcome
        assert site.container in outcome.detail
        assert "weights.bin" in outcome.detail
        assert not world.is_visible("far")
        assert not exists(world.store("far"), WEIGHTS)
        proxy.calm()
        assert world.replicate().exit_code == 0
        world.require_whole("far")

    def test_of_a_small_file(self, world: World, site: Site, proxy: Meddler) -> None:
        """Which is put in one request."""
        (world.folder / "model" / "weights.bin").write_bytes(world.bodies["weights.bin"][:MIB])
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        proxy.inward = flipped
        report = world.replicate(replicas=world.replicas(attempts=3))
        assert (report.exit_code, report.outcomes[0].error) == (3, "DigestMismatch")
        assert not exists(world.store("far"), WEIGHTS)


class TestLiesOnTheWayOut:
    """Bytes are altered between the store and us."""

    @pytest.fixture
    def replicated(self, world: World, site: Site, proxy: Meddler) -> World:
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        assert world.replicate().exit_code == 0
        return world

    def test_a_deep_check_finds_it(self, replicated: World, proxy: Meddler) -> None:
        proxy.outward = flipped
        assert replicated.check("far", depth=Depth.QUICK)["far"].verdict is Verdict.GOOD
        found = replicated.check("far")["far"]
        assert found.verdict is Verdict.MISMATCH
        (finding,) = found.findings
        assert (finding.path, finding.problem) == ("weights.bin", "digest")
        assert "Checksum mismatch" in finding.detail
        assert finding.ranges

    def test_one_that_happens_once_is_read_again(self, replicated: World, proxy: Meddler) -> None:
        altered: list[int] = []

        def alter(asked: Asked, body: bytes) -> bytes:
            if len(body) > MIB // 2 and not altered:
                altered.append(asked.number)
                return flipped(asked, body)
            return body

        proxy.outward = alter
        assert replicated.check("far")["far"].verdict is Verdict.GOOD
        assert altered

    def test_the_next_replication_finds_it(self, replicated: World, proxy: Meddler) -> None:
        """It names the file and the bytes, and says where to look; nothing shows."""
        replicated.regions["near"] = f"file://{replicated.folder}/near"
        proxy.outward = flipped
        report = replicated.replicate("near", source="far")
        (outcome,) = report.outcomes
        assert (report.exit_code, outcome.error) == (3, "DigestMismatch")
        assert "Checksum mismatch: far: weights.bin bytes " in outcome.detail
        assert "--deep" in outcome.hint
        assert not replicated.is_visible("near")

    def test_what_is_repaired_was_not_wrong(self, replicated: World, proxy: Meddler) -> None:
        """Demoted by a path that lied, it is looked at anew: nothing is sent but what is wrong."""
        proxy.outward = flipped
        assert replicated.check("far")["far"].verdict is Verdict.MISMATCH
        proxy.calm()
        sent = replicated.told.sent["far"]
        report = replicated.replicate()
        assert report.exit_code == 0, [o.detail for o in report.outcomes]
        assert replicated.told.sent["far"] == sent
        assert replicated.check("far")["far"].verdict is Verdict.GOOD


@pytest.mark.xdist_group("fake-gcs-server")
def test_a_store_that_lies_about_its_digests(fake_gcs_server: Endpoint, tmp_path: Path) -> None:
    """It keeps other bytes than it was sent, and states the digests of those that it was sent:
    quick believes it, deep does not, and the next replication repairs it."""
    site = fresh(fake_gcs_server, "liar")
    world = World(tmp_path, truth={"far": site.url()})
    (world.folder / "model" / "weights.bin").write_bytes(body := world.bodies["weights.bin"][:MIB])
    world.bodies["weights.bin"] = body
    wrong = flipped(Asked(0, "PUT", "", b""), body)

    def stated(of: bytes) -> bytes:
        return base64.b64encode((digest_of(of).crc32c or 0).to_bytes(4, "big"))

    with meddling(fake_gcs_server) as proxy:
        world.publish()
        world.regions["far"] = site.url(proxy.url)
        proxy.inward = lambda asked, sent: sent.replace(body, wrong).replace(
            stated(body), stated(wrong)
        )
        proxy.outward = lambda asked, found: re.sub(
            re.escape(stated(wrong)), lambda _: stated(body), found
        )
        assert world.replicate().exit_code == 0
        assert world.check("far", depth=Depth.QUICK)["far"].verdict is Verdict.GOOD
        found = world.check("far")["far"]
        assert found.verdict is Verdict.MISMATCH
        assert found.findings[0].path == "weights.bin"
        proxy.inward = lambda asked, sent: sent
        assert world.replicate().exit_code == 0
        proxy.calm()
        world.require_whole("far")


class TestExpiredCredentials:
    def test_in_the_middle_of_a_transfer(self, world: World, site: Site, proxy: Meddler) -> None:
        """Said at once, with what to do; what was sent is kept, and the next run goes on from it
        with good ones."""
        world.publish()
        world.regions |= {"far": site.url(proxy.url), "near": f"file://{world.folder}/near"}
        taken: list[int] = []

        def refuse(asked: Asked) -> Reply | None:
            if asked.is_large and len(taken) < 2:
                taken.append(asked.number)
                return None
            return expired(site.scheme) if len(taken) >= 2 else None

        proxy.refuse = refuse
        began = time.monotonic()
        report = world.replicate()
        assert time.monotonic() - began < 10, "refused credentials are not tried again"
        assert report.exit_code == 8
        failed = next(outcome for outcome in report.outcomes if not outcome.ok)
        assert (failed.error, failed.exit_code) == ("Denied", 4)
        assert "Access Denied" in failed.detail
        assert site.container in failed.detail
        assert failed.hint
        assert not world.is_visible("far")
        world.require_whole("near")

        proxy.calm()
        before = proxy.large_bytes
        rest = world.replicate()
        assert rest.exit_code == 0, rest
        (outcome,) = rest.outcomes
        assert outcome.measured["resumed_parts"] >= 1
        assert proxy.large_bytes - before < world.size_bytes
        world.require_whole("far")

    def test_of_the_source(self, world: World, site: Site, proxy: Meddler) -> None:
        world.publish()
        world.regions["far"] = site.url()
        assert world.replicate().exit_code == 0
        world.regions |= {"far": site.url(proxy.url), "near": f"file://{world.folder}/near"}
        reads: list[int] = []

        def refuse(asked: Asked) -> Reply | None:
            if asked.method == "GET" and "weights.bin" in asked.target:
                reads.append(asked.number)
            return expired(site.scheme) if len(reads) > 3 else None

        proxy.refuse = refuse
        report = world.replicate("near", source="far")
        (outcome,) = report.outcomes
        assert (report.exit_code, outcome.error) == (4, "Denied"), outcome
        assert not world.is_visible("near")
        proxy.calm()
        assert world.replicate("near", source="far").exit_code == 0
        world.require_whole("near")


def test_whatever_words_a_passing_failure_has(world: World, site: Site, proxy: Meddler) -> None:
    """Every other request fails in another way."""
    answers = itertools.cycle(
        (
            Reply(503),
            Reply(502, b"<html>Bad Gateway</html>"),
            error(site.scheme, 500, "InternalError"),
            busy(site.scheme, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
            busy(site.scheme, Retry_After="soon"),
        )
    )
    world.publish()
    world.regions["far"] = site.url(proxy.url)
    proxy.refuse = lambda asked: next(answers) if asked.number % 5 == 1 else None
    report = world.replicate()
    assert report.exit_code == 0, [o.detail for o in report.outcomes]
    assert proxy.refused >= 3
    proxy.calm()
    world.require_whole("far")


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe{}", b"<html>", b'{"kind":', b"[" * 100_000])
def test_answers_that_are_no_answers(
    world: World, site: Site, proxy: Meddler, garbage: bytes
) -> None:
    """In place of what the store said of a listing or a write; never of a model's bytes."""
    world.publish()
    world.regions["far"] = site.url(proxy.url)
    numbers = itertools.count(1)
    proxy.outward = lambda asked, found: (
        garbage if found and asked.method != "GET" and next(numbers) % 3 == 0 else found
    )
    report = world.replicate()
    assert report.exit_code == 0, [o.detail for o in report.outcomes]
    assert "internal error" not in str(report)
    proxy.calm()
    world.require_good("far")


def noise(seed: int, share: float) -> Callable[[Asked, bytes], bytes]:
    """One bit, anywhere in a body, of a share of them."""
    chance = random.Random(seed)
    lock = threading.Lock()

    def alter(_: Asked, body: bytes) -> bytes:
        with lock:
            if not body or chance.random() >= share:
                return body
            changed = bytearray(body)
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            return bytes(changed)

    return alter


@pytest.mark.parametrize("seed", range(3))
def test_noise(world: World, site: Site, proxy: Meddler, seed: int) -> None:
    """Bits flip in whatever is said, both ways: listings, errors, digests, models. It may take
    several runs; what shows at any time is right, and nothing breaks but what may."""
    world.publish()
    world.regions["far"] = site.url(proxy.url)
    proxy.inward, proxy.outward = noise(seed, 0.15), noise(seed + 100, 0.15)
    for _ in range(8):
        try:
            report = world.replicate(replicas=world.replicas(attempts=6))
        except MlplatformError:
            continue
        assert "internal error" not in str(report)
        if world.is_visible("far"):
            world.require_good("far")
            if report.exit_code == 0:
                break
    else:
        pytest.fail("it never came through")
    proxy.calm()
    assert world.replicate().exit_code == 0
    assert world.check("far")["far"].verdict is Verdict.GOOD
