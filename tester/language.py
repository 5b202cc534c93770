"""The words of the report, in English and Korean.

A phrase is one sentence in every language that there is, with the same values in it; what is
a field term or the name of an option stays as it is. The line of the success rate is read by
programs: it begins with `success rate:` or `성공률:`, and its next word is the number.
"""

from __future__ import annotations

import os
from typing import NamedTuple

LANGUAGES = ("en", "ko")


class Phrase(NamedTuple):
    """One sentence in each language; `{s}` makes the plural of what `n` counts."""

    en: str
    ko: str


class Language:
    """Says phrases in one language: `words(FAILED, n=3)`."""

    def __init__(self, lang: str) -> None:
        self.lang = lang

    def __call__(self, phrase: Phrase, **values: object) -> str:
        text: str = getattr(phrase, self.lang)
        return text.format(s="" if values.get("n") == 1 else "s", **values)


def choose(lang: str | None) -> Language:
    """That of `lang`, or, where it is None, of the locale; English where that is another one."""
    if lang is None:
        named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
        lang = "ko" if next(filter(None, named), "").startswith("ko") else "en"
    return Language(lang)


def _same(text: str) -> Phrase:
    return Phrase(text, text)


# The verdict, and what stands beside and below it.
VERDICTS = {
    "pass": Phrase("PASS", "통과"), "incomplete": Phrase("INCOMPLETE", "미완료"),
    "generator-bound": Phrase("GENERATOR-BOUND", "발생기 한계"),
    "threshold": Phrase("THRESHOLD MISSED", "기준 미달")}
BOUND_IN = Phrase("{bound:,} of {started:,} bound in {time}",
                  "클라이언트 {started:,}개 중 {bound:,}개 할당 완료 ({time})")
BOUND = Phrase("{bound:,} of {started:,} bound",
               "클라이언트 {started:,}개 중 {bound:,}개 할당 완료")
COMPLETED = Phrase("{done:,} of {begun:,} exchanges completed",
                   "교환 {begun:,}건 중 {done:,}건 완료")
SUCCESS_RATE = Phrase("success rate: {percent:g}%", "성공률: {percent:g}%")
OF_EXCHANGES = Phrase(" ({done:,} of {begun:,} exchanges)", " (교환 {begun:,}건 중 {done:,}건)")

# Why the verdict is what it is.
RING_LOST = Phrase(
    "the tester's own receive ring lost {n:,} frame{s}: the numbers say nothing about the server; "
    "use more --ring-slots or less load",
    "테스터의 수신 링에서 프레임 {n:,}개가 유실되어 이 수치로는 서버를 평가할 수 없습니다: "
    "--ring-slots를 늘리거나 부하를 줄이십시오")
STARTS_MISSED = Phrase(
    "the tester began {n:,} of {begun:,} exchanges over 10 ms late: the load was not what was "
    "asked for; lower the rate",
    "교환 {begun:,}건 중 {n:,}건이 예정보다 10 ms 넘게 늦게 시작되어 요청한 부하를 내지 "
    "못했습니다: 속도를 낮추십시오")
CPU_FULL = Phrase(
    "the tester kept its CPU {busy:.0f} % busy: it was the limit, and the server may be faster "
    "than this",
    "테스터가 CPU를 {busy:.0f} % 사용했습니다: 한계는 테스터이며 서버는 이보다 빠를 수 있습니다")
INTERRUPTED = Phrase("interrupted", "사용자가 중단했습니다")
STOPPED = Phrase("stopped by --max-drop: {n:,} exchange{s} lost",
                 "--max-drop에 따라 중단되었습니다: 유실된 교환 {n:,}건")
NOT_BEGUN = Phrase("{n:,} exchange{s} not begun", "시작하지 못한 교환 {n:,}건")
NONE_BEGUN = Phrase("no exchange was started", "시작된 교환이 없습니다")
FAILED = Phrase("{n:,} exchange{s} did not complete", "완료되지 않은 교환 {n:,}건")
STILL_WAITING = Phrase("{n:,} exchange{s} still waited for an answer at the end",
                       "종료할 때까지 응답을 기다리던 교환 {n:,}건")
LOST_LEGS = {
    "renew": Phrase("{n:,} renewal{s} got no answer", "응답이 없는 갱신 요청 {n:,}건"),
    "rebind": Phrase("{n:,} rebinding{s} got no answer", "응답이 없는 재바인딩 요청 {n:,}건"),
    "reboot": Phrase("{n:,} request{s} after a reboot got no answer",
                     "응답이 없는 재부팅 후 요청 {n:,}건"),
    "inform": Phrase("{n:,} INFORM{s} got no answer", "응답이 없는 INFORM {n:,}건")}
