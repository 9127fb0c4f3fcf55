"""What Prometheus says of regions, and what it does not: nothing unknown becomes a zero."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import pytest

from mlplatform.adapters.prometheus import Prometheus
from mlplatform.core.errors import Denied, MlplatformError, Throttled, Unavailable, UsageError
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Load
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.record import Outside
from mlplatform.ports.measurements import Measured
from tests.features.failover import peers
from tests.features.failover.peers import Peer
from tests.real.servers.catalogue import prometheus as start_prometheus
from tests.real.servers.launch import Endpoint, running

NAN, INF = math.nan, math.inf


def topology(**objective: Any) -> Topology:
    return Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {name: {"store": f"memory://{name}"} for name in ("us", "eu")},
            "prometheus": {"url": "http://prometheus.test", "region_label": "region"},
            "traffic": {"objective": objective},
        }
    )


QUERIES = {"success_query": "success[$window]", "latency_query": "latency", "load_query": "load"}


class Told:
    """A monitoring system that answers as it is told: samples by query, or an error."""

    url = "told://"

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def instant(self, query: str) -> tuple[Measured, ...]:
        self.asked.append(query)
        answer = self.answers.get(query, ())
        if isinstance(answer, MlplatformError):
            raise answer
        if isinstance(answer, dict):
            return tuple(Measured({"region": name}, value) for name, value in answer.items())
        return tuple(answer)


def outside(answers: Mapping[str, Any]) -> dict[str, Outside | Unknown]:
    return OutsideView(topology(**QUERIES), Told(answers)).outside()


DOWN = Unavailable("timeout: 5 s passed", store="http://prometheus.test")
SUCCESS, LATENCY = "success[60000ms]", "latency"


@pytest.mark.parametrize(
    ("answers", "us", "eu"),
    [
        (
            {SUCCESS: {"us": 0.999, "eu": 0.5}, LATENCY: {"us": 0.2, "eu": 1.5}, "load": {"us": 9}},
            Outside(0.999, 0.2, 9),
            Outside(0.5, 1.5, None),
        ),
        ({}, Outside(), Outside()),
        ({SUCCESS: {"us": NAN, "eu": 0.0}}, Outside(), Outside(0.0)),
        ({SUCCESS: {"us": 1.2, "eu": -0.1}}, Outside(), Outside()),
        ({LATENCY: {"us": INF, "eu": -1.0}}, Outside(), Outside()),
        ({"load": {"us": 0.0, "eu": -INF}}, Outside(requests_per_second=0.0), Outside()),
        ({SUCCESS: {"elsewhere": 1.0}}, Outside(), Outside()),
        ({SUCCESS: [Measured({}, 1.0)]}, Outside(), Outside()),
        ({SUCCESS: [Measured({"region": "us"}, 1.0)] * 2}, Outside(), Outside()),
        ({"load": [Measured({"region": "us"}, 2.0)] * 2}, Outside(None, None, 4.0), Outside()),
        (
            {"load": [Measured({"region": "us"}, INF), Measured({"region": "us"}, -INF)]},
            Outside(),
            Outside(),
        ),
        ({SUCCESS: DOWN, LATENCY: {"us": 0.2}}, Outside(None, 0.2), Outside()),
        ({SUCCESS: DOWN, LATENCY: DOWN, "load": DOWN}, Unknown(str(DOWN)), Unknown(str(DOWN))),
    ],
    ids=[
        *("numbers", "empty with 200", "NaN", "no ratio", "in no bucket", "a dead region's load"),
        *("another region", "no region", "two for one region", "loads add up", "and may not"),
        *("one query fails", "all fail"),
    ],
)
def test_what_callers_met(
    answers: Mapping[str, Any], us: Outside | Unknown, eu: Outside | Unknown
) -> None:
    assert outside(answers) == {"us": us, "eu": eu}


def test_nobody_to_ask() -> None:
    assert OutsideView(topology(**QUERIES), None).outside() == {}
    assert OutsideView(topology(), Told({})).outside() == {}
    assert OutsideView(topology(), Told({})).lags() == {}
    for load in OutsideView(topology(**QUERIES), None).loads().values():
        assert isinstance(load, Unknown)


HOUR = "max_over_time((load)[1h:15s])"
WEEK = "max_over_time((load)[1h:15s] offset 604800000ms)"


@pytest.mark.parametrize(
    ("answers", "us"),
    [
        ({"load": {"us": 0.0}, HOUR: {"us": 40.0}, WEEK: {"us": 90.0}},
         Load(0.0, 90.0, "same hour last week")),
        ({"load": {"us": 5.0}, HOUR: {"us": 40.0}}, Load(5.0, 40.0, "last hour")),
        ({"load": {"us": 5.0}}, Load(5.0, None, "")),
        ({HOUR: {"us": NAN}, WEEK: {"us": 3.0}}, Load(None, 3.0, "same hour last week")),
        ({"load": DOWN, HOUR: {"us": 40.0}, WEEK: DOWN}, Load(None, 40.0, "last hour")),
        ({"load": DOWN, HOUR: DOWN, WEEK: DOWN}, Unknown(str(DOWN))),
    ],
    ids=["a dead region", "no history", "only now", "no number", "half an answer", "no answer"],
)  # fmt: skip
def test_loads_and_their_peaks(answers: Mapping[str, Any], us: Load | Unknown) -> None:
    view = OutsideView(topology(load_query="load"), Told(answers))
    assert view.loads()["us"] == us
    assert view.peak("us") == (us.peak if isinstance(us, Load) else None)


def test_the_hour_before_a_fault_that_is_some_time_ago() -> None:
    told = Told({})
    OutsideView(topology(load_query="load"), told).loads(before_seconds=90.5)
    assert told.asked == [
        "load",
        "max_over_time((load)[1h:15s] offset 90500ms)",
        "max_over_time((load)[1h:15s] offset 604890500ms)",
    ]


def test_the_load_of_a_route_where_routes_are_told_apart() -> None:
    load = [
        Measured({"region": "us", "route": "api"}, 5.0),
        Measured({"region": "us", "route": "batch"}, 70.0),
        Measured({"region": "eu"}, 2.0),
    ]
    view = OutsideView(topology(load_query="load"), Told({"load": load}))
    now = {
        name: load.now for name, load in view.loads(route="api").items() if isinstance(load, Load)
    }
    assert now == {"us": 5.0, "eu": 2.0}


def test_the_load_of_models_where_they_are_told_apart() -> None:
    load = [
        Measured({"region": "us", "model": "resnet50"}, 5.0),
        Measured({"region": "eu", "model": "resnet50"}, 6.0),
        Measured({"region": "eu", "model": "bert"}, NAN),
        Measured({"region": "eu"}, 2.0),
    ]
    view = OutsideView(topology(load_query="load"), Told({"load": load}))
    assert view.load_by_model() == {"resnet50": 11.0}
    assert OutsideView(topology(load_query="load"), Told({"load": DOWN})).load_by_model() == {}


def test_how_far_data_is_behind() -> None:
    lag = [*(Measured({"region": "us"}, n) for n in (3.0, 7.0)), Measured({"region": "eu"}, NAN)]
    found = OutsideView(topology(lag_query="lag"), Told({"lag": lag})).lags()
    assert found["us"] == 7.0
    assert isinstance(found["eu"], Unknown)
    unread = OutsideView(topology(lag_query="lag"), Told({"lag": DOWN})).lags()
    assert unread == dict.fromkeys(("us", "eu"), Unknown(str(DOWN)))


def test_only_the_window_is_put_in() -> None:
    told = Told({})
    query = 'rate(x{a=~"b$"}[$window]) / $other'
    OutsideView(topology(success_query=query, window_seconds=0.5), told).outside()
    assert told.asked == ['rate(x{a=~"b$"}[500ms]) / $other']


# --- the adapter, and what answers can look like ------------------------------------------------


def vector(*samples: tuple[Mapping[str, str], str]) -> bytes:
    result = [{"metric": dict(labels), "value": [1.0, text]} for labels, text in samples]
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data}).encode()


HISTOGRAM = (
    b'{"status":"success","warnings":["partial"],"data":{"resultType":"vector",'
    b'"result":[{"metric":{},"histogram":[1,{}]}]}}'
)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (vector(({"region": "us"}, "0.5"), ({}, "1e3")), [0.5, 1000.0]),
        (vector(({"region": "us"}, "+Inf"), ({}, "-Inf")), [INF, -INF]),
        (vector(), []),
        (b'{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}', [7.0]),
        (HISTOGRAM, []),
    ],
    ids=["vector", "infinite", "empty", "scalar", "native histogram"],
)
def test_answers(body: bytes, values: list[float]) -> None:
    with Peer(peers.answers(body=body)) as peer:
        assert [each.value for each in Prometheus(peer.url).instant("up")] == values


def test_nan_is_no_number_and_not_zero() -> None:
    with Peer(peers.answers(body=vector(({}, "NaN")))) as peer:
        (found,) = Prometheus(peer.url).instant("up")
    assert math.isnan(found.value)


BAD = b'{"status":"error","errorType":"bad_data","error":"1:4: parse error"}'


@pytest.mark.parametrize(
    ("behaviour", "error", "said"),
    [
        (peers.answers(400, BAD), UsageError, "parse error"),
        (peers.answers(200, BAD), UsageError, "parse error"),
        (peers.answers(503, b"overloaded"), Unavailable, "HTTP 503"),
        (peers.answers(422, b'{"status":"error","error":"too many"}'), Unavailable, "too many"),
        (peers.answers(401, b"no"), Denied, "HTTP 401"),
        (peers.answers(403, b"no"), Denied, "HTTP 403"),
        (peers.answers(429, b"slow down"), Throttled, "HTTP 429"),
        (peers.answers(302, headers="Location: /login\r\n"), Unavailable, "HTTP 302"),
        (peers.answers(200, b"<html>login</html>"), Unavailable, "HTTP 200"),
        (peers.answers(200, b"[" * 100_000), Unavailable, "HTTP 200"),
        (peers.answers(200, b'{"status":"success"}'), Unavailable, "not Prometheus's"),
        (
            peers.answers(200, b'{"status":"success","data":{"resultType":"matrix"}}'),
            *(Unavailable, "not Prometheus's"),
        ),
        (peers.answers(200, vector(({}, "much"))), Unavailable, "not Prometheus's"),
        (peers.resets, Unavailable, "reset"),
    ],
)
def test_whatever_is_no_answer_raises(
    behaviour: peers.Behaviour, error: type[MlplatformError], said: str
) -> None:
    with Peer(behaviour) as peer, pytest.raises(error, match=said):
        Prometheus(peer.url).instant("up")


@pytest.mark.parametrize("behaviour", [peers.drips, peers.never_answers])
def test_whoever_does_not_end_is_not_waited_for(behaviour: peers.Behaviour) -> None:
    with Peer(behaviour) as peer, pytest.raises(Unavailable, match="timeout"):
        Prometheus(peer.url, timeout_seconds=0.5).instant("up")


def test_the_query_and_the_token_are_sent_and_the_token_is_not_told() -> None:
    with Peer(peers.answers(403, b"no")) as peer, pytest.raises(Denied) as refused:
        Prometheus(f"{peer.url}/", token="s3cret-token").instant("sum by (region) (x) + 1")
    (request,) = peer.requests
    head, _, body = request.decode().partition("\r\n\r\n")
    assert head.startswith("POST /api/v1/query HTTP/1.1\r\n")
    assert "\r\nAuthorization: Bearer s3cret-token" in head
    assert parse_qs(body)["query"] == ["sum by (region) (x) + 1"]
    assert "s3cret" not in f"{refused.value} {refused.value.hint}"


# --- a real Prometheus, with a week behind it ---------------------------------------------------


def history(now: float) -> str:
    """Requests of two regions: steady, but for a peak a week ago and one half an hour ago. The
    region `us` failed half of the last minutes' requests, and goes on so for as long as the tests
    may take; `eu` was not counted lately."""
    lines = ["# TYPE requests counter"]
    for region, end in (("us", now + 600), ("eu", now - 7000)):
        total = {"ok": 0.0, "failed": 0.0}
        for start, stop in ((now - 7 * 86_400 - 5400, now - 7 * 86_400 + 60), (now - 9000, end)):
            at = start
            while at <= stop:
                peak = now - 7 * 86_400 - 1800 < at < now - 7 * 86_400 - 1200
                rate = 30.0 if peak else 20.0 if now - 1800 < at < now - 1200 else 10.0
                share = 0.5 if at > now - 600 else 0.0
                total["ok"] += 15 * rate * (1 - share)
                total["failed"] += 15 * rate * share
                for code, value in total.items():
                    labels = f'region="{region}",code="{code}"'
                    lines.append(f"requests_total{{{labels}}} {value} {at:.3f}")
                at += 15
    lines = [lines[0], *sorted(lines[1:], key=lambda line: line.partition("}")[0])]
    return "\n".join([*lines, "# EOF"]) + "\n"


@pytest.fixture(scope="module")
def a_week(prometheus: Endpoint) -> Iterator[str]:
    start = partial(start_prometheus, history=history(time.time()))
    with running("prometheus", start=start) as endpoint:
        yield endpoint.url


RATE = "sum by (region) (rate(requests_total[$window]))"


def test_a_real_one(a_week: str) -> None:
    told = topology(
        window_seconds=300.0,
        success_query=f'sum by (region) (rate(requests_total{{code="ok"}}[$window])) / {RATE}',
        latency_query="histogram_quantile(0.99, sum by (region, le) (rate(none_bucket[$window])))",
        load_query=RATE,
    )
    view = OutsideView(told, Prometheus(a_week))
    found = view.outside()
    us, eu = found["us"], found["eu"]
    assert isinstance(us, Outside)
    assert us.success_ratio == pytest.approx(0.5, abs=0.02)
    assert us.requests_per_second == pytest.approx(10, rel=0.1)
    assert us.latency_seconds is None
    assert eu == Outside()  # its samples ended two hours ago

    load = view.loads()["us"]
    assert isinstance(load, Load)
    assert load.peak == pytest.approx(30, rel=0.1)
    assert load.source == "same hour last week"
    assert view.peak("eu") == pytest.approx(30, rel=0.1)  # although it is not counted now


def test_a_real_one_names_what_it_does_not_understand(a_week: str) -> None:
    with pytest.raises(UsageError, match="parse error"):
        Prometheus(a_week).instant("sum by (")


def test_a_real_one_that_gives_no_number(a_week: str) -> None:
    (nan,) = Prometheus(a_week).instant("label_replace(vector(0) / 0, 'region', 'us', '', '')")
    assert math.isnan(nan.value)
    assert nan.labels == {"region": "us"}
