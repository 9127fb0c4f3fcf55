"""The Route 53 actuator where it differs from the others: the batch, the records that are not its
own, when a change is in force, and what the service has to say. On a strict fake of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore.session import Session

from mlplatform.adapters.route53 import Route53Traffic, open_traffic
from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    Fenced,
    IntegrityError,
    MlplatformError,
    NotFound,
    StoreError,
    Throttled,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from tests.conformance.traffic.acts import claim, content, put
from tests.conformance.traffic.route53_site import (
    HEALTH_CHECK,
    NAME,
    TARGETS,
    Route53Site,
    opened_on,
    weighted,
)
from tests.features.control.weather import VirtualClock
from tests.features.route53_traffic.strict_route53 import (
    ZONE_ID,
    Record,
    Refused,
    StrictRoute53,
    strict_route53,
)

A, B = {"a": 100, "b": 0, "c": 0}, {"a": 0, "b": 100, "c": 0}
EVEN = {"a": 34, "b": 33, "c": 33}
EPOCH_NAME = f"_epoch.{NAME}"
EPOCH_KEY = (EPOCH_NAME, "TXT", "")


@pytest.fixture
def service() -> Iterator[StrictRoute53]:
    with strict_route53() as made:
        yield made


@pytest.fixture
def site(service: StrictRoute53) -> Route53Site:
    return Route53Site(service)


@pytest.fixture
def traffic(site: Route53Site) -> Route53Traffic:
    return site.open()


def acts(batch: list[dict[str, Any]]) -> list[tuple[str, str, str, int | None]]:
    """A batch as a table: action, type, identifier, weight."""
    records = [(one["Action"], one["ResourceRecordSet"]) for one in batch]
    return [
        (action, record["Type"], record.get("SetIdentifier", ""), record.get("Weight"))
        for action, record in records
    ]


# ------------------------------------------------------------------------------------- the batch


def test_first_claim_makes_the_epoch_record_and_nothing_else(
    service: StrictRoute53, traffic: Route53Traffic
) -> None:
    claim(traffic, 7, "controller-1@eu-west-1")
    assert acts(service.batches[-1]) == [("CREATE", "TXT", "", None)]
    (value,) = service.records[EPOCH_KEY]["ResourceRecords"]
    assert value["Value"].startswith('"mlplatform=1" "epoch=7" "writer=controller-1@eu-west-1" ')


def test_a_shift_is_one_batch_of_exact_deletes_and_creates(
    service: StrictRoute53, traffic: Route53Traffic
) -> None:
    """And what keeps its weight is not touched."""
    put(traffic, {"a": 60, "b": 40, "c": 0}, 1)
    put(traffic, B, 2)
    assert acts(service.batches[-1]) == [
        ("DELETE", "A", "a", 60),
        ("CREATE", "A", "a", 0),
        ("DELETE", "A", "b", 40),
        ("CREATE", "A", "b", 100),
        ("DELETE", "TXT", "", None),
        ("CREATE", "TXT", "", None),
    ]


def test_what_others_own_of_a_record_stays(service: StrictRoute53, traffic: Route53Traffic) -> None:
    alias = {"HostedZoneId": "Z35ELB", "DNSName": "lb.test.", "EvaluateTargetHealth": True}
    service.put(
        weighted("a", 10, TTL=300, ResourceRecords=[{"Value": v} for v in ("1.2.3.4", "1.2.3.5")]),
        weighted("b", 10, TTL=None, ResourceRecords=None, AliasTarget=alias),
        weighted("c", 10, HealthCheckId=None),
    )
    before = {key: dict(record) for key, record in service.records.items()}
    put(traffic, {"a": 5, "b": 90, "c": 5}, 1)
    for key, record in before.items():
        del record["Weight"]
        after = dict(service.records[key])
        assert after.pop("Weight") in {5, 90}
        assert after == record


def test_both_types_move_together(site: Route53Site, service: StrictRoute53) -> None:
    """Else half of the clients stay behind."""
    traffic = site.open(options="&type=A,AAAA")
    with pytest.raises(NotFound, match="no weighted AAAA record for a, b, c; there is none"):
        traffic.read()
    service.put(
        *(
            weighted(region, 10, Type="AAAA", ResourceRecords=[{"Value": f"2001:db8::{region}"}])
            for region in "abc"
        )
    )
    state = put(traffic, B, 3)
    assert service.weights(NAME, "A") == service.weights(NAME, "AAAA") == B
    assert content(traffic.read()) == content(state)
    service.put(weighted("b", 0, Type="AAAA", ResourceRecords=[{"Value": "2001:db8::b"}]))
    service.put(weighted("a", 100, Type="AAAA", ResourceRecords=[{"Value": "2001:db8::a"}]))
    assert content(traffic.read()) == ({"a": 50, "b": 50, "c": 0}, 3, "")


def claim_it(service: StrictRoute53) -> None:
    claim(opened_on(service), 9, "rival")


def edit_a_weight(service: StrictRoute53) -> None:
    service.put(weighted("b", 77))


def edit_an_address(service: StrictRoute53) -> None:
    service.put(weighted("b", 10, ResourceRecords=[{"Value": "198.51.100.7"}]))


def take_a_health_check_away(service: StrictRoute53) -> None:
    service.put(weighted("b", 10, HealthCheckId=None))


def remove_a_record(service: StrictRoute53) -> None:
    service.remove((NAME, "A", "b"))


def remove_the_epoch(service: StrictRoute53) -> None:
    service.remove(EPOCH_KEY)


@pytest.mark.parametrize(
    ("somebody", "error"),
    [
        (claim_it, Fenced),
        (edit_a_weight, ConditionFailed),
        (edit_an_address, ConditionFailed),
        (take_a_health_check_away, ConditionFailed),
        (remove_a_record, NotFound),
        (remove_the_epoch, ConditionFailed),
    ],
)
def test_somebody_comes_between_our_reading_and_our_batch(
    service: StrictRoute53,
    traffic: Route53Traffic,
    somebody: Callable[[StrictRoute53], None],
    error: type[MlplatformError],
) -> None:
    """It is the service that refuses; reading again only says why."""
    state = claim(traffic, 5)
    service.meanwhile = lambda: somebody(service)
    with pytest.raises(error):
        traffic.write(B, epoch=5, writer="w", expected=state)
    assert service.weights(NAME)["a"] == 10


def test_somebody_is_first_with_the_first_claim(
    service: StrictRoute53, traffic: Route53Traffic
) -> None:
    service.meanwhile = lambda: claim_it(service)
    with pytest.raises(Fenced, match="epoch 9 by rival"):
        claim(traffic, 5)
    assert traffic.read().epoch == 9


def test_a_batch_that_is_wrong_by_itself(service: StrictRoute53, traffic: Route53Traffic) -> None:
    """Nobody came first: the service's own words are the reason."""
    state = claim(traffic, 5)
    refused = Refused(400, "InvalidChangeBatch", "[a quota is exceeded]")
    service.refusals.append(("ChangeResourceRecordSets", refused))
    with pytest.raises(StoreError, match="a quota is exceeded") as raised:
        traffic.write(B, epoch=5, writer="w", expected=state)
    assert type(raised.value) is StoreError


