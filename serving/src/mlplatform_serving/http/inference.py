"""How an inference is answered: read, asked of its model, and said.

`take` does it without a task, for a request that is wholly there and whose model is: what asyncio
takes for a task, a future, two events and the turns of its loop is most of what a small inference
would cost. `answer` is for all others: bodies that still come, or are packed, and models that must
be loaded first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlplatform_serving.errors import BadRequest, ClientGone, ServingError
from mlplatform_serving.http.answers import (
    JSON_LENGTH,
    Answer,
    error_answer,
    inference_answer,
    json_answer,
)
from mlplatform_serving.http.body import BodyReader, Receive
from mlplatform_serving.http.routes import Found
from mlplatform_serving.logs import RequestLog
from mlplatform_serving.models.instance import GONE, PRIORITY, PRIORITY_MAX, Done
from mlplatform_serving.models.repository import Loaded, Repository
from mlplatform_serving.protocol.infer import Inference, encode_answer, parse_inference
from mlplatform_serving.protocol.predict import parse_predict, predictions
from mlplatform_serving.protocol.specs import Signature
from mlplatform_serving.protocol.tensors import Array
from mlplatform_serving.tracing import Phase, Spans, Tracing, parse_traceparent

Headers = Mapping[bytes, bytes]
TIMEOUT = b"x-mlplatform-timeout-ms"
"""The header that says how long the client waits; Triton's parameter `timeout`, in microseconds,
says the same."""
_CLIENT_GONE = 499
"""nginx's word in traces for a client that did not wait; nobody is sent it."""


class Reply(Protocol):
    """How one request is answered."""

    def at_once(self, answer: Answer) -> None:
        """From any thread: begin to send it, if that can be. The reply is to be called with the
        same answer after it."""

    def __call__(self, answer: Answer) -> None:
        """On the loop."""


@dataclass(frozen=True, slots=True)
class Form:
    """One of the forms in which an inference is asked."""

    route: str
    parse: Callable[[bytes, Headers, Signature], Inference]
    encode: Callable[[Loaded, Inference, Mapping[str, Array]], Answer]


def _parse_infer(body: bytes, headers: Headers, signature: Signature) -> Inference:
    return parse_inference(body, _json_bytes(headers), signature)


def _encode_infer(loaded: Loaded, asked: Inference, outputs: Mapping[str, Array]) -> Answer:
    return inference_answer(*encode_answer(loaded.name, loaded.version, asked, outputs))


def _parse_predict(body: bytes, _: Headers, signature: Signature) -> Inference:
    return Inference("", parse_predict(body, signature), ())


def _encode_predict(loaded: Loaded, _: Inference, outputs: Mapping[str, Array]) -> Answer:
    return json_answer(predictions(loaded.instance.backend.signature, outputs))


FORMS: Mapping[str, Form] = {
    "infer": Form("/v2/models/{model}/infer", _parse_infer, _encode_infer),
    "predict": Form("/v1/models/{model}/predict", _parse_predict, _encode_predict),
}
"""By the handler of their routes."""


@dataclass(slots=True)
class _Exchange:
    """An inference on its way."""

    form: Form
    found: Found
    headers: Headers
    came: float
    """When the head of the request was there, on the clock of `time.perf_counter`: the client's
    time runs from here."""
    read_at: float
    """When the body was there."""
    spans: Spans | None = None
    trace_id: str = ""
    loaded: Loaded | None = None
    asked: Inference | None = None
    answer: Answer | None = None


