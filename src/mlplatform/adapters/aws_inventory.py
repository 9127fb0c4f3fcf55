"""What an AWS account holds in one region: `aws://us-east-1`.

It only lists and describes; `infra/iam/cost-waste-aws.json` is the policy that is enough. Each
kind is read by itself, so that a right that is missing hides one kind and no other:

    volumes          ec2:DescribeVolumes: those attached to no instance
    addresses        ec2:DescribeAddresses: Elastic IPs without an association
    load balancers   elasticloadbalancing:DescribeLoadBalancers, …TargetGroups, …TargetHealth, and
                     cloudwatch:GetMetricStatistics: RequestCount, or ActiveFlowCount, of 14 days
    snapshots        ec2:DescribeSnapshots of the account's own, and ec2:DescribeImages
    uploads          s3:ListAllMyBuckets, s3:GetBucketLocation, s3:ListBucketMultipartUploads,
                     s3:ListMultipartUploadParts

Classic load balancers are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from shlex import quote
from typing import Any

from botocore import exceptions as sdk
from botocore.config import Config
from botocore.session import Session

from mlplatform.adapters.aws_session import open_session
from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.inventory import Held, Kind

_OPTIONS = frozenset({"profile", "endpoint", "insecure", "ca_bundle"})
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
_FOREIGN = (sdk.BotoCoreError, sdk.ClientError, OSError)
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 20.0
_GIB = 2**30
_QUIET_DAYS = 14
_METRICS = {
    "application": ("AWS/ApplicationELB", "RequestCount", "Sum"),
    "network": ("AWS/NetworkELB", "ActiveFlowCount", "Maximum"),
}
"""By type of load balancer, what counts what comes to it (Elastic Load Balancing, "CloudWatch
metrics for your load balancer"). One without a request reports none."""


def open_inventory(url: StoreURL, *, session: Session | None = None) -> AwsInventory:
    """The account of the SDK's own credentials, or of `profile`, in a region. Nothing is asked of
    it yet. Options: `profile`, `endpoint`, `insecure`, `ca_bundle`."""
    url.reject_unknown(_OPTIONS)
    where = f"{url.noun} {url}"
    if not _REGION.fullmatch(url.authority) or url.path.strip("/"):
        raise UsageError(f"{where} does not name a region", hint="write aws://us-east-1")
    endpoint = url.endpoint()
    found = session or open_session(url, where)

    def client(service: str) -> Any:
        return found.create_client(
            service,
            region_name=url.authority,
            endpoint_url=endpoint,
            verify=url.options.get("ca_bundle") or True,
            config=Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 4},
                s3={"addressing_style": "path"} if endpoint else None,
            ),
        )

    return AwsInventory(url, client)