LEASES_LOST = Phrase("{n:,} lease{s} lost: not renewed in time, or refused",
                     "상실한 임대 {n:,}건: 제때 갱신되지 않았거나 거부되었습니다")
NO_ANSWER = Phrase("no answer at all: {hint}", "응답이 전혀 없습니다: {hint}")
ONLY_MALFORMED = Phrase("every answer was malformed", "모든 응답이 잘못된 형식입니다")
TRY_RELAY = Phrase("most servers answer a unicast only to relays: try --relay self",
                   "대부분의 서버는 유니캐스트에 릴레이일 때만 응답합니다: --relay self를 "
                   "사용해 보십시오")
IS_IT_THERE = Phrase("does a server listen at {server}:{port}, and does it serve the network of "
                     "this relay?",
                     "{server}:{port}에서 서버가 동작하며 이 릴레이의 네트워크를 담당하는지 "
                     "확인하십시오")
CHECK_ROUTE = Phrase("check the server's route back to giaddr, and --server-mac",
                     "서버에서 giaddr로 돌아오는 경로와 --server-mac을 확인하십시오")
SAME_SEGMENT = Phrase("is the server on this segment ({interface})?",
                      "서버가 같은 세그먼트({interface})에 있는지 확인하십시오")
SAME_SEGMENTS = Phrase("is the server, or a relay agent, on each of these {n:,} segments?",
                       "이 세그먼트 {n:,}개마다 서버나 릴레이가 있는지 확인하십시오")
ROGUE = Phrase("rogue server {server} ({mac}): OFFER {offers:,}, ACK {acks:,}, NAK {naks:,}",
               "비인가 서버 {server} ({mac}): OFFER {offers:,}, ACK {acks:,}, NAK {naks:,}")
MORE_ROGUES = Phrase("rogue servers besides: {n:,} or more", "그 밖의 비인가 서버: {n:,}개 이상")
SILENT = Phrase("expected server {server} did not answer", "예상한 서버 {server}의 응답이 없습니다")

# Legs, exchanges and other series, and the columns of their table.
LEGS = {
    "discover": _same("DISCOVER → OFFER"), "request": _same("REQUEST → ACK"),
    "reboot": Phrase("reboot → ACK", "재부팅 → ACK"),
    "renew": Phrase("renew → ACK", "갱신 → ACK"),
    "rebind": Phrase("rebind → ACK", "재바인딩 → ACK"), "inform": _same("INFORM → ACK"),
    "release": _same("RELEASE"), "decline": _same("DECLINE")}
SERIES = {
    "dora": Phrase("whole exchange", "전체 교환"),
    "dora_from_intended": Phrase("from intended start", "예정 시각 기준"),
    "rapid_commit": _same("rapid commit"),
    "release_to_free": Phrase("RELEASE → free", "RELEASE → 재할당"),
    "timer_late": Phrase("timers late by", "타이머 지연")}
COUNTS = (Phrase("sent", "송신"), Phrase("answered", "응답"), Phrase("lost", "유실"),
          Phrase("resent", "재전송"))
PERCENTILES = {"p50": _same("p50"), "p90": _same("p90"), "p99": _same("p99"),
               "p99_9": _same("p99.9"), "max": Phrase("max", "최대")}
SERVERS = (Phrase("server", "서버"), _same("MAC"), _same("OFFER"), _same("ACK"), _same("NAK"),
           Phrase("chosen", "선택"))
OTHERS = Phrase("others", "기타")
IS_ROGUE = Phrase("rogue", "비인가")
RELAYS = (Phrase("relay", "릴레이"), Phrase("started", "시작"), Phrase("completed", "완료"),
          Phrase("failed", "실패"), Phrase("mean", "평균"), Phrase("max", "최대"))
INTERFACES = (Phrase("interface", "인터페이스"), Phrase("clients", "클라이언트"),
              Phrase("bound", "할당"), Phrase("failed", "실패"), _same("p50"), _same("p99"),
              Phrase("ring lost", "링 유실"))
ALL_INTERFACES_BOUND = Phrase("all {n:,} interfaces bound all their clients",
                              "인터페이스 {n:,}개 모두에서 모든 클라이언트 할당 완료")
NONE_FAILED_ON_INTERFACES = Phrase("no client failed on any of {n:,} interfaces",
                                   "인터페이스 {n:,}개에서 실패한 클라이언트 없음")
