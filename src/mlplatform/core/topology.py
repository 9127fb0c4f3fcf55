"""The topology: regions, models and where they belong, read once from `topology.yaml`.

Each section belongs to the feature of its name, which gives it meaning; here it is given its shape.
Everything that is wrong with a file is said at once, each with file, line and key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mlplatform.core.cost import Cost
from mlplatform.core.errors import TopologyError, UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.rollout import Rollout
from mlplatform.core.section import (
    ModelName,
    OneOrMore,
    RegionName,
    Section,
    Store,
    Version,
    WebURL,
    as_list,
    store_url,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.core.traffic import Traffic
from mlplatform.core.yaml_lines import Location, NotYaml, Problem, YamlLines

FILE_NAME = "topology.yaml"
VARIABLE = "MLPLATFORM_TOPOLOGY"


class Cluster(Section):
    """Where a region's servers run."""

    context: str = ""
    """The kubectl context; the region's name, unless given."""
    namespace: str = "ml-platform"


class _ByConvention(Cluster):
    """What a region's cluster would be called; the topology does not say that it has one."""


class Region(Section):
    """One region: its store, its servers, and what the bills call it."""

    name: RegionName = ""
    """Its key in the file."""
    store: Store
    endpoint: WebURL | None = None
    """Where the region's servers answer."""
    cluster: Cluster = _ByConvention()
    gpus: Mapping[str, Annotated[StrictInt, Field(ge=0)]] = Field(default_factory=dict)
    """How many of which product."""
    cost_region: Annotated[tuple[str, ...], OneOrMore] = ()
    """The names that bills use."""
    price_zone: str | None = None
    """The name that price lists use; see `prices_as`."""

    @property
    def bills_as(self) -> tuple[str, ...]:
        """The names under which its cost is found; its own, unless given."""
        return self.cost_region or (self.name,)

    @property
    def prices_as(self) -> str:
        """The name under which its prices are found."""
        return self.price_zone or self.bills_as[0]

    @property
    def clustered(self) -> bool:
        """Whether the topology says that its servers run in Kubernetes; else `cluster` is only what
        it would be called."""
        return not isinstance(self.cluster, _ByConvention)


class Model(Section):
    """One model: the version that is wanted, where it is published, and where it belongs."""

    version: Version | None = None
    """None: no version is wanted anywhere yet."""
    home: RegionName
    replicate_to: tuple[RegionName, ...] = ()
    gpus: Mapping[str, Annotated[StrictInt, Field(ge=1)]] = Field(default_factory=dict)
    """How many of which product one server of it takes; by these a server is priced."""

    @property
    def regions(self) -> tuple[str, ...]:
        """Every region that should hold it, home first."""
        return (self.home, *self.replicate_to)


class Prometheus(Section):
    """Where metrics are asked for, and the label that tells regions apart."""

    url: WebURL
    region_label: str = "region"


class Topology(Section):
    """What the operator wants: read once, never changed."""

    control: Annotated[tuple[Store, ...], OneOrMore]
    """One store, or three in different failure domains."""
    regions: Mapping[RegionName, Region] = Field(min_length=1)
    models: Mapping[ModelName, Model] = Field(default_factory=dict)
    traffic: Traffic = Traffic()
    rollout: Rollout = Rollout()
    prometheus: Prometheus | None = None
    cost: Cost = Cost()

    _path: Path | None = PrivateAttr(default=None)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, path: Path) -> Topology:
        """Read a file. `TopologyError` says everything that is wrong with it."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TopologyError(f"{path}: not UTF-8 text: {error.reason}") from error
        except OSError as error:
            raise TopologyError(f"{path}: cannot be read: {error.strerror}") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path = Path(FILE_NAME)) -> Topology:
        """The topology that `text` says; `path` is for people."""
        try:
            source = YamlLines(text)
        except NotYaml as error:
            raise _refusal(path, [error.problem]) from error
        problems = list(source.duplicates)
        if not isinstance(source.data, dict):
            said = "is empty" if source.data is None else "holds no `key: value` lines"
            raise _refusal(path, [Problem(1, "", f"{said}; `mlplatform init` writes an example")])
        try:
            topology = cls.model_validate(source.data)
        except ValidationError as error:
            problems += [_problem(source, details) for details in error.errors()]
            raise _refusal(path, problems) from error
        if problems:
            raise _refusal(path, problems)
        topology._path = path
        topology._warnings = tuple(
            f"{path}:{source.line(location)}: {_dotted(location)}: {said}"
            for location, said in _doubts(topology)
        )
        return topology

    @property
    def path(self) -> Path | None:
        """The file that it was read from."""
        return self._path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and may yet be a mistake, with file, line and key."""
        return self._warnings

    def region(self, name: str) -> Region:
        """The region of that name, or a `UsageError` that lists those there are."""
        if name in self.regions:
            return self.regions[name]
        raise self._unknown("region", name, self.regions)

    def model(self, name: str) -> Model:
        """The model of that name, or a `UsageError` that lists those there are."""
        if name in self.models:
            return self.models[name]
        raise self._unknown("model", name, self.models)

    def wanted(self) -> Iterator[tuple[ModelVersion, str]]:
        """Every placement that is asked for: each model's version in each of its regions."""
        for name, model in self.models.items():
            if model.version is not None:
                subject = ModelVersion(name, model.version)
                yield from ((subject, region) for region in model.regions)

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> UsageError:
        known = list(known)
        return UsageError(
            f"{name}: no such {what} in {self._path or FILE_NAME}{_meant(name, known)}",
            hint=f"there are: {', '.join(known) or 'none'}",
        )

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """The shape and the cross-checks together, so that all errors come at once."""
        details: list[InitErrorDetails] = []
        topology: Self | None = None
        try:
            topology = handler(_with_names(data))
        except ValidationError as error:
            details += [
                _details(said["loc"], said["msg"], kind=said["type"]) for said in error.errors()
            ]
        if isinstance(data, Mapping):
            details += [_details(location, said) for location, said in _contradictions(data)]
        if details or topology is None:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return topology


