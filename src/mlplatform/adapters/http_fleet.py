"""A region's servers, asked over the Open Inference Protocol at the region's endpoint.

What is asked is what every such server answers: whether it is ready, and its repository index. One
request tells all models. Beside the protocol's own `name`, `version` and `state`, an entry states
the `digest` of what was loaded, `canary` where it is on trial beside another version, and
`requests_per_second` where that was measured. Where there is no index (the protocol has it as an
extension) or it says too little, models are asked one by one, as many as is decent.

An endpoint is one server or a balancer before several, and does not say how many. So a model that
is served counts as one server, which is true and never too much; a topology that names a `cluster`
gets them counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from mlplatform.adapters.admin_door import HINT, PATH, admin_token
from mlplatform.adapters.json_http import Answer, JSONService
from mlplatform.core.errors import (
    Denied,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import is_loopback
from mlplatform.ports.fleet import Served

_READY, _INDEX = "/v2/health/ready", "/v2/repository/index"
_UNREADY = frozenset({400, 500, 503})
"""What servers say of themselves when they are not ready; 502 and 504 are a gateway's words, which
does not know."""
_ASKED_ONE_BY_ONE = 64


def open_fleet(
    endpoint: str, *, timeout_seconds: float = 5.0, environ: Mapping[str, str] = os.environ
) -> HttpFleet:
    """The servers behind a URL. Nothing is asked of them yet."""
    return HttpFleet(endpoint, lambda: admin_token(environ), timeout_seconds=timeout_seconds)


class _NotReady(StoreError):
    """A server answered that it is not."""


class _Endpoint(JSONService):
    def refusal(self, answer: Answer, what: str) -> StoreError:
        if what == _READY and answer.status in _UNREADY:
            return _NotReady(f"HTTP {answer.status}", store=self.name, key=what)
        if answer.status in {405, 501}:
            return NotFound(f"HTTP {answer.status}", store=self.name, key=what)
        return super().refusal(answer, what)


class HttpFleet:
    """What answers at one URL. Safe to share between threads."""

    def __init__(
        self, endpoint: str, token: Callable[[], str], *, timeout_seconds: float = 5.0
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._service = _Endpoint(self._endpoint, timeout_seconds=timeout_seconds)

    def __repr__(self) -> str:
        return f"<HttpFleet {self.url}>"

    @property
    def url(self) -> str:
        return self._endpoint

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        """See the port. Which of several loaded versions answers, a model's own metadata says."""
        if not models:
            return {}
        try:
            self._service.ask("GET", _READY, what=_READY)
        except _NotReady:
            return dict.fromkeys(models, Served())
        except NotFound:
            pass  # a server without that question still has an index
        try:
            index = self._index()
        except NotFound:
            return self._one_by_one(models)
        found: dict[str, Served | Unknown] = {}
        questions = _ASKED_ONE_BY_ONE
        for model in sorted(models):
            loaded = _loaded(index.get(model, ()))
            if _says_all(loaded) or not questions:
                found[model] = self._as_listed(model, loaded)
            else:
                questions -= 1
                found[model] = self._asked(model, loaded)
        return found

    def ask_capacity(self, model: str, servers: int) -> str:
        """`Unsupported`: an endpoint does not say who scales what is behind it."""
        raise Unsupported(
            f"nobody who scales {model} is known, to have {servers} servers of it",
            store=self.url,
            hint="start them where they run, or name the region's `cluster` in the topology",
        )

    def lame_duck(self, *, enter: bool) -> None:
        """See the port. It reaches the server that answers at the endpoint."""
        token = self._token()
        parts = urlsplit(self._endpoint)
        if token and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise UsageError(
                f"{self.url}: the admin token would travel in clear",
                hint="give the region an https:// endpoint",
            )
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._service.ask("POST", PATH, {"lame_duck": enter}, headers=sent, what="lame duck")
        except NotFound as error:
            raise Unsupported(
                f"its servers know no lame duck: they have no {PATH}", store=self.url
            ) from error
        except Denied as error:
            raise Denied(
                f"the servers' admin door stays shut: {error.message}",
                right="admin",
                store=self.url,
                hint=HINT,
            ) from error

    # --- what they hold --------------------------------------------------------------------------

    def _index(self) -> dict[str, list[Mapping[str, Any]]]:
        """Entries of the index by model: GET as our server has it, else POST as others do."""
        try:
            entries = self._service.json("GET", _INDEX, what=_INDEX)
        except NotFound:
            entries = self._service.json("POST", _INDEX, {"ready": True}, what=_INDEX)
        if isinstance(entries, dict):
            entries = entries.get("models")
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise Unavailable(
                "what answers is no model server: its index is not a list of objects",
                store=self.url,
                key=_INDEX,
            )
        found: dict[str, list[Mapping[str, Any]]] = {}
        for entry in entries:
            found.setdefault(_text(entry, "name"), []).append(entry)
        return found

    def _as_listed(self, model: str, loaded: _Loaded) -> Served | Unknown:
        """What the index alone says."""
        canary = _canary(loaded)
        serving = [version for version in loaded if version != canary]
        if len(serving) > 1:
            return self._ambiguous(model, serving)
        versions = {version: _text(entry, "digest") for version, entry in loaded.items()}
        rate = _rate(loaded[serving[0]]) if serving else None
        return Served(versions, 1 if loaded else 0, rate, canary)

    def _asked(self, model: str, loaded: _Loaded) -> Served | Unknown:
        """What a model's own metadata says, of the version that answers when none is asked for."""
        try:
            told = self._service.json("GET", f"/v2/models/{quote(model)}", what=model)
        except NotFound:
            return Served()
        except StoreError as error:
            return Unknown(f"{model}: {error}")
        if not isinstance(told, dict):
            return Unknown(f"{self.url}: {model}: its metadata is not an object")
        version, digest, canary = _text(told, "version"), _text(told, "digest"), _canary(loaded)
        if not version:
            by_digest = [v for v in loaded if digest and _text(loaded[v], "digest") == digest]
            listed = told.get("versions")
            named = [v for v in listed if isinstance(v, str)] if isinstance(listed, list) else []
            serving = by_digest or [v for v in loaded if v != canary] or named
            if len(serving) != 1:
                return self._ambiguous(model, serving)
            version = serving[0]
        entry = loaded.get(version, {})
        versions = {version: digest or _text(entry, "digest")}
        if canary is None or canary == version:
            return Served(versions, 1, _rate(entry) or _rate(told))
        versions[canary] = _text(loaded[canary], "digest")
        return Served(versions, 1, _rate(entry) or _rate(told), canary)

    def _ambiguous(self, model: str, versions: Iterable[str]) -> Unknown:
        several = ", ".join(sorted(versions)) or "none that has a name"
        return Unknown(
            f"{self.url}: {model}: which version answers is not stated; loaded: {several}"
        )

    def _one_by_one(self, models: frozenset[str]) -> dict[str, Served | Unknown]:
        found: dict[str, Served | Unknown] = {}
        for number, model in enumerate(sorted(models)):
            if number >= _ASKED_ONE_BY_ONE:
                found[model] = Unknown(
                    f"{self.url} has no repository index, and {_ASKED_ONE_BY_ONE} models are asked "
                    "one by one, not more"
                )
                continue
            try:
                self._service.ask("GET", f"/v2/models/{quote(model)}/ready", what=_READY)
            except (_NotReady, NotFound):
                found[model] = Served()
            else:
                found[model] = self._asked(model, {})
        return found


_Loaded = Mapping[str, Mapping[str, Any]]
"""Entries of one model that are ready, by version."""


def _loaded(entries: Iterable[Mapping[str, Any]]) -> _Loaded:
    """A server that states no state lists what it has loaded."""
    return {
        _text(entry, "version"): entry
        for entry in entries
        if _text(entry, "state") in {"READY", ""}
    }


def _says_all(loaded: _Loaded) -> bool:
    """Whether it is plain which version answers, and which bytes it is."""
    serving = len(loaded) - (_canary(loaded) is not None)
    return serving <= 1 and all(v and _text(entry, "digest") for v, entry in loaded.items())


def _canary(loaded: _Loaded) -> str | None:
    """The version on trial; one that stands alone is not."""
    on_trial = [version for version, entry in loaded.items() if entry.get("canary") is True]
    return on_trial[0] if on_trial and len(loaded) > 1 else None


def _rate(entry: Mapping[str, Any]) -> float | None:
    rate = entry.get("requests_per_second")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        return None
    return float(rate) if 0 < rate < math.inf else None


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""