ALL_OF_THEM = Phrase("all {n:,}", "전체 {n:,}개")
AND_MORE = Phrase("and {n:,} more", "외 {n:,}개")

# Facts: their names, and what is said of them.
ALL_BOUND = Phrase("all bound", "전체 할당")
AFTER = Phrase("after {time}", "{time} 소요")
CLIENTS = Phrase("clients", "클라이언트")
EVENTS = {
    "returned": Phrase("{n:,} came back", "재접속 {n:,}건"),
    "silent_leaves": Phrase("{n:,} left without a word", "무응답 이탈 {n:,}건"),
    "leases_expired": Phrase("{n:,} let their lease run out", "임대 만료 {n:,}건")}
ERRORS = Phrase("errors", "오류")
NO_ERRORS = Phrase("none", "없음")
ERROR_NAMES = {
    "discover_timeout": Phrase("discover timeout", "DISCOVER 시간 초과"),
    "request_timeout": Phrase("request timeout", "REQUEST 시간 초과"),
    "renew_timeout": Phrase("renew timeout", "갱신 시간 초과"),
    "rebind_timeout": Phrase("rebind timeout", "재바인딩 시간 초과"),
    "reboot_timeout": Phrase("reboot timeout", "재부팅 시간 초과"),
    "inform_timeout": Phrase("inform timeout", "INFORM 시간 초과"),
    "nak": _same("NAK"),
    "duplicate_address": Phrase("duplicate address", "중복 주소"),
    "malformed": Phrase("malformed", "잘못된 형식"),
    "unknown_xid": Phrase("unknown xid", "알 수 없는 xid"),
    "late": Phrase("late", "늦은 응답"),
    "unexpected_option": Phrase("unexpected option", "기대와 다른 옵션"),
    "duplicate_answer": Phrase("duplicate answer", "중복 응답"),
    "unexpected_answer": Phrase("unexpected answer", "예상 밖의 응답"),
    "wrong_server": Phrase("wrong server", "다른 서버의 응답"),
    "wrong_address": Phrase("wrong address", "다른 주소"),
    "malformed_answered": Phrase("malformed answered", "비정상 메시지에 응답")}
MALFORMED_NAMES = {
    "ip_header": Phrase("ip header", "IP 헤더"),
    "ip_checksum": Phrase("ip checksum", "IP 체크섬"),
    "fragment": Phrase("fragment", "단편"),
    "udp_length": Phrase("udp length", "UDP 길이"),
    "udp_checksum": Phrase("udp checksum", "UDP 체크섬"),
    "bootp_short": Phrase("bootp short", "짧은 BOOTP"),
    "bootp_fields": Phrase("bootp fields", "BOOTP 필드"),
    "cookie": Phrase("cookie", "매직 쿠키"),
    "option_truncated": Phrase("option truncated", "잘린 옵션"),
    "option_length": Phrase("option length", "옵션 길이"),
    "no_message_type": Phrase("no message type", "메시지 유형 없음"),
    "incomplete": Phrase("incomplete", "불완전")}
EXPECTED = Phrase("expected", "기대값")
ALL_MET = Phrase("as expected in {n:,} ACK{s}", "ACK {n:,}건 모두 일치")
NOT_MET = Phrase("{what}: {how} of {n:,} ACK{s}", "{what}: ACK {n:,}건 중 {how}")
UNMET = {"different": Phrase("different in {count:,}", "불일치 {count:,}건"),
         "missing": Phrase("missing in {count:,}", "없음 {count:,}건")}
MALFORMED = Phrase("malformed", "비정상 전송")
MALFORMED_SENT = Phrase("{n:,} sent on purpose, {answered:,} answered",
                        "의도적 전송 {n:,}건, 응답 {answered:,}건")
NEIGHBOURS = Phrase("neighbours", "이웃 응답")
ANSWERED = Phrase("{arp:,} ARP requests and {pings:,} pings answered",
                  "ARP {arp:,}건, ping {pings:,}건에 응답")
LOSSES = Phrase("losses", "손실")
PLACES = {
    "rx_ring": Phrase("receive ring", "수신 링"), "tx_ring": Phrase("transmit ring", "송신 링"),
    "interface": Phrase("interface", "인터페이스"), "softnet": Phrase("CPU backlog", "CPU 백로그"),
    "server_socket": Phrase("server socket", "서버 소켓")}
