"""An object store that fails, or lies: a real server with a proxy in front that does it on purpose."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtafs.errors import (
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageError,
    StorageFullError,
)
from dtafs.store.lake import Lake
from dtafs.store.tiers.base import Tier, has_hash, read_whole
from dtafs.store.tiers.opening import OpenTier
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.object_stores import ACCESS_KEY, SECRET_KEY, ObjectStore
from tests.support.programs import ctl
from tests.support.tiers import QUICK, opened, tier_at

KEY = "packs/ab/" + "ab" * 32
WHOLE = bytes(range(256)) * 400

PASSING = {
    Fault.INTERNAL: "server_errors",
    Fault.SLOW_DOWN: "throttled",
    Fault.DROP: "connection_errors",
    Fault.STALL: "timeouts",
    Fault.LOSE_ANSWER: "connection_errors",
    Fault.HALF_UPLOAD: "connection_errors",
}
"""Faults that may pass, and what they are counted as."""

CALLS: dict[str, tuple[str, Callable[[Tier], object]]] = {
    "put": ("PUT", lambda tier: tier.put("packs/00/" + "00" * 32, WHOLE)),
    "read": ("GET", lambda tier: tier.read(KEY, 3, 1_000)),
    "verify": ("GET", lambda tier: tier.verify(KEY, WHOLE)),
    "facts": ("HEAD", lambda tier: tier.facts(KEY)),
    "delete": ("DELETE", lambda tier: tier.delete(KEY)),
    "keys": ("GET", lambda tier: list(tier.keys("packs/"))),
}


@pytest.fixture
def proxy(seaweed_store: ObjectStore) -> Iterator[FaultProxy]:
    with fault_proxy(seaweed_store) as found:
        yield found


@pytest.fixture
def there(proxy: FaultProxy, prefix: str) -> OpenTier:
    """A tier behind the proxy, with an object in it; short of patience."""
    found = opened(proxy.store, prefix, patience=QUICK._replace(timeout_s=0.5))
    found.tier.put(KEY, WHOLE)
    found.retrying.counters.take()
    return found


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
@pytest.mark.parametrize("call", CALLS)
def test_what_passes_is_asked_again(
    there: OpenTier, proxy: FaultProxy, call: str, fault: Fault
) -> None:
    method, ask = CALLS[call]
    proxy.plan(fault, method=method)
    ask(there.tier)
    assert proxy.left == 0
    counts = there.retrying.counters.snapshot()
    assert (counts[PASSING[fault]], counts["retries"], counts["given_up"]) == (1, 1, 0)
    if call == "put":
        assert counts["lost_answers"] == (fault is Fault.LOSE_ANSWER)
        there.tier.verify("packs/00/" + "00" * 32, WHOLE)


@pytest.mark.parametrize("call", CALLS)
def test_what_does_not_pass_is_given_up(there: OpenTier, proxy: FaultProxy, call: str) -> None:
    proxy.choose(lambda *_: Fault.INTERNAL)
    ask = CALLS[call][1]
    with pytest.raises(StorageError, match=r"tier warm: .* failed, tried 4 times: 500"):
        ask(there.tier)
    counts = there.retrying.counters.snapshot()
    assert (counts["server_errors"], counts["retries"], counts["given_up"]) == (4, 3, 1)


def test_an_answer_that_breaks_off_is_not_taken_for_the_whole(
    there: OpenTier, proxy: FaultProxy
) -> None:
    proxy.plan(Fault.HALF_ANSWER, Fault.HALF_ANSWER, method="GET")
    assert there.tier.read(KEY) == WHOLE
    proxy.plan(Fault.HALF_ANSWER, method="GET")
    there.tier.verify(KEY, WHOLE)
    assert proxy.left == 0


def test_half_an_upload_is_no_object(there: OpenTier, proxy: FaultProxy) -> None:
    other = "packs/cd/" + "cd" * 32
    proxy.choose(lambda method, _path: Fault.HALF_UPLOAD if method == "PUT" else Fault.NONE)
    with pytest.raises(StorageError):
        there.tier.put(other, WHOLE)
    assert there.tier.facts(other) is None
    proxy.calm()
    there.tier.put(other, WHOLE)
    there.tier.verify(other, WHOLE)


def test_wrong_bytes_are_noticed(there: OpenTier, proxy: FaultProxy) -> None:
    proxy.plan(Fault.GARBLE, Fault.GARBLE, method="GET")
    with pytest.raises(IntegrityError, match="has not the bytes"):
        there.tier.verify(KEY, WHOLE)
    there.tier.verify(KEY, WHOLE)


def whole_or_error(data: bytes) -> bytes:
    if data != WHOLE:
        raise IntegrityError("these are other bytes")
    return data


def test_wrong_bytes_on_the_way_are_not_taken_for_wrong_bytes_there(
    there: OpenTier, proxy: FaultProxy
) -> None:
    other = "packs/cd/" + "cd" * 32
    proxy.plan(Fault.LOSE_ANSWER, method="PUT")
    proxy.plan(Fault.GARBLE, method="GET")
    there.tier.put(other, WHOLE)
    proxy.plan(Fault.GARBLE, method="GET")
    there.tier.verify(other, WHOLE)
    digest = hashlib.sha256(WHOLE).digest()
    proxy.plan(Fault.GARBLE, method="GET")
    assert has_hash(there.tier, other, digest)
    proxy.plan(Fault.GARBLE, Fault.GARBLE, method="GET")
    assert not has_hash(there.tier, other, digest)
    proxy.plan(Fault.GARBLE, method="GET")
    assert read_whole(there.tier, other, whole_or_error) == WHOLE
    proxy.plan(Fault.GARBLE, Fault.GARBLE, method="GET")
    with pytest.raises(IntegrityError):
        read_whole(there.tier, other, whole_or_error)
    assert proxy.left == 0


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        (Fault.FULL, StorageFullError, "no room left"),
        (Fault.EXPIRED, RefusedError, "which have expired"),
        (Fault.FORBIDDEN, RefusedError, "give these credentials the right"),
        (Fault.NO_BUCKET, NotFoundError, "there is no bucket 'lakes'"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_what_asking_again_cannot_help(
    there: OpenTier,
    proxy: FaultProxy,
    call: str,
    fault: Fault,
    expected: type[DtafsError],
    said: str,
) -> None:
    """One sentence that names the tier, after one attempt; and the tier can be used once it is over."""
    proxy.choose(lambda *_: fault)
    ask = CALLS[call][1]
    with pytest.raises(expected, match=said) as caught:
        ask(there.tier)
    assert "tier warm" in str(caught.value)
    assert there.retrying.counters.snapshot()["retries"] == 0
    proxy.calm()
    there.tier.verify(KEY, WHOLE)


def test_new_credentials_are_taken_up(proxy: FaultProxy, prefix: str, tmp_path: Path) -> None:
    """Credentials expire, and the file that they are in has others by then."""
    file = tmp_path / "credentials"
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_CONFIG_FILE": "/dev/null"}
    environment["AWS_ENDPOINT_URL"] = proxy.store.endpoint
    found = opened(proxy.store, prefix, environment=environment)
    with pytest.raises(RefusedError, match="does not accept the credentials"):
        found.tier.put(KEY, WHOLE)
    file.write_text(f"[default]\n{keys}")
    found.tier.put(KEY, WHOLE)
    found.tier.verify(KEY, WHOLE)
    assert found.retrying.counters.snapshot()["credentials_renewed"] == 1


def test_a_storm(proxy: FaultProxy, prefix: str, seaweed_store: ObjectStore) -> None:
    """A third of all requests fail, in every way that may pass; several threads at once. Everything that
    was said to be there is, once, and right."""
    patience = QUICK._replace(timeout_s=0.5, attempts=12, give_up_s=60.0)
    found = opened(proxy.store, prefix, patience=patience)
    faults = [fault for fault in (*PASSING, Fault.HALF_ANSWER) if fault is not Fault.STALL]
    proxy.at_random(5, 0.33, faults)
    wanted = {f"packs/{n:02x}/{n:064x}": bytes([n]) * (n * 997) for n in range(40)}
    failures: list[Exception] = []

    def work(keys: list[str]) -> None:
        try:
            for key in keys:
                found.tier.put(key, wanted[key])
                found.tier.put(key, wanted[key])
                found.tier.verify(key, wanted[key])
        except DtafsError as error:
            failures.append(error)

    names = list(wanted)
    threads = [threading.Thread(target=work, args=(names[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert dict(found.tier.keys("packs/")) == {key: len(data) for key, data in wanted.items()}
    calm = tier_at(seaweed_store, prefix)
    for key, data in wanted.items():
        assert calm.read(key) == data
    counts = found.retrying.counters.snapshot()
    assert counts["retries"] > 20 and counts["given_up"] == 0
    assert counts["lost_answers"] >= 40  # of the second put of each, at least


def test_who_waits_is_let_go_at_the_end(there: OpenTier, proxy: FaultProxy) -> None:
    """A daemon that ends does not wait for a store that does not answer."""
    proxy.choose(lambda *_: Fault.INTERNAL)
    there.retrying.patience = QUICK._replace(first_pause_s=300.0, give_up_s=900.0)
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(StorageError):
            there.tier.read(KEY)
        ended.set()

    thread = threading.Thread(target=ask)
    thread.start()
    began_s = time.monotonic()
    there.retrying.stop()
    thread.join(60)
    assert ended.is_set() and time.monotonic() - began_s < 60


@pytest.mark.parametrize("ended", [False, True])
def test_who_reads_while_a_tier_is_tried_out_again(
    proxy: FaultProxy, prefix: str, lake_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """As the mirror of a restored lake does, on its own: a reader that has to ask again is not let down by
    it, but at the end of the daemon."""
    for name, value in proxy.store.environment().items():
        monkeypatch.setenv(name, value)
    ctl(lake_path, "tier", "add", "warm", proxy.store.url(prefix))
    with Lake.open(lake_path) as lake:
        lake.tier("warm").put(KEY, WHOLE)
        faults = iter([Fault.INTERNAL])

        def choose(_method: str, path: str) -> Fault:
            if KEY not in path or (fault := next(faults, None)) is None:
                return Fault.NONE
            lake.tiers.renew(lake.tiers.settings, lake.disk)
            if ended:
                lake.tiers.stop()
            return fault

        tier = lake.tier("warm")
        proxy.choose(choose)
        if ended:
            with pytest.raises(StorageError, match="tried once"):
                tier.read(KEY)
        else:
            assert tier.read(KEY) == WHOLE
        proxy.calm()
        lake.tier("warm").delete(KEY)


def _in_a_child(tier: Tier, answers: multiprocessing.Queue[str]) -> None:
    try:
        tier.read(KEY)
        answers.put("read")
    except StorageError as error:
        answers.put(str(error))


def test_a_forked_process_is_told(there: OpenTier) -> None:
    """It would wait for ever: the client's threads are not in the child."""
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_in_a_child, args=(there.tier, answers))
    child.start()
    assert "was forked from one that had used it" in answers.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
