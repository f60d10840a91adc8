//! The heartbeats' way out and in: one seam, two transports. Everything above it sees datagrams and the kernel's word.

use dre::config::Settings;
use dre::logic::node::Event;
use dre::logic::time::Moment;
use dre::shell::tipc::{self, Discovery, Seen, Streams, Topology};
use dre::shell::udp::Links;

/// TIPC as one.
pub struct Tipc {
    streams: Streams,
    topology: Topology,
    discovery: Discovery,
    links: Vec<String>,
    /// The kernel's links, as it last told.
    up: Vec<bool>,
}

pub enum Heartbeats {
    /// Between two transports, and while a turn has taken them out.
    Closed,
    Udp(Links),
    Tipc(Box<Tipc>),
}

impl Heartbeats {
    /// Opens what can be opened; the rest is tried again by [`Self::retry`].
    pub fn open(settings: &Settings, now: Moment) -> Self {
        match &settings.tipc {
            Some(tipc) => Self::Tipc(Box::new(Tipc {
                streams: Streams::open(tipc, now),
                topology: Topology::open(tipc, now),
                discovery: Discovery::new(tipc),
                links: settings.link_names(),
                up: vec![false; tipc.bearers.len()],
            })),
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
            Self::Tipc(tipc) => {
                tipc.streams.retry(now);
                tipc.topology.retry(now);
            }
        }
    }

    /// What of it is closed, and why; `None`: nothing.
    pub fn closed(&self) -> Option<String> {
        let errors: Vec<&str> = match self {
            Self::Closed => vec![],
            Self::Udp(links) => links.errors().collect(),
            // Both fail for the same reason, as a rule: one of them says it.
            Self::Tipc(tipc) => tipc.streams.error().or(tipc.topology.error()).into_iter().collect(),
        };
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// What is on the wire that explains a peer who is not heard, or a link that is down; looked for only then.
    pub fn seen(&mut self, now: Moment, heard: bool) -> Option<Seen> {
        let Self::Tipc(tipc) = self else { return None };
        if heard && tipc.up.iter().all(|up| *up) {
            tipc.discovery.close();
            return None;
        }
        Some(tipc.discovery.look(now, &tipc.up))
    }

    /// Sends or loses it; never waits.
    pub fn send(&mut self, link: usize, bytes: &[u8], now: Moment) {
        match self {
            Self::Closed => {}
            Self::Udp(links) => links.send(link, bytes, now),
            Self::Tipc(tipc) => tipc.streams.send(link, bytes),
        }
    }

    /// Hands what has come to `each`, some of it a turn.
    pub fn drain(&mut self, now: Moment, mut each: impl FnMut(Event<'_>)) {
        match self {
            Self::Closed => {}
            Self::Udp(links) => links.drain(|bytes| each(Event::Datagram { bytes })),
            Self::Tipc(tipc) => {
                tipc.streams.drain(|bytes| each(Event::Datagram { bytes }));
                let (links, states) = (&tipc.links, &mut tipc.up);
                tipc.topology.drain(now, |event| {
                    if let tipc::Event::Link { bearer, up } = event
                        && let Some(state) = states.get_mut(bearer)
                    {
                        *state = up;
                    }
                    each(match event {
                        tipc::Event::Process { present } => Event::PeerProcess { present },
                        tipc::Event::Link { bearer, up } => Event::Bearer { link: bearer, up },
                        tipc::Event::Crossed { bearer, crossed } => {
                            let link = links.get(bearer).map_or("?", String::as_str);
                            Event::Trouble { name: "LinkCrossed", text: crossed.then(|| crossing(link)) }
                        }
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
            Self::Tipc(tipc) => {
                tokio::select! {
                    () = tipc.streams.readable() => {}
                    () = tipc.topology.readable() => {}
                }
            }
        }
    }
}

fn crossing(link: &str) -> String {
    format!(
        "link {link} ends at another interface of the peer than here: a bearer is cabled to the wrong network; compare the \
         cables with [heartbeat.tipc] bearers"
    )
}
