"""What a topology says, what is wrong with one, and where."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import ValidationError

from mlplatform.core.errors import TopologyError, UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.topology import Cluster, Model, Region, Topology, find_topology

DESIGN = """\
control: file:///srv/mlplatform/control
regions:
  us-east-1:
    store: "file:///srv/mlplatform/us-east-1"
    endpoint: "http://127.0.0.1:8101"
    cluster: {context: us-east-1, namespace: ml-platform}
    gpus: {NVIDIA-L4: 8}
    cost_region: [us-east-1, use1]
  eu-west-1: {store: "s3://ml-models-eu-west-1?endpoint=http://127.0.0.1:9000&region=eu-west-1"}
  europe-west4: {store: "gs://ml-models-europe-west4"}
  westeurope: {store: "az://account/ml-models"}
models:
  resnet50: {version: v1.2.0, home: us-east-1, replicate_to: [eu-west-1, europe-west4]}
traffic:
  routes:
    api:
      actuator: "caddy://127.0.0.1:2019/api"
      models: [resnet50]
      weights: {us-east-1: 50, eu-west-1: 50}
      mode: advise
      overload: 1.2
rollout: {}
prometheus: {url: "http://127.0.0.1:9090", region_label: region}
cost:
  exports: ["s3://billing/focus/", "file:///srv/bills"]
  ledger: file:///srv/mlplatform/cost
  prices: prices.csv
  currency: USD
  rates: rates.csv
  tags: {model: [mlplatform-model, model], team: [team]}
"""

PLAIN = """\
control: file:///srv/control
regions:
  us: {store: "file:///srv/us"}
  eu: {store: "file:///srv/eu"}
