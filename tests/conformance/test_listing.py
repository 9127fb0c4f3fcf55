"""Listings: order, prefixes, folders, pages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mlplatform.ports.store import ObjectStore

from .acts import begin, keys, noise, send

TREE = [
    "a-b/x",
    "a.b/x",
    "a/b",
    "a/b-c",
    "a/b.c",
    "a/b0",
    "a/c/1",
    "a/c/2",
    "a/d/e/f",
    "a0",
    "aa",
    "b/1",
    "c",
]


def fill(store: ObjectStore, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, name.encode()), names))


def test_empty_listing(store: ObjectStore) -> None:
    """Nothing there is an empty answer."""
    assert keys(store) == []
    assert keys(store, "no/such/") == []
    assert keys(store, shallow=True) == []


def test_list_in_order(store: ObjectStore) -> None:
    """Bytewise by the whole key, although "/" sorts between "-" or "." and "0"."""
    fill(store, TREE)
    assert keys(store) == sorted(TREE, key=str.encode)


def test_list_in_order_beyond_the_first_plane(store: ObjectStore) -> None:
    """UTF-8 order, which is not UTF-16 order."""
    names = ["\uff5e", "\U0001f600", "z", "é", "\ue000", "\U00010000"]
    fill(store, names)
    assert keys(store) == sorted(names, key=str.encode)


def test_list_with_prefix(store: ObjectStore) -> None:
    """A prefix need not end at a "/"."""
    fill(store, TREE)
    for prefix in ("a", "a/", "a/b", "a/c/", "a/c/1", "a/d", "a/d/e/", "b", "c", "c/", "zz"):
        assert keys(store, prefix) == sorted(k for k in TREE if k.startswith(prefix))


def test_list_shallow(store: ObjectStore) -> None:
    """Each folder once, with its "/", in order among the objects."""
    fill(store, TREE)
    assert keys(store, shallow=True) == ["a-b/", "a.b/", "a/", "a0", "aa", "b/", "c"]
    assert keys(store, "a/", shallow=True) == ["a/b", "a/b-c", "a/b.c", "a/b0", "a/c/", "a/d/"]
    assert keys(store, "a", shallow=True) == ["a-b/", "a.b/", "a/", "a0", "aa"]
    assert keys(store, "a/c", shallow=True) == ["a/c/"]
    assert keys(store, "a/d/", shallow=True) == ["a/d/e/"]


def test_list_after(store: ObjectStore) -> None:
    """What comes after a key, whether the key is there or not."""
    fill(store, TREE)
    for after in ("a", "a/", "a/b", "a/bb", "a/c/1", "a/d/e/f", "a0", "b", "c", "zz"):
        assert keys(store, after=after) == [k for k in sorted(TREE) if k > after]
        expected = [k for k in sorted(TREE) if k.startswith("a/") and k > after]
        assert keys(store, "a/", after=after) == expected


def test_list_shallow_after(store: ObjectStore) -> None:
    """`after` is compared with the keys that come, folders too."""
    fill(store, TREE)
    assert keys(store, shallow=True, after="a/") == ["a0", "aa", "b/", "c"]
    assert keys(store, shallow=True, after="a.") == ["a.b/", "a/", "a0", "aa", "b/", "c"]
    assert keys(store, "a/", shallow=True, after="a/c/") == ["a/d/"]
    assert keys(store, "a/", shallow=True, after="a/b.c") == ["a/b0", "a/c/", "a/d/"]


def test_list_tells_size_and_tag(store: ObjectStore) -> None:
    """The same as stat, so that a listing can stand for it."""
    for index in range(3):
        store.put(f"k{index}", noise(index * 1000, index))
    for listed in store.list(""):
        stat = store.stat(listed.key)
        assert (listed.size_bytes, listed.tag) == (stat.size_bytes, stat.tag)
        assert not listed.digests.contradicts(stat.digests)


def test_list_more_than_a_page(store: ObjectStore) -> None:
    """1,100 keys in one listing; shallow, they are eleven folders; and one page can be left."""
    names = [f"page/{index // 100:02}/{index:04}" for index in range(1100)]
    fill(store, names)
    assert keys(store, "page/") == names
    assert keys(store, "page/", shallow=True) == [f"page/{index:02}/" for index in range(11)]
    assert keys(store, after=names[1050]) == names[1051:]
    assert next(iter(store.list("page/"))).key == names[0]


def test_list_goes_on_while_keys_come_and_go(store: ObjectStore) -> None:
    """Keys that were there all along are listed once each."""
    names = [f"k/{index:03}" for index in range(60)]
    fill(store, names)
    seen = []
    for stat in store.list("k/"):
        seen.append(stat.key)
        if len(seen) == 10:
            store.put("k/005a", b"late")
            store.delete("k/050")
            store.put("k/055a", b"late")
    assert [key for key in seen if key not in ("k/050", "k/055a")] == [
        name for name in names if name != "k/050"
    ]


def test_unfinished_uploads_are_not_listed(store: ObjectStore, part_bytes: int) -> None:
    """Nor anything else that the store keeps for itself."""
    store.put("k", b"1")
    send(begin(store, "models/large", noise(100), part_bytes), 0, noise(100))
    assert keys(store) == ["k"]
    assert keys(store, shallow=True) == ["k"]
    assert keys(store, ".mlplatform/uploads/") == []
