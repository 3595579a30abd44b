"""Keys and rates: who is let in."""

import pytest

from pipeline.errors import RayrieverError
from serving.auth import Keys, Rates, check_exposure, is_loopback, keys_from_environment
from serving.errors import ApiError

FIRST, SECOND = "first-key-of-the-test", "second-key-of-the-test"


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FIRST}",
        FIRST,
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        "Bearer \udcff",
    ],
)
def test_without_a_whole_key_nobody_is_let_in(given):
    with pytest.raises(ApiError) as refused:
        Keys([FIRST, SECOND]).caller(given, "1.2.3.4")
    assert refused.value.status == 401 and "WWW-Authenticate" in refused.value.headers
    assert FIRST not in refused.value.message


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_each_key_is_let_in_and_never_named_in_logs(key):
    caller = Keys([FIRST, SECOND]).caller(f"bearer {key}", "1.2.3.4")
    assert caller.startswith("key-") and key not in caller


def test_without_keys_callers_are_told_apart_by_address():
    assert Keys([]).caller(None, "1.2.3.4") == "1.2.3.4"


def test_a_rate_is_kept_per_caller_and_comes_back_with_time():
    now = [0.0]
    rates = Rates(60, lambda: now[0])
    for _ in range(6):  # a tenth of a minute's at once
        rates.take("a")
    with pytest.raises(ApiError) as refused:
        rates.take("a")
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
    rates.take("b")
    now[0] = 1.0
    rates.take("a")


def test_callers_that_are_forgotten_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("serving.auth._MOST_CALLERS", 3)
    rates = Rates(60)
    for n in range(10):
        rates.take(str(n))
    assert len(rates._buckets) == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_others_are_not_let_in_without_a_key(host):
    with pytest.raises(RayrieverError, match="without an API key would let everybody in"):
        check_exposure(host, (), "KEYS", insecure=False)
    check_exposure(host, (FIRST,), "KEYS", insecure=False)
    check_exposure(host, (), "KEYS", insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_key(host):
    assert is_loopback(host)
    check_exposure(host, (), "KEYS", insecure=False)


def test_keys_come_from_the_environment_and_short_ones_are_refused(monkeypatch):
    monkeypatch.setenv("KEYS", f" {FIRST}, {SECOND} ,")
    assert keys_from_environment("KEYS") == (FIRST, SECOND)
    monkeypatch.setenv("KEYS", "hunter2")
    with pytest.raises(RayrieverError, match="fewer than 16 characters") as refused:
        keys_from_environment("KEYS")
    assert "hunter2" not in str(refused.value)