def _details(location: Location, said: str, *, kind: str = "contradiction") -> InitErrorDetails:
    custom = PydanticCustomError(kind, "{said}", {"said": said})
    return InitErrorDetails(type=custom, loc=location, input=None)


def find_topology(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The file to read: the flag's, else `MLPLATFORM_TOPOLOGY`, else upwards from `cwd`."""
    if explicit is not None:
        return _existing(explicit, "--topology")
    if named := environ.get(VARIABLE):
        return _existing(Path(named), VARIABLE)
    for folder in (cwd, *cwd.parents):
        if (path := folder / FILE_NAME).is_file():
            return path
    raise UsageError(
        f"no {FILE_NAME} in {cwd} or above it",
        hint=f"`mlplatform init` writes one; or name it with --topology or {VARIABLE}",
    )


def _existing(path: Path, named_by: str) -> Path:
    if path.is_dir():
        path /= FILE_NAME
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file (named by {named_by})", hint="`mlplatform init` writes one"
        )
    return path


def _with_names(data: Any) -> Any:
    """Regions told their own names, and empty sections left out. A region whose name says
    otherwise keeps it, and is then refused."""
    if not isinstance(data, Mapping):
        return data
    data = {key: value for key, value in data.items() if value is not None}
    if not isinstance(data.get("regions"), Mapping):
        return data
    regions: dict[Any, Any] = {}
    for name, region in data["regions"].items():
        regions[name] = region
        if isinstance(region, Region):
            context = {"context": region.cluster.context or name}
            cluster = region.cluster.model_copy(update=context)
            regions[name] = region.model_copy(update={"name": name, "cluster": cluster})
        elif isinstance(region, Mapping):
            told = {**region, "name": region.get("name") or name}
            if "cluster" not in region:
                told["cluster"] = _ByConvention(context=name)
            elif isinstance(region["cluster"], Mapping):
                context = _mapping(region, "cluster").get("context") or name
                told["cluster"] = {**_mapping(region, "cluster"), "context": context}
            regions[name] = told
    return {**data, "regions": regions}