NONE_IN = Phrase("none in {places}", "{places} 없음")
NOT_MEASURED = Phrase("not measured: {places}", "측정 안 함: {places}")
BEHAVIOUR = Phrase("behaviour", "동작")
FASTER = Phrase("time passes {times:g} times as fast", "시간 {times:g}배속")
LOAD = Phrase("load", "부하")
CLOSED_LOOP = Phrase("closed loop, {n:,} exchange{s} in flight", "폐루프, 동시 교환 {n:,}건")
CONSTANT = Phrase("open loop, {rate} exchanges started per second",
                  "개루프, 초당 교환 {rate}건 시작")
RAMP = Phrase("open loop, rising to {rate} exchanges per second over {time}",
              "개루프, {time} 동안 초당 교환 {rate}건까지 증가")
STAGES = Phrase("open loop in stages, {stages}", "개루프 단계별, {stages}")
STAGE = Phrase("{time} to {rate}/s", "{time} 동안 {rate}/s까지")
AVALANCHE = Phrase("all at once", "모두 동시에 시작")
POISSON = Phrase("at random (Poisson)", "무작위 간격(Poisson)")
PRELOADED = Phrase("{n:,} bound beforehand", "사전 할당 {n:,}건")
WARM_UP = Phrase("first {time} not counted", "처음 {time} 측정 제외")
RENEWALS = Phrase("{rate} renewals per second", "초당 갱신 {rate}건")
RELEASES = Phrase("{rate} releases per second", "초당 해제 {rate}건")
AWAITED = Phrase("answers awaited for {time}", "응답 대기 {time}")
BACKOFF = Phrase("asked again after {first}, at most {longest}",
                 "재시도 {first}부터 최대 {longest}")
TOOK = Phrase("took {time}", "소요 시간 {time}")
GENERATOR = Phrase("generator", "발생기")
ENGINE = Phrase("{engine} engine {place}, {busy:.0f} % of one CPU busy, {n:,} start{s} missed",
                "{engine} 엔진 ({place}), CPU 1개의 {busy:.0f} % 사용, 놓친 시작 {n:,}건")
ON = Phrase("on {interface}", "{interface}")
ON_MANY = Phrase("on {n:,} interfaces", "인터페이스 {n:,}개")
TO = Phrase("to {server}:{port}", "{server}:{port}")
MACHINE = Phrase("machine", "시스템")
CPUS = Phrase("{cpu}, {n:,} CPU{s}, Linux {kernel}", "{cpu}, CPU {n:,}개, Linux {kernel}")
BUSY = Phrase("the generator was busy all the time: the server may be faster than this",
              "발생기가 쉴 틈이 없었습니다: 서버는 이보다 빠를 수 있습니다")
NOBODY = {
    "nobody_to_renew": Phrase("{n:,} renewal{s} left out: no client was bound and idle",
                              "생략된 갱신 {n:,}건: 할당된 유휴 클라이언트가 없었습니다"),
    "nobody_to_release": Phrase("{n:,} release{s} left out: no client was bound and idle",
                                "생략된 해제 {n:,}건: 할당된 유휴 클라이언트가 없었습니다")}

# One line for --verbose.
SO_MANY = Phrase("{n:,} client{s}", "클라이언트 {n:,}개")
FOR = Phrase("for {time}", "{time} 동안")
BY_BROADCAST = Phrase("by broadcast on {interface}", "{interface}에서 브로드캐스트")
BY_BROADCAST_ON_MANY = Phrase("by broadcast on {n:,} interfaces",
                              "인터페이스 {n:,}개에서 브로드캐스트")
AS_RELAYS = Phrase("as {n:,} relay agent{s} on {interface} to {server}:{port}",
                   "{interface}에서 릴레이 {n:,}개로 {server}:{port}에 전송")
BY_SOCKET = Phrase("by UDP from {address}:{local} to {server}:{port}",
                   "{address}:{local}에서 {server}:{port}에 UDP 전송")
AS_ONE_RELAY = Phrase("as a relay agent", "릴레이로")
TAGGED = Phrase("behind {n} VLAN tag{s}", "VLAN 태그 {n}개")

# The live panel.
OF_BOUND = Phrase("{bound:,} of {planned:,} bound", "{planned:,}개 중 {bound:,}개 할당")
NOW = Phrase("now", "현재")
RATES = Phrase("{exchanges:,.0f} exchanges/s, {renewals:,.0f} renewals/s",
               "교환 {exchanges:,.0f}건/s, 갱신 {renewals:,.0f}건/s")
IN_FLIGHT = Phrase("{n:,} in flight, {failed:,} failed", "진행 중 {n:,}건, 실패 {failed:,}건")
LATENCY = Phrase("latency", "지연 시간")
BOUND_PER_S = Phrase("bound/s", "초당 할당")
AT_MOST = Phrase("at most {n:,}", "최대 {n:,}")
