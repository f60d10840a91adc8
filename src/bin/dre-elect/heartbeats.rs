//! The heartbeats' way out and in: one seam, two transports. Everything above it sees datagrams and the kernel's word.

use dre::config::{self, Settings, TipcAddress};
use dre::logic::node::Event;
use dre::logic::time::Moment;
use dre::shell::tipc::{self, Discovery, Presence, Seen, Streams, Topology};
use dre::shell::udp::Links;

/// The alarms that say something of the sockets and of what the kernel said by them: all of them end when others are opened.
pub const TROUBLES: [&str; 5] = ["LinkClosed", "LinkCrossed", "TipcStrange", "TipcMiscabled", "TipcSetup"];

/// TIPC as one.
pub struct Tipc {
    settings: config::Tipc,
    streams: Streams,
    presence: Presence,
    topology: Topology,
    discovery: Discovery,
    /// By bearer.
    bearers: Vec<Bearer>,
}

/// What is known of a bearer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Bearer {
    /// The link on it, as the kernel last told.
    up: bool,
    /// The peer's interface at which that link ends.
    ends: Option<String>,
    /// Index of our interface; 0: there is none.
    index: u32,
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
            Some(tipc) => {
                let mut all = Tipc {
                    streams: Streams::open(tipc, now),
                    presence: Presence::new(tipc.local, now),
                    topology: Topology::open(tipc, now),
                    discovery: Discovery::new(tipc),
                    bearers: vec![Bearer::default(); tipc.bearers.len()],
                    settings: tipc.clone(),
                };
                all.look_at_interfaces();
                Self::Tipc(Box::new(all))
            }
            None => Self::Udp(Links::open(&settings.links, settings.heartbeat.port, now)),
        }
    }

    /// A reload from `old` to `new` needs other sockets.
    pub fn differ(old: &Settings, new: &Settings) -> bool {
        old.links != new.links || old.tipc != new.tipc || old.heartbeat.port != new.heartbeat.port
    }

    /// True when an interface is there that was not, or has come back as another.
    pub fn retry(&mut self, now: Moment) -> bool {
        match self {
            Self::Closed => false,
            Self::Udp(links) => {
                links.retry(now);
                false
            }
            Self::Tipc(tipc) => {
                tipc.streams.retry(now);
                tipc.presence.retry(now);
                tipc.topology.retry(now);
                tipc.look_at_interfaces()
            }
        }
    }

    /// What of it is closed, and why; `None`: nothing.
    pub fn closed(&self) -> Option<String> {
        let errors: Vec<&str> = match self {
            Self::Closed => vec![],
            Self::Udp(links) => links.errors().collect(),
            // All fail for the same reason, as a rule: one of them says it.
            Self::Tipc(tipc) => {
                tipc.streams.error().or(tipc.presence.error()).or(tipc.topology.error()).into_iter().collect()
            }
        };
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// What is on the wire that explains a peer who is not heard, or a link that is down; looked for only then.
    pub fn seen(&mut self, now: Moment, heard: bool) -> Option<Seen> {
        let Self::Tipc(tipc) = self else { return None };
        let up: Vec<bool> = tipc.bearers.iter().map(|b| b.up).collect();
        if heard && up.iter().all(|up| *up) {
            tipc.discovery.close();
            return None;
        }
        Some(tipc.discovery.look(now, &up))
    }

    /// What the kernel takes for this node's TIPC address.
    pub fn address(&self) -> Option<TipcAddress> {
        match self {
            Self::Tipc(tipc) => tipc.streams.address(),
            Self::Closed | Self::Udp(_) => None,
        }
    }

    /// Interfaces of bearers that this machine does not have.
    pub fn missing(&self) -> Vec<&str> {
        let Self::Tipc(tipc) = self else { return vec![] };
        let all = tipc.settings.bearers.iter().zip(&tipc.bearers);
        all.filter(|(_, bearer)| bearer.index == 0).map(|(b, _)| b.interface.as_str()).collect()
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
                let (settings, bearers) = (&tipc.settings, &mut tipc.bearers);
                tipc.topology.drain(now, |event| {
                    note(bearers, &event);
                    match event {
                        tipc::Event::Process { present } => each(Event::PeerProcess { present }),
                        tipc::Event::Node { reachable } => each(Event::PeerNode { reachable }),
                        tipc::Event::Link { bearer, up } => each(Event::Bearer { link: bearer, up }),
                        tipc::Event::Ends { .. } => {}
                        tipc::Event::Unknown => each(Event::KernelSilent),
                    }
                    each(Event::Trouble { name: "LinkCrossed", text: crossing(settings, bearers) });
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

impl Tipc {
    /// True when one has appeared.
    fn look_at_interfaces(&mut self) -> bool {
        let mut appeared = false;
        for (bearer, set) in self.bearers.iter_mut().zip(&self.settings.bearers) {
            let index = nix::net::if_::if_nametoindex(set.interface.as_str()).unwrap_or(0);
            appeared |= index != bearer.index && index != 0;
            bearer.index = index;
        }
        appeared
    }
}

fn note(bearers: &mut [Bearer], event: &tipc::Event) {
    match event {
        tipc::Event::Link { bearer, up } => {
            if let Some(bearer) = bearers.get_mut(*bearer) {
                bearer.up = *up;
            }
        }
        tipc::Event::Ends { bearer, at } => {
            if let Some(bearer) = bearers.get_mut(*bearer) {
                bearer.ends = Some(at.clone());
            }
        }
        tipc::Event::Unknown => {
            for bearer in bearers {
                (bearer.up, bearer.ends) = (false, None);
            }
        }
        tipc::Event::Process { .. } | tipc::Event::Node { .. } => {}
    }
}

/// Every link that is up and ends at another interface of the peer than it begins at here.
fn crossing(settings: &config::Tipc, bearers: &[Bearer]) -> Option<String> {
    let all = settings.bearers.iter().zip(bearers);
    let crossed: Vec<String> = all
        .filter(|(_, bearer)| bearer.up)
        .filter_map(|(set, bearer)| {
            let ends = bearer.ends.as_ref().filter(|ends| **ends != set.interface)?;
            Some(format!("link {} begins at {} here and ends at {ends} of the peer", set.name, set.interface))
        })
        .collect();
    (!crossed.is_empty()).then(|| {
        format!(
            "{}: a cable of one of the nodes is in the wrong network; compare both nodes' cables with [heartbeat.tipc] bearers",
            crossed.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> config::Tipc {
        let bearer =
            |name: &str, interface: &str| config::Bearer { name: name.into(), interface: interface.into() };
        config::Tipc {
            network_id: 1983,
            local: TipcAddress(1),
            peer: Some(TipcAddress(2)),
            bearers: vec![bearer("primary", "eth3"), bearer("secondary", "eth4")],
        }
    }

    /// What stands after these words of the kernel.
    fn after(events: &[tipc::Event]) -> Option<String> {
        let mut bearers = vec![Bearer::default(); 2];
        events.iter().for_each(|event| note(&mut bearers, event));
        crossing(&settings(), &bearers)
    }

    fn ends(bearer: usize, at: &str) -> [tipc::Event; 2] {
        [tipc::Event::Ends { bearer, at: at.into() }, tipc::Event::Link { bearer, up: true }]
    }

    /// Two cables swapped cross both links: when one of them is right again, the other is still told.
    #[test]
    fn each_bearer_is_crossed_or_not_by_itself() {
        assert_eq!(after(&[ends(0, "eth3"), ends(1, "eth4")].concat()), None);
        let both = [ends(0, "eth4"), ends(1, "eth3")].concat();
        let text = after(&both).expect("crossed");
        assert!(
            text.contains("link primary begins at eth3 here and ends at eth4")
                && text.contains("link secondary begins at eth4 here and ends at eth3"),
            "{text}"
        );
        let one = [both.clone(), ends(0, "eth3").to_vec()].concat();
        let text = after(&one).expect("one is still crossed");
        assert!(text.contains("secondary") && !text.contains("primary"), "{text}");
        // A link that is down says nothing of cables, and neither does a kernel that is not heard.
        let down = |bearer| tipc::Event::Link { bearer, up: false };
        assert_eq!(after(&[both.clone(), vec![down(0), down(1)]].concat()), None);
        assert_eq!(after(&[both, vec![tipc::Event::Unknown]].concat()), None);
    }
}
