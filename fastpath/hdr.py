"""Histograms for other programs: HdrHistogram's V2 compressed form and its interval log.

An export holds counts only. What comes back has the same buckets and percentiles, while its
minimum, maximum and mean are those of the buckets, not the exact ones.

The form, all numbers big-endian (HdrHistogram, AbstractHistogram.java and
ZigZagEncoding.java):

    base64( cookie u32 | length u32 | zlib( payload ) )
    payload: cookie u32 | length of the counts u32 | normalizing offset u32 | digits u32 |
             lowest u64 | highest u64 | ratio f64 | counts
    counts:  zig-zag LEB128 of at most 9 octets, the ninth whole; -n stands for n empty
             buckets; empty buckets at the end are left out
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from fastpath.errors import Malformed, UserError
from fastpath.histogram import (
    COUNTS,
    HIGHEST_US,
    MAX,
    MIN,
    OVERFLOW,
    SIGNIFICANT_DIGITS,
    SUM,
    TOTAL,
    Histogram,
    bucket_of,
    bucket_ranges,
)

OUTER_COOKIE = 0x1C849314
PAYLOAD_COOKIE = 0x1C849313
# The second nibble from the right is a word size; V2 does not use it and writers differ.
COOKIE_MASK = 0xFFFFFF0F
_OUTER = struct.Struct(">II")
_PAYLOAD = struct.Struct(">IIIIQQd")
_NUMBER_MAX = 9
_PAYLOAD_MAX = _PAYLOAD.size + _NUMBER_MAX * COUNTS
_INT64_MAX = 2**63 - 1


def encode(histogram: Histogram) -> str:
    """`histogram` in V2 compressed form: one line of base64 that starts with HISTFAAA."""
    body = bytearray()
    expected = 0
    for index in np.flatnonzero(histogram.data[:COUNTS]).tolist():
        empty = index - expected
        if empty:
            body += _leb128(-empty)
        body += _leb128(int(histogram.data[index]))
        expected = index + 1
    header = _PAYLOAD.pack(PAYLOAD_COOKIE, len(body), 0, SIGNIFICANT_DIGITS, 1, HIGHEST_US, 1.0)
    packed = zlib.compress(header + body)
    return base64.b64encode(_OUTER.pack(OUTER_COOKIE, len(packed)) + packed).decode("ascii")


def decode(text: str | bytes) -> Histogram:
    """The histogram in `text`, V2 compressed form, whoever wrote it.

    It must count integers from 1 with three digits; its highest value may differ from ours.
    As in `record`, a count at 0 goes to 1, and one over HIGHEST_US to that and to `overflow`.
    Raises Malformed. Inflates no more octets than our own largest export has.
    """
    histogram = Histogram()
    data = histogram.data
    last = bucket_of(HIGHEST_US)
    for index, count in _filled(_counts(_unpack(text))):
        data[min(max(index, 1), last)] += count
        data[OVERFLOW] += count if index > last else 0
    filled = np.flatnonzero(data[:COUNTS])
    if not len(filled):
        return histogram
    lowest, highest = bucket_ranges(filled)
    highest = np.minimum(highest, HIGHEST_US)
    # Python's integers: the sum may be too large for int64 although every count fits.
    middles = ((lowest + highest) // 2).tolist()
    total = sum(m * n for m, n in zip(middles, data[filled].tolist(), strict=True))
    if total > _INT64_MAX:
        raise Malformed("hdr_counts", "histogram: the sum of its values exceeds 2**63 us")
    data[TOTAL] = data[filled].sum()
    data[SUM] = total
    data[MIN] = lowest[0]
    data[MAX] = highest[-1]
    return histogram


def log_header(started_at_s: float, comment: str = "") -> str:
    """The first lines of an interval log (format 1.3), for intervals relative to the start.

    started_at_s: seconds since the epoch. comment: one line that says what was measured.
    """
    when = datetime.fromtimestamp(started_at_s, UTC).isoformat(timespec="seconds")
    words = " ".join(["Latencies in microseconds, Interval_Max in milliseconds.", comment])
    return (
        f"#{' '.join(words.split())}\n"
        "#[Histogram log format version 1.3]\n"
        f"#[BaseTime: {started_at_s:.3f} (seconds since epoch)]\n"
        f"#[StartTime: {started_at_s:.3f} (seconds since epoch), {when}]\n"
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
    )


def log_line(histogram: Histogram, start_s: float, length_s: float, tag: str = "") -> str:
    """One interval of an interval log, with its line end.

    start_s: when the interval began, in seconds after the log's start. tag: tells several
    histograms of one interval apart. Raises UserError for a tag that a reader would split.
    """
    if any(c.isspace() or c == "," for c in tag):
        raise UserError(f"histogram log: tag {tag!r} has a blank or a comma in it",
                        "use letters, digits, '-' and '_'")
    label = f"Tag={tag}," if tag else ""
    return (f"{label}{start_s:.3f},{length_s:.3f},{histogram.max_us / 1000:.3f},"
            f"{encode(histogram)}\n")


def _leb128(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    out = bytearray()
    while zigzag > 0x7F and len(out) < _NUMBER_MAX - 1:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def _unpack(text: str | bytes) -> bytes:
    """The payload: base64, outer header and zlib taken off, never larger than our own."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("hdr_base64", "histogram: not base64") from None
    if len(raw) < _OUTER.size:
        raise Malformed("hdr_length", f"histogram: only {len(raw)} octets")
    cookie, length = _OUTER.unpack_from(raw)
    if cookie & COOKIE_MASK != OUTER_COOKIE & COOKIE_MASK:
        raise Malformed("hdr_cookie", f"histogram: cookie {cookie:#x} is not V2 compressed")
    if length != len(raw) - _OUTER.size:
        raise Malformed("hdr_length", f"histogram: header says {length} octets, "
                                      f"{len(raw) - _OUTER.size} follow")
    inflate = zlib.decompressobj()
    try:
        payload = inflate.decompress(raw[_OUTER.size:], _PAYLOAD_MAX)
        # A full buffer leaves the end of the stream unread: ask for one octet more.
        rest = b"" if inflate.eof else inflate.decompress(inflate.unconsumed_tail, 1)
    except zlib.error as error:
        raise Malformed("hdr_zlib", f"histogram: {error}") from None
    if rest or not inflate.eof or inflate.unused_data:
        raise Malformed("hdr_zlib", "histogram: compressed part is cut, too long or followed "
                                    "by something else")
    return payload


