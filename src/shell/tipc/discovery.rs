//! Who speaks TIPC on the bearers, read from discovery messages on the wire.

use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::shell::tipc::{to_bytes, word};

/// Discovery messages older than this say nothing of now.
const SOUGHT_WITHIN: Duration = Duration::from_secs(6);

/// Who speaks TIPC on the bearers, read from discovery messages on the wire: the kernel drops those of other networks
/// without a word, and an operator needs one. Open only while something is wrong.
pub struct Discovery {
    network_id: u32,
    local: TipcAddress,
    peer: Option<TipcAddress>,
    bearers: Vec<Listened>,
    socket: Option<Socket>,
}

/// A bearer's interface, and how lately the peer looked for neighbours there.
struct Listened {
    interface: String,
    index: u32,
    sought: Vec<Moment>,
}

/// How the wire explains what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Somebody of another network, or with our own address.
    pub strange: Option<String>,
    /// A bearer of the peer is on the wrong network.
    pub crossed: Option<String>,
}

impl Discovery {
    /// Closed.
    pub fn new(tipc: &Tipc) -> Self {
        let bearers = tipc.bearers.iter().map(|b| Listened {
            interface: b.interface.clone(),
            index: nix::net::if_::if_nametoindex(b.interface.as_str()).unwrap_or(0),
            sought: vec![],
        });
        let (network_id, local, peer) = (tipc.network_id, tipc.local, tipc.peer);
        Self { network_id, local, peer, bearers: bearers.collect(), socket: None }
    }

    /// What has come since the last look. `up`: the kernel's links, by bearer.
    pub fn look(&mut self, now: Moment, up: &[bool]) -> Seen {
        self.listen(now).map_or_else(Seen::default, |strange| {
            let crossed = self.crossed(now, up);
            Seen { strange, crossed }
        })
    }

    /// Reads what is there; `None` if the socket is not to be had.
    fn listen(&mut self, now: Moment) -> Option<Option<String>> {
        if self.socket.is_none() {
            // ETH_P_TIPC of linux/if_ether.h; SOCK_DGRAM: without the Ethernet header.
            let protocol = Protocol::from(i32::from(0x88ca_u16.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).ok()?;
            socket.set_nonblocking(true).ok()?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_ref()?;
        let mut said = None;
        let mut frame = [MaybeUninit::<u8>::uninit(); 64];
        for _ in 0..256 {
            let Ok((len, from)) = socket.recv_from(&mut frame) else { break };
            // SAFETY: the kernel has written the first `len` bytes.
            let bytes: Vec<u8> = frame[..len.min(64)].iter().map(|b| unsafe { b.assume_init() }).collect();
            // struct sockaddr_ll: the interface's index is its second word.
            let index = word(&to_bytes(&from), 4);
            let Some(bearer) = self.bearers.iter_mut().find(|b| b.index == index) else { continue };
            let Some((sender, id)) = discovery(&bytes) else { continue };
            said = strange(sender, id, &bearer.interface, self.network_id, self.local).or(said);
            if Some(sender) == self.peer && id == self.network_id {
                bearer.sought.push(now);
            }
        }
        Some(said)
    }

    /// A bearer whose link is up asks for neighbours once a minute (net/tipc/discover.c: TIPC_DISC_SLOW); one that has found
    /// nobody asks every second. So a peer that goes on asking where its link is up, while another link is down, has two bearers
    /// on this network.
    fn crossed(&mut self, now: Moment, up: &[bool]) -> Option<String> {
        for bearer in &mut self.bearers {
            bearer.sought.retain(|at| now.since(*at) < SOUGHT_WITHIN);
        }
        let down = up.iter().position(|up| !up)?;
        let busy = self.bearers.iter().zip(up).find(|(b, up)| **up && b.sought.len() >= 3)?.0;
        Some(format!(
            "the peer looks for a neighbour on {} though the link there is up, and the link on {} is down: its bearer is \
             cabled to the network of {0}; compare the cables with [heartbeat.tipc] bearers",
            busy.interface, self.bearers[down].interface
        ))
    }

    pub fn close(&mut self) {
        self.socket = None;
        for bearer in &mut self.bearers {
            bearer.sought.clear();
        }
    }
}

/// Sender and network id of a discovery message. net/tipc/msg.h: words of 32 bits in network order; the user in bits 25
/// to 28 of word 0 (13 = LINK_CONFIG), the sender in word 3, the network id in word 4.
fn discovery(frame: &[u8]) -> Option<(TipcAddress, u32)> {
    let at = |n: usize| Some(u32::from_be_bytes(*frame.get(n * 4..n * 4 + 4)?.first_chunk::<4>()?));
    let (first, sender, id) = (at(0)?, at(3)?, at(4)?);
    (first >> 25 & 0xf == 13).then_some((TipcAddress(sender), id))
}

/// What is strange about who looks for neighbours.
fn strange(
    sender: TipcAddress,
    id: u32,
    interface: &str,
    network_id: u32,
    local: TipcAddress,
) -> Option<String> {
    if id != network_id {
        return Some(format!(
            "on {interface} TIPC node {sender} speaks for network {id}, this node is of network {network_id}: nodes of different \
             networks do not talk; make network_id in [heartbeat.tipc] the same on both nodes and reboot the changed one"
        ));
    }
    (sender == local).then(|| {
        format!(
            "on {interface} another machine has this node's TIPC address {local}; give each node its own tipc = \"Z.C.N\" \
             and reboot the changed one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_message_of_another_network_or_of_our_own_address_is_strange() {
        let message = |user: u32, sender: u32, id: u32| -> Vec<u8> {
            [2 << 29 | user << 25, 0, 0, sender, id, 0].iter().flat_map(|w: &u32| w.to_be_bytes()).collect()
        };
        let judge = |bytes: &[u8]| {
            let (sender, id) = discovery(bytes)?;
            strange(sender, id, "eth3", 1983, TipcAddress(0x0100_1017))
        };
        assert_eq!(judge(&message(13, 0x0100_101d, 1983)), None);
        let text = judge(&message(13, 0x0100_101d, 4711)).expect("another network");
        assert!(text.contains("eth3") && text.contains("network 4711") && text.contains("1.1.29"), "{text}");
        let text = judge(&message(13, 0x0100_1017, 1983)).expect("the same address");
        assert!(text.contains("this node's TIPC address 1.1.23"), "{text}");
        // Another user's message, and a short one.
        assert_eq!(judge(&message(7, 0x0100_1017, 4711)), None);
        assert_eq!(judge(&message(13, 0, 0)[..19]), None);
    }

    #[test]
    fn a_peer_that_goes_on_asking_where_its_link_is_up_is_cabled_wrong() {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let listened = |interface: &str, sought: &[u64]| Listened {
            interface: interface.into(),
            index: 0,
            sought: sought.iter().map(|ms| at(*ms)).collect(),
        };
        let mut discovery = Discovery {
            network_id: 1983,
            local: TipcAddress(1),
            peer: Some(TipcAddress(2)),
            bearers: vec![listened("eth3", &[1000, 2000, 3000]), listened("eth4", &[])],
            socket: None,
        };
        assert_eq!(discovery.crossed(at(3500), &[true, true]), None);
        let text = discovery.crossed(at(3500), &[true, false]).expect("crossed");
        assert!(text.contains("on eth3") && text.contains("link on eth4 is down"), "{text}");
        assert_eq!(discovery.crossed(at(7500), &[true, false]), None, "long ago");
    }
}
