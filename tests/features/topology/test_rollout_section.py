"""What the `rollout` section says, what is wrong with one, and where."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest

from mlplatform.core.errors import TopologyError
from mlplatform.core.topology import Topology

AROUND = """\
control: file:///srv/control
regions:
  us: {store: "file:///srv/us", endpoint: "http://127.0.0.1:8101"}
  eu: {store: "file:///srv/eu", endpoint: "http://127.0.0.1:8102"}
models:
  m: {home: us, replicate_to: [eu]}
traffic:
  routes:
    api:
      actuator: "caddy://127.0.0.1:2019/api"
      second: "caddy://10.0.0.9:2019/api"
      models: m
      weights: {us: 50, eu: 50}
rollout:
"""


def parse(rollout: str) -> Topology:
    return Topology.parse(AROUND + indent(dedent(rollout), "  "), Path("t.yaml"))


def test_without_a_word_it_is_a_canary_one_region_at_a_time() -> None:
    section = parse("{}").rollout
    strategy = section.strategy_of("m", "us")
    assert (strategy.kind, strategy.weights, strategy.surge_servers) == (
        "canary",
        (1, 5, 25, 50),
        1,
    )
    assert (section.waves.concurrency, section.waves.approval, section.waves.spare_region) == (
        1,
        "none",
        True,
    )
    assert section.verdict.thresholds is None
    assert section.load_seconds_of("m") is None


def test_what_is_said_of_a_region_outranks_the_model_and_that_the_rest() -> None:
    section = parse(
        """
        strategy: {weights: [10, 50]}
        models:
          m:
            strategy: {kind: in_place}
            regions: {eu: {kind: blue_green}}
            actuators: {us: "caddy://127.0.0.1:2019/m-us"}
            load_seconds: 40
        """
    ).rollout
    assert section.strategy_of("other", "us").weights == (10, 50)
    assert section.strategy_of("m", "us").kind == "in_place"
    assert section.strategy_of("m", "eu").kind == "blue_green"
    assert section.actuator_of("m", "us") == "caddy://127.0.0.1:2019/m-us"
    assert section.actuator_of("m", "eu") is None
    assert section.load_seconds_of("m") == 40


def test_the_order_of_regions_alone_or_together() -> None:
    section = parse("waves: {order: [eu, [us]], approval: first, approvers: alice}").rollout
    assert section.waves.order == (("eu",), ("us",))
    assert section.waves.approvers == ("alice",)


WRONG = {
    "a route that failover moves traffic by": (
        'models: {m: {actuators: {us: "caddy://127.0.0.1:2019/api"}}}',
        "rollout.models.m.actuators.us: is the object of traffic.routes.api already; weights",
    ),
    "the same, written otherwise": (
        'models: {m: {actuators: {us: "caddy://localhost:2019/api/?host=x"}}}',
        "rollout.models.m.actuators.us: is the object of traffic.routes.api already",
    ),
    "its other path": (
        'models: {m: {actuators: {us: "caddy://10.0.0.9:2019/api"}}}',
        "rollout.models.m.actuators.us: is the object of traffic.routes.api already",
    ),
    "one object for two regions": (
        'models: {m: {actuators: {us: "caddy://a:2019/m", eu: "caddy://a:2019/m"}}}',
        "rollout.models.m.actuators.eu: is the object of rollout.models.m.actuators.us already",
    ),
    "no actuator": (
        "models: {m: {actuators: {us: m-us}}}",
        "rollout.models.m.actuators.us: actuator 'm-us' has no scheme; write e.g. caddy://",
    ),
    "a model that is not there": (
        "models: {n: {}}",
        "rollout.models.n: no model 'n'; there are: m",
    ),
    "a region that is not there": (
        "models: {m: {regions: {ue: {}}}}",
        "rollout.models.m.regions.ue: no region 'ue'; there are: us, eu",
    ),
    "an order of regions that are not there": (
        "waves: {order: [us, [eu, ap]]}",
        "rollout.waves.order[1]: no region 'ap'; there are: us, eu",
    ),
    "a region twice": (
        "waves: {order: [us, [eu, us]]}",
        "rollout.waves.order[1]: 'us' is listed twice",
    ),
    "weights that fall": (
        "strategy: {weights: [5, 1]}",
        "rollout.strategy: weights do not rise: 5, 1",
    ),
    "weights that hold all": (
        "strategy: {weights: [50, 100]}",
        "rollout.strategy.weights[1]: must be less than or equal to 99",
    ),
    "a canary without weights": (
        "strategy: {weights: []}",
        "rollout.strategy: a canary without weights has nothing to be judged by",
    ),
    "weights of what has none": (
        "strategy: {kind: in_place, weights: [5]}",
        "rollout.strategy: weights belong to a canary; leave them out of in_place",
    ),
    "a strategy that there is not": (
        "strategy: {kind: rolling}",
        "rollout.strategy.kind: must be 'canary', 'blue_green' or 'in_place'",
    ),
    "approvers who are never asked": (
        "waves: {approvers: [alice]}",
        "rollout.waves: approvers are named, and never asked; add approval: first, or every",
    ),
    "certainty": (
        "verdict: {alpha: 0}",
        "rollout.verdict.alpha: must be greater than 0",
    ),
    "what is worse and promoted": (
        "verdict: {delta: 1.5}",
        "rollout.verdict: delta 1.5 is not below delta_promote 1.0; what would be promoted",
    ),
    "a metric that there is not": (
        "verdict: {metrics: [cpu]}",
        "rollout.verdict.metrics[0]: must be 'errors' or 'latency'",
    ),
    "nothing to compare": (
        "verdict: {metrics: []}",
        "rollout.verdict: metrics are none; name at least one, each once",
    ),
    "no number": (
        "verdict: {epsilon: .nan}",
        "rollout.verdict.epsilon: must be a finite number",
    ),
    "a floor above all": (
        "undo: {floor_percent: 101}",
        "rollout.undo.floor_percent: must be less than or equal to 100",
    ),
    "a key that there is not": (
        "waves: {concurency: 2}",
        "rollout.waves.concurency: unknown key; did you mean 'concurrency'?",
    ),
}


@pytest.mark.parametrize(("rollout", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_right_is_refused_with_its_line_and_key(rollout: str, said: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(rollout)
    line, _, told = str(caught.value).partition(": ")
    assert line == "t.yaml:15"
    assert told.startswith(said)
