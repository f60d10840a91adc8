//! Datagrams ↔ bytes: the heartbeat, its authentication, and what is checked before anything is believed.
//!
//! One fixed size, one type. Every datagram is a whole heartbeat; an *answer* is a heartbeat sent at once
//! because the other side needs the vote now (flag `ANSWER`; never answered itself).
//!
//! ```text
//!  off size                                    off size
//!    0   4  magic "dre\0"                      128   8  echo session (the receiver's, as last heard here)
//!    4   1  version = 1                        136   8  echo sent    (the receiver's `sent`, newest on this link)
//!    5   1  link index                         144   4  echo hold, µs between its receipt and this sending
//!    6   1  role                               148   4  D of the sender, µs
//!    7   1  wish                               152   4  lease left, µs
//!    8   2  flags                              156   4  gate shut since, µs (0 = it is open or never was)
//!   10   1  bit mask of the links heard        160   8  term
//!   11   5  zero                               168   8  vote: the term the sender votes for (0 = none)
//!   16  16  group, zero padded                 176   8  wall clock, ms since 1970 (skew alarm only)
//!   32  64  sender's name, zero padded         184  32  digest of the configuration
//!   96   8  session                            216  32  digests of its eight sections
//!  104   8  sequence on this link              248  32  HMAC-SHA256 over all before it
//!  112   8  sent, ns of the sender's boot clock
//!  120   8  zero
//! ```
//!
//! Big endian. The key of a direction is HMAC(cluster key, purpose ‖ group ‖ sender ‖ receiver), so a datagram
//! reflected, or carried to another group or pair, does not verify. Order of checks: length, magic, version,
//! group, sender, MAC; nothing of the content is looked at before the MAC held.
//! Replay is the caller's: session and sequence ([`super::liveness`]).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of every datagram.
pub const LENGTH: usize = 280;
const SIGNED: usize = LENGTH - 32;
const MAGIC: [u8; 4] = *b"dre\0";
/// Wire version; another one is refused and named as the reason.
pub const VERSION: u8 = 1;
/// Longest group name, bytes.
pub const GROUP_MAX: usize = 16;
/// Longest node name, bytes (HOST_NAME_MAX of Linux).
pub const NAME_MAX: usize = 64;

/// What a node is to the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Standby,
    Claiming,
    Active,
    Releasing,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Standby, Self::Claiming, Self::Active, Self::Releasing];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Claiming => "claiming",
            Self::Active => "active",
            Self::Releasing => "releasing",
        }
    }
}

/// What a node would like; carried in every heartbeat, so it cannot be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Wish {
    #[default]
    None,
    /// Let me be active.
    Take,
    /// You be active; I hold back.
    Yield,
}

/// One heartbeat, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub link: u8,
    pub role: Role,
    pub wish: Wish,
    pub flags: Flags,
    /// Bit n: the sender hears the receiver on link n.
    pub links_heard: u8,
    pub session: u64,
    pub sequence: u64,
    pub sent: u64,
    pub echo_session: u64,
    pub echo_sent: u64,
    pub echo_hold_us: u32,
    pub dead_after_us: u32,
    pub lease_left_us: u32,
    pub shut_ago_us: u32,
    pub term: u64,
    pub vote: u64,
    pub wall_ms: i64,
    pub digest: [u8; 32],
    pub sections: [u32; 8],
}

/// Single bits of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Sent at once for its vote; asks for no answer.
    pub answer: bool,
    pub fit: bool,
    /// The gate is open and the addresses usable.
    pub serving: bool,
    pub standalone: bool,
    pub maintenance: bool,
    /// The wish overrides what is safe to override.
    pub force: bool,
}

/// Why a datagram was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// Not the one length there is.
    Length,
    /// Not dre's.
    Magic,
    /// Another wire version: one of the nodes was upgraded beyond what the other understands.
    Version,
    /// Another group's.
    Group,
    /// Not from the peer.
    Sender,
    /// The MAC does not hold: another key, or forged.
    Mac,
    /// Authentic, but a value in it is not one this version knows.
    Content,
    /// Authentic, seen before or overtaken.
    Replay,
}

impl Reject {
    pub const ALL: [Self; 8] = [
        Self::Length,
        Self::Magic,
        Self::Version,
        Self::Group,
        Self::Sender,
        Self::Mac,
        Self::Content,
        Self::Replay,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Group => "group",
            Self::Sender => "sender",
            Self::Mac => "mac",
            Self::Content => "content",
            Self::Replay => "replay",
        }
    }
}

/// Signs what this node sends and checks what the peer sent. Keyed once, at start.
#[derive(Clone)]
pub struct Codec {
    group: [u8; GROUP_MAX],
    own: [u8; NAME_MAX],
    peer: [u8; NAME_MAX],
    sign: Hmac<Sha256>,
    verify: Hmac<Sha256>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec(keys not shown)")
    }
}

/// A name in a field of fixed length: two fields after each other then read the same only if both are.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [0; N];
    let len = text.len().min(N);
    out[..len].copy_from_slice(&text.as_bytes()[..len]);
    out
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length: this cannot fail.
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key length")
}

