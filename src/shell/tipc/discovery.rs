//! Who speaks TIPC on the bearers, read from discovery messages on the wire: the kernel drops those of other networks
//! without a word, and an operator needs one. Open only while something is wrong.

use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Tipc, TipcAddress};
use crate::logic::time::Moment;
use crate::shell::tipc::{to_bytes, word};

/// Discovery messages older than this say nothing of now. A bearer that has found nobody sends one every second, and one
/// that is lost must not end an alarm.
const HOLDS: Duration = Duration::from_secs(6);
/// So many questions in each of two such spans, one after the other, are a habit.
const ASKS: usize = 3;
const STEADY: Duration = Duration::from_secs(3);
/// Frames read at a look; of each only the beginning.
const LOOK_MAX: usize = 256;

pub struct Discovery {
    network_id: u32,
    local: TipcAddress,
    peer: Option<TipcAddress>,
    bearers: Vec<Listened>,
    socket: Option<Socket>,
    /// Somebody of another network, or with our own address; when it was last seen.
    strange: Option<(Moment, String)>,
    /// Our own discovery came back to us.
    own: Option<(Moment, String)>,
    /// The peer asks where it need not.
    busy: Option<(Moment, String)>,
}

/// A bearer's interface as it is now, and how lately the peer looked for neighbours there.
#[derive(Debug, Default)]
struct Listened {
    interface: String,
    /// 0: there is none of that name (now).
    index: u32,
    mac: Option<[u8; 6]>,
    sought: Vec<Moment>,
}

/// How the wire explains what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Somebody of another network, or with our own address.
    pub strange: Option<String>,
    /// A bearer of this node or of the peer is on the wrong network.
    pub crossed: Option<String>,
    /// The wire cannot be looked at.
    pub refused: Option<String>,
}

/// What is used of a discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    sender: TipcAddress,
    network_id: u32,
    mac: [u8; 6],
}

impl Discovery {
    /// Closed.
    pub fn new(tipc: &Tipc) -> Self {
        let bearers =
            tipc.bearers.iter().map(|b| Listened { interface: b.interface.clone(), ..Listened::default() });
        Self {
            network_id: tipc.network_id,
            local: tipc.local,
            peer: tipc.peer,
            bearers: bearers.collect(),
            socket: None,
            strange: None,
            own: None,
            busy: None,
        }
    }

    /// What has come since the last look, and what was seen so lately that it still holds. `up`: the kernel's links, by
    /// bearer.
    pub fn look(&mut self, now: Moment, up: &[bool]) -> Seen {
        let refused = self.listen(now).err().map(|error| {
            format!(
                "TIPC's discovery messages cannot be read ({error}): a wrong network id, address or cable cannot be named; \
                 dre.service needs CAP_NET_RAW and AF_PACKET"
            )
        });
        Seen { refused, ..self.stands(now, up) }
    }

    fn stands(&mut self, now: Moment, up: &[bool]) -> Seen {
        let lately = |found: &Option<(Moment, String)>| {
            found.clone().filter(|(at, _)| now.since(*at) < HOLDS).map(|(_, text)| text)
        };
        let (strange, own) = (lately(&self.strange), lately(&self.own));
        Seen { strange, crossed: own.or_else(|| self.crossed(now, up)), refused: None }
    }