class Inferences:
    """Answers them. One for each server."""

    def __init__(
        self,
        repository: Repository,
        request_log: RequestLog,
        bodies: BodyReader,
        tracing: Tracing | None,
    ) -> None:
        self._repository = repository
        self._request_log = request_log
        self._bodies = bodies
        self._tracing = tracing

    def take(
        self,
        found: Found,
        headers: Headers,
        scope: Any,
        body: bytes,
        reply: Reply,
    ) -> bool:
        """Whether it is taken: `reply` is then called, later; unless the client goes away, for
        which a callable is left in the scope."""
        loaded = self._repository.at_hand(found.model, found.version)
        if loaded is None:
            return False
        exchange = self._begin(found, headers)
        exchange.loaded = loaded

        def failed(error: Exception) -> Answer:
            answer = error_answer(error)
            self._failed(exchange, error, answer.status)
            return answer

        def told(result: Done | Exception) -> None:
            # The scope holds this by way of `gone`, and this the scope: left so, only the garbage
            # collector would end it, for each inference.
            scope.pop(GONE, None)
            if isinstance(result, Exception):  # raised, it would hold this frame, which holds it
                answer = failed(result)
            else:
                try:
                    answer = self._answered(exchange, loaded, result)
                except Exception as error:
                    answer = failed(error)
            reply(answer)

        def at_once(done: Done) -> None:
            reply.at_once(self._encoded(exchange, loaded, done))

        try:
            inputs, terms = self._asked(exchange, loaded, body)
            work = loaded.instance.submit(inputs, told, at_once=at_once, **terms)
        except Exception as error:
            answer = failed(error)
            # Not within this call: the next of many that came together would begin within it.
            asyncio.get_running_loop().call_soon(reply, answer)
            return True

        def gone() -> bool:
            forgotten = loaded.instance.forget(work)
            if forgotten:
                self._failed(exchange, ClientGone(), _CLIENT_GONE)
            return forgotten

        scope[GONE] = gone
        return True

    async def answer(self, found: Found, headers: Headers, scope: Any, receive: Receive) -> Answer:
        """The answer; what is wrong is raised."""
        exchange = self._begin(found, headers)
        try:
            body = await self._bodies.read(receive, headers)
            exchange.read_at = time.perf_counter()
            loaded = await self._repository.reach(found.model, found.version)
            exchange.loaded = loaded
            inputs, terms = self._asked(exchange, loaded, body)
            done = await loaded.instance.infer(inputs, **terms, scope=scope)
            return self._answered(exchange, loaded, done)
        except ClientGone as error:
            self._failed(exchange, error, _CLIENT_GONE)
            raise
        except Exception as error:
            self._failed(exchange, error, error.status if isinstance(error, ServingError) else 500)
            raise

    def _begin(self, found: Found, headers: Headers) -> _Exchange:
        now = time.perf_counter()
        exchange = _Exchange(FORMS[found.route.handler], found, headers, now, now)
        stated = headers.get(b"traceparent")
        parent = None if stated is None else parse_traceparent(stated)
        if parent is not None:
            exchange.trace_id = parent.trace_id
        if self._tracing is not None:
            exchange.spans = self._tracing.begin(parent, exchange.form.route)
            if exchange.spans is not None:
                exchange.trace_id = exchange.spans.trace_id
        return exchange

    @staticmethod
    def _asked(
        exchange: _Exchange, loaded: Loaded, body: bytes
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """What the model is given, and on what terms."""
        headers, instance = exchange.headers, loaded.instance
        asked = exchange.asked = exchange.form.parse(body, headers, instance.backend.signature)
        seconds = instance.limits.answer_seconds
        if asked.timeout_us:
            seconds = min(seconds, asked.timeout_us / 1e6)
        stated = headers.get(TIMEOUT)
        if stated is not None:
            seconds = min(seconds, _milliseconds(stated) / 1e3)
        priority = asked.priority if 0 < asked.priority <= PRIORITY_MAX else PRIORITY
        return asked.inputs, {"deadline": exchange.came + seconds, "priority": priority}

    def _answered(self, exchange: _Exchange, loaded: Loaded, done: Done) -> Answer:
        """Said, counted, logged and traced."""
        answer = self._encoded(exchange, loaded, done)
        now, total_ns = time.time(), int((time.perf_counter() - exchange.read_at) * 1e9)
        loaded.statistics.succeeded(now, total_ns, done.queue_ns, done.compute_ns)
        self._request_log.completed(
            now, loaded.name, loaded.version, exchange.trace_id, total_ns, done.compute_ns
        )
        if exchange.spans is not None:
            self._end_spans(exchange, answer.status, done, int(now * 1e9))
        return answer

    @staticmethod
    def _encoded(exchange: _Exchange, loaded: Loaded, done: Done) -> Answer:
        if exchange.asked is None:
            raise RuntimeError("nothing was asked")
        if exchange.answer is None:
            exchange.answer = exchange.form.encode(loaded, exchange.asked, done.outputs)
        return exchange.answer

    def _failed(self, exchange: _Exchange, error: Exception, status: int) -> None:
        """What is refused or fails is counted, and logged unless it is nobody's to read."""
        if exchange.loaded is not None:
            exchange.loaded.statistics.fail.add(0)
        if isinstance(error, ServingError):
            self._request_log.failed(
                time.time(),
                exchange.found.model,
                error.message,
                status,
                trace_id=exchange.trace_id,
                total_ns=int((time.perf_counter() - exchange.came) * 1e9),
            )
        if exchange.spans is not None:
            self._end_spans(exchange, status)

    def _end_spans(
        self, exchange: _Exchange, status: int, done: Done | None = None, ended_ns: int = 0
    ) -> None:
        """Outputs are encoded when the model has just ended."""
        if self._tracing is None or exchange.spans is None:
            return
        told: dict[str, str | int] = {"model.name": exchange.found.model}
        phases: tuple[Phase, ...] = ()
        if done is not None and exchange.loaded is not None:
            told["model.version"] = exchange.loaded.version
            computing_ns = ended_ns - done.compute_ns
            phases = (
                Phase("queue", computing_ns - done.queue_ns, computing_ns),
                Phase("compute", computing_ns, ended_ns),
            )
        self._tracing.end(exchange.spans, status, told, phases)


def _milliseconds(stated: bytes) -> float:
    """How long a client waits, as its header has it."""
    try:
        milliseconds = float(stated)
    except ValueError:
        milliseconds = 0.0
    if not milliseconds > 0:
        raise BadRequest(f"{TIMEOUT.decode()} is no number of milliseconds above 0")
    return milliseconds


def _json_bytes(headers: Headers) -> int | None:
    stated = headers.get(JSON_LENGTH)
    if stated is None:
        return None
    if not stated.isdigit() or len(stated) > 12:
        raise BadRequest("Inference-Header-Content-Length is no number of bytes")
    return int(stated)