def _contradictions(data: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """What is wrong although each part is well formed. Reads the raw data, so that it speaks even
    where some part is not; what it cannot read, the shape's errors name."""
    regions, models = _mapping(data, "regions"), _mapping(data, "models")
    for name, region in regions.items():
        if _fields(region).get("name") not in {None, "", name}:
            yield ("regions", name, "name"), f"differs from its key {name!r}; leave it out"
    yield from _shared_stores(regions)
    yield from _control(data.get("control"))
    yield from _models(models, regions)
    yield from _traffic(_mapping(data, "traffic"), regions, models)
    yield from _rollout(_mapping(data, "rollout"), _mapping(data, "traffic"), regions, models)


def _shared_stores(regions: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    owner: dict[tuple[str, ...], str] = {}
    for name, region in regions.items():
        url = _url(_fields(region).get("store"))
        if url is not None and (first := owner.setdefault(_place(url), name)) != name:
            yield ("regions", name, "store"), f"{url} is the store of {first} already"


def _models(
    models: Mapping[str, Any], regions: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    for name, model in models.items():
        home = _fields(model).get("home")
        if isinstance(home, str) and home not in regions:
            yield ("models", name, "home"), _no_such("region", home, regions)
        seen: set[str] = set()
        for index, target in _strings(_fields(model).get("replicate_to")):
            at: Location = ("models", name, "replicate_to", index)
            if target == home:
                yield at, f"{target!r} is the model's home already"
            elif target not in regions:
                yield at, _no_such("region", target, regions)
            if target in seen:
                yield at, f"{target!r} is listed twice"
            seen.add(target)


def _traffic(
    traffic: Mapping[str, Any], regions: Mapping[str, Any], models: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    owner: dict[str, str] = {}
    at: Location
    for name, route in _mapping(traffic, "routes").items():
        at = ("traffic", "routes", name)
        for key in ("weights", "targets"):
            for region in _mapping(route, key):
                if region not in regions:
                    yield (*at, key, region), _no_such("region", str(region), regions)
        for index, model in _strings(_fields(route).get("models")):
            if model not in models:
                yield (*at, "models", index), _no_such("model", model, models)
        weights = [each for each in _mapping(route, "weights").values() if isinstance(each, int)]
        if weights and sum(weights) != 100:
            yield (*at, "weights"), f"total {sum(weights)}; give per cent, 100 in all"
        for key in ("actuator", "second"):
            actuator = _fields(route).get(key)
            if not isinstance(actuator, str):
                continue
            first = owner.setdefault(actuator, name)
            if first != name:
                yield (*at, key), f"is the actuator of {first} already; each route has its own"
            elif key == "second" and actuator == _fields(route).get("actuator"):
                yield (*at, key), "is the first one again; give a path that does not share it"
    for name, vantage in _mapping(traffic, "vantages").items():
        stands = _fields(vantage).get("region")
        if isinstance(stands, str) and stands not in regions:
            at = ("traffic", "vantages", name, "region")
            yield at, _no_such("region", stands, regions)
    for region, declared in _mapping(traffic, "capacity").items():
        if region not in regions:
            yield ("traffic", "capacity", region), _no_such("region", str(region), regions)
        for model in declared if isinstance(declared, Mapping) else ():
            if model not in models:
                at = ("traffic", "capacity", region, model)
                yield at, _no_such("model", str(model), models)


def _rollout(
    rollout: Mapping[str, Any],
    traffic: Mapping[str, Any],
    regions: Mapping[str, Any],
    models: Mapping[str, Any],
) -> Iterator[tuple[Location, str]]:
    at: Location
    owner: dict[object, str] = {}
    for name, route in _mapping(traffic, "routes").items():
        for key in ("actuator", "second"):
            if isinstance(actuator := _fields(route).get(key), str):
                owner.setdefault(_route_object(actuator), f"traffic.routes.{name}")
    for name in _mapping(rollout, "models"):
        at = ("rollout", "models", name)
        if name not in models:
            yield at, _no_such("model", str(name), models)
        own = _mapping(rollout, "models")[name]
        for key in ("regions", "actuators", "servers"):
            for region in _mapping(own, key):
                if region not in regions:
                    yield (*at, key, region), _no_such("region", str(region), regions)
        for region, actuator in _mapping(own, "actuators").items():
            if not isinstance(actuator, str):
                continue
            mine = f"rollout.models.{name}.actuators.{region}"
            first = owner.setdefault(_route_object(actuator), mine)
            if first != mine:
                said = "weights between versions lie in one of their own, inside the region"
                yield (*at, "actuators", region), f"is the object of {first} already; {said}"
    believed = _mapping(_mapping(rollout, "waves"), "identity").get("clusters")
    for _, region in _strings(believed):
        if region not in regions:
            yield ("rollout", "waves", "identity", "clusters"), _no_such("region", region, regions)
    seen: set[str] = set()
    order = _mapping(rollout, "waves").get("order")
    for index, together in enumerate(order if isinstance(order, list | tuple) else ()):
        for _, region in _strings(together):
            at = ("rollout", "waves", "order", index)
            if region not in regions:
                yield at, _no_such("region", region, regions)
            elif region in seen:
                yield at, f"{region!r} is listed twice"
            seen.add(region)


def _route_object(actuator: str) -> object:
    """What makes two actuators the same object, however they are written."""
    try:
        url = StoreURL.parse(actuator, noun="actuator")
    except UsageError:
        return actuator  # whoever opens it says what is wrong
    authority = url.authority.lower().replace("localhost", "127.0.0.1")
    return url.scheme, authority, url.path.strip("/")


def _control(value: object) -> Iterator[tuple[Location, str]]:
    texts = as_list(value)
    if not isinstance(texts, list | tuple):
        return
    if len(texts) not in {1, 3}:
        said = "give one, or three in different failure domains, of which any one may be lost"
        yield ("control",), f"{len(texts)} URLs; {said}"
    urls = [(index, url) for index, text in enumerate(texts) if (url := _url(text))]
    for (_, first), (index, second) in combinations(urls, 2):
        if _domain(first) == _domain(second) and (
            first.scheme != "file" or _inside(first, second) or _inside(second, first)
        ):
            yield ("control", index), f"{second} fails together with {first}: the same place"


def _doubts(topology: Topology) -> Iterator[tuple[Location, str]]:
    """What is allowed and may yet be a mistake."""
    control, several = topology.control, len(topology.control) > 1
    for index, url in enumerate(control):
        at: Location = ("control", index) if several else ("control",)
        if url.scheme == "memory":
            yield at, "memory:// is lost when the process ends"
        for region in topology.regions.values():
            same = url.scheme != "file" and _domain(url) == _domain(region.store)
            if same or _inside(url, region.store):
                yield at, f"in the store of {region.name}: it is lost with that region"
    domains = topology.traffic.domains
    for name, route in topology.traffic.routes.items():
        if route.mode == "auto" and len(domains) < topology.traffic.safety.domains:
            said = (
                f"auto never acts: vantages stand in {len(domains)} failure domains, "
                f"{topology.traffic.safety.domains} must vote"
            )
            yield ("traffic", "routes", name, "mode"), said
    if all(url.scheme == "file" for url in control):
        yield ("control",), "file:// serves a laptop: what it holds is lost with this machine"


def _url(value: object) -> StoreURL | None:
    try:
        return store_url(value)
    except (PydanticCustomError, ValueError):
        return None  # the shape's errors name it


def _place(url: StoreURL) -> tuple[str, ...]:
    """What makes two URLs the same store, however they are reached."""
    return (*_domain(url), url.path.rstrip("/"))


def _domain(url: StoreURL) -> tuple[str, ...]:
    """What is lost at once: a bucket or container at its endpoint, or this machine."""
    if url.scheme == "file":
        return ("file",)
    container = url.path.strip("/").partition("/")[0] if url.scheme == "az" else ""
    return (url.scheme, url.authority, container, url.options.get("endpoint", ""))


def _inside(inner: StoreURL, outer: StoreURL) -> bool:
    return _domain(inner) == _domain(outer) and f"{inner.path.rstrip('/')}/".startswith(
        f"{outer.path.rstrip('/')}/"
    )


def _fields(value: object) -> Mapping[str, Any]:
    """A section's keys, whether it is raw or read already; none for anything else."""
    if isinstance(value, Section):
        return dict(value)
    return value if isinstance(value, Mapping) else {}


def _mapping(value: object, key: str) -> Mapping[str, Any]:
    return _fields(_fields(value).get(key))


def _strings(value: object) -> Iterator[tuple[int, str]]:
    """The strings of a list, or of one that stands for it, with their indexes."""
    listed = as_list(value)
    for index, each in enumerate(listed if isinstance(listed, list | tuple) else ()):
        if isinstance(each, str):
            yield index, each


def _no_such(what: str, name: str, known: Iterable[object]) -> str:
    names = [str(each) for each in known]
    listed = f"; there are: {', '.join(names) or 'none'}"
    return f"no {what} {name!r}{_meant(name, names) or listed}"


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


_SAID = {
    **dict.fromkeys(("model_type", "mapping_type", "dict_type"), "must be `key: value` lines"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    "string_type": "must be text",
    "too_short": "is empty",
}
"""What some of pydantic's kinds of errors are called here."""


def _refusal(path: Path, problems: Iterable[Problem]) -> TopologyError:
    ordered = sorted(set(problems))
    return TopologyError("\n".join(f"{path}:{problem.line}: {problem}" for problem in ordered))


def _dotted(location: Location) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def _problem(source: YamlLines, details: Any) -> Problem:
    """One of pydantic's errors in our words, with its line."""
    location: Location = tuple(step for step in details["loc"] if step != "[key]")
    kind: str = details["type"]
    if kind == "extra_forbidden":
        known = [key for key in _section_at(location[:-1]).model_fields if key != "name"]
        meant = _meant(str(location[-1]), known) or f"; known here: {', '.join(known)}"
        return Problem(source.line(location, key=True), _dotted(location), f"unknown key{meant}")
    if kind == "missing":
        return Problem(source.line(location[:-1]), _dotted(location), "is missing")
    typed = source.text(location)
    if kind == "string_type" and typed is not None and typed != "":
        said = f"must be text; write it in quotes: {typed!r}".replace("'", '"')
    else:
        said = _SAID.get(kind) or details["msg"].removeprefix("Value error, ")
        said = said.replace("Input should", "must")
    return Problem(source.line(location), _dotted(location), said)


def _section_at(location: Location) -> type[Section]:
    """The section whose keys are at `location`."""
    at: Any = Topology
    for step in location:
        if isinstance(at, type) and issubclass(at, Section):
            field = at.model_fields.get(str(step))
            at = field.annotation if field else None
            if get_origin(at) in {Union, UnionType}:  # X | None
                at = get_args(at)[0]
        else:  # Mapping[str, X]
            at = get_args(at)[-1]
    return at if isinstance(at, type) and issubclass(at, Section) else Section
