"""From what was kept of a rollout to what a report tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mlplatform.control.journal import Stream
from mlplatform.control.orders import Order
from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import MlplatformError
from mlplatform.core.money import Cost
from mlplatform.core.plan import canonical
from mlplatform.rollout import operations
from mlplatform.rollout.course.approval import asked_of
from mlplatform.rollout.effects import Sites
from mlplatform.rollout.records import Approval, Ordered
from mlplatform.rollout.report.content import Content, Hand, Kept, content_of, hands_of


def make_content(
    sites: Sites, stream: Stream, made: datetime, *, cost: Cost | None = None
) -> Content:
    """What a report tells of a rollout. What cannot be read is told to be missing; `NoMajority`
    where the journal itself cannot be."""
    request = operations.request_of(stream)
    unread: list[str] = []
    windows = {}
    for region in request.regions:
        try:
            windows[region] = sites.records.windows(stream.operation, region)
        except MlplatformError as error:
            unread.append(f"What was counted in {region} could not be read: {error}.")
    try:
        approvals = sites.records.approvals(operations.occasion_of(sites, stream))
    except MlplatformError as error:
        approvals = ()
        unread.append(f"Who approved it could not be read: {error}.")
    ordered: Sequence[Ordered] = ()
    orders: Sequence[Order] = ()
    try:
        ordered = sites.records.ordered(stream.operation)
        orders = _orders(sites, stream)
    except MlplatformError as error:
        unread.append(f"What was ordered of it could not be read: {error}.")
    section = sites.topology.rollout
    model = sites.topology.models.get(request.subject.model)
    return content_of(
        Kept(
            operations.stands(sites, stream),
            stream.entries,
            section,
            blake3_hex(canonical(section.model_dump(mode="json"))),
            windows=windows,
            approvals=approvals,
            ordered=ordered,
            orders=orders,
            gpus=model.gpus if model is not None else {},
            cost=cost,
            unread=unread,
        ),
        made,
    )


def make_hands(sites: Sites, stream: Stream) -> tuple[Hand, ...]:
    """Who had a hand in a rollout. `NoMajority` where that cannot be known."""
    approvals: Sequence[Approval] = ()
    if asked_of(stream.agreed):
        approvals = sites.records.approvals(operations.occasion_of(sites, stream))
    ordered = sites.records.ordered(stream.operation)
    return hands_of(stream.entries, approvals, ordered, _orders(sites, stream))


def _orders(sites: Sites, stream: Stream) -> list[Order]:
    return [each for each in sites.orders.known() if each.scope == stream.operation]
