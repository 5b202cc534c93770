/* What passes each interface of a lab, and how long it stayed: two programs for tc.
 *
 * `departs` stands where an interface sends, `arrives` where it receives. There is one of each,
 * however many interfaces: which of them it runs on (its "hook") is told in tc_classid, numbered
 * from 1, by the filter that holds it or by the program of a link that calls it. Neither changes
 * a frame nor decides about it: both let the next one see it.
 *
 * Counts are of every frame. Times are of one exchange in SAMPLE (a power of two), the same ones
 * at every hook, so that what they took here and there adds up. A time is taken from where a
 * message was seen last: across a link from the other end, inside a node from where it came in.
 * A message seen twice before it went on is not timed: nobody knows which of the two went
 * (P. Karn, C. Partridge, 1987).
 *
 * Sources: linux/bpf.h, linux/pkt_cls.h, net/sched/cls_bpf.c.
 */

enum role { CLIENT = 0, SERVER = 1, FORWARDER = 2 };
enum span { LINK = 0, NODE = 1, SPANS = 2 };
/* Timed are the four messages of an exchange. */
enum timed { T_DISCOVER = 0, T_OFFER, T_REQUEST, T_ACK, TIMED = 4 };
#define HOPS 32 /* 0 to 30, and more */
/* Frames whose checksums one CPU verifies in one tick of the kernel's clock. */
#define CHECKS 64
#define NEVER 0
#define TWICE 1

/* Where a hook stands; numbers are the lab's. */
struct hook {
    u32 node, link, role;
};

struct counts {
    u64 packets[KINDS];
    u64 bytes[KINDS];
    u64 hops[HOPS]; /* of requests */
    u64 checked, bad_header, bad_udp;
};

/* A message that was seen at a place and not yet at the next. One that comes to the same slot
 * takes it: a message that never went on makes room by itself, and costs nobody a search. */
struct mark {
    u32 xid, client;
    u32 place; /* the number of a node or link, and which in the lowest bit */
    u32 message;
    u64 since_ns;
};
#define MARKS 65536

/* Nanoseconds, in buckets an eighth of their octave wide. */
#define OCTAVE 8
#define BUCKETS 304
struct times {
    u64 count, sum_ns, least_ns, most_ns, twice;
    u32 buckets[BUCKETS];
};

/* What a CPU works with. */
struct work {
    u8 octets[FRAME_ROOM];
    u64 tick;
    u32 checks;
};

BPF_ARRAY(hooks, struct hook, HOOKS);
/* The two programs, for those of a link, which know the number of their hook and nothing else. */
BPF_PROG_ARRAY(parts, 2);
BPF_PERCPU_ARRAY(counts, struct counts, HOOKS);
BPF_PERCPU_ARRAY(times, struct times, HOOKS * SPANS * TIMED);
BPF_PERCPU_ARRAY(scratch, struct work, 1);
BPF_ARRAY(marks, struct mark, MARKS);

