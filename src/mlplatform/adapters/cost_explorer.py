"""AWS Cost Explorer: `cost-explorer://`, or `cost-explorer://?profile=billing&months=3`.

Each request, and each page of an answer, costs $0.01 (AWS Cost Explorer FAQs), so that the caller
says how many there will be before the first. A month takes two: usage by region and service, and by
service and kind what is no usage. Today is left out: its costs have hardly come.

`infra/iam/cost-explorer-aws.json` is the policy that is enough.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

from botocore import exceptions as sdk
from botocore.config import Config
from botocore.session import Session

from mlplatform.adapters.aws_session import open_session
from mlplatform.core.errors import Denied, StoreError, Throttled, Unavailable, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.billing import months_of, periods

_OPTIONS = frozenset({"profile", "months", "endpoint", "insecure", "ca_bundle", "region"})
_REGION = "us-east-1"
"""Where the service has its only endpoint (Cost Management user guide, "Service endpoint")."""
_FOREIGN = (sdk.BotoCoreError, sdk.ClientError, OSError)
_METRICS = ["UnblendedCost", "AmortizedCost"]
NOT_USAGE = (
    *("Tax", "Credit", "Refund", "Fee", "RIFee"),
    *("SavingsPlanRecurringFee", "SavingsPlanUpfrontFee"),
)
"""Kinds of records that have no region, or are no usage: asked for apart."""
_REST: dict[str, Any] = {"Dimensions": {"Key": "RECORD_TYPE", "Values": list(NOT_USAGE)}}
_HALVES: tuple[tuple[str, tuple[str, str], dict[str, Any]], ...] = (
    ("usage", ("REGION", "SERVICE"), {"Not": _REST}),
    ("rest", ("SERVICE", "RECORD_TYPE"), _REST),
)
"""The two questions of a month, which have everything between them once."""


def open_billing(url: StoreURL, *, session: Session | None = None) -> CostExplorerApi:
    """The account of the SDK's own credentials, or of `profile`. Nothing is asked of it yet.
    Options: `profile`, `months` (2), `endpoint`, `insecure`, `ca_bundle`, `region`."""
    url.reject_unknown(_OPTIONS)
    where = f"{url.noun} {url}"
    if url.authority or url.path.strip("/"):
        raise UsageError(
            f"{where}: an account is chosen by its credentials",
            hint="write cost-explorer://?profile=NAME",
        )
    endpoint = url.endpoint()
    found = session or open_session(url, where)

    def client(service: str) -> Any:
        return found.create_client(
            service,
            region_name=url.options.get("region", _REGION),
            endpoint_url=endpoint,
            verify=url.options.get("ca_bundle") or True,
            # A request that is sent again is charged again.
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )

    return CostExplorerApi(url, client, months=months_of(url))


class CostExplorerApi:
    """One payer account."""

    charged = ("aws/us-east-1", "requests/billing")

    def __init__(self, url: StoreURL, client: Callable[[str], Any], *, months: int) -> None:
        self._url = url
        self._client = client
        self._months = months

    @property
    def url(self) -> str:
        return str(self._url) or "cost-explorer://"

    def requests(self, today: date) -> int:
        """See the port."""
        return len(_HALVES) * len(periods(today, self._months))

    def fetch(self, today: date, put: Callable[[str, bytes], None]) -> int:
        """See the port."""
        try:
            account = self._client("sts").get_caller_identity()["Account"]
            client = self._client("ce")
            return sum(
                self._month(client, account, since, until, put)
                for since, until in periods(today, self._months)
            )
        except _FOREIGN as error:
            raise self._translated(error) from error

    def _month(
        self,
        client: Any,
        account: str,
        since: date,
        until: date,
        put: Callable[[str, bytes], None],
    ) -> int:
        pages = 0
        for name, keys, chosen in _HALVES:
            groups = [{"Type": "DIMENSION", "Key": key} for key in keys]
            token: dict[str, str] = {}
            page = 0
            while page == 0 or token:
                answer = client.get_cost_and_usage(
                    TimePeriod={"Start": str(since), "End": str(until)},
                    Granularity="DAILY",
                    Metrics=_METRICS,
                    GroupBy=groups,
                    Filter=chosen,
                    **token,
                )
                page += 1
                told = {
                    "Account": account,
                    "GroupDefinitions": groups,
                    "ResultsByTime": answer["ResultsByTime"],
                }
                put(f"{since:%Y-%m}/{name}-{page}.json", json.dumps(told).encode())
                following = answer.get("NextPageToken")
                token = {"NextPageToken": following} if following else {}
            pages += page
        return pages

    def _translated(self, error: BaseException) -> StoreError:
        text = " ".join(str(error).split())
        if not isinstance(error, sdk.ClientError):
            hint = "see that AWS credentials are there: aws sts get-caller-identity"
            return Unavailable(text, store=self.url, hint=hint)
        code = str(error.response.get("Error", {}).get("Code"))
        if code in {"AccessDenied", "AccessDeniedException", "UnrecognizedClientException"}:
            return Denied(
                text,
                right="ce:GetCostAndUsage",
                store=self.url,
                hint="infra/iam/cost-explorer-aws.json is the policy that is enough",
            )
        if code in {"LimitExceededException", "Throttling", "ThrottlingException"}:
            return Throttled(text, store=self.url)
        return Unavailable(text, store=self.url)