    fn listen(&mut self, now: Moment) -> std::io::Result<()> {
        // An interface that went and came back has another index, and may have another address.
        for bearer in &mut self.bearers {
            bearer.index = nix::net::if_::if_nametoindex(bearer.interface.as_str()).unwrap_or(0);
            bearer.mac = mac_of(&bearer.interface);
        }
        if self.socket.is_none() {
            // ETH_P_TIPC of linux/if_ether.h; SOCK_DGRAM: without the Ethernet header.
            let protocol = Protocol::from(i32::from(0x88ca_u16.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        let mut frame = [MaybeUninit::<u8>::uninit(); 64];
        for _ in 0..LOOK_MAX {
            let Some(Ok((len, from))) = self.socket.as_ref().map(|s| s.recv_from(&mut frame)) else { break };
            // SAFETY: the kernel has written the first `len` bytes.
            let bytes: Vec<u8> = frame[..len.min(64)].iter().map(|b| unsafe { b.assume_init() }).collect();
            // struct sockaddr_ll: the interface's index is its second word.
            self.note(now, word(&to_bytes(&from), 4), &bytes);
        }
        Ok(())
    }

    /// A frame that came in on the interface of this index.
    fn note(&mut self, now: Moment, index: u32, frame: &[u8]) {
        let Some(at) = self.bearers.iter().position(|b| b.index == index && index != 0) else { return };
        let Some(message) = discovery(frame) else { return };
        let own = self.bearers.iter().position(|b| b.mac == Some(message.mac));
        let here = &self.bearers[at].interface;
        if message.network_id != self.network_id {
            self.strange = Some((
                now,
                format!(
                    "on {here} TIPC node {} speaks for network {}, this node is of network {}: nodes of different networks do not \
                     talk; make network_id in [heartbeat.tipc] the same on both nodes and reboot the one that changes",
                    message.sender, message.network_id, self.network_id
                ),
            ));
        } else if let Some(other) = own {
            let (one, two) = (&self.bearers[at.min(other)].interface, &self.bearers[at.max(other)].interface);
            let what = if at == other {
                format!("what this node sends on {here} comes back to it there: a loop in that network")
            } else {
                format!(
                    "bearers {one} and {two} of this node are on one network: what one sends comes in on the other"
                )
            };
            self.own =
                Some((now, format!("{what}; compare this node's cables with [heartbeat.tipc] bearers")));
        } else if message.sender == self.local {
            self.strange = Some((
                now,
                format!(
                    "on {here} another machine has this node's TIPC address {}; give each node its own tipc = \"Z.C.N\" under \
                     [nodes] and reboot the one that changes",
                    self.local
                ),
            ));
        } else if Some(message.sender) == self.peer {
            self.bearers[at].sought.push(now);
        }
    }

    /// A bearer that has found nobody asks for neighbours every second, for ever; one whose link is up, or that was just enabled, ever
    /// more seldom (net/tipc/discover.c: 125 ms, doubled each time, up to a minute). So a peer that goes on asking every second where
    /// its link is up, while another link is down, has two bearers on this network.
    fn crossed(&mut self, now: Moment, up: &[bool]) -> Option<String> {
        for bearer in &mut self.bearers {
            bearer.sought.retain(|at| now.since(*at) < 2 * STEADY);
        }
        let down = up.iter().position(|up| !up)?;
        let steadily = |bearer: &Listened| {
            let lately = bearer.sought.iter().filter(|at| now.since(**at) < STEADY).count();
            lately >= ASKS && bearer.sought.len() - lately >= ASKS
        };
        if let Some((busy, _)) = self.bearers.iter().zip(up).find(|(b, up)| **up && steadily(b)) {
            self.busy = Some((
                now,
                format!(
                    "the peer looks for a neighbour on {0} though the link there is up, and the link on {1} is down: both bearers of the \
                     peer are on the network of {0}; compare the peer's cables with [heartbeat.tipc] bearers",
                    busy.interface, self.bearers[down].interface
                ),
            ));
        }
        // What was seen last holds for a while, as all of it does.
        self.busy.clone().filter(|(at, _)| now.since(*at) < HOLDS).map(|(_, text)| text)
    }

    /// The kernel takes such a socket off its lists only when every processor has passed a quiet point (an RCU grace period,
    /// milliseconds): not in the loop.
    fn drop_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            // Where no thread can be had it is closed here all the same.
            let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(socket));
        }
    }

