"""How long a batch will take, learned from those that ran.

    seconds(n) = (a + b·n) × margin

`a + b·n` is fitted by least squares over what ran lately, older batches counting less. The margin
is a high quantile of `measured ÷ fitted` in the last batches of about this size, so that steps, a
fan that slows down and a noisy neighbour are in it; batches are about as large when they lie
between the same powers of two, or when the backend pads them to the same size.

A prediction must hold for the slow batch, not for the mean: where it is too low, a whole batch is
late. Clockwork (OSDI 2020) predicts by a rolling high quantile for the same reason.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

from mlplatform_serving.batching.request import Key

QUANTILE = 0.95
WINDOW = 64
"""Of so many batches of about one size is the quantile taken: its 95th is the fourth greatest, so
that three outliers in it change nothing, and four slow batches do."""
KEEP = 0.98
"""The weight that a batch keeps when the next one comes: half of it is gone after 34."""
FEW = 8
"""With fewer batches there is no quantile to speak of; a wider group answers."""
STALE = 512
"""Batches after which a group of sizes that saw none of them no longer says anything."""
KEYS = 64
"""Keys learned apart; of more, the one that ran longest ago is forgotten."""
CLIP = 3.0
"""No batch counts in the fit as more than so many times what was expected: a batch that hung for
a second is no news of the next one, and three in a row are."""
REBASE = 0.03
"""When the fit has moved by so much, the window's ratios are taken anew."""


class Latency(Protocol):
    """What deciding asks. Never falls when the size grows."""

    def seconds(self, size: int, key: Key) -> float:
        """How long a batch of so many items takes, by a high quantile; 0 while nothing is known,
        which refuses nobody."""


class Learner(Latency, Protocol):
    """What a batcher tells."""

    def observe(self, size: int, key: Key, seconds: float) -> None:
        """A batch of so many items took so long."""


class LearnedLatency:
    """Learns from each batch, in microseconds; knows no clock."""

    def __init__(
        self, size_max: int, *, quantile: float = QUANTILE, padded_to: Sequence[int] = ()
    ) -> None:
        """`padded_to`: the sizes that the backend pads batches to (CUDA graphs, static engines)."""
        if size_max < 1 or not 0 < quantile < 1:
            raise ValueError("size_max is at least 1, and the quantile lies between 0 and 1")
        self._groups = _Groups(size_max, tuple(sorted(padded_to)))
        self._quantile = quantile
        self._all = _Profile(self._groups, quantile)
        self._by_key: OrderedDict[Key, _Profile] = OrderedDict()

    def observe(self, size: int, key: Key, seconds: float) -> None:
        """A batch of so many items took so long."""
        self._all.observe(size, seconds)
        profile = self._by_key.get(key)
        if profile is None:
            profile = self._by_key[key] = _Profile(self._groups, self._quantile)
            if len(self._by_key) > KEYS:
                self._by_key.popitem(last=False)
        self._by_key.move_to_end(key)
        profile.observe(size, seconds)

    def seconds(self, size: int, key: Key) -> float:
        """A key of which little ran yet is taken to be like all others of the model."""
        profile = self._by_key.get(key)
        if profile is None or profile.count < FEW:
            profile = self._all
        return profile.seconds(size)


class _Groups:
    """Sizes that are about as large: up to the same edge."""

    def __init__(self, size_max: int, padded_to: tuple[int, ...]) -> None:
        edges = [edge for edge in padded_to if edge < size_max]
        if not padded_to:
            edges = [2**power for power in range(size_max.bit_length()) if 2**power < size_max]
        self.edges = (*edges, size_max)
        places = [bisect_left(self.edges, size) for size in range(size_max + 1)]
        self.place = places
        """By size."""
        self.run_as = (
            [float(self.edges[place]) for place in places]
            if padded_to
            else [float(size) for size in range(size_max + 1)]
        )
        """By size: how many items the backend computes."""