def test_a_writer_with_a_long_or_odd_name(service: StrictRoute53, traffic: Route53Traffic) -> None:
    odd = 'a "quoted"\\=ü%\n'
    assert claim(traffic, 1, odd).writer == odd
    assert traffic.read().writer == odd
    with pytest.raises(UsageError, match="too long"):
        claim(traffic, 1, "x" * 300)


# ------------------------------------------------------------------------------------ the weights


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": 255, "b": 255, "c": 0}, {"a": 50, "b": 50, "c": 0}),
        ({"a": 3, "b": 1, "c": 0}, {"a": 75, "b": 25, "c": 0}),
        ({"a": 255, "b": 1, "c": 0}, {"a": 99, "b": 1, "c": 0}),
        ({"a": 1, "b": 1, "c": 1}, EVEN),
        ({"a": 0, "b": 0, "c": 0}, EVEN),
    ],
    ids=["of 255", "small", "hardly any", "thirds", "all zero means all equal"],
)
def test_weights_in_another_scale(
    service: StrictRoute53,
    traffic: Route53Traffic,
    weights: dict[str, int],
    shares: dict[str, int],
) -> None:
    """They are read as what they mean, and a claim leaves them as they are."""
    service.put(*(weighted(region, weight) for region, weight in weights.items()))
    assert traffic.read().weights == shares
    assert content(claim(traffic, 1, "us")) == (shares, 1, "us")
    assert service.weights(NAME) == weights
    put(traffic, A, 1)
    assert service.weights(NAME) == A


