//! The heartbeats' way out and in: one seam, two transports. Everything above it sees datagrams and the kernel's word.

use dre::config::Settings;
use dre::logic::node::Event;
use dre::logic::time::Moment;
use dre::shell::tipc::{self, Streams, Topology};
use dre::shell::udp::Links;

pub enum Heartbeats {
    /// Between two transports, and while a turn has taken them out.
    Closed,
    Udp(Links),
    Tipc {
        streams: Streams,
        topology: Topology,
    },
}

impl Heartbeats {
    /// Opens what can be opened; the rest is tried again by [`Self::retry`].
    pub fn open(settings: &Settings, now: Moment) -> Self {
        match &settings.tipc {
            Some(tipc) => {
                Self::Tipc { streams: Streams::open(tipc, now), topology: Topology::open(tipc, now) }
            }
            None => Self::Udp(Links::open(&settings.links, settings.heartbeat.port, now)),
        }
    }

    /// A reload from `old` to `new` needs other sockets.
    pub fn differ(old: &Settings, new: &Settings) -> bool {
        old.links != new.links || old.tipc != new.tipc || old.heartbeat.port != new.heartbeat.port
    }

    pub fn retry(&mut self, now: Moment) {
        match self {
            Self::Closed => {}
            Self::Udp(links) => links.retry(now),
            Self::Tipc { streams, topology } => {
                streams.retry(now);
                topology.retry(now);
            }
        }
    }

    /// Why some of it is closed.
    pub fn errors(&self) -> Vec<&str> {
        match self {
            Self::Closed => vec![],
            Self::Udp(links) => links.errors().collect(),
            Self::Tipc { streams, topology } => streams.error().into_iter().chain(topology.error()).collect(),
        }
    }

    /// Sends or loses it; never waits.
    pub fn send(&mut self, link: usize, bytes: &[u8], now: Moment) {
        match self {
            Self::Closed => {}
            Self::Udp(links) => links.send(link, bytes, now),
            Self::Tipc { streams, .. } => streams.send(link, bytes),
        }
    }

    /// Hands what has come to `each`, some of it a turn.
    pub fn drain(&mut self, now: Moment, mut each: impl FnMut(Event<'_>)) {
        match self {
            Self::Closed => {}
            Self::Udp(links) => links.drain(|bytes| each(Event::Datagram { bytes })),
            Self::Tipc { streams, topology } => {
                streams.drain(|bytes| each(Event::Datagram { bytes }));
                topology.drain(now, |event| {
                    each(match event {
                        tipc::Event::Process { present } => Event::PeerProcess { present },
                        tipc::Event::Link { bearer, up } => Event::Bearer { link: bearer, up },
                    });
                });
            }
        }
    }

    /// Waits until there is something to drain. Cancel safe.
    pub async fn readable(&self) {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Udp(links) => links.readable().await,
            Self::Tipc { streams, topology } => {
                tokio::select! {
                    () = streams.readable() => {}
                    () = topology.readable() => {}
                }
            }
        }
    }
}
