//! The lease stream: what dre-elect and dre-vip say to each other.
//!
//! A `SOCK_SEQPACKET` unix socket, `/run/dre/lease`, 0600, owned by user `dre`; dre-elect makes it and
//! listens, dre-vip connects, each checks the other's uid. One
//! message a packet, postcard, at most [`MESSAGE_MAX`] bytes. When the stream closes, dre-vip shuts the gate.
//!
//! Its own socket and not the control socket's `Watch`: these packets are the takeover path, and a
//! JSON parser and an operator's slow client have no business on it.

use serde::{Deserialize, Serialize};

use crate::logic::time::Moment;

/// Longest message, bytes.
pub const MESSAGE_MAX: usize = 1024;

/// dre-elect to dre-vip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Answer for the VIPs until this moment and no longer. Sent again whenever the lease grows.
    /// The first one of a term brings the addresses up and announces them.
    ///
    /// A gate that is open is kept open. One that is shut, or whose deadline has passed, is opened only before
    /// `open_by`: after it, dre-vip stores nothing and reports [`Report::Shut`] with serial 0. While the peer does not vouch for
    /// this node, a silence on the wire is what the peer waits for, so a gate that lapsed must not open again by an order
    /// that lay in a queue.
    Hold { until: Moment, term: u64, open_by: Moment },
    /// Shut the gate now, then take the addresses away. Answered by [`Report::Shut`] with the same number.
    Drop { serial: u64 },
    /// Probe the wire for foreign holders every so many microseconds; 0 = stop probing. `round` comes back
    /// in the reports, so that answers to an earlier round count for nothing. `defer`: another's *probe* for the same VIP
    /// counts as an answer too (two nodes that probe at once must not both find the wire quiet; one of the two defers).
    Probe { every_us: u32, round: u64, defer: bool },
    /// Announce every held VIP again, from the first round on (after two were active).
    Announce,
    /// dre-elect runs by the configuration with this digest. One that dre-vip has read anew is taken up with this word and not
    /// before. Sent at the start of a stream and after each reload.
    Adopt { digest: [u8; 32] },
}

/// dre-vip to dre-elect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// First message on a stream, and again after each reload and when the kind changes: the gate is there (and shut, at the
    /// start of a stream); `digest` is that of the configuration dre-vip runs with.
    Armed { gate: GateKind, digest: [u8; 32] },
    /// An [`Order::Hold`] was carried out: the deadline is in the kernel's map. Silence here means that
    /// dre-vip hangs.
    Stored { until: Moment },
    /// The gate is shut: nothing of this node answers for a VIP. `serial` is the order's; 0 = it shut by itself.
    Shut { serial: u64 },
    /// The gate is open and the addresses usable; announcing has begun. `at` = when the gate opened.
    Open { term: u64, at: Moment },
    /// At `at` a probe had really gone out on every interface with VIPs.
    Probed { round: u64, at: Moment },
    /// A foreign MAC answers for (or announces) the VIP with this index in the configuration.
    Foreign { round: u64, at: Moment, vip: u32, mac: [u8; 6] },
    /// How many VIPs are wanted, on the interfaces, announced. Sent when one of them changes.
    Vips { wanted: u32, held: u32, announced: u32 },
    /// A service interface changed. `unfit`: why VIPs cannot be served there, `None` = they can.
    Interface { name: String, unfit: Option<String> },
    /// Something an operator must see; `None` clears the alarm of that name.
    Alarm { name: String, text: Option<String> },
}

/// How the VIPs are bound to the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GateKind {
    /// A BPF program compares the kernel's boot clock with the deadline: exact, whatever is frozen.
    Bpf,
    /// The kernel refused BPF: addresses with lifetimes of whole seconds.
    Lifetimes,
    /// The kernel takes the programs, but an interface is without them, or a VIP unknown to them.
    Unguarded,
}

/// Writes a message into `buffer`; the part that was used comes back.
pub fn encode<'b, M: Serialize>(message: &M, buffer: &'b mut [u8; MESSAGE_MAX]) -> Option<&'b [u8]> {
    postcard::to_slice(message, buffer).ok().map(|used| &*used)
}

/// Reads a message; `None` unless it is exactly one.
pub fn decode<'b, M: Deserialize<'b>>(packet: &'b [u8]) -> Option<M> {
    match postcard::take_from_bytes(packet) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_and_a_longer_or_shorter_one_does_not() {
        let order = Order::Hold { until: Moment::from_nanos(123_456_789), term: 7, open_by: Moment::ZERO };
        let mut buffer = [0; MESSAGE_MAX];
        let packet = encode(&order, &mut buffer).expect("fits").to_vec();
        assert_eq!(decode::<Order>(&packet), Some(order));
        assert_eq!(decode::<Order>(&packet[..packet.len() - 1]), None);
        assert_eq!(decode::<Order>(&[packet.as_slice(), &[0]].concat()), None);
    }
}
