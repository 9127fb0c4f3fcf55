"""The stand-in is as strict as it says: what Amazon refuses, by its documents, it refuses too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from tests.conformance.traffic.route53_site import HEALTH_CHECK, NAME, weighted
from tests.features.route53_traffic.strict_route53 import (
    ZONE_ID,
    Record,
    StrictRoute53,
    strict_route53,
)


@pytest.fixture
def service() -> Iterator[StrictRoute53]:
    with strict_route53() as made:
        made.health_checks.add(HEALTH_CHECK)
        made.put(weighted("a", 10), weighted("b", 20))
        yield made


@pytest.fixture
def client(service: StrictRoute53) -> Any:
    session = Session()
    session.set_credentials(service.access_key, service.secret_key)
    return session.create_client(
        "route53",
        region_name="us-east-1",
        endpoint_url=service.url,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )


def change(client: Any, *changes: tuple[str, Record]) -> Any:
    batch = [{"Action": action, "ResourceRecordSet": record} for action, record in changes]
    return client.change_resource_record_sets(HostedZoneId=ZONE_ID, ChangeBatch={"Changes": batch})[
        "ChangeInfo"
    ]


TXT: Record = {
    "Name": f"_epoch.{NAME}",
    "Type": "TXT",
    "TTL": 60,
    "ResourceRecords": [{"Value": '"epoch=1"'}],
}


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ([("UPSERT", weighted("a", 256))], "InvalidInput", "Weight: 256 is out of range"),
        ([("UPSERT", weighted("a", -1))], "InvalidInput", "Weight: -1 is out of range"),
        ([("UPSERT", weighted("a", 1, TTL=None))], "InvalidInput", "Expected exactly one of"),
        ([("UPSERT", weighted("a", 1, Failover="PRIMARY"))], "InvalidInput", "routing policy"),
        ([("UPSERT", weighted("a", 1, SetIdentifier=None))], "InvalidInput", "routing policy"),
        ([("UPSERT", weighted("a", 1, Type="B"))], "InvalidInput", "'B' is none of"),
        ([("UPSERT", weighted("a", 1, HealthCheckId="gone"))], "NoSuchHealthCheck", "gone"),
        ([("RENAME", weighted("a", 1))], "InvalidInput", "'RENAME' is none of"),
        ([("CREATE", weighted("a", 10))], "InvalidChangeBatch", "already exists"),
        ([("CREATE", weighted("c", 10, Name="api.other.test."))], "InvalidChangeBatch", "zone"),
        ([("DELETE", weighted("c", 10))], "InvalidChangeBatch", "was not found"),
        ([("DELETE", weighted("a", 11))], "InvalidChangeBatch", "do not match the current"),
        ([("DELETE", weighted("a", 10, TTL=31))], "InvalidChangeBatch", "do not match"),
        ([("DELETE", weighted("a", 10, HealthCheckId=None))], "InvalidChangeBatch", "do not match"),
        ([("DELETE", weighted("a", 10))] * 2, "InvalidChangeBatch", "invalid set of changes"),
        ([("UPSERT", weighted("a", 9))] * 2, "InvalidChangeBatch", "invalid set of changes"),
        (
            [
                (
                    "CREATE",
                    weighted("c", 1, Weight=None, SetIdentifier=None, HealthCheckId=None),
                )
            ],
            "InvalidChangeBatch",
            "another routing policy",
        ),
        (
            [("CREATE", {**TXT, "ResourceRecords": [{"Value": "bare"}]})],
            "InvalidChangeBatch",
            "Invalid Resource Record",
        ),
        (
            [("CREATE", weighted("c", 1, ResourceRecords=[{"Value": "infer.test"}]))],
            "InvalidChangeBatch",
            "Invalid Resource Record",
        ),
        ([], "InvalidInput", "Changes"),
    ],
)
def test_a_change_that_is_wrong(
    service: StrictRoute53, client: Any, changes: list[tuple[str, Record]], code: str, said: str
) -> None:
    """And nothing of its batch is applied, also what was right and came first."""
    before = dict(service.records)
    good = [("CREATE", TXT)] if changes and changes[0][1].get("Type") != "TXT" else []
    with pytest.raises(ClientError) as raised:
        change(client, *good, *changes)
    assert raised.value.response["Error"]["Code"] == code
    assert said in raised.value.response["Error"]["Message"]
    assert service.records == before


def test_a_record_is_replaced_by_delete_and_create(service: StrictRoute53, client: Any) -> None:
    found = change(client, ("DELETE", weighted("a", 10)), ("CREATE", weighted("a", 70)))
    assert service.weights(NAME) == {"a": 70, "b": 20}
    assert found["Status"] == "PENDING"
    assert client.get_change(Id=found["Id"])["ChangeInfo"]["Status"] == "PENDING"
    assert client.get_change(Id=found["Id"])["ChangeInfo"]["Status"] == "INSYNC"


def test_what_is_pending_is_listed_and_not_yet_answered(
    service: StrictRoute53, client: Any
) -> None:
    service.looks_until_in_sync = 2
    change(client, ("CREATE", TXT))
    listed = client.list_resource_record_sets(
        HostedZoneId=ZONE_ID, StartRecordName=TXT["Name"], StartRecordType="TXT"
    )
    assert listed["ResourceRecordSets"] == [TXT]
    asked = {"HostedZoneId": ZONE_ID, "RecordName": TXT["Name"], "RecordType": "TXT"}
    codes = [client.test_dns_answer(**asked)["ResponseCode"] for _ in range(3)]
    assert codes == ["NXDOMAIN", "NXDOMAIN", "NOERROR"]
    assert client.test_dns_answer(**asked)["RecordData"] == ['"epoch=1"']


def test_a_list_is_in_pages_and_in_order(service: StrictRoute53, client: Any) -> None:
    change(client, ("CREATE", TXT))
    service.put({**TXT, "Name": "example.com."}, {**TXT, "Name": "zoo.example.com."})
    names: list[tuple[str, str]] = []
    page: dict[str, str] = {}
    while True:
        found = client.list_resource_record_sets(HostedZoneId=ZONE_ID, MaxItems="2", **page)
        names += [
            (one["Name"], one.get("SetIdentifier", "")) for one in found["ResourceRecordSets"]
        ]
        if not found["IsTruncated"]:
            break
        page = {
            f"StartRecord{part}": found[f"NextRecord{part}"]
            for part in ("Name", "Type", "Identifier")
            if f"NextRecord{part}" in found
        }
    assert names == [
        ("example.com.", ""),
        (NAME, "a"),
        (NAME, "b"),
        (f"_epoch.{NAME}", ""),
        ("zoo.example.com.", ""),
    ]


def test_only_who_signs_is_let_in(service: StrictRoute53, client: Any) -> None:
    service.secret_key = "another"
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.get_change(Id="C1")
    service.access_key = "another"
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        client.get_change(Id="C1")