/// A key for one purpose of one group's: HMAC(cluster key, purpose ‖ group).
pub fn derived(key: &[u8; 32], purpose: &[u8], group: &str) -> Zeroizing<[u8; 32]> {
    let mut derive = keyed(key);
    derive.update(purpose);
    derive.update(&padded::<GROUP_MAX>(group));
    Zeroizing::new(derive.finalize().into_bytes().into())
}

fn direction(key: &[u8; 32], group: &[u8], from: &[u8], to: &[u8]) -> Hmac<Sha256> {
    let mut derive = keyed(key);
    // Every part has a fixed length, so no two directions read the same.
    for part in [b"dre heartbeat v1".as_slice(), group, from, to] {
        derive.update(part);
    }
    keyed(&derive.finalize().into_bytes())
}

impl Codec {
    /// Names longer than the wire carries are refused by the configuration, not here.
    pub fn new(key: &[u8; 32], group: &str, own: &str, peer: &str) -> Self {
        let (group, own, peer) = (padded(group), padded(own), padded(peer));
        let sign = direction(key, &group, &own, &peer);
        let verify = direction(key, &group, &peer, &own);
        Self { group, own, peer, sign, verify }
    }

    /// The bytes that go out.
    pub fn encode(&self, hb: &Heartbeat) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &[VERSION, hb.link, role_to(hb.role), wish_to(hb.wish)]);
        put(8, &flags_to(hb.flags).to_be_bytes());
        put(10, &[hb.links_heard]);
        put(16, &self.group);
        put(32, &self.own);
        put(96, &hb.session.to_be_bytes());
        put(104, &hb.sequence.to_be_bytes());
        put(112, &hb.sent.to_be_bytes());
        put(128, &hb.echo_session.to_be_bytes());
        put(136, &hb.echo_sent.to_be_bytes());
        put(144, &hb.echo_hold_us.to_be_bytes());
        put(148, &hb.dead_after_us.to_be_bytes());
        put(152, &hb.lease_left_us.to_be_bytes());
        put(156, &hb.shut_ago_us.to_be_bytes());
        put(160, &hb.term.to_be_bytes());
        put(168, &hb.vote.to_be_bytes());
        put(176, &hb.wall_ms.to_be_bytes());
        put(184, &hb.digest);
        for (n, section) in hb.sections.iter().enumerate() {
            put(216 + 4 * n, &section.to_be_bytes());
        }
        let mut mac = self.sign.clone();
        mac.update(&out[..SIGNED]);
        out[SIGNED..].copy_from_slice(&mac.finalize().into_bytes());
        out
    }

    /// The heartbeat, or why it is not believed.
    pub fn decode(&self, bytes: &[u8]) -> Result<Heartbeat, Reject> {
        let bytes: &[u8; LENGTH] = bytes.try_into().map_err(|_| Reject::Length)?;
        if bytes[..4] != MAGIC {
            return Err(Reject::Magic);
        }
        if bytes[4] != VERSION {
            return Err(Reject::Version);
        }
        if bytes[16..32] != self.group {
            return Err(Reject::Group);
        }
        if bytes[32..96] != self.peer {
            return Err(Reject::Sender);
        }
        let mut mac = self.verify.clone();
        mac.update(&bytes[..SIGNED]);
        // Constant time; the tag is the whole 32 bytes, so a shortened one has no meaning here.
        mac.verify_slice(&bytes[SIGNED..]).map_err(|_| Reject::Mac)?;

        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Ok(Heartbeat {
            link: bytes[5],
            role: role_from(bytes[6]).ok_or(Reject::Content)?,
            wish: wish_from(bytes[7]).ok_or(Reject::Content)?,
            flags: flags_from(u16::from_be_bytes([bytes[8], bytes[9]])),
            links_heard: bytes[10],
            session: u64_at(96),
            sequence: u64_at(104),
            sent: u64_at(112),
            echo_session: u64_at(128),
            echo_sent: u64_at(136),
            echo_hold_us: u32_at(144),
            dead_after_us: u32_at(148),
            lease_left_us: u32_at(152),
            shut_ago_us: u32_at(156),
            term: u64_at(160),
            vote: u64_at(168),
            wall_ms: i64::from_be_bytes(bytes[176..184].try_into().expect("8 bytes")),
            digest: bytes[184..216].try_into().expect("32 bytes"),
            sections: std::array::from_fn(|n| u32_at(216 + 4 * n)),
        })
    }
}

const fn role_to(role: Role) -> u8 {
    match role {
        Role::Standby => 1,
        Role::Claiming => 2,
        Role::Active => 3,
        Role::Releasing => 4,
    }
}

const fn role_from(byte: u8) -> Option<Role> {
    Some(match byte {
        1 => Role::Standby,
        2 => Role::Claiming,
        3 => Role::Active,
        4 => Role::Releasing,
        _ => return None,
    })
}

