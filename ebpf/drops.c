/* Where the kernel throws away a frame of a lab, and why: skb:kfree_skb.
 *
 * What the frame was is not read from it, whose octets may be anywhere, but from the note that
 * the programs of path.c leave beside it. Where fields stand is told by the kernel's own BTF
 * (AT_...): headers of another kernel compile this program just as well.
 *
 * Sources: include/trace/events/skb.h, include/net/dropreason-core.h.
 */

struct place {
    u32 namespace; /* inode of the network namespace */
    u32 ifindex;   /* 0: not known any more */
    u32 reason, kind;
    u64 location; /* of the call that gave up the frame */
};

/* By reason: whether a loss is told place by place. The rest are the ordinary ends of frames. */
BPF_ARRAY(wanted, u32, REASONS);
/* The namespaces that are looked at, by inode; and whether UDP sockets alone listen there. */
BPF_HASH(watched, u32, u32, NAMESPACES);
BPF_TABLE("percpu_hash", struct place, u64, drops, 4096);

#define READ(to, from, at) bpf_probe_read_kernel(&(to), sizeof(to), (void *)((from) + (at)))

static inline __attribute__((always_inline)) u32 inode_of(u64 net) {
    u32 inode = 0;
    if (net)
        READ(inode, net, AT_NET_INODE);
    return inode;
}

int dropped(struct bpf_raw_tracepoint_args *ctx) {
    u32 reason = ctx->args[2];
    if (reason >= REASONS)
        reason = REASONS - 1;
    u64 location = ctx->args[1];
    /* A broadcast for which there was no socket may have no reason of its own. */
    if (location - UNHEARD_0 < UNHEARD_0_SIZE || location - UNHEARD_1 < UNHEARD_1_SIZE)
        if (reason == NOT_SPECIFIED)
            reason = UNHEARD;
    u32 *want = wanted.lookup(&reason);
    if (!want || !*want)
        return 0;
    u64 skb = ctx->args[0], dev = 0, net = 0;
    struct place place = {.reason = reason, .location = location};
    READ(dev, skb, AT_DEV);
    if (dev && !READ(net, dev, AT_DEV_NET))
        READ(place.ifindex, dev, AT_DEV_INDEX);
    place.namespace = inode_of(net);
#ifdef HAS_SOCKET
    /* In a socket's queue the device is gone, and something else stands in its place. */
    if (!watched.lookup(&place.namespace) && ctx->args[3]) {
        net = 0;
        place.ifindex = 0;
        READ(net, ctx->args[3], AT_SOCKET_NET);
        place.namespace = inode_of(net);
    }
#endif
    u32 *by_udp = watched.lookup(&place.namespace);
    if (!by_udp || (reason == UNHEARD && !*by_udp))
        return 0;
    u16 note = 0;
    READ(note, skb, AT_NOTE);
    place.kind = (note & NOTE_MASK) == NOTE ? note & NOTE_KIND : OTHER;
    if (place.kind >= KINDS) /* somebody else's */
        place.kind = OTHER;
    u64 one = 1, *count = drops.lookup(&place);
    if (count)
        *count += 1;
    else
        drops.update(&place, &one);
    return 0;
}