def test_a_record_of_no_region(service: StrictRoute53, traffic: Route53Traffic) -> None:
    """It is shown, left alone by a claim, and gets nothing once weights are shifted."""
    service.put(weighted("canary", 5))
    state = traffic.read()
    assert state.weights == EVEN
    assert "canary: A 192.0.2.99, weight 5" in state.detail["(no region)"]
    claim(traffic, 1)
    assert service.weights(NAME)["canary"] == 5
    put(traffic, B, 1)
    assert service.weights(NAME) == {**B, "canary": 0}


def test_a_state_says_what_each_region_is(traffic: Route53Traffic) -> None:
    state = traffic.read()
    assert state.detail["a"] == f"A 192.0.2.1, weight 10, health check {HEALTH_CHECK}"
    assert state.ttl_seconds == 30


@pytest.mark.parametrize(("zone", "seconds"), [("Z35ELB", 60), (ZONE_ID, 45)])
def test_how_long_an_alias_is_kept(
    service: StrictRoute53, traffic: Route53Traffic, zone: str, seconds: float
) -> None:
    """An alias of a load balancer for a minute, one in the same zone for as long as that record."""
    target: Record = {"Name": "edge.example.com.", "Type": "A", "TTL": 45}
    service.put({**target, "ResourceRecords": [{"Value": "192.0.2.7"}]})
    alias = {"HostedZoneId": zone, "DNSName": target["Name"], "EvaluateTargetHealth": False}
    service.put(weighted("b", 10, TTL=None, ResourceRecords=None, AliasTarget=alias))
    assert traffic.read().ttl_seconds == seconds
    assert "alias of edge.example.com." in traffic.read().detail["b"]


def test_a_list_in_pages(service: StrictRoute53, traffic: Route53Traffic) -> None:
    service.page_max = 2
    service.put(*(weighted(f"old-{number}", 0) for number in range(7)))
    claim(traffic, 4)
    assert service.weights(NAME).keys() >= {"a", "b", "c"}
    assert (traffic.read().weights, traffic.read().epoch) == (EVEN, 4)


@pytest.mark.parametrize(
    ("records", "error", "said"),
    [
        ([weighted("a", 1), weighted("b", 1)], NotFound, "no weighted A record for c; there is a"),
        (
            [weighted("x", 1, Weight=None, SetIdentifier=None, HealthCheckId=None)],
            Unsupported,
            "the A records are not weighted",
        ),
        (
            [
                weighted(region, 1, Weight=None, Region=f"eu-west-{n}")
                for n, region in ((1, "a"), (2, "b"))
            ],
            Unsupported,
            "the A records are not weighted",
        ),
    ],
    ids=["a region is missing", "a simple record", "by latency"],
)
def test_records_that_do_not_fit(
    service: StrictRoute53,
    traffic: Route53Traffic,
    records: list[Record],
    error: type[MlplatformError],
    said: str,
) -> None:
    service.records.clear()
    service.put(*records)
    with pytest.raises(error, match=said) as raised:
        traffic.read()
    assert raised.value.hint


@pytest.mark.parametrize("values", [['"v=spf1 -all"'], ['"mlplatform=1" "epoch=x"'], []])
def test_an_epoch_record_that_is_not_ours(
    service: StrictRoute53, traffic: Route53Traffic, values: list[str]
) -> None:
    state = claim(traffic, 5)
    other = ['"another"', *values] if len(values) != 1 else values
    record = {"Name": EPOCH_NAME, "Type": "TXT", "TTL": 60}
    service.put({**record, "ResourceRecords": [{"Value": value} for value in other]})
    for act in (traffic.read, lambda: traffic.write(B, epoch=9, writer="w", expected=state)):
        with pytest.raises(IntegrityError, match=r"TXT record _epoch.api.example.com"):
            act()
    assert service.weights(NAME) == dict.fromkeys("abc", 10)


# --------------------------------------------------------------------------------------- in force


def test_in_force_is_in_sync(service: StrictRoute53, traffic: Route53Traffic) -> None:
    service.looks_until_in_sync = 3
    state = put(traffic, B, 1)
    asked = len(service.asked)
    assert [traffic.in_force(state) for _ in range(4)] == [False, False, False, True]
    pending = ["GetChange"] * 3
    assert service.asked[asked:] == [*pending, "GetChange", *["ListResourceRecordSets"] * 2]


