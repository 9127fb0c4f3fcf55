"""What a Deployment for another version is made of, as cases."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.adapters.deployment_template import deployment_for, name_of, service_for
from mlplatform.core.errors import Unsupported

JSON = dict[str, Any]


def template(
    *, container: JSON | None = None, labels: dict[str, str] | None = None, **spec: Any
) -> JSON:
    """A Deployment of magika at v1 that serves."""
    server = {"name": "server", "image": "registry.example:5000/server:v1", **(container or {})}
    own = {"app": "magika", "mlplatform.dev/version": "v1", **(labels or {})}
    return {
        "metadata": {"name": "magika", "labels": {"mlplatform.dev/model": "magika", "app": "m"}},
        "spec": {
            "replicas": 5,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "magika"}},
            "template": {
                "metadata": {"labels": own},
                "spec": {"containers": [server], **spec},
            },
        },
    }


def made(like: JSON, *, services: list[JSON] | None = None, image: str | None = None) -> JSON:
    return deployment_for(
        like,
        model="magika",
        version="v2",
        digest="blake3:aa",
        services=services or [],
        image=image,
    )


def server(body: JSON) -> JSON:
    found: JSON = body["spec"]["template"]["spec"]["containers"][0]
    return found


NAMES = {
    ("magika", "v2"): "magika-v2",
    ("magika", "v1.2.0"): "magika-v1-2-0",
    ("magika", "v1-2-0"): "magika-v1-2-0-",
    ("magika", "v1.2.0-rc.1"): "magika-v1-2-0-rc-1-",
    ("Magika", "v2"): "magika-v2-",
    ("4bit", "v2"): "m-4bit-v2-",
    ("magika", "V2"): "magika-v2-",
    ("a" * 60, "v2"): "a" * 43 + "-",
}


@pytest.mark.parametrize(("model", "version"), NAMES)
def test_a_name(model: str, version: str) -> None:
    """What DNS cannot carry is told apart by a hash behind it."""
    name, expected = name_of(model, version), NAMES[model, version]
    if expected.endswith("-"):
        assert name.startswith(expected)
        assert len(name) == len(expected) + 8
    else:
        assert name == expected
    assert len(name) <= 52
    assert name == name_of(model, version)


def test_no_two_versions_have_one_name() -> None:
    names = {name_of(*each) for each in NAMES}
    assert len(names) == len(NAMES)


ENVIRONMENTS: dict[str, tuple[list[JSON], list[JSON]]] = {
    "by MODEL_VERSION": (
        [{"name": "MODEL_VERSION", "value": "v1"}],
        [{"name": "MODEL_VERSION", "value": "v2"}],
    ),
    "by MODELS": (
        [{"name": "MODELS", "value": "bert@v9,magika@v1"}],
        [{"name": "MODELS", "value": "bert@v9,magika@v2"}],
    ),
    "by MODELS without a version": (
        [{"name": "MODELS", "value": "magika"}],
        [{"name": "MODELS", "value": "magika"}, {"name": "MODEL_VERSION", "value": "v2"}],
    ),
    "from elsewhere": (
        [{"name": "MODEL_VERSION", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "v"}}}],
        [{"name": "MODEL_VERSION", "value": "v2"}],
    ),
    "not at all": (
        [{"name": "REGION", "value": "eu"}],
        [{"name": "REGION", "value": "eu"}, {"name": "MODEL_VERSION", "value": "v2"}],
    ),
}


@pytest.mark.parametrize("how", ENVIRONMENTS)
def test_how_a_server_is_told_its_version(how: str) -> None:
    before, after = ENVIRONMENTS[how]
    assert server(made(template(container={"env": before})))["env"] == after


def test_arguments_name_a_version() -> None:
    told = ["--model", "magika@v1", "--other=magika@v1", "magika@v10", "v1"]
    assert server(made(template(container={"args": told})))["args"] == [
        "--model",
        "magika@v2",
        "--other=magika@v2",
        "magika@v10",
        "v1",
    ]


def test_what_fetches_the_model_beforehand_is_told_too() -> None:
    preload = {
        "name": "preload",
        "image": "server:3",
        "env": [{"name": "MODEL_VERSION", "value": "v1"}],
    }
    body = made(template(initContainers=[preload]))
    (found,) = body["spec"]["template"]["spec"]["initContainers"]
    assert found == {**preload, "env": [{"name": "MODEL_VERSION", "value": "v2"}]}


IMAGES = {
    "registry.example:5000/server:v1": "registry.example:5000/server:v2",
    "registry.example:5000/server": "registry.example:5000/server",
    "server:3.1": "server:3.1",
    "server@sha256:00": "server@sha256:00",
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_whose_tag_is_the_version(image: str) -> None:
    assert server(made(template(container={"image": image})))["image"] == IMAGES[image]


def test_an_image_that_is_one_build_of_the_version() -> None:
    pinned = template(container={"image": "server:v1@sha256:00"})
    with pytest.raises(Unsupported, match="which one is v2 cannot be told") as raised:
        made(pinned)
    assert "?image=" in str(raised.value.hint)
    assert server(made(pinned, image="server:{version}"))["image"] == "server:v2"


def test_spread_is_over_its_own_pods() -> None:
    spread = {
        "topologyKey": "zone",
        "labelSelector": {"matchLabels": {"app": "magika", "tier": "gpu"}},
    }
    body = made(template(topologySpreadConstraints=[spread]))
    (found,) = body["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert found["labelSelector"]["matchLabels"] == {"app": "magika-v2", "tier": "gpu"}


def test_what_is_kept_and_what_is_not() -> None:
    like = template(labels={"tier": "gpu"})
    like["metadata"]["labels"] |= {"mlplatform.dev/track": "canary", "helm.sh/chart": "magika-1"}
    like["metadata"]["annotations"] = {
        "deployment.kubernetes.io/revision": "7",
        "mlplatform.dev/epoch": "9",
        "team": "vision",
    }
    like["spec"]["paused"] = True
    body = made(like)
    assert body["metadata"]["annotations"] == {
        "team": "vision",
        "mlplatform.dev/version": "v2",
        "mlplatform.dev/digest": "blake3:aa",
    }
    assert body["metadata"]["labels"] == {
        "app": "magika-v2",
        "app.kubernetes.io/managed-by": "mlplatform",
        "mlplatform.dev/group": "magika-v2",
        "mlplatform.dev/model": "magika",
        "mlplatform.dev/version": "v2",
    }
    assert (body["spec"]["replicas"], body["spec"]["strategy"]) == (0, {"type": "Recreate"})
    assert "paused" not in body["spec"]
    assert body["spec"]["template"]["metadata"]["labels"]["tier"] == "gpu"
    assert like["spec"]["template"]["metadata"]["labels"]["app"] == "magika"


def test_a_version_that_no_label_can_hold() -> None:
    version = "v" + "1" * 80
    body = deployment_for(template(), model="magika", version=version, digest="", services=[])
    pod = body["spec"]["template"]["metadata"]
    assert "mlplatform.dev/version" not in pod["labels"]
    assert pod["annotations"]["mlplatform.dev/version"] == version


def test_a_selector_that_has_every_version() -> None:
    like = template(labels={"mlplatform.dev/model": "magika"})
    like["spec"]["selector"] = {"matchLabels": {"mlplatform.dev/model": "magika"}}
    with pytest.raises(Unsupported, match="Deployment magika selects pods of every version"):
        made(like)


def test_a_service_has_the_ports_of_the_old_one() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080}]
    old = {
        "metadata": {"name": "magika"},
        "spec": {"selector": {"app": "magika"}, "ports": ports},
    }
    like = template()
    body = made(like, services=[old])
    service = service_for(body, [old], like)
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert service["spec"]["selector"] == body["spec"]["selector"]["matchLabels"]
    alone = service_for(made(like), [], like)
    assert alone["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": 80}]