static inline __attribute__((always_inline)) u64 bucket_of(u64 ns) {
    if (ns < OCTAVE)
        return ns;
    u32 octave = 0;
    u64 rest = ns >> 3;
#pragma unroll
    for (int step = 32; step; step >>= 1)
        if (rest >> step) {
            octave += step;
            rest >>= step;
        }
    u64 bucket = (octave << 3) + (ns >> octave);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* Any bit of either changes every bit, as good as: a load generator may well number its clients
 * and its exchanges alike, and on the wire what changes most is the last octet. */
static inline __attribute__((always_inline)) u32 mixed(u32 a, u32 b) {
    u32 hash = a * 2654435761u;
    hash = ((hash ^ hash >> 15) ^ b) * 2246822519u;
    hash = (hash ^ hash >> 13) * 3266489917u;
    return hash ^ hash >> 16;
}

static inline __attribute__((always_inline)) struct mark *slot(const struct mark *mark) {
    u32 number = mixed(mixed(mark->xid, mark->client), mark->place << 2 | mark->message)
               & (MARKS - 1);
    return marks.lookup(&number);
}

static inline __attribute__((always_inline)) bool same(const struct mark *a,
                                                       const struct mark *b) {
    return a->xid == b->xid && a->client == b->client && a->place == b->place
        && a->message == b->message;
}

static inline __attribute__((always_inline)) void store(struct mark *mark) {
    struct mark *there = slot(mark);
    if (!there)
        return;
    if (there->since_ns != NEVER && same(there, mark)) {
        there->since_ns = TWICE;
        return;
    }
    *there = *mark;
}

/* Time passed since the like of `mark` was stored, into row `row`. What was stored serves once. */
static inline __attribute__((always_inline)) void take(struct mark *mark, u32 row) {
    struct mark *there = slot(mark);
    if (!there || there->since_ns == NEVER || !same(there, mark))
        return;
    u64 since = there->since_ns, now = mark->since_ns;
    there->since_ns = NEVER;
    struct times *passed = times.lookup(&row);
    if (!passed)
        return;
    if (since == TWICE) {
        passed->twice += 1;
        return;
    }
    u64 ns = now > since ? now - since : 0;
    if (!passed->count || ns < passed->least_ns)
        passed->least_ns = ns;
    if (ns > passed->most_ns)
        passed->most_ns = ns;
    passed->count += 1;
    passed->sum_ns += ns;
    u64 bucket = bucket_of(ns);
    exact(bucket);
    if (bucket < BUCKETS)
        passed->buckets[bucket] += 1;
}

/* Which of TIMED a message is; TIMED for none. */
static inline __attribute__((always_inline)) u32 timed(u32 kind) {
    return kind == DISCOVER ? T_DISCOVER : kind == OFFER ? T_OFFER : kind == REQUEST ? T_REQUEST
         : kind == ACK || kind == NAK ? T_ACK : TIMED;
}

static inline __attribute__((always_inline)) void follow(const struct hook *hook, u32 number,
                                                         const struct dhcp *seen, bool arrives) {
    u32 message = timed(seen->kind);
    if (message == TIMED)
        return;
    u64 now = bpf_ktime_get_ns();
    bool reply = message & 1;
    u32 row = (number * SPANS + LINK) * TIMED + message;
    struct mark on_link = {seen->xid, seen->client, hook->link << 1 | LINK, message, now};
    struct mark in_node = {seen->xid, seen->client, hook->node << 1 | NODE, message, now};
    if (arrives)
        take(&on_link, row);
    else
        store(&on_link);
    row += TIMED;
    /* The client and the server turn one message into the other; the rest pass it on. */
    u32 first = hook->role == CLIENT ? !arrives : arrives;
    if (hook->role != FORWARDER) {
        if (reply == first)
            return;
        in_node.message = message & ~1u;
    }
    if (first)
        store(&in_node);
    else
        take(&in_node, row);
}

/* Whether the UDP checksum is wrong. 0 is none; a sum over the pseudo header alone is one that
 * the kernel leaves to a network card, and a veth to nobody: that is not corruption. */
static inline __attribute__((always_inline)) bool bad_udp(u8 *frame, const struct dhcp *seen) {
    u32 at = seen->l4, size = seen->l4_size;
    if (at > 96 || size < UDP_HEADER || size > FRAME_SIZE)
        return false;
    u16 said = *(u16 *)(frame + at + 6);
    if (!said)
        return false;
    u64 pseudo = (u64)seen->address.source + seen->address.destination + bpf_htons(17)
               + bpf_htons(size);
    if (folded(pseudo) == said)
        return false;
    u32 end = at + size;
    if (end > FRAME_SIZE)
        return false;
    *(u32 *)(frame + end) = 0; /* sums are of four octets */
    s64 sum = folded(pseudo);
#pragma unroll
    for (int part = 0; part < 3; part++) {
        /* At most 512 octets a call (MAX_BPF_STACK) before Linux 6.13. */
        u32 from = part * 512;
        if (from >= size)
            break;
        u32 octets = size - from > 512 ? 512 : size - from;
        octets = (octets + 3) & ~3u;
        if (octets > 512)
            break;
        sum = bpf_csum_diff(0, 0, (void *)(frame + at + from), octets, sum);
    }
    return folded((u32)sum) != 0xffff;
}

/* Copy the frame and look at it; its `kind` stays OTHER where it is not IPv4. */
static inline __attribute__((always_inline)) void look_at(struct __sk_buff *skb,
                                                          struct work *copy, struct dhcp *seen) {
    u32 protocol = skb->protocol;
    if (protocol != bpf_htons(0x0800) && protocol != bpf_htons(0x8100)
        && protocol != bpf_htons(0x88a8))
        return;
    u64 size = skb->len;
    if (size > FRAME_SIZE)
        size = FRAME_SIZE;
    exact(size);
    if (size >= ETHERNET_HEADER + 20 && !bpf_skb_load_bytes(skb, 0, copy->octets, size))
        look(copy->octets, skb->len, seen);
}

/* Whether there is time to add up this frame: at most CHECKS a CPU in each tick of the clock. */
static inline __attribute__((always_inline)) bool in_time(struct work *work) {
    u64 now = bpf_jiffies64();
    if (work->tick != now) {
        work->tick = now;
        work->checks = CHECKS;
    }
    if (!work->checks)
        return false;
    work->checks -= 1;
    return true;
}

static inline __attribute__((always_inline)) u32 note(const struct dhcp *seen) {
    u32 text = NOTE | seen->kind;
    if (seen->kind == OTHER || seen->kind > OTHER_TYPE)
        return text;
    if (seen->op == 1)
        text |= NOTE_REQUEST;
    if (timed(seen->kind) != TIMED
        && !(mixed(seen->xid, seen->client) & (SAMPLE - 1)))
        text |= NOTE_TIMED;
    return text | (seen->hops < HOPS ? seen->hops : HOPS - 1) << NOTE_HOPS;
}

static inline __attribute__((always_inline)) int pass(struct __sk_buff *skb, bool arriving) {
    u32 number = skb->tc_classid - 1, zero = 0;
    struct hook *hook = hooks.lookup(&number);
    struct counts *count = counts.lookup(&number);
    struct work *work = scratch.lookup(&zero);
    if (!hook || !count || !work)
        return TC_ACT_UNSPEC;
    struct dhcp seen = {};
    u32 text = skb->tc_index;
    bool noted = (text & NOTE_MASK) == NOTE;
    bool check = arriving && in_time(work);
    if (!noted || check || text & NOTE_TIMED)
        look_at(skb, work, &seen);
    if (!noted) {
        text = note(&seen);
        skb->tc_index = text;
    }
    u32 kind = text & NOTE_KIND;
    if (kind >= KINDS) /* somebody else's */
        kind = OTHER;
    count->packets[kind] += 1;
    /* A tag that the kernel took off is beside the frame, not away. */
    count->bytes[kind] += skb->len + (skb->vlan_present ? VLAN_TAG : 0);
    if (text & NOTE_REQUEST)
        count->hops[text >> NOTE_HOPS & (HOPS - 1)] += 1;
    if (check && kind != OTHER) {
        count->checked += 1;
        count->bad_header += seen.bad_header;
        count->bad_udp += seen.l4 && bad_udp(work->octets, &seen);
    }
    if (text & NOTE_TIMED)
        follow(hook, number, &seen, arriving);
    return TC_ACT_UNSPEC;
}

int arrives(struct __sk_buff *skb) {
    return pass(skb, true);
}

int departs(struct __sk_buff *skb) {
    return pass(skb, false);
}