def test_in_force_for_one_who_did_not_write_it(
    site: Route53Site, service: StrictRoute53, traffic: Route53Traffic
) -> None:
    """It has no number to ask for, and asks what is answered."""
    service.looks_until_in_sync = 2
    put(traffic, B, 1)
    other = site.open()
    state = other.read()
    assert [other.in_force(state) for _ in range(3)] == [False, False, True]
    assert "GetChange" not in service.asked


def test_in_force_after_a_lost_answer(
    site: Route53Site, service: StrictRoute53, traffic: Route53Traffic
) -> None:
    state = claim(traffic, 1)
    with site.answers_lost(), pytest.raises(Unavailable):
        traffic.write(B, epoch=1, writer="us", expected=state)
    found = traffic.read()
    assert content(found) == (B, 1, "us")
    assert [traffic.in_force(found) for _ in range(2)] == [False, True]


def test_in_force_when_the_change_is_forgotten(
    service: StrictRoute53, traffic: Route53Traffic
) -> None:
    state = put(traffic, B, 1)
    assert not traffic.in_force(state)
    service.changes.clear()
    service.served = dict(service.records)
    assert traffic.in_force(state)
    assert service.asked[-1] == "TestDNSAnswer"


def test_in_a_private_zone_only_the_writer_knows(
    site: Route53Site, service: StrictRoute53, traffic: Route53Traffic
) -> None:
    service.private = True
    service.looks_until_in_sync = 0
    state = put(traffic, B, 1)
    assert traffic.in_force(state)
    other = site.open()
    assert not other.in_force(other.read())


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("refused", "error", "said"),
    [
        (Refused(400, "Throttling", "Rate exceeded"), Throttled, "Rate exceeded"),
        (Refused(400, "PriorRequestNotComplete", "still at it"), Throttled, "still at it"),
        (Refused(429, "TooManyRequests", "slow"), Throttled, "slow"),
        (Refused(403, "AccessDenied", "no policy allows it"), Denied, "may not route53:"),
        (Refused(403, "ExpiredToken", "has expired"), Denied, "not accepted"),
        (Refused(404, "NoSuchHostedZone", "none"), ContainerMissing, f"no hosted zone {ZONE_ID}"),
        (Refused(400, "InvalidInput", "bad"), StoreError, "bad"),
        (Refused(404, "NoSuchHealthCheck", "gone"), StoreError, "gone"),
        (Refused(500, "InternalFailure", "oh"), Unavailable, "oh"),
        (Refused(503, "ServiceUnavailable", "down"), Unavailable, "down"),
    ],
    ids=lambda value: value.code if isinstance(value, Refused) else "",
)
@pytest.mark.parametrize("operation", ["ListResourceRecordSets", "ChangeResourceRecordSets"])
def test_what_the_service_answers(
    service: StrictRoute53,
    traffic: Route53Traffic,
    refused: Refused,
    error: type[MlplatformError],
    said: str,
    operation: str,
) -> None:
    """To a read, and to a write, of which then nothing has happened."""
    state = claim(traffic, 1)
    service.refusals.append((operation, refused))
    with pytest.raises(error, match=said) as raised:
        traffic.write(B, epoch=1, writer="w", expected=state)
    assert type(raised.value) is error
    assert service.url.rpartition("/")[2] not in str(raised.value)
    if isinstance(raised.value, Denied):
        assert raised.value.right == f"route53:{operation}"
    assert content(traffic.read()) == content(state)


def test_a_minute_of_throttling(service: StrictRoute53, traffic: Route53Traffic) -> None:
    """Under the retry policy it passes, and what is asked for is waited for."""
    state = claim(traffic, 1)
    clock = VirtualClock()
    asked = Refused(400, "Throttling", "Rate exceeded", Retry_After="5")
    service.refusals += [("ChangeResourceRecordSets", asked)] * 7
    retrying = RetryingTraffic(traffic, Retry(clock, Random(0), attempts=20))
    written = retrying.write(B, epoch=1, writer="us", expected=state)
    assert content(written) == (B, 1, "us")
    assert clock.monotonic() >= 35
    assert len(service.batches) == 3  # the operator's, the claim, and this


