/* DHCPv4 in a frame, as a program in the kernel sees it: found, proved sound, named.
 *
 * A frame from the network is hostile. What is read was copied before, so nobody changes it
 * after it was checked; every offset is bounded, which the verifier proves at load time.
 * Sources: RFC 791, 768, 951, 2131, 2132; linux/if_ether.h.
 */

#define ETHERNET_HEADER 14
#define VLAN_TAG 4
#define MOST_TAGS 3
#define UDP_HEADER 8
#define BOOTP_FIXED 236
#define BOOTP_OPTIONS 240 /* after the cookie */
#define COOKIE 0x63825363
#define SERVER_PORT 67
#define CLIENT_PORT 68
#define OPTION_PAD 0
#define OPTION_MESSAGE_TYPE 53
#define OPTION_END 255
#define MOST_OPTIONS 64
/* As much of a frame as is looked at: an Ethernet frame of 1,500 octets with its tags. */
#define FRAME_SIZE 1536
/* Behind it, room for what is worked with. */
#define NEXT_OPTION (FRAME_SIZE + 8)
#define FRAME_ROOM (FRAME_SIZE + 512)

/* What a frame is; each is exactly one of these. 1 to 8 are the message types of RFC 2132. */
enum kind {
    OTHER = 0, /* not DHCP */
    DISCOVER = 1, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM,
    BOOTP = 9,       /* without a message type */
    OTHER_TYPE = 10, /* FORCERENEW, LEASEQUERY ... */
    MALFORMED = 11,
    FRAGMENT = 12,   /* of a UDP datagram: only the first would say to which port */
    KINDS = 13,
};

/* What a frame is stands beside it, in skb->tc_index, once a program of ours has looked:
 * whoever sees the same skb next, across a veth or a bridge, need not. A new skb has 0 there. */
#define NOTE 0xb000
#define NOTE_MASK 0xf800
#define NOTE_TIMED 0x0400
#define NOTE_REQUEST 0x0200
#define NOTE_HOPS 4
#define NOTE_KIND 15

struct dhcp {
    u32 kind;
    u32 l4;      /* offset of the UDP header */
    u32 l4_size; /* octets from there on that the IP header vouches for */
    u32 xid;     /* as on the wire */
    u32 client;  /* the last four octets of chaddr, as on the wire */
    u8 op, hops;
    bool bad_header; /* the IP header's checksum is wrong */
    struct { u32 source, destination; } address; /* as on the wire */
};

/* What is checked is to be the very register that is used: the verifier sees no other. */
#define exact(number) asm volatile("" : "+r"(number))

static inline __attribute__((always_inline)) u16 be16(const u8 *at) {
    return (u16)at[0] << 8 | at[1];
}

static inline __attribute__((always_inline)) u32 folded(u64 sum) {
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

/* The message type among the options from `at` to `end`; MALFORMED where they overrun. */
static inline __attribute__((always_inline)) u32 message_type(u8 *frame, u64 at, u64 end) {
    /* Nearly everybody puts it first. */
    if (at + 3 <= end && frame[at & 1023] == OPTION_MESSAGE_TYPE && frame[(at + 1) & 1023] == 1) {
        u8 type = frame[(at + 2) & 1023];
        return type == 0 ? MALFORMED : type <= INFORM ? type : OTHER_TYPE;
    }
    /* Kept in memory, whose content the verifier forgets: it then need not follow every way
     * through the loop for every length that an option may have. */
    volatile u32 *next = (u32 *)(frame + NEXT_OPTION);
    *next = at;
    for (int i = 0; i < MOST_OPTIONS; i++) {
        at = *next;
        if (at >= end)
            return BOOTP; /* no END: some clients of 1985 */
        if (at >= FRAME_SIZE)
            return MALFORMED;
        u8 code = frame[at];
        if (code == OPTION_END)
            return BOOTP;
        if (code == OPTION_PAD) {
            *next = at + 1;
            continue;
        }
        if (at + 2 > end || at + 2 >= FRAME_SIZE)
            return MALFORMED;
        u64 size = frame[at + 1];
        if (at + 2 + size > end)
            return MALFORMED;
        if (code == OPTION_MESSAGE_TYPE) {
            u8 type = frame[at + 2];
            return size != 1 || type == 0 ? MALFORMED : type <= INFORM ? type : OTHER_TYPE;
        }
        *next = at + 2 + size;
    }
    return MALFORMED;
}

/* Look at a frame of `size` octets, copied to `frame`, which has FRAME_ROOM octets, as far as
 * FRAME_SIZE reaches. */
static inline __attribute__((always_inline)) void look(u8 *frame, u32 size,
                                                       struct dhcp *seen) {
    u32 at = 12;
    seen->kind = OTHER;
    u16 type = be16(frame + at);
#pragma unroll
    for (int tags = 0; tags < MOST_TAGS; tags++) {
        if (type != 0x8100 && type != 0x88a8)
            break;
        at += VLAN_TAG;
        type = be16(frame + at);
    }
    at += 2;
    if (type != 0x0800 || size < at + 20)
        return;
    u8 version = frame[at] >> 4, words = frame[at] & 15;
    if (frame[at + 9] != 17)
        return;
    u32 total = be16(frame + at + 2), header = words * 4;
    if (version != 4 || words < 5 || total < header + UDP_HEADER || at + total > size) {
        seen->kind = MALFORMED;
        return;
    }
    u64 sum = 0;
#pragma unroll
    for (int i = 0; i < 10; i++)
        sum += *(u16 *)(frame + at + 2 * i);
    if (words > 5)
        for (int i = 10; i < 30; i++)
            if (i < 2 * words)
                sum += *(u16 *)(frame + at + 2 * i);
    seen->bad_header = folded(sum) != 0xffff;
    if (be16(frame + at + 6) & 0x3fff) {
        seen->kind = FRAGMENT;
        return;
    }
    seen->address.source = *(u32 *)(frame + at + 12);
    seen->address.destination = *(u32 *)(frame + at + 16);
    u32 l4 = at + header, end = at + total;
    u16 source = be16(frame + l4), destination = be16(frame + l4 + 2);
    if (destination != SERVER_PORT && destination != CLIENT_PORT)
        return;
    u32 bootp = l4 + UDP_HEADER, length = be16(frame + l4 + 4);
    seen->kind = MALFORMED;
    if (length > total - header)
        return;
    seen->l4 = l4;
    seen->l4_size = length;
    if (length < UDP_HEADER + BOOTP_OPTIONS)
        return;
    const u8 *message = frame + bootp;
    u32 cookie = (u32)be16(message + BOOTP_FIXED) << 16 | be16(message + BOOTP_FIXED + 2);
    seen->op = message[0];
    if ((seen->op != 1 && seen->op != 2) || message[2] > 16 || cookie != COOKIE)
        return;
    seen->hops = message[3];
    seen->xid = *(u32 *)(message + 4);
    seen->client = *(u32 *)(message + 30);
    seen->kind = message_type(frame, bootp + BOOTP_OPTIONS, l4 + length);
}
