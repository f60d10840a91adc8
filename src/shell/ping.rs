//! ICMP echo to the arbitrators over the neutral interface.
//!
//! surge-ping on the loop's own runtime: one small task per echo, its answer comes by a channel. The moment that
//! counts is the one before the echo went out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};
use tokio::sync::mpsc;

use super::clock;
use crate::config::Arbitrator;
use crate::logic::time::Moment;

/// An arbitrator answered.
#[derive(Debug, Clone, Copy)]
pub struct Pong {
    pub index: usize,
    /// When its echo went out.
    pub sent: Moment,
    pub rtt: Duration,
}

/// Pings every arbitrator of the configuration.
pub struct Pinger {
    targets: Vec<IpAddr>,
    interface: String,
    v4: Option<Client>,
    v6: Option<Client>,
    pongs: mpsc::Sender<Pong>,
    /// Why no echo can be sent, by target; shared with the echoes that are under way.
    errors: Arc<Mutex<BTreeMap<usize, String>>>,
}

impl Pinger {
    /// Answers come out of the receiver.
    pub fn new(arbitrator: Option<&Arbitrator>) -> (Self, mpsc::Receiver<Pong>) {
        let (pongs, answers) = mpsc::channel(64);
        let (targets, interface) = match arbitrator {
            Some(a) => (a.addresses.clone(), a.interface.clone()),
            None => (vec![], String::new()),
        };
        (Self { targets, interface, v4: None, v6: None, pongs, errors: Arc::default() }, answers)
    }

    /// Why no echo can be sent, for the operator; `None`: nothing is known to be in the way.
    pub fn error(&self) -> Option<String> {
        let errors = self.errors.lock().ok()?;
        let first = errors.values().next()?;
        Some(format!(
            "the arbitrator cannot be pinged over {}: {first}; does the interface exist, has it an address and a route, and \
             may user dre ping (net.ipv4.ping_group_range, CAP_NET_RAW)",
            self.interface
        ))
    }

    fn client(&mut self, index: usize, target: IpAddr) -> Option<Client> {
        let failing = self.errors.lock().is_ok_and(|errors| errors.contains_key(&index));
        let (slot, kind) = match target {
            IpAddr::V4(_) => (&mut self.v4, ICMP::V4),
            IpAddr::V6(_) => (&mut self.v6, ICMP::V6),
        };
        // A socket stays with the interface it was bound to: one that went and came again is another.
        if slot.is_none() || failing {
            // The interface may come later: tried again at the next ping.
            match Client::new(&Config::builder().kind(kind).interface(&self.interface).build()) {
                Ok(client) => *slot = Some(client),
                Err(error) => {
                    *slot = None;
                    note(&self.errors, index, Some(error.to_string()));
                }
            }
        }
        slot.clone()
    }

    /// One echo to every arbitrator; each answer within `patience` arrives on the channel.
    pub fn send(&mut self, patience: Duration) {
        for index in 0..self.targets.len() {
            let target = self.targets[index];
            let Some(client) = self.client(index, target) else { continue };
            // Neither can be guessed by who cannot see the wire: a forged answer is thrown away by the kernel (the
            // identifier, which it chooses itself on its own ICMP sockets) or by surge-ping (the sequence).
            let Ok(ident) = getrandom::u32() else { continue };
            let (ident, sequence) = (PingIdentifier(ident as u16), PingSequence((ident >> 16) as u16));
            let (pongs, sent, errors) = (self.pongs.clone(), clock::now(), Arc::clone(&self.errors));
            tokio::spawn(async move {
                let mut pinger = client.pinger(target, ident).await;
                pinger.timeout(patience);
                let answer = pinger.ping(sequence, &[0; 16]).await;
                // No answer in time, or a router's word: nothing is wrong on this side.
                let error = match &answer {
                    Err(SurgeError::IOError(error)) => Some(error.to_string()),
                    _ => None,
                };
                note(&errors, index, error);
                if let Ok((packet, rtt)) = answer
                    && is_answer(&packet)
                {
                    // A full channel: the loop has dozens of answers before it; this one adds nothing.
                    let _ = pongs.try_send(Pong { index, sent, rtt });
                }
            });
        }
    }
}

fn note(errors: &Mutex<BTreeMap<usize, String>>, index: usize, error: Option<String>) {
    let Ok(mut errors) = errors.lock() else { return };
    match error {
        Some(error) => drop(errors.insert(index, error)),
        None => drop(errors.remove(&index)),
    }
}

/// On a raw socket surge-ping resolves a ping by a router's error too ("destination unreachable" quotes the request):
/// only an echo reply is the arbitrator's word. Types of RFC 792 and RFC 4443.
fn is_answer(packet: &IcmpPacket) -> bool {
    match packet {
        IcmpPacket::V4(v4) => v4.get_icmp_type().0 == 0,
        IcmpPacket::V6(v6) => v6.get_icmpv6_type().0 == 129,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use surge_ping::{Icmpv4Packet, Icmpv6Packet};

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 250);

    fn v4(bytes: &[u8]) -> IcmpPacket {
        let here = Ipv4Addr::new(172, 16, 8, 50);
        IcmpPacket::V4(Icmpv4Packet::decode(bytes, socket2::Type::DGRAM, GATEWAY, here).expect("decodes"))
    }

    #[test]
    fn only_an_echo_reply_is_an_answer() {
        assert!(is_answer(&v4(&[0, 0, 0, 0, 0x12, 0x34, 0, 7])));
        // Host unreachable, quoting our echo request to the arbitrator.
        let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
        error.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 172, 16, 8, 50, 172, 16, 8, 250]);
        error.extend([8, 0, 0, 0, 0x12, 0x34, 0, 7]);
        assert!(!is_answer(&v4(&error)));
        let v6 =
            |bytes: &[u8]| IcmpPacket::V6(Icmpv6Packet::decode(bytes, Ipv6Addr::LOCALHOST).expect("decodes"));
        assert!(is_answer(&v6(&[129, 0, 0, 0, 0x12, 0x34, 0, 7])));
    }
}