    pub fn close(&mut self) {
        self.drop_socket();
        (self.strange, self.own, self.busy) = (None, None, None);
        for bearer in &mut self.bearers {
            bearer.sought.clear();
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.drop_socket();
    }
}

/// The hardware address of an Ethernet interface; sysfs answers from memory.
fn mac_of(interface: &str) -> Option<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address")).ok()?;
    let bytes: Option<Vec<u8>> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// net/tipc/msg.h: words of 32 bits in network order; the user in bits 25 to 28 of word 0 (13 = LINK_CONFIG), the sender in
/// word 3, the network id in word 4; from word 5 on 32 bytes of media address, of which byte 3 is the medium (1 = Ethernet)
/// and bytes 4 to 9 are the hardware address.
fn discovery(frame: &[u8]) -> Option<Message> {
    let at = |n: usize| Some(u32::from_be_bytes(*frame.get(n * 4..n * 4 + 4)?.first_chunk::<4>()?));
    let (first, sender, network_id) = (at(0)?, TipcAddress(at(3)?), at(4)?);
    let mac = *frame.get(24..30)?.first_chunk::<6>()?;
    (first >> 25 & 0xf == 13 && frame[23] == 1).then_some(Message { sender, network_id, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: TipcAddress = TipcAddress(0x0100_1017);
    const PEER: TipcAddress = TipcAddress(0x0100_101d);

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// eth3 and eth4 with the indexes 3 and 4 and the MACs 02:…:03 and 02:…:04.
    fn listening() -> Discovery {
        let listened = |interface: &str, n: u8| Listened {
            interface: interface.into(),
            index: u32::from(n),
            mac: Some([2, 0, 0, 0, 0, n]),
            sought: vec![],
        };
        Discovery {
            network_id: 1983,
            local: OWN,
            peer: Some(PEER),
            bearers: vec![listened("eth3", 3), listened("eth4", 4)],
            socket: None,
            strange: None,
            own: None,
            busy: None,
        }
    }

    fn message(user: u32, sender: TipcAddress, id: u32, mac: u8) -> Vec<u8> {
        let mut frame: Vec<u8> =
            [2 << 29 | user << 25, 0, 0, sender.0, id].iter().flat_map(|w: &u32| w.to_be_bytes()).collect();
        frame.extend([0, 0, 0, 1, 2, 0, 0, 0, 0, mac]);
        frame.resize(60, 0);
        frame
    }

    /// What stands after these frames, at `now`.
    fn said(frames: &[(u64, u32, Vec<u8>)], now: u64, up: &[bool]) -> (Option<String>, Option<String>) {
        let mut discovery = listening();
        for (ms, index, frame) in frames {
            discovery.note(at(*ms), *index, frame);
        }
        let seen = discovery.stands(at(now), up);
        (seen.strange, seen.crossed)
    }

    #[test]
    fn another_network_or_our_own_address_on_another_machine_is_strange() {
        let up = [true, false];
        assert_eq!(said(&[(0, 3, message(13, PEER, 1983, 9))], 1, &up), (None, None));
        let (strange, crossed) = said(&[(0, 3, message(13, PEER, 4711, 9))], 1, &up);
        let text = strange.expect("another network");
        assert!(text.contains("eth3") && text.contains("network 4711") && text.contains("1.1.29"), "{text}");
        assert_eq!(crossed, None);
        let (strange, crossed) = said(&[(0, 4, message(13, OWN, 1983, 9))], 1, &up);
        let text = strange.expect("the same address");
        assert!(text.contains("on eth4 another machine has this node's TIPC address 1.1.23"), "{text}");
        assert_eq!(crossed, None);
        // Another user's message, a short one, another medium's, one from an interface that is no bearer.
        assert_eq!(said(&[(0, 3, message(7, OWN, 4711, 9))], 1, &up), (None, None));
        assert_eq!(said(&[(0, 3, message(13, OWN, 4711, 9)[..29].to_vec())], 1, &up), (None, None));
        assert_eq!(said(&[(0, 7, message(13, OWN, 4711, 9))], 1, &up), (None, None));
        assert_eq!(said(&[(0, 0, message(13, OWN, 4711, 9))], 1, &up), (None, None));
    }

    /// The node's own discovery comes in on its other bearer: no other machine, but a wrong cable of this one.
    #[test]
    fn two_bearers_of_this_node_on_one_network_are_no_other_machine() {
        for (index, mac) in [(3, 4), (4, 3)] {
            let (strange, crossed) = said(&[(0, index, message(13, OWN, 1983, mac))], 1, &[true, false]);
            assert_eq!(strange, None);
            let text = crossed.expect("a wrong cable");
            assert!(text.starts_with("bearers eth3 and eth4 of this node are on one network"), "{text}");
        }
        let (strange, crossed) = said(&[(0, 3, message(13, OWN, 1983, 3))], 1, &[true, false]);
        assert_eq!(strange, None);
        assert!(crossed.is_some_and(|text| text.contains("a loop")));
    }

    /// Looks come twice a second, discovery once, and a frame may be lost.
    #[test]
    fn what_was_seen_holds_for_a_while() {
        for frame in [message(13, PEER, 4711, 9), message(13, OWN, 1983, 4)] {
            let stands = |now| {
                let (strange, crossed) = said(&[(0, 3, frame.clone())], now, &[true, false]);
                strange.or(crossed).is_some()
            };
            assert!(stands(500) && stands(3000) && stands(5999));
            assert!(!stands(6000));
        }
    }

    #[test]
    fn a_peer_that_goes_on_asking_where_its_link_is_up_is_cabled_wrong() {
        let frames = |times: &[u64]| -> Vec<(u64, u32, Vec<u8>)> {
            times.iter().map(|ms| (*ms, 3, message(13, PEER, 1983, 9))).collect()
        };
        let asks = frames(&[1000, 2000, 3000, 4000, 5000, 6000]);
        assert_eq!(said(&asks, 6500, &[true, true]), (None, None));
        let text = said(&asks, 6500, &[true, false]).1.expect("crossed");
        assert!(text.contains("on eth3") && text.contains("link on eth4 is down"), "{text}");
        assert_eq!(said(&asks[1..], 6500, &[true, false]), (None, None), "not long enough");
        assert_eq!(said(&asks, 10_500, &[true, false]), (None, None), "long ago");
        // A bearer that was just enabled: often at first, then ever more seldom. (Frames are taken at a look, twice a second.)
        let begins = frames(&[0, 500, 500, 1000, 2000, 4000, 8000]);
        for now in (0..20).map(|n| n * 500) {
            let until_now: Vec<_> = begins.iter().filter(|(ms, ..)| *ms <= now).cloned().collect();
            assert_eq!(said(&until_now, now, &[true, false]), (None, None), "at {now} ms");
        }
    }
}
