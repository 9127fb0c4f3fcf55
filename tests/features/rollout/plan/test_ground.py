"""What a cluster must offer before a rollout begins there: a case for each thing that it may lack,
with what is said of it, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from mlplatform.core.manifest import Requirements
from mlplatform.core.plan import Hold
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Served
from mlplatform.ports.ground import (
    GPU,
    Bound,
    Budget,
    Given,
    Limit,
    Node,
    Offer,
    Ownership,
    Pod,
    ProbeTime,
    Quota,
    Reference,
    Refusal,
    Rivalry,
    Template,
    Unscaled,
)
from mlplatform.rollout.plan.gpus import is_product
from mlplatform.rollout.plan.ground import Wanted, lacking_ground
from mlplatform.rollout.plan.seen import Copy, Finding, Rule

from .world import TWO, eu, planned, topology, well

GPUS = "nvidia.com/gpu"
L4 = GPU("NVIDIA-L4", (8, 9), "550.54.15", (12, 4))
T4 = GPU("Tesla-T4", (7, 5), "470.82.01", (11, 4))
H100 = GPU("NVIDIA-H100-80GB-HBM3", (9, 0), "580.65.06", (13, 0))
NIGHT = datetime(2026, 11, 21, 23, 5, tzinfo=UTC)


def amounts(**named: float) -> Mapping[str, Decimal]:
    """`gpus=1, cpu=4`; memory in GiB."""
    found = {"pods": Decimal(named.pop("pods", 1))}
    for name, value in named.items():
        size = Decimal(str(value)) * (Decimal(1024) ** 3 if name == "memory" else 1)
        found[GPUS if name == "gpus" else name] = size
    return found


def node(
    name: str = "gpu-1", gpu: GPU = L4, *, ending: tuple[Pod, ...] = (), **free: float
) -> Node:
    return Node(name, gpu, amounts(**{"pods": 100, "gpus": 2, **free}), ending)


def pod(name: str, *, priority: int = 0, ends_at: datetime | None = None, **takes: float) -> Pod:
    return Pod(name, amounts(**takes), priority, ends_at)


SERVER = Template("Deployment resnet", amounts(gpus=1), priority=100)
WELL = Offer(SERVER, (node(),))
WANTED = Wanted("m", "v2", "eu", extra=1, spare=1, load_seconds=60.0)


def found(offer: Offer | Unknown | None, wanted: Wanted = WANTED) -> list[Finding]:
    return list(lacking_ground(offer, wanted))


def one(offer: Offer, **wanted: Any) -> Finding:
    """The only thing that it lacks."""
    (finding,) = found(offer, replace(WANTED, **wanted))
    return finding


def offer(*nodes: Node, server: Template = SERVER, **rest: Any) -> Offer:
    return replace(WELL, template=server, nodes=nodes or WELL.nodes, **rest)


def test_a_cluster_that_lacks_nothing() -> None:
    assert found(WELL) == []
    assert found(None) == []


# --- GPUs that it runs on -----------------------------------------------------------------------

ENGINE = {"format": "tensorrt", "runtime": "tensorrt 10.13.0"}
RUNS: dict[str, tuple[dict[str, str], GPU, bool]] = {
    "the capability that it was built for": ({"compute_capability": "8.9"}, L4, True),
    "another": ({"compute_capability": "8.0"}, L4, False),
    "a newer one, built compatible": ({"compute_capability": "8.0+"}, L4, True),
    "an older one, built compatible": ({"compute_capability": "8.0+"}, T4, False),
    "a newer major than the driver's": ({"cuda": "13.0"}, L4, False),
    "a newer minor of the same major": ({"cuda": "12.9"}, L4, True),
    "an older CUDA": ({"cuda": "11.8"}, L4, True),
    "a driver alone is told, and is new enough": ({"cuda": "12.4"}, GPU(driver="525.60.13"), True),
    "a driver alone is told, and is too old": ({"cuda": "12.4"}, GPU(driver="470.82.01"), False),
    "the accelerator": ({"accelerator": "NVIDIA L4"}, L4, True),
    "another accelerator": ({"accelerator": "NVIDIA A100"}, L4, False),
    "another, built compatible": (
        {"accelerator": "NVIDIA A100", "compute_capability": "8.0+"},
        H100,
        True,
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_a_version_runs_on(case: str) -> None:
    needs, gpu, runs = RUNS[case]
    findings = found(
        offer(node(gpu=gpu)), replace(WANTED, requirements=Requirements.model_validate(needs))
    )
    assert [each.unknown for each in findings] == ([] if runs else [False])


def test_none_of_the_nodes_is_right() -> None:
    said = one(offer(node(gpu=T4)), requirements=Requirements(compute_capability="8.0+"))
    assert said.rule is Rule.WRONG_GPU
    assert said.reason == "m@v2 needs compute capability 8.0+: gpu-1 has 7.5"
    assert "publish that as another version" in said.fix


def test_some_of_the_nodes_are_right() -> None:
    nodes = (node(), node("gpu-2", T4))
    said = one(offer(*nodes), requirements=Requirements(compute_capability="8.9"))
    assert (
        said.reason == "m@v2 needs compute capability 8.9: gpu-2 has 7.5 too, and takes its servers"
    )
    assert "nodeSelector: {nvidia.com/gpu.product: NVIDIA-L4}" in said.fix


def test_an_old_driver() -> None:
    said = one(offer(node(gpu=T4)), requirements=Requirements(cuda="12.4"))
    assert said.rule is Rule.OLD_DRIVER
    assert said.reason == (
        "m@v2 needs CUDA 12.4: gpu-1 has driver 470.82.01, which runs CUDA 11.4 at most"
    )
    assert "install a driver that runs CUDA 12 (525.60 at least)" in said.fix


def test_nodes_that_do_not_say() -> None:
    said = one(offer(node(gpu=GPU())), requirements=Requirements(compute_capability="8.9"))
    assert (said.rule, said.unknown) == (Rule.WRONG_GPU, True)
    assert said.reason.endswith("no label nvidia.com/gpu.compute.major is on gpu-1")
    assert found(offer(node(gpu=GPU())), replace(WANTED, products=frozenset({"L4"}))) == []


def test_what_the_manifest_leaves_open() -> None:
    said = one(WELL, requirements=Requirements.model_validate(ENGINE))
    assert (said.rule, said.unknown) == (Rule.WRONG_GPU, True)
    assert "--requires compute_capability=9.0" in said.fix
    engine = Requirements.model_validate({**ENGINE, "compute_capability": "sm89"})
    assert one(WELL, requirements=engine).unknown is False
    assert one(WELL, requirements=Requirements(compute_capability="sm89")).unknown is True
    assert found(WELL, replace(WANTED, requirements=Requirements(format="onnx"))) == []


def test_the_topology_s_product() -> None:
    said = one(offer(node(gpu=T4)), products=frozenset({"L4"}))
    assert (said.rule, said.unknown) == (Rule.WRONG_GPU, False)
    assert said.reason == "m@v2 needs GPU L4: gpu-1 has Tesla-T4"


def test_servers_that_take_no_gpu_run_anywhere() -> None:
    server = replace(SERVER, needs=amounts(cpu=1))
    bare = node(gpu=GPU(), cpu=8)
    needs = Requirements(cuda="13.0")
    assert found(offer(bare, server=server), replace(WANTED, requirements=needs)) == []


RUNTIMES = {
    "the same": ("tensorrt 10.13.0", "tensorrt 10.13.0", False),
    "as far as both say": ("tensorrt 10.13.0", "tensorrt 10.13.0.35", False),
    "another version": ("tensorrt 10.13.0", "tensorrt 10.12.0", True),
    "another runtime": ("tensorrt 1.7.1", "tensorrt-rtx 1.7.1", True),
    "not said": ("tensorrt 10.13.0", None, False),
    "something else": ("onnxruntime-1.20", "tensorrt 10.13.0", False),
}


@pytest.mark.parametrize("case", RUNTIMES)
def test_what_is_in_the_image(case: str) -> None:
    built, there, wrong = RUNTIMES[case]
    needs = Requirements(runtime=built, compute_capability="8.9")
    server = replace(SERVER, runtime=there)
    findings = found(offer(server=server), replace(WANTED, requirements=needs))
    assert [each.rule for each in findings] == ([Rule.WRONG_RUNTIME] if wrong else [])


PRODUCTS = {
    ("L4", "NVIDIA-L4"): True,
    ("L4", "NVIDIA-L40S"): False,
    ("A100", "NVIDIA-A100-SXM4-40GB"): True,
    ("NVIDIA A100 80GB", "NVIDIA-A100-SXM4-80GB"): True,
    ("A100-80GB", "NVIDIA-A100-SXM4-40GB"): False,
    ("A100", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"): False,
    ("A100 MIG 1g.5gb", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"): True,
    ("nvidia-tesla-t4", "Tesla-T4"): True,
    ("nvidia", "Tesla-T4"): False,
}


@pytest.mark.parametrize(("called", "label"), PRODUCTS)
def test_what_people_call_a_product(called: str, label: str) -> None:
    assert is_product(called, label) is PRODUCTS[called, label]


# --- room -----------------------------------------------------------------------------------------


def test_no_node_takes_a_server() -> None:
    said = one(replace(WELL, nodes=(), closed={"gpu-1": "it is cordoned"}))
    assert said.rule is Rule.ROOM
    assert said.reason == (
        "no node with nvidia.com/gpu takes a server of Deployment resnet (gpu-1: it is cordoned)"
    )


ROOM: dict[str, tuple[tuple[Node, ...], int, bool]] = {
    "enough": ((node(gpus=2),), 2, True),
    "enough on two": ((node(gpus=1), node("gpu-2", gpus=1)), 2, True),
    "too few": ((node(gpus=1),), 2, False),
    "none has two": ((node(gpus=0),), 1, False),
    "GPUs, and no processors": ((node(gpus=2, cpu=1),), 1, False),
    "in place needs none": ((node(gpus=0),), 0, True),
}


@pytest.mark.parametrize("case", ROOM)
def test_room_for_more_servers(case: str) -> None:
    nodes, extra, enough = ROOM[case]
    with_cpu = amounts(gpus=1, cpu=4) if "processors" in case else amounts(gpus=1)
    server = replace(SERVER, needs=with_cpu)
    findings = found(offer(*nodes, server=server), replace(WANTED, extra=extra))
    assert [each.rule for each in findings] == ([] if enough else [Rule.ROOM])


def test_what_would_fit() -> None:
    said = one(offer(node(gpus=0)), spare=2)
    assert said.reason == (
        "1 more server of Deployment resnet needs 1 nvidia.com/gpu, and there is room for 0: "
        "gpu-1 has 0 nvidia.com/gpu free"
    )
    assert "regions.eu: {kind: canary, surge_servers: 0} needs none: 2 old servers" in said.fix
    assert "maxSurge: 0 and maxUnavailable: 2" in said.fix
    assert "surge_servers: 1} fits" in one(offer(node(gpus=1)), kind="blue_green", extra=4).fix
    assert "none can go first either" in one(offer(node(gpus=0)), spare=0).fix
    assert "m.first_servers: 1" in one(offer(node(gpus=1)), kind="first", extra=3, spare=0).fix


def test_nodes_of_the_wrong_kind_are_no_room() -> None:
    nodes = (node(gpus=0), node("gpu-2", T4, gpus=8))
    needs = Requirements(compute_capability="8.9")
    rules = [each.rule for each in found(offer(*nodes), replace(WANTED, requirements=needs))]
    assert rules == [Rule.WRONG_GPU, Rule.ROOM]


def test_pods_that_end_hold_theirs() -> None:
    ending = (pod("ml/old-1", gpus=1, ends_at=NIGHT),)
    said = one(offer(node(gpus=0, ending=ending)))
    assert said.rule is Rule.ENDING_PODS
    assert said.reason.endswith("needs 1 nvidia.com/gpu, and pods that end hold it: ml/old-1")
    assert said.fix.startswith("they let go of it at 23:05:00 UTC at the latest")
    said = one(offer(node(gpus=0, ending=ending)), extra=2)
    assert said.rule is Rule.ROOM
    assert "room for 0; 1 when ml/old-1 have gone" in said.reason


WAITS = {
    "of more": (150, 1, True),
    "of the same": (100, 1, True),
    "of less": (99, 1, False),
    "of more, and fits on no node": (150, 4, False),
}


@pytest.mark.parametrize("case", WAITS)
def test_who_waits_for_what_old_servers_free(case: str) -> None:
    priority, gpus, takes = WAITS[case]
    waiting = (pod("batch/train-0", priority=priority, gpus=gpus),)
    wanted = replace(WANTED, extra=0, away=1)
    findings = found(offer(node(gpus=0), waiting=waiting), wanted)
    assert [each.rule for each in findings] == ([Rule.PENDING_PODS] if takes else [])


def test_who_waits_is_named() -> None:
    waiting = (pod("batch/train-0", priority=1000, gpus=1),)
    said = one(offer(node(gpus=0), waiting=waiting), extra=0, away=1)
    assert said.reason == (
        "batch/train-0 (priority 1000, 1 nvidia.com/gpu) waits for a node, and may take what old "
        "servers free before a server of Deployment resnet does, whose priority is 100"
    )
    assert "a priorityClassName of more than 1000" in said.fix
    unsure = replace(SERVER, priority=None)
    assert one(offer(node(gpus=0), server=unsure, waiting=waiting), extra=0, away=1).unknown


def test_who_waits_takes_the_last_that_is_free() -> None:
    waiting = (pod("batch/train-0", priority=1000, gpus=1),)
    assert one(offer(node(gpus=1), waiting=waiting)).rule is Rule.PENDING_PODS
    assert found(offer(node(gpus=2), waiting=waiting)) == []


# --- the namespace --------------------------------------------------------------------------------


def quota(resource: str, hard: int, used: int, *, each: int = 1, once: int = 0) -> Quota:
    sizes = (Decimal(hard), Decimal(used), Decimal(each), Decimal(once))
    return Quota("ResourceQuota team", resource, *sizes)


QUOTAS: dict[str, tuple[Quota, int, bool]] = {
    "enough": (quota("requests.nvidia.com/gpu", 4, 3), 1, True),
    "too few": (quota("requests.nvidia.com/gpu", 4, 3), 2, False),
    "none more is needed": (quota("requests.nvidia.com/gpu", 4, 4), 0, True),
    "no Deployment more": (quota("count/deployments.apps", 2, 2, each=0, once=1), 0, False),
    "memory": (quota("requests.memory", 2**35, 2**34, each=2**34), 2, False),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas(case: str) -> None:
    line, extra, enough = QUOTAS[case]
    findings = found(offer(quotas=(line,)), replace(WANTED, extra=extra))
    assert [each.rule for each in findings] == ([] if enough else [Rule.QUOTA])


def test_what_a_quota_has_to_be() -> None:
    said = one(offer(quotas=(quota("requests.memory", 2**35, 2**34, each=2**34),)), extra=2)
    assert (
        said.reason
        == "ResourceQuota team: requests.memory: 32Gi more are needed, 16Gi of 32Gi are used"
    )
    assert said.fix.startswith("raise spec.hard.requests.memory of ResourceQuota team to 48Gi, or ")


def limit(
    bound: Bound, value: float, request: float | None, most: float | None, *, of: str = "a pod"
) -> Limit:
    """Of memory, in GiB."""
    sizes = [None if each is None else Decimal(each) * 2**30 for each in (value, request, most)]
    assert sizes[0] is not None
    states = {Bound.LEAST: "min", Bound.MOST: "max", Bound.RATIO: "maxLimitRequestRatio"}[bound]
    size = Decimal(value) if bound is Bound.RATIO else sizes[0]
    return Limit(
        "LimitRange team", f"{states}.memory", of, bound, "memory", size, sizes[1], sizes[2]
    )


LIMITS: dict[str, tuple[Limit, bool]] = {
    "no less than the least": (limit(Bound.LEAST, 4, 4, None), True),
    "less than the least": (limit(Bound.LEAST, 4, 3, 8), False),
    "a limit that is less than the least": (limit(Bound.LEAST, 4, 4, 3), False),
    "a least, and no request": (limit(Bound.LEAST, 4, None, None), False),
    "no more than the most": (limit(Bound.MOST, 8, None, 8), True),
    "more than the most": (limit(Bound.MOST, 8, 4, 9), False),
    "a most, and no limit": (limit(Bound.MOST, 8, 4, None), False),
    "as many times as it may be": (limit(Bound.RATIO, 2, 4, 8), True),
    "more times than it may be": (limit(Bound.RATIO, 2, 4, 9), False),
    "a ratio, and no request": (limit(Bound.RATIO, 2, None, 9), False),
    "a ratio, and a request of nothing": (limit(Bound.RATIO, 2, 0, 9), False),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limit_ranges(case: str) -> None:
    bound, within = LIMITS[case]
    assert [each.rule for each in found(offer(limits=(bound,)))] == (
        [] if within else [Rule.LIMIT_RANGE]
    )


def test_what_a_limit_range_refuses() -> None:
    said = one(offer(limits=(limit(Bound.MOST, 8, None, 16, of="container server"),)))
    assert said.reason == (
        "LimitRange team: max.memory is 8Gi, and container server of Deployment resnet has no "
        "request and a limit of 16Gi: no server would be let in"
    )
    assert said.fix == (
        "give container server of Deployment resnet 8Gi or less, or change max.memory there"
    )


def test_what_a_limit_range_puts_in() -> None:
    size = Decimal(2**30)
    given = Given("LimitRange team", "server", "limits", "memory", size, known=False)
    said = one(offer(given=(given,)))
    assert (said.rule, said.unknown) == (Rule.LIMIT_RANGE, False)
    assert said.reason == (
        "LimitRange team gives container server of Deployment resnet resources.limits.memory: 1Gi, "
        "which servers that run do not have: new ones would be others"
    )
    assert found(offer(given=(replace(given, known=True),))) == []
    said = one(offer(given=(replace(given, known=True, request=size * 8),)))
    assert said.reason.endswith("1Gi, and it requests 8Gi: no server would be let in")
    assert said.fix == (
        "state resources.limits.memory of container server in spec.template.spec of Deployment "
        "resnet: 8Gi or more"
    )


def test_a_disruption_budget() -> None:
    budget = Budget(
        "PodDisruptionBudget resnet", "minAvailable: 4", healthy=4, desired=4, allowed=0
    )
    said = one(offer(budgets=(budget,)), extra=0, away=1)
    assert said.rule is Rule.DISRUPTION_BUDGET
    assert said.reason == (
        "PodDisruptionBudget resnet: minAvailable: 4: it wants 4 of 4 healthy pods to stay "
        "(disruptionsAllowed: 0), and 1 would go first"
    )
    assert "to 3 while" in said.fix
    assert found(offer(budgets=(budget,))) == []  # by the surge nobody goes first
    wide = replace(budget, desired=3)
    assert found(offer(budgets=(wide,)), replace(WANTED, extra=0, away=1)) == []


def test_what_is_named_and_is_not_there() -> None:
    pull = Reference("Secret", "registry", "spec.template.spec.imagePullSecrets", there=False)
    said = one(offer(references=(pull, replace(pull, name="other", there=True))))
    assert said.rule is Rule.MISSING_OBJECT
    assert said.reason == (
        "Deployment resnet: spec.template.spec.imagePullSecrets names Secret registry, which is "
        "not there"
    )


PROBES = {
    "long enough": (ProbeTime("startupProbe", "server", 10, 5, 10), ""),
    "too short": (ProbeTime("startupProbe", "server", 10, 5, 9), "failureThreshold to 10 at least"),
    "liveness from the start": (
        ProbeTime("livenessProbe", "server", 0, 10, 3),
        "a startupProbe with periodSeconds: 10 and failureThreshold: 6 at least",
    ),
}


@pytest.mark.parametrize("case", PROBES)
def test_time_to_load(case: str) -> None:
    probe, fix = PROBES[case]
    server = replace(SERVER, probes=(probe,))
    findings = found(offer(server=server))
    assert [each.rule for each in findings] == ([Rule.PROBE_TIME] if fix else [])
    assert all(fix in each.fix for each in findings)
    assert found(offer(server=server), replace(WANTED, load_seconds=None)) == []


def test_two_autoscalers() -> None:
    pair = Rivalry(
        "HorizontalPodAutoscaler resnet",
        "VerticalPodAutoscaler resnet (updateMode: Auto)",
        ("cpu",),
    )
    said = one(offer(rivalries=(pair,)))
    assert said.rule is Rule.TWO_AUTOSCALERS
    assert said.fix.startswith(
        "set spec.updatePolicy.updateMode: Off of VerticalPodAutoscaler resnet, or scale "
    )


def test_who_would_scale_nothing() -> None:
    why = "a ScaledObject is not copied"
    bare = Unscaled("ScaledObject queue", "Deployment resnet", why, "make one like it")
    said = one(offer(unscaled=(bare,)))
    assert (said.rule, said.fix, said.unknown) == (Rule.NO_AUTOSCALER, "make one like it", False)
    assert said.reason == (
        "ScaledObject queue scales Deployment resnet, and nothing would scale m@v2: a ScaledObject "
        "is not copied"
    )


def test_who_puts_it_back() -> None:
    owned = Ownership("Deployment resnet", "spec.replicas", "Argo CD models", "the patch …")
    said = one(offer(owned=(owned,)))
    assert (said.rule, said.fix) == (Rule.PUT_BACK, "the patch …")
    assert said.reason == "Argo CD models puts spec.replicas of Deployment resnet back"


def test_nothing_to_start_by() -> None:
    refused = Refusal("no Deployment has the label", "start the first by hand")
    (said,) = found(Offer(refused=(refused,)))
    assert (said.rule, said.reason, said.fix) == (Rule.TEMPLATE, refused.reason, refused.fix)


# --- what may not be looked at --------------------------------------------------------------------


def test_what_is_not_known_is_told_once() -> None:
    dark = Unknown('nodes is forbidden: … cannot list resource "nodes"')
    seen = replace(WELL, nodes=dark, waiting=dark, quotas=Unknown("quotas"))
    findings = found(seen)
    assert [(each.rule, each.unknown) for each in findings] == [(Rule.UNREAD, True)] * 2
    assert "infra/rbac" in findings[0].fix
    assert "unread=accept" in findings[0].fix
    assert "rollout.models.m.servers.eu" in findings[0].fix
    secret = Reference("Secret", "registry", "imagePullSecrets", there=Unknown("secrets"))
    assert one(offer(references=(secret,))).unknown
    (whole,) = found(Unknown("no answer"))
    assert whole.unknown


def test_what_was_not_to_be_looked_at_is_no_reason() -> None:
    assert found(Offer(SERVER, None, {}, None, None, None, (), None)) == []


# --- in a plan ------------------------------------------------------------------------------------


def holds(
    changed: Mapping[str, Any],
    rollout: Mapping[str, Any] | None = None,
    **model: Any,
) -> list[Hold]:
    """What holds eu, which is otherwise well."""
    world = topology(rollout, model={"load_seconds": 20, **model})
    return [hold for hold in planned(eu(**changed), of=world).holds if hold.region == "eu"]


def test_a_plan_is_held_by_it() -> None:
    (hold,) = holds({"offer": offer(node(gpus=0))})
    assert (hold.region, hold.unknown) == ("eu", False)
    assert hold.reason.startswith("room: 1 more server of Deployment resnet")
    (hold,) = holds({"offer": replace(WELL, nodes=Unknown("nodes"), waiting=None)})
    assert hold.unknown


def test_real_room_outranks_what_is_declared() -> None:
    assert holds({"offer": WELL, "gpus_free": {"L4": 0}}) == []
    (hold,) = holds({"offer": replace(WELL, nodes=None), "gpus_free": {"L4": 0}})
    assert hold.reason.startswith("room: 1 L4 are needed, 0 are free in eu")


def test_what_the_manifest_states_counts() -> None:
    copy = Copy(TWO, verified=True, requirements=Requirements(compute_capability="9.0"))
    copies = {**well().copies, "v2": copy}
    (hold,) = holds({"offer": WELL, "copies": copies})
    assert hold.reason.startswith("wrong-gpu: m@v2 needs compute capability 9.0: gpu-1 has 8.9")


def test_old_servers_that_go_first_free_theirs() -> None:
    waiting = (pod("batch/train-0", priority=1000, gpus=1),)
    seen = offer(node(gpus=0), waiting=waiting)
    strategy = {"strategy": {"kind": "canary", "surge_servers": 0}}
    (hold,) = holds({"offer": seen}, strategy)
    assert hold.reason.startswith("pending-pods: batch/train-0 (priority 1000")


def test_the_first_servers_of_a_region_need_room_too() -> None:
    servers = {region: f"memory://{region}" for region in ("us", "eu", "ap")}
    nothing = {"offer": WELL, "served": Served()}
    (hold,) = holds(nothing, first_servers=3, servers=servers)
    assert hold.reason.startswith("room: 3 more servers of Deployment resnet")
    assert "first_servers: 2" in hold.reason
