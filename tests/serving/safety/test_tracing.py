"""Traces: who is sampled, and what a collector is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlplatform_serving.tracing import Parent, parse_traceparent, wanted
from tests.serving.rig import identity, publish, running

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}
PATH = "/v2/models/echo/infer"

PARENTS: dict[str, tuple[str, Parent | None]] = {
    "sampled": (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, sampled=True)),
    "not sampled": (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, sampled=False)),
    "other flags": (f"00-{TRACE}-{SPAN}-fe", Parent(TRACE, SPAN, sampled=False)),
    "of a later version": (f"cc-{TRACE}-{SPAN}-01-what", Parent(TRACE, SPAN, sampled=True)),
    "of a version that says no more": (f"00-{TRACE}-{SPAN}-01-what", None),
    "of no version": (f"ff-{TRACE}-{SPAN}-01", None),
    "a trace of zeros": (f"00-{'0' * 32}-{SPAN}-01", None),
    "a span of zeros": (f"00-{TRACE}-{'0' * 16}-01", None),
    "in capitals": (f"00-{TRACE.upper()}-{SPAN}-01", None),
    "too short": (f"00-{TRACE[1:]}-{SPAN}-01", None),
    "with a line behind": (f"00-{TRACE}-{SPAN}-01\n", None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("value", "parent"), PARENTS.values(), ids=PARENTS)
def test_a_traceparent(value: str, parent: Parent | None) -> None:
    assert parse_traceparent(value.encode()) == parent


WANTED: list[tuple[float, dict[str, str], bool]] = [
    (0.0, {}, False),
    (0.1, {}, True),
    (0.0, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
    (0.0, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
    (1.0, {"OTEL_SDK_DISABLED": "TRUE"}, False),
]


@pytest.mark.parametrize(("rate", "environ", "expected"), WANTED)
def test_who_wants_traces(rate: float, environ: dict[str, str], expected: bool) -> None:
    assert wanted(rate, environ) is expected


class Collector(HTTPServer):
    """Takes what is exported."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.come = threading.Condition()

    def take(self, body: bytes) -> None:
        told = ExportTraceServiceRequest.FromString(body)
        with self.come:
            for resource in told.resource_spans:
                self.services |= {
                    each.value.string_value
                    for each in resource.resource.attributes
                    if each.key == "service.name"
                }
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self.come.notify_all()

    def wait_for(self, count: int) -> list[Any]:
        with self.come:
            assert self.come.wait_for(lambda: len(self.spans) >= count, 60), self.spans
            return list(self.spans)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


def exporting(collector: Collector) -> dict[str, object]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": 50,
    }


def test_what_a_collector_is_sent(collector: Collector, tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32", delay_ms=5))
    with running(tmp_path, **exporting(collector)) as server:
        server.wait_for("Tracing initialized: service=model-serving")
        body = {"inputs": [GIVEN]}
        for flags in ("00", "01"):
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
            assert server.ask("POST", PATH, body, headers).status == 200
        assert server.ask("POST", PATH, body).status == 200
        wrong = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        assert server.ask("POST", PATH, {"inputs": []}, wrong).status == 400
        spans = collector.wait_for(4)
        assert server.end() == 0
    spans = list(collector.spans)
    assert collector.services == {"model-serving"}
    assert {each.trace_id.hex() for each in spans} == {TRACE}
    roots = [each for each in spans if each.parent_span_id.hex() == SPAN]
    assert [each.name for each in roots] == ["POST /v2/models/{model}/infer"] * 2
    by_status = {_attributes(each)["http.response.status_code"]: each for each in roots}
    assert set(by_status) == {200, 400}
    assert _attributes(by_status[200])["model.version"] == "v1"
    inner = {each.name: each for each in spans if each.parent_span_id == by_status[200].span_id}
    assert set(inner) == {"queue", "compute"}
    assert inner["queue"].end_time_unix_nano == inner["compute"].start_time_unix_nano
    compute = inner["compute"].end_time_unix_nano - inner["compute"].start_time_unix_nano
    assert compute >= 5_000_000


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_rate_decides_where_no_caller_has(collector: Collector, tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, TRACE_SAMPLE_RATE=1.0, **exporting(collector)) as server:
        assert server.infer("echo", GIVEN).status == 200
        (root,) = [each for each in collector.wait_for(3) if not each.parent_span_id]
        line = server.wait_for("Request completed")
        assert line["trace_id"] == root.trace_id.hex()


def test_without_a_collector_answers_go_out_and_the_end_is_an_end(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "TRACE_SAMPLE_RATE": 1}
    with running(tmp_path, **nowhere) as server:
        assert server.infer("echo", GIVEN).status == 200
        assert server.end() == 0