class AwsInventory:
    """One account, in one region."""

    def __init__(self, url: StoreURL, client: Callable[[str], Any]) -> None:
        self._url = url
        self._client = client

    @property
    def url(self) -> str:
        return str(self._url)

    @property
    def region(self) -> str:
        """As AWS calls it."""
        return self._url.authority

    @property
    def zone(self) -> str:
        return f"aws/{self.region}"

    def held(self, now: datetime) -> Mapping[Kind, Sequence[Held] | Unknown]:
        """See the port."""
        readers: Mapping[Kind, Callable[[], Iterator[Held]]] = {
            Kind.VOLUME: self._volumes,
            Kind.ADDRESS: self._addresses,
            Kind.LOAD_BALANCER: lambda: self._load_balancers(now),
            Kind.SNAPSHOT: self._snapshots,
            Kind.UPLOAD: self._uploads,
        }
        found: dict[Kind, Sequence[Held] | Unknown] = {}
        for kind, read in readers.items():
            try:
                found[kind] = list(read())
            except _FOREIGN as error:
                found[kind] = Unknown(f"{self.url}: {kind.value}: {_told(error)}")
        return found

    def _volumes(self) -> Iterator[Held]:
        for each in self._pages("ec2", "describe_volumes", "Volumes"):
            name = each["VolumeId"]
            yield Held(
                Kind.VOLUME,
                name,
                type=each.get("VolumeType", ""),
                used_by=tuple(at["InstanceId"] for at in each.get("Attachments", ())),
                created=each.get("CreateTime"),
                size_bytes=each["Size"] * _GIB,
                evidence=f"aws ec2 describe-volumes --volume-ids {name}{self._there}: State "
                f"{each.get('State')}",
                removal=f"aws ec2 delete-volume --volume-id {name}{self._there}",
            )

    def _addresses(self) -> Iterator[Held]:
        answer = self._client("ec2").describe_addresses()
        for each in answer["Addresses"]:
            name = each.get("AllocationId") or each["PublicIp"]
            association = each.get("AssociationId") or each.get("InstanceId")
            yield Held(
                Kind.ADDRESS,
                name,
                used_by=(association,) if association else (),
                evidence=f"aws ec2 describe-addresses --allocation-ids {name}{self._there}: "
                f"AssociationId {association}",
                removal=f"aws ec2 release-address --allocation-id {name}{self._there}",
            )

    def _load_balancers(self, now: datetime) -> Iterator[Held]:
        targets: dict[str, list[tuple[str, bool]]] = {}
        for group in self._pages("elbv2", "describe_target_groups", "TargetGroups"):
            arn = group["TargetGroupArn"]
            answer = self._client("elbv2").describe_target_health(TargetGroupArn=arn)
            found = [
                (each["Target"]["Id"], each["TargetHealth"]["State"] == "healthy")
                for each in answer["TargetHealthDescriptions"]
            ]
            for balancer in group.get("LoadBalancerArns", ()):
                targets.setdefault(balancer, []).extend(found)
        for each in self._pages("elbv2", "describe_load_balancers", "LoadBalancers"):
            arn = each["LoadBalancerArn"]
            found = targets.get(arn, [])
            yield Held(
                Kind.LOAD_BALANCER,
                arn,
                type=each.get("Type", ""),
                used_by=tuple(name for name, well in found if well),
                unwell=tuple(name for name, well in found if not well),
                requests=self._requests(each, now) if any(well for _, well in found) else None,
                created=each.get("CreatedTime"),
                evidence=f"aws elbv2 describe-target-health for the target groups of {arn}"
                f"{self._there}: {len(found)} targets, {sum(well for _, well in found)} healthy",
                removal=f"aws elbv2 delete-load-balancer --load-balancer-arn {arn}{self._there}",
            )

    def _requests(self, balancer: Mapping[str, Any], now: datetime) -> float | Unknown | None:
        """What came in two weeks. A younger one has had no time."""
        metric = _METRICS.get(balancer.get("Type", ""))
        created = balancer.get("CreatedTime")
        since = now - timedelta(days=_QUIET_DAYS)
        if metric is None or created is None or created > since:
            return None
        namespace, name, statistic = metric
        try:
            answer = self._client("cloudwatch").get_metric_statistics(
                Namespace=namespace,
                MetricName=name,
                Dimensions=[
                    {
                        "Name": "LoadBalancer",
                        "Value": balancer["LoadBalancerArn"].partition(":loadbalancer/")[2],
                    }
                ],
                StartTime=since,
                EndTime=now,
                Period=86_400,
                Statistics=[statistic],
            )
        except _FOREIGN as error:
            return Unknown(_told(error))
        return float(sum(point[statistic] for point in answer["Datapoints"]))

    def _snapshots(self) -> Iterator[Held]:
        images: dict[str, list[str]] = {}
        for image in self._pages("ec2", "describe_images", "Images", Owners=["self"]):
            for device in image.get("BlockDeviceMappings", ()):
                if snapshot := device.get("Ebs", {}).get("SnapshotId"):
                    images.setdefault(snapshot, []).append(image["ImageId"])
        for each in self._pages("ec2", "describe_snapshots", "Snapshots", OwnerIds=["self"]):
            name = each["SnapshotId"]
            full = each.get("FullSnapshotSizeInBytes")
            yield Held(
                Kind.SNAPSHOT,
                name,
                used_by=tuple(images.get(name, ())),
                created=each.get("StartTime"),
                size_bytes=full if full is not None else each["VolumeSize"] * _GIB,
                evidence=f"aws ec2 describe-snapshots --snapshot-ids {name}{self._there}: "
                f"StartTime {each.get('StartTime'):%Y-%m-%d}; no image of the account names it",
                removal=f"aws ec2 delete-snapshot --snapshot-id {name}{self._there}",
            )

    def _uploads(self) -> Iterator[Held]:
        store = self._client("s3")
        for bucket in store.list_buckets()["Buckets"]:
            name = bucket["Name"]
            if _region_of(store.get_bucket_location(Bucket=name)) != self.region:
                continue
            for each in self._pages("s3", "list_multipart_uploads", "Uploads", Bucket=name):
                key, upload = each["Key"], each["UploadId"]
                parts = self._pages(
                    "s3", "list_parts", "Parts", Bucket=name, Key=key, UploadId=upload
                )
                yield Held(
                    Kind.UPLOAD,
                    f"s3://{name}/{key} ({upload})",
                    created=each.get("Initiated"),
                    size_bytes=sum(part["Size"] for part in parts),
                    evidence=f"aws s3api list-multipart-uploads --bucket {name}: Initiated "
                    f"{each.get('Initiated'):%Y-%m-%d}",
                    removal=f"aws s3api abort-multipart-upload --bucket {name} --key {quote(key)} "
                    f"--upload-id {upload}",
                )

    def _pages(self, service: str, verb: str, what: str, **asked: Any) -> Iterator[dict[str, Any]]:
        client = self._client(service)
        for page in client.get_paginator(verb).paginate(**asked):
            yield from page.get(what, ())

    @property
    def _there(self) -> str:
        return f" --region {self.region}"


def _region_of(answer: Mapping[str, Any]) -> str:
    """A bucket's region. The oldest region is none, and Ireland has an old name (S3 API,
    GetBucketLocation)."""
    told = answer.get("LocationConstraint") or "us-east-1"
    return "eu-west-1" if told == "EU" else str(told)


def _told(error: BaseException) -> str:
    if isinstance(error, sdk.ClientError):
        found = error.response.get("Error", {})
        return f"{error.operation_name}: {found.get('Code')}: {found.get('Message', '')}".strip(
            ": "
        )
    return " ".join(str(error).split())