const fn wish_to(wish: Wish) -> u8 {
    match wish {
        Wish::None => 0,
        Wish::Take => 1,
        Wish::Yield => 2,
    }
}

const fn wish_from(byte: u8) -> Option<Wish> {
    Some(match byte {
        0 => Wish::None,
        1 => Wish::Take,
        2 => Wish::Yield,
        _ => return None,
    })
}

const fn flags_to(f: Flags) -> u16 {
    f.answer as u16
        | (f.fit as u16) << 1
        | (f.serving as u16) << 2
        | (f.standalone as u16) << 3
        | (f.maintenance as u16) << 4
        | (f.force as u16) << 5
}

/// Unknown bits are a later version's and mean nothing here.
const fn flags_from(bits: u16) -> Flags {
    Flags {
        answer: bits & 1 != 0,
        fit: bits & 2 != 0,
        serving: bits & 4 != 0,
        standalone: bits & 8 != 0,
        maintenance: bits & 16 != 0,
        force: bits & 32 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Heartbeat {
        Heartbeat {
            link: 1,
            role: Role::Active,
            wish: Wish::Yield,
            flags: Flags { answer: true, fit: true, serving: true, ..Flags::default() },
            links_heard: 3,
            session: 0x0102_0304_0506_0708,
            sequence: 99,
            sent: 1_000_000_007,
            echo_session: 77,
            echo_sent: 88,
            echo_hold_us: 15,
            dead_after_us: 500_000,
            lease_left_us: 412_000,
            shut_ago_us: 3,
            term: 7,
            vote: 6,
            wall_ms: 1_795_000_000_000,
            digest: [9; 32],
            sections: [1, 2, 3, 4, 5, 6, 7, 8],
        }
    }

    fn pair() -> (Codec, Codec) {
        let key = [42; 32];
        (Codec::new(&key, "dre", "hadev1", "hadev2"), Codec::new(&key, "dre", "hadev2", "hadev1"))
    }

    #[test]
    fn what_one_node_signs_the_other_reads() {
        let (a, b) = pair();
        assert_eq!(b.decode(&a.encode(&sample())), Ok(sample()));
    }

    /// The layout is a contract with N-1: these bytes may not move.
    #[test]
    fn golden_vector() {
        let (a, _) = pair();
        let bytes = a.encode(&sample());
        assert_eq!(&bytes[..12], b"dre\0\x01\x01\x03\x02\x00\x07\x03\x00");
        assert_eq!(&bytes[96..104], &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(&bytes[160..176], &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 6]);
        let mac: String = bytes[SIGNED..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(mac, GOLDEN_MAC);
    }
    const GOLDEN_MAC: &str = "fb1140c3b570fc5cde07710bcb9e64b83dc9435abcc9ffe211ffc697677a2bd4";

    #[test]
    fn every_single_bit_flipped_is_refused() {
        let (a, b) = pair();
        let good = a.encode(&sample());
        for bit in 0..LENGTH * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(b.decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_reason_has_its_name() {
        let (a, b) = pair();
        let good = a.encode(&sample());
        assert_eq!(b.decode(&[]), Err(Reject::Length));
        assert_eq!(b.decode(&good[..LENGTH - 1]), Err(Reject::Length));
        assert_eq!(b.decode(&[good.as_slice(), &[0]].concat()), Err(Reject::Length));
        let with = |at: usize, byte: u8| {
            let mut bad = good;
            bad[at] = byte;
            bad
        };
        assert_eq!(b.decode(&with(0, 0)), Err(Reject::Magic));
        assert_eq!(b.decode(&with(4, 2)), Err(Reject::Version));
        assert_eq!(b.decode(&with(16, b'x')), Err(Reject::Group));
        assert_eq!(b.decode(&with(32, b'x')), Err(Reject::Sender));
        assert_eq!(b.decode(&with(LENGTH - 1, !good[LENGTH - 1])), Err(Reject::Mac));
        let mut zero_mac = good;
        zero_mac[SIGNED..].fill(0);
        assert_eq!(b.decode(&zero_mac), Err(Reject::Mac));
        // Reflected to its sender: not from the peer.
        assert_eq!(a.decode(&good), Err(Reject::Sender));
        let other_key = Codec::new(&[43; 32], "dre", "hadev2", "hadev1");
        assert_eq!(other_key.decode(&good), Err(Reject::Mac));
        let other_group = Codec::new(&[42; 32], "mysql", "hadev2", "hadev1");
        assert_eq!(other_group.decode(&good), Err(Reject::Group));
    }

    /// The direction is in the key: a peer that renames itself in the clear does not verify either.
    #[test]
    fn a_reflected_datagram_with_names_swapped_does_not_verify() {
        let (a, _) = pair();
        let mut bytes = a.encode(&sample());
        bytes[32..96].copy_from_slice(&padded::<64>("hadev2"));
        assert_eq!(a.decode(&bytes), Err(Reject::Mac));
    }

    #[test]
    fn keys_are_not_shown() {
        assert!(!format!("{:?}", pair().0).contains("42"));
    }
}
