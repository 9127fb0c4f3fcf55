"""What `/metrics` and the log say of a day, by the names that dashboards and runbooks have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.statistics import SHED_REASONS, SIZES, Statistics
from tests.serving.rig import ServerProcess, identity, publish, running

GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}
TRACE = "0af7651916cd43dd8448eb211c80319c"
OF_VERSION = {"region", "model", "version"}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has answered, refused and failed."""
    folder = tmp_path_factory.mktemp("used")
    publish(folder, "echo", "v1", identity("FP32"))
    publish(folder, "broken", "v1", {"model-config.json": b"{"})
    with running(folder, REGION="us-east-1") as server:
        for _ in range(3):
            assert server.infer("echo", GIVEN).status == 200
        assert server.infer("echo", {**GIVEN, "shape": [1, 2]}).status == 400
        assert server.ask("GET", "/nowhere").status == 404
        yield server


def samples(server: ServerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = server.ask("GET", "/metrics").body.decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            found.setdefault(each.name, []).append((each.labels, each.value))
    return found


TABLE: dict[str, tuple[set[str], float]] = {
    # of systems D and E, as they stand there
    "model_serving_request_duration_seconds_count": (OF_VERSION, 3),
    "model_serving_batch_size_count": (OF_VERSION, 3),
    "model_serving_batch_size_sum": (OF_VERSION, 3),
    "inference_queue_depth": (OF_VERSION, 0),
    "model_load_duration_seconds_count": ({"model", "version"}, 1),
    # and what is worked out of, or beside, these
    "model_serving_requests_total": (OF_VERSION, 3),
    "model_serving_failures_total": (OF_VERSION, 1),
    "model_serving_queue_duration_seconds_count": (OF_VERSION, 3),
    "model_serving_compute_duration_seconds_count": (OF_VERSION, 3),
}


@pytest.mark.parametrize(
    ("name", "labels", "value"), [(n, *r) for n, r in TABLE.items()], ids=TABLE
)
def test_a_metric_of_a_version(
    used: ServerProcess, name: str, labels: set[str], value: float
) -> None:
    ((told, count),) = [each for each in samples(used)[name] if each[0]["model"] == "echo"]
    assert (set(told), count) == (labels, value)
    assert (told["version"], told.get("region", "us-east-1")) == ("v1", "us-east-1")


def test_of_the_server_itself(used: ServerProcess) -> None:
    told = samples(used)
    statuses = {
        labels["status"]: count for labels, count in told["model_serving_http_answers_total"]
    }
    assert statuses["404"] == 1
    assert statuses["400"] == 1
    assert statuses["200"] >= 3
    assert told["model_serving_ready"] == [({}, 0)]  # `broken` is not there
    ((labels, failed),) = told["model_load_failures_total"]
    assert (labels, failed) == ({"model": "broken", "version": "v1"}, 1)
    for name in ("process_resident_memory_bytes", "process_open_fds"):
        assert told[name][0][1] > 0
    assert not [name for name in told if "gpu" in name and "memory_breaker" not in name]


def test_every_reason_is_stated_before_it_is_met(used: ServerProcess) -> None:
    shed = {labels["reason"]: count for labels, count in samples(used)["model_serving_shed_total"]}
    assert shed == dict.fromkeys(SHED_REASONS, 0)


def test_histograms_can_be_used() -> None:
    """Each bucket holds those below it too, and +Inf holds all."""
    metrics, statistics = Metrics("r"), Statistics()
    metrics.follow("m", "v", statistics, lambda: 4)
    for size in (1, 2, 2, 33, 1000):
        statistics.batches.add(size)
    statistics.shed["deadline"] += 2
    text = metrics.encoded().decode()
    buckets = {
        float(bound): float(count)
        for bound, count in re.findall(
            r'^model_serving_batch_size_bucket\{le="([^"]+)".*\} (\S+)$', text, re.MULTILINE
        )
    }
    assert list(buckets) == [*SIZES, float("inf")]
    assert [buckets[bound] for bound in (1, 2, 32, 64, 512)] == [1, 3, 3, 4, 4]
    assert buckets[float("inf")] == 5
    labels = 'model="m",region="r",version="v"'
    assert f"model_serving_batch_size_sum{{{labels}}} 1038.0" in text
    assert 'reason="deadline",region="r",version="v"} 2.0' in text
    assert f"inference_queue_depth{{{labels}}} 4.0" in text


def test_a_version_that_is_gone_has_nothing_to_state() -> None:
    metrics = Metrics("r")
    metrics.follow("m", "v", Statistics(), lambda: 0)
    metrics.forget("m", "v")
    assert b'model="m"' not in metrics.encoded()


def test_what_was_shed_is_counted_and_logged(tmp_path: Path) -> None:
    publish(tmp_path, "slow", "v1", identity("FP32", delay_ms=1000))
    with running(tmp_path, MAX_QUEUE_SIZE=1) as server, ThreadPoolExecutor(8) as pool:
        answers = [each.result() for each in [pool.submit(server.infer, "slow", GIVEN)] * 1]
        answers += [
            each.result() for each in [pool.submit(server.infer, "slow", GIVEN) for _ in range(8)]
        ]
        refused = sum(each.status == 503 for each in answers)
        assert refused > 0
        counted = {
            labels["reason"]: count for labels, count in samples(server)["model_serving_shed_total"]
        }
        assert counted["queue_full"] == refused
        line = server.wait_for("Prediction failed: ")
        assert (line["level"], line["status"], line["code"]) == ("WARNING", "error", 503)


def test_the_line_of_one_that_failed(used: ServerProcess) -> None:
    traced = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
    body = {"inputs": [{**GIVEN, "datatype": "INT8"}]}
    assert used.ask("POST", "/v2/models/echo/infer", body, traced).status == 400
    line = used.wait_for("Prediction failed: input in_FP32 is FP32")
    assert (line["level"], line["model"], line["trace_id"]) == ("INFO", "echo", TRACE)
    assert (line["status"], line["code"]) == ("error", 400)
    assert line["latency_ms"] > 0
