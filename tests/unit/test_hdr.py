"""Exports read by another implementation, its exports read by us, and hostile input."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from hdrh.log import HistogramLogReader  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import Malformed, UserError
from fastpath.hdr import decode, encode, log_header, log_line
from fastpath.histogram import COUNTS, HIGHEST_US, MAX, Histogram, bucket_of

FEW = settings(deadline=None, max_examples=40)
PERCENTILES = (0.1, 25, 50, 90, 95, 99, 99.9, 100)
values_and_counts = st.dictionaries(
    st.one_of(st.integers(1, 3000), st.integers(1, HIGHEST_US)),
    st.one_of(st.integers(1, 300), st.integers(1, 2**30)), max_size=25)


def ours(recorded: dict[int, int]) -> Histogram:
    """What `record` would leave, without a call for each of 2**30 values."""
    histogram = Histogram()
    for value, count in recorded.items():
        one = Histogram()
        one.record(value)
        highest = one.data[MAX]
        one.data *= count
        one.data[-4:-2] = value, highest
        histogram.merge(one)
    return histogram


def theirs(recorded: dict[int, int], highest: int = HIGHEST_US) -> HdrHistogram:
    histogram = HdrHistogram(1, highest, 3)
    for value, count in recorded.items():
        assert histogram.record_value(value, count)
    return histogram


def counts_of(histogram: HdrHistogram) -> np.ndarray:
    return np.ctypeslib.as_array(histogram.counts)


def rank_percentiles(total: int) -> list[float]:
    """Percentiles on which every rounding of a rank agrees."""
    return [100 * rank / total for rank in {1, total // 3 + 1, total // 2 + 1, total}]


@FEW
@given(values_and_counts)
def test_hdrhistogram_reads_what_we_write(recorded: dict[int, int]) -> None:
    histogram = ours(recorded)
    read = HdrHistogram.decode(encode(histogram))
    assert (read.highest_trackable_value, read.significant_figures) == (HIGHEST_US, 3)
    assert (counts_of(read) == histogram.data[:COUNTS]).all()
    assert read.get_total_count() == histogram.count == sum(recorded.values())
    for p in rank_percentiles(histogram.count) if recorded else ():
        assert histogram.percentile(p) == min(read.get_value_at_percentile(p), histogram.max_us)


@settings(FEW, max_examples=12)  # the other one takes 50 ms to find a mean
@given(values_and_counts)
def test_we_read_what_hdrhistogram_writes(recorded: dict[int, int]) -> None:
    written = theirs(recorded)
    read = decode(written.encode())
    assert (read.data[:COUNTS] == counts_of(written)).all()
    assert read.count == sum(recorded.values())
    assert read.min_us == written.get_min_value()
    assert read.max_us == min(written.get_max_value(), HIGHEST_US)
    assert read.mean_us == pytest.approx(written.get_mean_value(), abs=1, rel=1e-3)
    assert read.stddev_us() == pytest.approx(written.get_stddev(), abs=1, rel=1e-3)
    for p in rank_percentiles(read.count) if recorded else ():
        assert read.percentile(p) == min(written.get_value_at_percentile(p), HIGHEST_US)


@FEW
@given(values_and_counts)
def test_payloads_are_the_same_octet_for_octet(recorded: dict[int, int]) -> None:
    mine, other = (zlib.decompress(base64.b64decode(text)[8:])
                   for text in (encode(ours(recorded)), theirs(recorded).encode()))
    assert mine == other


@FEW
@given(values_and_counts)
def test_there_and_back(recorded: dict[int, int]) -> None:
    histogram = ours(recorded)
    back = decode(encode(histogram))
    assert (back.data[:COUNTS] == histogram.data[:COUNTS]).all()
    assert back.mean_us == pytest.approx(histogram.mean_us, rel=0.0005)
    for p in PERCENTILES:
        assert min(back.percentile(p), histogram.max_us) == histogram.percentile(p)
    assert encode(back) == encode(histogram)


def test_every_bucket_filled() -> None:
    rng = np.random.default_rng(11)
    histogram = Histogram()
    histogram.data[1:bucket_of(HIGHEST_US) + 1] = rng.integers(1, 2**16, bucket_of(HIGHEST_US))
    text = encode(histogram)
    assert (decode(text).data[:COUNTS] == histogram.data[:COUNTS]).all()
    assert (counts_of(HdrHistogram.decode(text)) == histogram.data[:COUNTS]).all()


@pytest.mark.parametrize(("count", "octets"), [
    (1, 1), (63, 1), (64, 2), (2**13 - 1, 2), (2**13, 3), (2**34, 6), (2**55 - 1, 8), (2**55, 9),
    (2**62, 9), (2**63 - 1, 9)])
def test_counts_of_every_length(count: int, octets: int) -> None:
    histogram = Histogram()
    histogram.data[[1, COUNTS, -2]] = count
    # After the header, one octet for the empty bucket 0.
    assert len(zlib.decompress(base64.b64decode(encode(histogram))[8:])) == 40 + 1 + octets
    assert decode(encode(histogram)).count == count
    if count < 2**62:  # more than that the C code of the other one gets wrong
        assert HdrHistogram.decode(encode(histogram)).get_count_at_value(1) == count


def test_values_outside_our_range_are_clamped_as_in_record() -> None:
    read = decode(theirs({0: 3, 1: 1, 4_000_000_000: 5}).encode())
    assert list(read.buckets()) == [(1, 1, 4), (3_598_712_832, 3_600_809_983, 5)]
    assert (read.min_us, read.max_us, read.overflow) == (1, HIGHEST_US, 5)


@pytest.mark.parametrize("highest", [10_000, 86_400_000_000])
def test_another_highest_value_is_read(highest: int) -> None:
    assert list(decode(theirs({7: 1, 5000: 2}, highest).encode()).buckets()) == [
        (7, 7, 1), (5000, 5003, 2)]


# --- hostile input -------------------------------------------------------------------------


def payload(counts: bytes, *, cookie: int = 0x1C849313, length: int | None = None, offset: int = 0,
            digits: int = 3, lowest: int = 1, highest: int = HIGHEST_US,
            ratio: float = 1.0) -> bytes:
    length = len(counts) if length is None else length
    return struct.pack(">IIIIQQd", cookie, length, offset, digits, lowest, highest, ratio) + counts


def wrap(inner: bytes, *, cookie: int = 0x1C849314, length: int | None = None) -> bytes:
    length = len(inner) if length is None else length
    return base64.b64encode(struct.pack(">II", cookie, length) + inner)


def squeeze(inner: bytes) -> bytes:
    return wrap(zlib.compress(inner))


def test_the_helpers_below_build_a_sound_export() -> None:
    # -5: five empty buckets, then 3 in the sixth (value 5), 1 in the next.
    read = decode(squeeze(payload(bytes([0x09, 0x06, 0x02]))))
    assert list(read.buckets()) == [(5, 5, 3), (6, 6, 1)]
    assert decode(squeeze(payload(b""))).count == 0


GOOD = payload(b"\x02" * 4)
HOSTILE: list[tuple[str, Callable[[], bytes | str], str]] = [
    ("nothing", lambda: "", "hdr_length"),
    ("not base64", lambda: "HIST!!", "hdr_base64"),
    ("not ascii", lambda: "HISTFÄÄÄ", "hdr_base64"),
    ("cut base64", lambda: squeeze(GOOD)[:-1], "hdr_base64"),
    ("seven octets", lambda: base64.b64encode(b"\x1c\x84\x93\x14\0\0\0"), "hdr_length"),
    ("V1 cookie", lambda: wrap(zlib.compress(GOOD), cookie=0x1C849312), "hdr_cookie"),
    ("length over", lambda: wrap(zlib.compress(GOOD), length=2**32 - 1), "hdr_length"),
    ("length zero", lambda: wrap(zlib.compress(GOOD), length=0), "hdr_length"),
    ("not zlib", lambda: wrap(b"\xff" * 30), "hdr_zlib"),
    ("no zlib", lambda: wrap(b""), "hdr_zlib"),
    ("cut zlib", lambda: wrap(zlib.compress(GOOD)[:-5]), "hdr_zlib"),
    ("more after zlib", lambda: wrap(zlib.compress(GOOD) + b"x"), "hdr_zlib"),
    ("bad checksum", lambda: wrap(zlib.compress(GOOD)[:-1] + b"\0"), "hdr_zlib"),
    ("bomb", lambda: squeeze(b"\0" * 50_000_000), "hdr_zlib"),
    ("one octet too large", lambda: squeeze(payload(b"\x80" * 9 * COUNTS + b"\0")), "hdr_zlib"),
    ("empty payload", lambda: squeeze(b""), "hdr_length"),
    ("short payload", lambda: squeeze(GOOD[:39]), "hdr_length"),
    ("payload cookie", lambda: squeeze(payload(b"", cookie=0x1C849301)), "hdr_cookie"),
    ("counts shorter", lambda: squeeze(payload(b"\x02", length=2)), "hdr_length"),
    ("counts longer", lambda: squeeze(payload(b"\x02", length=0)), "hdr_length"),
    ("shifted", lambda: squeeze(payload(b"\x02", offset=1024)), "hdr_layout"),
    ("two digits", lambda: squeeze(payload(b"\x02", digits=2)), "hdr_layout"),
    ("lowest 1000", lambda: squeeze(payload(b"\x02", lowest=1000)), "hdr_layout"),
    ("doubles", lambda: squeeze(payload(b"\x02", ratio=0.5)), "hdr_layout"),
    ("not a number", lambda: squeeze(payload(b"\x02", ratio=float("nan"))), "hdr_layout"),
    ("count is cut", lambda: squeeze(payload(b"\x02\x80")), "hdr_counts"),
    ("too many buckets", lambda: squeeze(payload(b"\x02" * (COUNTS + 1))), "hdr_counts"),
    ("too long a run", lambda: squeeze(payload(b"\xff" * 9)), "hdr_counts"),
    ("total overflows", lambda: squeeze(payload((b"\xfe" + b"\xff" * 8) * 2)), "hdr_counts"),
    ("sum overflows", lambda: squeeze(payload(b"\x09" + b"\xfe" + b"\xff" * 8)), "hdr_counts"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in HOSTILE],
                         ids=[row[0] for row in HOSTILE])
def test_hostile(make: Callable[[], bytes | str], reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(make())
    assert caught.value.reason == reason
    assert caught.value.what.startswith("histogram: ")
    assert "\n" not in caught.value.what


def test_the_largest_payload_is_read() -> None:
    """Nine octets for every count: a long way to write 0."""
    full = payload((b"\x80" * 8 + b"\0") * COUNTS)
    assert decode(squeeze(full)).count == 0


def test_a_bomb_does_not_use_memory() -> None:
    bomb = squeeze(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_noise(noise: bytes | str) -> None:
    with pytest.raises(Malformed):
        decode(noise)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=40), st.integers(0, 39), st.integers(0, 255))
def test_noise_inside_is_refused_or_sound(counts: bytes, at: int, octet: int) -> None:
    changed = bytearray(payload(counts))
    changed[at] = octet
    try:
        read = decode(squeeze(bytes(changed)))
    except Malformed:
        return
    assert read.count == read.data[:COUNTS].sum()
    assert (read.data[:COUNTS] >= 0).all()
    assert read.min_us <= read.percentile(50) <= read.max_us


# --- interval log ----------------------------------------------------------------------------


def test_log_text() -> None:
    histogram = ours({12_345: 2})
    assert log_header(1_767_225_600.25, "dora\nper second").splitlines() == [
        "#Latencies in microseconds, Interval_Max in milliseconds. dora per second",
        "#[Histogram log format version 1.3]",
        "#[BaseTime: 1767225600.250 (seconds since epoch)]",
        "#[StartTime: 1767225600.250 (seconds since epoch), 2026-01-01T00:00:00+00:00]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"']
    assert log_line(histogram, 2.0, 1.0, "dora") == (
        f"Tag=dora,2.000,1.000,12.345,{encode(histogram)}\n")
    assert log_line(histogram, 0.5, 0.25) == f"0.500,0.250,12.345,{encode(histogram)}\n"


def test_log_is_read_by_hdrhistogram(tmp_path: Path) -> None:
    started_s = 1_767_225_600.5
    rows = [("dora", 0.0, {100: 5}), ("request_ack", 0.0, {}), ("", 1.0, {2_500_000: 1, 9: 9})]
    path = tmp_path / "run.hlog"
    path.write_text(log_header(started_s, "x") + "".join(
        log_line(ours(recorded), at, 1.0, tag) for tag, at, recorded in rows))
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_US, 3))
    for tag, at, recorded in rows:
        read = reader.get_next_interval_histogram()
        assert (read.get_tag() or "") == tag
        assert read.get_start_time_stamp() == (started_s + at) * 1000
        assert read.get_end_time_stamp() == (started_s + at + 1) * 1000
        assert (counts_of(read) == ours(recorded).data[:COUNTS]).all()
    assert reader.get_next_interval_histogram() is None
    assert reader.get_start_time_sec() == started_s
    reader.close()


@pytest.mark.parametrize("tag", ["a,b", "a b", "a\nb", "\t"])
def test_log_refuses_a_tag_that_would_split_the_line(tag: str) -> None:
    with pytest.raises(UserError, match="tag"):
        log_line(Histogram(), 0, 1, tag)