def test_wrong_credentials(site: Route53Site, service: StrictRoute53) -> None:
    with pytest.raises(Denied, match=r"not accepted.*SignatureDoesNotMatch") as raised:
        site.open(secret="guessed").read()
    assert "guessed" not in f"{raised.value}{raised.value.hint}"
    service.access_key = "AKIAANOTHER"
    with pytest.raises(Denied, match=r"SignatureDoesNotMatch|InvalidClientTokenId"):
        site.open(secret="guessed").read()


def test_no_credentials(service: StrictRoute53, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = StoreURL.parse(f"route53://{ZONE_ID}/{NAME}?endpoint={service.url}", noun="actuator")
    with pytest.raises(Denied, match="no credentials") as raised:
        open_traffic(url, TARGETS).read()
    assert "profile=NAME" in (raised.value.hint or "")


def test_a_zone_that_is_not_ours(service: StrictRoute53) -> None:
    session = Session()
    session.set_credentials(service.access_key, service.secret_key)
    url = StoreURL.parse(f"route53://Z9/{NAME}?endpoint={service.url}", noun="actuator")
    with pytest.raises(ContainerMissing, match="no hosted zone Z9") as raised:
        open_traffic(url, TARGETS, session=session).read()
    assert raised.value.exit_code == 2


def test_nobody_there(service: StrictRoute53, site: Route53Site) -> None:
    with site.unreachable(), pytest.raises(Unavailable, match="connection broke"):
        site.open().read()


# -------------------------------------------------------------------------------------- the policy

POLICY = Path(__file__).parents[3] / "infra/iam/route53-failover.json"


def test_the_policy_that_we_ship_is_enough(site: Route53Site, service: StrictRoute53) -> None:
    """Operations, names, types and actions: everything that is done in a life is in it."""
    statements = json.loads(POLICY.read_text())["Statement"]
    service.allowed = {one["Action"].removeprefix("route53:") for one in statements}
    (conditions,) = (one["Condition"] for one in statements if "Condition" in one)
    allowed = {
        name.removeprefix("route53:ChangeResourceRecordSets"): set(values)
        for name, values in conditions["ForAllValues:StringEquals"].items()
    }
    by_hand = len(service.batches)
    traffic = site.open()
    claim(traffic, 1)
    state = put(traffic, B, 2)
    traffic.in_force(state)
    other = site.open()
    other.in_force(other.read())
    assert service.allowed == set(service.asked)
    changes = [change for batch in service.batches[by_hand:] for change in batch]
    records = [change["ResourceRecordSet"] for change in changes]
    assert {change["Action"] for change in changes} == allowed["Actions"]
    assert {one["Name"].rstrip(".") for one in records} == allowed["NormalizedRecordNames"]
    assert {one["Type"] for one in records} <= allowed["RecordTypes"] == {"A", "AAAA", "TXT"}


# ----------------------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("route53://zone/api.example.com", "does not name a hosted zone"),
        ("route53:///api.example.com", "does not name a hosted zone"),
        ("route53://Z1", "no name that can be served"),
        ("route53://Z1/*.example.com", "no name that can be served"),
        ("route53://Z1/api..example.com", "no name that can be served"),
        ("route53://Z1/api.example.com/more", "no name that can be served"),
        ("route53://Z1/api.example.com?type=MX", "type='MX'"),
        ("route53://Z1/api.example.com?type=A,A", "type='A,A'"),
        ("route53://Z1/api.example.com?colour=red", "unknown option 'colour'"),
        ("route53://Z1/api.example.com?profile=of-nobody", "no profile 'of-nobody'"),
        ("route53://Z1/api.example.com?endpoint=http://10.0.0.1", "plain HTTP"),
        ("route53://Z1/api.example.com?ca_bundle=/none", "no file"),
        ("route53://Z1/api.example.com?stall_seconds=soon", "stall_seconds='soon'"),
    ],
)
def test_urls_that_will_not_do(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)
    assert said in str(raised.value)


def test_a_name_with_and_without_its_dot(service: StrictRoute53, site: Route53Site) -> None:
    session = Session()
    session.set_credentials(service.access_key, service.secret_key)
    for name in ("api.example.com", "API.example.com."):
        text = f"route53://{ZONE_ID}/{name}?endpoint={service.url}"
        url = StoreURL.parse(text, noun="actuator")
        assert open_traffic(url, TARGETS, session=session).read().weights == EVEN
