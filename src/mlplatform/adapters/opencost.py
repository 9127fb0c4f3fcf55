"""OpenCost's allocation API: `opencost+https://opencost.example:9003`.

Source: OpenCost documentation, "API", `/allocation`. A month is asked for in steps of a day, with
idle costs as allocations of their own, so that the sum is the cluster's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from urllib.parse import urlencode

from mlplatform.adapters.json_http import JSONService
from mlplatform.core.errors import Unavailable, UsageError
from mlplatform.core.store_url import StoreURL, is_loopback
from mlplatform.ports.billing import months_of, periods

_OPTIONS = frozenset({"months", "aggregate", "currency", "insecure", "timeout_seconds"})
_TIMEOUT_SECONDS = 120.0
"""It computes a month out of Prometheus while it is waited for."""
_AGGREGATE = "cluster,namespace,controller"
_CURRENCY = re.compile(r"[A-Z]{3}")
_DATA = re.compile(rb'"data"\s*:')


def open_billing(url: StoreURL) -> OpenCostApi:
    """The API behind `opencost+http://` or `opencost+https://`. Nothing is asked of it yet.

    Options: `months`, how many, this one included (2); `aggregate`, by what allocations are put
    together; `currency`, if OpenCost's own configuration names another than the dollar;
    `insecure=true` for plain HTTP to another machine; `timeout_seconds`.
    """
    url.reject_unknown(_OPTIONS)
    where = f"{url.noun} {url}"
    if not url.authority:
        raise UsageError(f"{where} names no host", hint="write opencost+https://host:9003")
    scheme = url.scheme.partition("+")[2]
    host = url.authority.rpartition(":")[0] or url.authority
    if scheme == "http" and not (is_loopback(host) or url.flag("insecure")):
        raise UsageError(
            f"{where} is plain HTTP",
            hint="use opencost+https, or add insecure=true if the network between is trusted",
        )
    currency = url.options.get("currency", "USD")
    if not _CURRENCY.fullmatch(currency):
        raise UsageError(f"{where}: currency={currency!r}", hint="by ISO 4217, as USD")
    return OpenCostApi(
        url,
        JSONService(
            f"{scheme}://{url.authority}{url.path.rstrip('/')}",
            timeout_seconds=url.seconds("timeout_seconds", default=_TIMEOUT_SECONDS),
            name=str(url),
        ),
        months=months_of(url),
        aggregate=url.options.get("aggregate", _AGGREGATE),
        currency=currency,
    )


class OpenCostApi:
    """One OpenCost."""

    charged = None

    def __init__(
        self, url: StoreURL, service: JSONService, *, months: int, aggregate: str, currency: str
    ) -> None:
        self._url = url
        self._service = service
        self._months = months
        self._aggregate = aggregate
        self._currency = currency

    @property
    def url(self) -> str:
        return str(self._url)

    def requests(self, today: date) -> int:
        """See the port."""
        return len(periods(today, self._months))

    def fetch(self, today: date, put: Callable[[str, bytes], None]) -> int:
        """See the port."""
        months = periods(today, self._months)
        for since, until in months:
            asked = urlencode(
                {
                    "window": f"{since}T00:00:00Z,{until}T00:00:00Z",
                    "step": "1d",
                    "accumulate": "false",
                    "includeIdle": "true",
                    "aggregate": self._aggregate,
                }
            )
            answer = self._service.ask("GET", f"/allocation?{asked}", what="/allocation")
            told = answer.json(where=self.url)
            if not isinstance(told, dict) or told.get("code") != 200 or "data" not in told:
                raise Unavailable(
                    "the answer is none of OpenCost's: it has no code 200 and no data",
                    store=self.url,
                )
            currency = f'"currency":"{self._currency}","data":'.encode()
            put(f"{since:%Y-%m}/allocation.json", _DATA.sub(currency, answer.body, count=1))
        return len(months)
