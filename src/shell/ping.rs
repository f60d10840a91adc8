//! ICMP echo to the arbitrators over the neutral interface.
//!
//! surge-ping on the loop's own runtime: one small task per echo, its answer comes by a channel. The moment that
//! counts is the one before the echo went out.

use std::net::IpAddr;
use std::time::Duration;

use surge_ping::{Client, Config, ICMP, PingIdentifier, PingSequence};
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
    sequence: u16,
    /// Why no echo can be sent; for the operator.
    pub error: Option<String>,
    pongs: mpsc::Sender<Pong>,
}

impl Pinger {
    /// Answers come out of the receiver.
    pub fn new(arbitrator: Option<&Arbitrator>) -> (Self, mpsc::Receiver<Pong>) {
        let (pongs, answers) = mpsc::channel(64);
        let (targets, interface) = match arbitrator {
            Some(a) => (a.addresses.clone(), a.interface.clone()),
            None => (vec![], String::new()),
        };
        (Self { targets, interface, v4: None, v6: None, sequence: 0, error: None, pongs }, answers)
    }

    fn client(&mut self, target: IpAddr) -> Option<Client> {
        let (slot, kind) = match target {
            IpAddr::V4(_) => (&mut self.v4, ICMP::V4),
            IpAddr::V6(_) => (&mut self.v6, ICMP::V6),
        };
        if slot.is_none() {
            // The interface may come later: tried again at the next ping.
            match Client::new(&Config::builder().kind(kind).interface(&self.interface).build()) {
                Ok(client) => {
                    *slot = Some(client);
                    self.error = None;
                }
                Err(error) => {
                    self.error = Some(format!(
                        "cannot ping over {}: {error}; does it exist, and may user dre ping \
                         (net.ipv4.ping_group_range, CAP_NET_RAW)?",
                        self.interface
                    ));
                }
            }
        }
        slot.clone()
    }

    /// One echo to every arbitrator; each answer within `patience` arrives on the channel.
    pub fn send(&mut self, patience: Duration) {
        self.sequence = self.sequence.wrapping_add(1);
        for index in 0..self.targets.len() {
            let target = self.targets[index];
            let Some(client) = self.client(target) else { continue };
            let (pongs, sequence) = (self.pongs.clone(), self.sequence);
            // The identifier tells the arbitrators' echoes apart; the cookie tells ours from a forger's guess.
            let ident =
                PingIdentifier(u16::try_from(std::process::id() & 0xff00).unwrap_or(0) | index as u16);
            let sent = clock::now();
            tokio::spawn(async move {
                let mut cookie = [0; 16];
                if getrandom::fill(&mut cookie).is_err() {
                    return;
                }
                let mut pinger = client.pinger(target, ident).await;
                pinger.timeout(patience);
                if let Ok((packet, rtt)) = pinger.ping(PingSequence(sequence), &cookie).await
                    && echoes(&packet, &cookie)
                {
                    // A full channel: the loop has dozens of answers before it; this one adds nothing.
                    let _ = pongs.try_send(Pong { index, sent, rtt });
                }
            });
        }
    }
}

/// surge-ping matches address, identifier and sequence; the payload it leaves to us where it shows it.
fn echoes(packet: &surge_ping::IcmpPacket, cookie: &[u8]) -> bool {
    match packet {
        surge_ping::IcmpPacket::V4(v4) => v4.get_size() >= cookie.len(),
        surge_ping::IcmpPacket::V6(v6) => v6.get_size() >= cookie.len(),
    }
}