class _Profile:
    """One key's fit and margins."""

    def __init__(self, groups: _Groups, quantile: float) -> None:
        self._groups = groups
        self._quantile = quantile
        self.count = 0
        self._fixed = 0.0
        self._each = 0.0
        # Least squares over weighted sums: of 1, n, n², seconds, n × seconds.
        self._s1 = self._sn = self._snn = self._st = self._snt = 0.0
        self._base = (0.0, 0.0)
        self._lately = _Ratios()
        self._ratios = [_Ratios() for _ in groups.edges]
        self._margin = [1.0] * len(groups.edges)
        self._floor = [0.0] * len(groups.edges)

    def observe(self, size: int, seconds: float) -> None:
        groups = self._groups
        place = groups.place[min(size, groups.edges[-1])]
        n = groups.run_as[min(size, groups.edges[-1])]
        if self.count == 1 and self._st > CLIP * seconds:
            # The very first one often pays for what later ones do not: allocation, autotuning.
            self._s1 = self._sn = self._snn = self._st = self._snt = 0.0
            self._lately.clear()
            for ratios in self._ratios:
                ratios.clear()
        self.count += 1
        counted = seconds
        if self.count > FEW:
            counted = min(seconds, CLIP * (self._fixed + self._each * n))
        self._s1 = self._s1 * KEEP + 1.0
        self._sn = self._sn * KEEP + n
        self._snn = self._snn * KEEP + n * n
        self._st = self._st * KEEP + counted
        self._snt = self._snt * KEEP + n * counted
        self._fit()
        self._lately.add(self.count, n, seconds, *self._base)
        self._ratios[place].add(self.count, n, seconds, *self._base)
        self._widen()

    def seconds(self, size: int) -> float:
        if not self.count:
            return 0.0
        groups = self._groups
        place = groups.place[size]
        fixed, each = self._base
        seconds = (fixed + each * groups.run_as[size]) * self._margin[place]
        return max(seconds, self._floor[place])

    def _fit(self) -> None:
        """Neither part is negative: a line that falls, or starts below 0, is noise."""
        spread = self._snn * self._s1 - self._sn * self._sn
        if spread > 1e-6 * self._snn * self._s1:
            each = (self._snt * self._s1 - self._sn * self._st) / spread
        else:
            # One size only: all that can be said of others is that no part grows faster than n.
            each = self._each
        each = min(max(each, 0.0), self._st / self._sn)
        fixed = (self._st - each * self._sn) / self._s1
        self._fixed, self._each = fixed, each
        largest = self._groups.run_as[-1]
        was_fixed, was_each = self._base
        for n in (1.0, largest):
            now, was = fixed + each * n, was_fixed + was_each * n
            if abs(now - was) > REBASE * was:
                self._base = fixed, each
                self._lately.rebase(fixed, each)
                for ratios in self._ratios:
                    ratios.rebase(fixed, each)
                return

    def _widen(self) -> None:
        """The margins anew, and the floors that keep a larger batch from looking quicker."""
        common = self._lately.quantile(self._quantile if self.count >= FEW else 0.5)
        fixed, each = self._base
        floor = 0.0
        groups = self._groups
        for place, ratios in enumerate(self._ratios):
            known = len(ratios.ordered) >= FEW and ratios.newest > self.count - STALE
            margin = ratios.quantile(self._quantile) if known else common
            self._margin[place] = margin
            self._floor[place] = floor
            at_edge = (fixed + each * groups.run_as[groups.edges[place]]) * margin
            floor = max(floor, at_edge)


class _Ratios:
    """`measured ÷ fitted` of the last batches, in order of time and of height."""

    __slots__ = ("_ran", "newest", "ordered")

    def __init__(self) -> None:
        self._ran: deque[tuple[float, float, float]] = deque()
        self.ordered: list[float] = []
        self.newest = 0

    def add(self, number: int, n: float, seconds: float, fixed: float, each: float) -> None:
        if len(self._ran) == WINDOW:
            oldest = self._ran.popleft()[2]
            del self.ordered[bisect_left(self.ordered, oldest)]
        ratio = _ratio(n, seconds, fixed, each)
        self._ran.append((n, seconds, ratio))
        insort(self.ordered, ratio)
        self.newest = number

    def rebase(self, fixed: float, each: float) -> None:
        self._ran = deque(
            (n, seconds, _ratio(n, seconds, fixed, each)) for n, seconds, _ in self._ran
        )
        self.ordered = sorted(ratio for _, _, ratio in self._ran)

    def clear(self) -> None:
        self._ran.clear()
        self.ordered.clear()

    def quantile(self, quantile: float) -> float:
        ordered = self.ordered
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]


def _ratio(n: float, seconds: float, fixed: float, each: float) -> float:
    fitted = fixed + each * n
    return seconds / fitted if fitted > 0 else 1.0