"""


def wrong(text: str) -> list[str]:
    """The lines of what is said about `text`."""
    with pytest.raises(TopologyError) as caught:
        Topology.parse(dedent(text), Path("t.yaml"))
    return str(caught.value).splitlines()


def test_the_designs_own_example() -> None:
    topology = Topology.parse(DESIGN)
    assert list(topology.regions) == ["us-east-1", "eu-west-1", "europe-west4", "westeurope"]
    east = topology.region("us-east-1")
    assert (east.name, east.endpoint, east.gpus) == (
        "us-east-1",
        "http://127.0.0.1:8101",
        {"NVIDIA-L4": 8},
    )
    assert (east.bills_as, east.prices_as) == (("us-east-1", "use1"), "us-east-1")
    assert topology.region("eu-west-1").store.options["region"] == "eu-west-1"
    assert topology.region("westeurope").cluster.context == "westeurope"
    assert topology.region("westeurope").bills_as == ("westeurope",)
    assert topology.model("resnet50").regions == ("us-east-1", "eu-west-1", "europe-west4")
    wanted = ModelVersion("resnet50", "v1.2.0")
    assert list(topology.wanted()) == [
        (wanted, "us-east-1"),
        (wanted, "eu-west-1"),
        (wanted, "europe-west4"),
    ]
    assert topology.traffic.routes["api"].weights == {"us-east-1": 50, "eu-west-1": 50}
    assert topology.cost.tags["model"] == ("mlplatform-model", "model")
    assert [str(url) for url in topology.control] == ["file:///srv/mlplatform/control"]


def test_a_region_is_in_kubernetes_where_the_file_says_so() -> None:
    topology = Topology(
        control="memory://control",
        regions={
            "us": {"store": "memory://us", "cluster": {}},
            "eu": {"store": "memory://eu"},
            "ap": Region(store="memory://ap", cluster=Cluster(namespace="models")),
            "sa": Region(store="memory://sa"),
        },
    )
    regions = topology.regions.values()
    assert [r.name for r in regions if r.clustered] == ["us", "ap"]
    assert [r.cluster.context for r in regions] == ["us", "eu", "ap", "sa"]


def test_what_it_writes_it_reads() -> None:
    topology = Topology.parse(DESIGN)
    again = Topology.model_validate_json(topology.model_dump_json())
    assert again.model_dump() == topology.model_dump()


def test_it_is_frozen() -> None:
    topology = Topology.parse(PLAIN)
    with pytest.raises(ValidationError):
        topology.regions = {}  # type: ignore[misc]
    with pytest.raises(ValidationError):
        topology.region("us").endpoint = "http://x"  # type: ignore[misc]


def test_it_can_be_built_from_its_parts() -> None:
    topology = Topology(
        control="memory://control",
        regions={"us": {"store": "memory://us"}, "eu": Region(store="memory://eu")},
        models={"m": Model(version="v1", home="us", replicate_to=("eu",))},
    )
    assert [region.name for region in topology.regions.values()] == ["us", "eu"]
    assert topology.region("eu").cluster.context == "eu"
    with pytest.raises(ValidationError, match="no region 'mars'"):
        Topology(
            control="memory://control",
            regions={"us": {"store": "memory://us"}},
            models={"m": Model(home="mars")},
        )


def test_empty_sections_are_sections_not_given() -> None:
    topology = Topology.parse(f"{PLAIN}models:\ntraffic:\nprometheus:\ncost:\n")
    assert not topology.models
    assert topology.prometheus is None


def test_a_region_may_be_called_no_and_a_version_look_like_a_date() -> None:
    text = PLAIN.replace("us:", "no:") + "models: {m: {version: 2026-01-31, home: no}}"
    assert [str(subject) for subject, _ in Topology.parse(text).wanted()] == ["m@2026-01-31"]


def test_all_errors_at_once_in_the_order_of_the_file() -> None:
    assert wrong("""\
        control: [file:///srv/c1, file:///srv/c2]
        regions:
          us-east-1:
            stor: "file:///srv/us"
            gpus: {L4: many, T4: true, A10: -1}
            cluster: {contxt: x}
          eu-west-1: {store: "s3://b?secret=1", endpoint: nowhere, price_zone: 12}
          no: {store: "s3://b"}
          us: {store: "s3://b/?profile=x"}
          empty:
        models:
          resnet50: {version: 1.10, home: us-east-2, replicate_to: [no, no, us-west-1, us-east-2]}
          "a b": {home: us}
        traffic:
          routes:
            api: {actuator: a, models: [resnet], weights: {us: -1, mars: 3}, mod: x}
        rollout: {wave: 1}
        prometheus: {label: x}
        cost:
          tags: {model: x, team: 3}
        hue: red
        """) == [
        (
            "t.yaml:1: control: 2 URLs; give one, or three in different failure domains, of which "
            "any one may be lost"
        ),
        "t.yaml:4: regions.us-east-1.stor: unknown key; did you mean 'store'?",
        "t.yaml:4: regions.us-east-1.store: is missing",
        "t.yaml:5: regions.us-east-1.gpus.A10: must be greater than or equal to 0",
        "t.yaml:5: regions.us-east-1.gpus.L4: must be a valid integer",
        "t.yaml:5: regions.us-east-1.gpus.T4: must be a valid integer",
        "t.yaml:6: regions.us-east-1.cluster.contxt: unknown key; did you mean 'context'?",
        "t.yaml:7: regions.eu-west-1.endpoint: must be an http:// or https:// URL",
        't.yaml:7: regions.eu-west-1.price_zone: must be text; write it in quotes: "12"',
        (
            "t.yaml:7: regions.eu-west-1.store: store URL s3://b: option 'secret' looks like a "
            "secret; secrets come from the environment or the SDK's own credential chain"
        ),
        "t.yaml:9: regions.us.store: s3://b is the store of no already",
        "t.yaml:10: regions.empty: must be `key: value` lines",
        "t.yaml:12: models.resnet50.home: no region 'us-east-2'; did you mean 'us-east-1'?",
        "t.yaml:12: models.resnet50.replicate_to[1]: 'no' is listed twice",
        (
            "t.yaml:12: models.resnet50.replicate_to[2]: no region 'us-west-1'; "
            "did you mean 'us-east-1'?"
        ),
        "t.yaml:12: models.resnet50.replicate_to[3]: 'us-east-2' is the model's home already",
        't.yaml:12: models.resnet50.version: must be text; write it in quotes: "1.10"',
        (
            "t.yaml:13: models.a b: 'a b' cannot be the name of a model: letters, digits, "
            "'.', '_' and '-', starting with a letter or digit, at most 128"
        ),
        "t.yaml:16: traffic.routes.api.mod: unknown key; did you mean 'mode'?",
        "t.yaml:16: traffic.routes.api.models[0]: no model 'resnet'; did you mean 'resnet50'?",
        "t.yaml:16: traffic.routes.api.weights: total 2; give per cent, 100 in all",
        (
            "t.yaml:16: traffic.routes.api.weights.mars: no region 'mars'; "
            "there are: us-east-1, eu-west-1, no, us, empty"
        ),
        "t.yaml:16: traffic.routes.api.weights.us: must be greater than or equal to 0",
        "t.yaml:17: rollout.wave: unknown key; did you mean 'waves'?",
        "t.yaml:18: prometheus.label: unknown key; known here: url, region_label",
        "t.yaml:18: prometheus.url: is missing",
        "t.yaml:20: cost.tags.team: must be a list",
        (
            "t.yaml:21: hue: unknown key; known here: control, regions, models, traffic, rollout, "
            "prometheus, cost"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["t.yaml:1: is empty; `mlplatform init` writes an example"]),
        ("# nothing yet\n", ["t.yaml:1: is empty; `mlplatform init` writes an example"]),
        (
            "just words",
            ["t.yaml:1: holds no `key: value` lines; `mlplatform init` writes an example"],
        ),
        ("control: file:///c\nregions: {}\n", ["t.yaml:2: regions: is empty"]),
        (
            "control:\nregions:\n",
            ["t.yaml:1: control: is missing", "t.yaml:1: regions: is missing"],
        ),
        ("control: 3\nregions: {a: {store: 's3://b'}}", ["t.yaml:1: control: must be a list"]),
        (
            "control: [memory://c, 3, memory://d]\nregions: {a: {store: 's3://b'}}",
            ["t.yaml:1: control[1]: must be a store URL, such as s3://bucket"],
        ),
        (
            "control: file:///c\ncontrol: file:///d\nregions: {a: {store: 's3://b'}}",
            ["t.yaml:2: control: given twice; first in line 1"],
        ),
        (
            "control: file:///c\nregions:\n  a: {store: 's3://b', name: b}\n",
            ["t.yaml:3: regions.a.name: differs from its key 'a'; leave it out"],
        ),
        (
            "control: file:///c\nregions:\n\ta: {}\n",
            [
                (
                    "t.yaml:3: not YAML: found character '\\t' that cannot start any token, "
                    "while scanning for the next token"
                )
            ],
        ),
        ("control: \x00", ["t.yaml:1: not YAML: character 0 is not allowed"]),
        (
            "a: 1\n---\nb: 2\n",
            [
                (
                    "t.yaml:2: not YAML: but found another document, "
                    "expected a single document in the stream"
                )
            ],
        ),
        ("control: !!python/object:os.system x\n", None),
        ("regions: &r {a: *r}\n", None),
    ],
)
def test_what_is_not_a_topology(text: str, said: list[str] | None) -> None:
    lines = wrong(text)
    assert lines
    assert all(line.startswith("t.yaml:") for line in lines)
    if said is not None:
        assert lines == said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file://./models", "is not an absolute path"),
        ("file://models/us", "is not an absolute path"),
        ("file:///", "is not an absolute path"),
        ("models/us", "has no scheme"),
        ("s3://key:secret@bucket", "carries credentials"),
        ("s3://[bad", "Invalid IPv6 URL"),
        ("http://user:pw@host/", "carries credentials"),
    ],
)
def test_store_urls_that_cannot_be_right(url: str, said: str) -> None:
    [line] = wrong(f'control: file:///c\nregions:\n  us:\n    store: "{url}"\n')
    assert line.startswith("t.yaml:4: regions.us.store: ")
    assert said in line
    assert "pw" not in line
    assert "key:secret" not in line


def test_anchors_and_merges_are_yaml_too() -> None:
    topology = Topology.parse(
        dedent("""\
        control: file:///srv/control
        regions:
          us: &usual {store: "file:///srv/us", endpoint: "http://us:1", gpus: {L4: 8}}
          eu: {<<: *usual, store: "file:///srv/eu"}
        """)
    )
    assert topology.region("eu").gpus == {"L4": 8}
    assert str(topology.region("eu").store) == "file:///srv/eu"


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (("s3://a/one", "s3://a/two", "s3://b"), "s3://a/two fails together with s3://a/one"),
        (("az://x/c/1", "az://x/d", "az://x/c/2"), "az://x/c/2 fails together with az://x/c/1"),
        (("file:///a", "file:///b", "file:///a/"), "file:///a fails together with file:///a"),
        (("file:///a", "file:///a/in", "s3://b"), "file:///a/in fails together with file:///a"),
    ],
)
def test_three_control_stores_that_are_not_three(control: tuple[str, ...], said: str) -> None:
    quoted = ", ".join(f'"{url}"' for url in control)
    lines = wrong(f"control: [{quoted}]\nregions: {{a: {{store: 's3://m'}}}}")
    assert len(lines) == 1
    assert f"{said}: the same place" in lines[0]


@pytest.mark.parametrize(
    "control",
    [
        ["s3://a", "s3://b", "gs://c"],
        ["s3://a?endpoint=https://one", "s3://a?endpoint=https://two", "s3://a"],
        ["az://x/c", "az://x/d", "az://y/c"],
        ["file:///a", "file:///b", "file:///c"],
    ],
)
def test_three_control_stores_in_three_places(control: list[str]) -> None:
    regions = {"a": {"store": "s3://m"}}
    assert len(Topology.model_validate({"control": control, "regions": regions}).control) == 3


@pytest.mark.parametrize(
    ("control", "store", "said"),
    [
        (
            "s3://m/control",
            "s3://m/models",
            ["t.yaml:1: control: in the store of us: it is lost with that region"],
        ),
        (
            "file:///srv/us/control",
            "file:///srv/us",
            [
                "t.yaml:1: control: in the store of us: it is lost with that region",
                (
                    "t.yaml:1: control: file:// serves a laptop: what it holds is lost with "
                    "this machine"
                ),
            ],
        ),
        (
            "file:///srv/us-control",
            "file:///srv/us",
            [
                (
                    "t.yaml:1: control: file:// serves a laptop: what it holds is lost with "
                    "this machine"
                )
            ],
        ),
        (
            "memory://c",
            "file:///srv/us",
            ["t.yaml:1: control: memory:// is lost when the process ends"],
        ),
        ("s3://control", "s3://m", []),
    ],
)
def test_what_is_allowed_and_may_yet_be_a_mistake(
    control: str, store: str, said: list[str]
) -> None:
    text = f"control: {control}\nregions: {{us: {{store: '{store}'}}}}"
    assert list(Topology.parse(text, Path("t.yaml")).warnings) == said


def test_an_unknown_name_is_met_with_those_there_are() -> None:
    topology = Topology.parse(PLAIN, Path("t.yaml"))
    with pytest.raises(
        UsageError, match=r"uss: no such region in t.yaml; did you mean 'us'\?"
    ) as e:
        topology.region("uss")
    assert e.value.hint == "there are: us, eu"
    with pytest.raises(UsageError, match=r"resnet50: no such model in t\.yaml"):
        topology.model("resnet50")


class TestFinding:
    def test_the_flag_before_the_variable_before_the_folders(self, tmp_path: Path) -> None:
        below = tmp_path / "a" / "b"
        below.mkdir(parents=True)
        for folder in (tmp_path, tmp_path / "a"):
            (folder / "topology.yaml").write_text(PLAIN)
        flag, named = tmp_path / "flag.yaml", tmp_path / "named.yaml"
        flag.write_text(PLAIN)
        named.write_text(PLAIN)
        variable = {"MLPLATFORM_TOPOLOGY": str(named)}
        assert find_topology(flag, variable, below) == flag
        assert find_topology(None, variable, below) == named
        assert find_topology(None, {"MLPLATFORM_TOPOLOGY": ""}, below) == (
            tmp_path / "a" / "topology.yaml"
        )
        assert find_topology(tmp_path, {}, below) == tmp_path / "topology.yaml"

    def test_what_is_named_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no\.yaml: no such file \(named by --topology\)"):
            find_topology(tmp_path / "no.yaml", {}, tmp_path)
        with pytest.raises(UsageError, match=r"\(named by MLPLATFORM_TOPOLOGY\)"):
            find_topology(None, {"MLPLATFORM_TOPOLOGY": str(tmp_path / "no.yaml")}, tmp_path)

    def test_none_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            find_topology(None, {}, tmp_path)
        assert "mlplatform init" in str(caught.value.hint)

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        latin = tmp_path / "latin.yaml"
        latin.write_bytes(b"control: \xe9\n")
        with pytest.raises(TopologyError, match="not UTF-8"):
            Topology.load(latin)
        with pytest.raises(TopologyError, match="cannot be read: Is a directory"):
            Topology.load(tmp_path)
