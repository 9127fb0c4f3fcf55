"""An AWS account as moto keeps it: what is read of it, and the policy that is enough."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session

from mlplatform.adapters import aws_inventory
from mlplatform.adapters.aws_inventory import open_inventory
from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.inventory import Held, Inventory, Kind
from tests.real.servers.launch import Endpoint

REGION = "eu-west-1"
POLICY = Path(__file__).parents[3] / "infra/iam/cost-waste-aws.json"
NOW = datetime.now(UTC)


@pytest.fixture
def account(moto: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """An empty account, and a maker of clients that may write to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    reset = urllib.request.Request(f"{moto.url}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()

    def client(service: str, region: str = REGION) -> Any:
        return Session().create_client(
            service,
            region_name=region,
            endpoint_url=moto.url,
            config=Config(s3={"addressing_style": "path"}),
        )

    return client


@pytest.fixture
def inventory(moto: Endpoint, account: Any) -> Inventory:
    return open_inventory(StoreURL.parse(f"aws://{REGION}?endpoint={moto.url}", noun="inventory"))


def of(inventory: Inventory, kind: Kind, now: datetime = NOW) -> list[Held]:
    found = inventory.held(now)[kind]
    assert not isinstance(found, Unknown), found
    return list(found)


def image_of(ec2: Any) -> str:
    return str(ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"])


def test_volumes(account: Any, inventory: Inventory) -> None:
    ec2 = account("ec2")
    zone = f"{REGION}a"
    alone = ec2.create_volume(Size=100, AvailabilityZone=zone, VolumeType="gp3")["VolumeId"]
    used = ec2.create_volume(Size=8, AvailabilityZone=zone, VolumeType="gp3")["VolumeId"]
    machine = ec2.run_instances(ImageId=image_of(ec2), MinCount=1, MaxCount=1)["Instances"][0]
    ec2.attach_volume(VolumeId=used, InstanceId=machine["InstanceId"], Device="/dev/sdh")
    found = {each.id: each for each in of(inventory, Kind.VOLUME)}
    assert found[alone].used_by == ()
    assert (found[alone].type, found[alone].size_bytes) == ("gp3", 100 * 2**30)
    assert found[used].used_by == (machine["InstanceId"],)
    assert found[alone].removal == f"aws ec2 delete-volume --volume-id {alone} --region {REGION}"


def test_addresses(account: Any, inventory: Inventory) -> None:
    ec2 = account("ec2")
    alone = ec2.allocate_address(Domain="vpc")["AllocationId"]
    used = ec2.allocate_address(Domain="vpc")["AllocationId"]
    machine = ec2.run_instances(ImageId=image_of(ec2), MinCount=1, MaxCount=1)["Instances"][0]
    ec2.associate_address(AllocationId=used, InstanceId=machine["InstanceId"])
    found = {each.id: each for each in of(inventory, Kind.ADDRESS)}
    assert found[alone].used_by == ()
    assert found[used].used_by


def test_snapshots(account: Any, inventory: Inventory) -> None:
    ec2 = account("ec2")
    volume = ec2.create_volume(Size=40, AvailabilityZone=f"{REGION}a")["VolumeId"]
    alone = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    machine = ec2.run_instances(ImageId=image_of(ec2), MinCount=1, MaxCount=1)["Instances"][0]
    image = ec2.create_image(InstanceId=machine["InstanceId"], Name="ours")["ImageId"]
    (mapping,) = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    used = mapping["Ebs"]["SnapshotId"]
    found = {each.id: each for each in of(inventory, Kind.SNAPSHOT)}
    assert found[alone].used_by == ()
    assert found[alone].size_bytes == 40 * 2**30
    created = found[alone].created
    assert created is not None
    assert abs(created - datetime.now(UTC)) < timedelta(hours=1)  # `NOW` may be long ago
    assert found[used].used_by == (image,)
    assert {alone, used} <= set(found)


def test_load_balancers(account: Any, inventory: Inventory) -> None:
    ec2, elb, watch = account("ec2"), account("elbv2"), account("cloudwatch")
    network = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(
            VpcId=network, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{REGION}{zone}"
        )["Subnet"]["SubnetId"]
        for n, zone in enumerate("ab")
    ]

    def balancer(name: str) -> str:
        made = elb.create_load_balancer(Name=name, Subnets=subnets)
        return str(made["LoadBalancers"][0]["LoadBalancerArn"])

    idle, busy = balancer("idle"), balancer("busy")
    group = elb.create_target_group(Name="g", Protocol="HTTP", Port=80, VpcId=network)
    arn = group["TargetGroups"][0]["TargetGroupArn"]
    machine = ec2.run_instances(ImageId=image_of(ec2), MinCount=1, MaxCount=1, SubnetId=subnets[0])[
        "Instances"
    ][0]["InstanceId"]
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": machine}])
    elb.create_listener(
        LoadBalancerArn=busy,
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
    )
    # Three weeks from now two weeks have passed in which it could have been asked.
    later = NOW + timedelta(days=21)
    found = {each.id: each for each in of(inventory, Kind.LOAD_BALANCER, later)}
    assert (found[idle].used_by, found[idle].unwell) == ((), ())
    assert found[idle].type == "application"
    assert found[busy].used_by == (machine,)
    assert found[busy].requests == 0
    assert {each.requests for each in of(inventory, Kind.LOAD_BALANCER)} == {None}, "too young"
    watch.put_metric_data(
        Namespace="AWS/ApplicationELB",
        MetricData=[
            {
                "MetricName": "RequestCount",
                "Dimensions": [
                    {"Name": "LoadBalancer", "Value": busy.partition(":loadbalancer/")[2]}
                ],
                "Timestamp": later - timedelta(days=2),
                "Value": 40,
            }
        ],
    )
    found = {each.id: each for each in of(inventory, Kind.LOAD_BALANCER, later)}
    assert found[busy].requests == 40


def test_uploads_of_buckets_in_the_region(account: Any, inventory: Inventory) -> None:
    for bucket, region in (("here", REGION), ("elsewhere", "eu-central-1")):
        s3 = account("s3", region)
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
        upload = s3.create_multipart_upload(Bucket=bucket, Key="a 'key'")["UploadId"]
        for number in (1, 2):
            s3.upload_part(
                Bucket=bucket, Key="a 'key'", UploadId=upload, PartNumber=number, Body=b"x" * 700
            )
    (only,) = of(inventory, Kind.UPLOAD)
    assert only.id.startswith("s3://here/a 'key' (")
    assert only.size_bytes == 1400
    assert "--key 'a '\"'\"'key'\"'\"''" in only.removal, "quoted for a shell"


def test_an_account_that_is_not_reached_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    url = StoreURL.parse("aws://eu-west-1?endpoint=http://127.0.0.1:9", noun="inventory")
    held = open_inventory(url).held(NOW)
    assert set(held) == set(Kind)
    for kind, found in held.items():
        assert isinstance(found, Unknown), kind
        assert found.reason.startswith(f"aws://eu-west-1: {kind.value}: ")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("aws://", "does not name a region"),
        ("aws://us-east-1/bucket", "does not name a region"),
        ("aws://US-EAST-1", "does not name a region"),
        ("aws://us-east-1?colour=red", "unknown option 'colour'"),
        ("aws://us-east-1?endpoint=http://example.com", "plain HTTP"),
        ("aws://us-east-1?profile=nobody-has-this", "nobody-has-this"),
    ],
)
def test_urls_that_cannot_be_right(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        open_inventory(StoreURL.parse(url, noun="inventory"))


def test_the_policy_is_read_only_and_names_what_the_adapter_asks() -> None:
    (statement,) = json.loads(POLICY.read_text())["Statement"]
    allowed = set(statement["Action"])
    assert all(re.fullmatch(r"[a-z0-9]+:(Describe|Get|List)\w+", each) for each in allowed)
    said = (aws_inventory.__doc__ or "").replace("…", "elasticloadbalancing:Describe")
    assert set(re.findall(r"\b[a-z0-9]+:[A-Z]\w+", said)) == allowed
