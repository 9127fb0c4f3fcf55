"""What the meters of bills say of idleness, a table: a provider's meters are its own, and have no
rule but their names.

A meter is compared with LIKE against `SkuMeter`, and where a bill has none against `SkuId`. Most
waste does not show in a bill: a disk costs the same attached or not, so only reading the cloud
tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.cost.waste.findings import Waste


@dataclass(frozen=True, slots=True)
class IdleMeter:
    """A meter that is charged for what is not used."""

    provider: str
    """As bills write `ServiceProviderName`, compared in small letters with LIKE."""
    like: str
    kind: Waste
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class PairedMeter:
    """A meter that is charged for being there, and the ones that show that it is used."""

    provider: str
    like: str
    used: Sequence[str]
    kind: Waste
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class AgedMeter:
    """A meter of what is kept, and forgotten once it is old."""

    provider: str
    like: str
    kind: Waste
    source: str


_AWS, _GOOGLE = "%aws%", "%google%"

IDLE = (
    IdleMeter(
        _AWS,
        "%ElasticIP:IdleAddress%",
        Waste.ADDRESS,
        "charged as an idle address",
        "https://repost.aws/knowledge-center/elastic-ip-charges",
    ),
    IdleMeter(
        _AWS,
        "%PublicIPv4:IdleAddress%",
        Waste.ADDRESS,
        "charged as an idle address",
        "https://aws.amazon.com/blogs/aws/new-aws-public-ipv4-address-charge-public-ip-insights/",
    ),
    IdleMeter(
        _GOOGLE,
        "Static Ip Charge%",
        Waste.ADDRESS,
        "charged as a static address that nothing uses",
        "https://cloud.google.com/vpc/network-pricing",
    ),
)

PAIRED = (
    PairedMeter(
        _AWS,
        "%LoadBalancerUsage",
        ("%LCUUsage", "%DataProcessing-Bytes"),
        Waste.LOAD_BALANCER,
        "charged by the hour, and nothing passed through it",
        "https://aws.amazon.com/elasticloadbalancing/pricing/",
    ),
)

AGED = (
    AgedMeter(
        _AWS,
        "%EBS:SnapshotUsage%",
        Waste.SNAPSHOT,
        "https://aws.amazon.com/ebs/pricing/",
    ),
)