def _counts(payload: bytes) -> bytes:
    """The encoded counts, after a check that they mean what ours mean."""
    if len(payload) < _PAYLOAD.size:
        raise Malformed("hdr_length", f"histogram: payload of {len(payload)} octets")
    cookie, length, offset, digits, lowest, _highest, ratio = _PAYLOAD.unpack_from(payload)
    if cookie & COOKIE_MASK != PAYLOAD_COOKIE & COOKIE_MASK:
        raise Malformed("hdr_cookie", f"histogram: payload cookie {cookie:#x} is not V2")
    if length != len(payload) - _PAYLOAD.size:
        raise Malformed("hdr_length", f"histogram: payload says {length} octets of counts, "
                                      f"{len(payload) - _PAYLOAD.size} follow")
    if (offset, digits, lowest, ratio) != (0, SIGNIFICANT_DIGITS, 1, 1.0):
        raise Malformed("hdr_layout", f"histogram: offset {offset}, {digits} digits, lowest "
                                      f"{lowest}, ratio {ratio}; only 0, 3, 1, 1.0 is read")
    return payload[_PAYLOAD.size:]


def _filled(body: bytes) -> Iterator[tuple[int, int]]:
    """(bucket index, count) of every bucket that is not empty."""
    index = total = 0
    for number in _numbers(body):
        index += max(1, -number)
        if index > COUNTS:
            raise Malformed("hdr_counts", f"histogram: more than {COUNTS} buckets")
        if number > 0:
            total += number
            if total > _INT64_MAX:
                raise Malformed("hdr_counts", "histogram: counts exceed 2**63")
            yield index - 1, number


def _numbers(body: bytes) -> Iterator[int]:
    zigzag = shift = 0
    for octet in body:
        if octet & 0x80 and shift < 7 * (_NUMBER_MAX - 1):
            zigzag |= (octet & 0x7F) << shift
            shift += 7
            continue
        zigzag |= octet << shift
        yield (zigzag >> 1) ^ -(zigzag & 1)
        zigzag = shift = 0
    if shift:
        raise Malformed("hdr_counts", "histogram: the last count is cut")
