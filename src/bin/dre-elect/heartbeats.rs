//! The heartbeats' way out and in: one seam, two transports. Everything above it sees datagrams and the kernel's word.

use dre::config::{self, Settings, TipcAddress};
use dre::logic::node::Event;
use dre::logic::time::Moment;
use dre::shell::tipc::{self, Discovery, LinkState, LinkWatch, Presence, Seen, Streams, Topology};
use dre::shell::udp::Links;

/// The alarms that say something of the sockets and of what the kernel said by them: all of them end when others are opened.
pub const TROUBLES: [&str; 5] = ["LinkClosed", "LinkCrossed", "TipcStrange", "TipcMiscabled", "TipcSetup"];

/// TIPC as one.
pub struct Tipc {
    settings: config::Tipc,
    streams: Streams,
    presence: Presence,
    topology: Topology,
    /// `None`: its thread could not be started.
    watch: Option<LinkWatch>,
    discovery: Discovery,
    /// The link on each bearer, as the kernel last told.
    links: Vec<LinkState>,
    /// Why that is not known.
    unknown: Option<String>,
    /// Index of each bearer's interface; 0: there is none.
    indices: Vec<u32>,
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
                let (watch, unknown) = match LinkWatch::start(tipc) {
                    Ok(watch) => (Some(watch), None),
                    Err(error) => (
                        None,
                        Some(format!(
                            "no thread to ask which links of TIPC are up: {error}; systemctl reload dre"
                        )),
                    ),
                };
                let mut all = Tipc {
                    streams: Streams::open(tipc, now),
                    presence: Presence::new(tipc.local, now),
                    topology: Topology::open(tipc, now),
                    discovery: Discovery::new(tipc),
                    watch,
                    links: vec![LinkState::default(); tipc.bearers.len()],
                    unknown,
                    indices: vec![0; tipc.bearers.len()],
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
                let sockets = tipc.streams.error().or(tipc.presence.error()).or(tipc.topology.error());
                sockets.or(tipc.unknown.as_deref()).into_iter().collect()
            }
        };
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// What is on the wire that explains a peer who is not heard, or a link that is down; looked for only then.
    pub fn seen(&mut self, now: Moment, heard: bool) -> Option<Seen> {
        let Self::Tipc(tipc) = self else { return None };
        let up: Vec<bool> = tipc.links.iter().map(|link| link.up).collect();
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
        let all = tipc.settings.bearers.iter().zip(&tipc.indices);
        all.filter(|(_, index)| **index == 0).map(|(b, _)| b.interface.as_str()).collect()
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
                let watch = tipc.watch.as_ref();
                tipc.topology.drain(now, |event| match event {
                    tipc::Event::Process { present } => each(Event::PeerProcess { present }),
                    tipc::Event::Node { reachable } => each(Event::PeerNode { reachable }),
                    tipc::Event::Links => watch.into_iter().for_each(LinkWatch::ask),
                    tipc::Event::Unknown => {
                        each(Event::KernelSilent);
                        // That holds for the links too, until they are told again.
                        watch.into_iter().for_each(LinkWatch::ask);
                    }
                });
                if let Some(told) = watch.and_then(LinkWatch::told) {
                    tipc.unknown = told.as_ref().err().cloned();
                    let known = tipc.unknown.is_none();
                    tipc.links = told.unwrap_or_else(|_| vec![LinkState::default(); tipc.links.len()]);
                    for (link, state) in tipc.links.iter().enumerate() {
                        each(Event::Bearer { link, up: known.then_some(state.up) });
                    }
                    each(Event::Trouble { name: "LinkCrossed", text: crossing(&tipc.settings, &tipc.links) });
                }
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
                    () = tipc.told() => {}
                }
            }
        }
    }
}

impl Tipc {
    /// True when one has appeared.
    fn look_at_interfaces(&mut self) -> bool {
        let mut appeared = false;
        for (known, set) in self.indices.iter_mut().zip(&self.settings.bearers) {
            let index = nix::net::if_::if_nametoindex(set.interface.as_str()).unwrap_or(0);
            appeared |= index != *known && index != 0;
            *known = index;
        }
        appeared
    }

    async fn told(&self) {
        match &self.watch {
            Some(watch) => watch.readable().await,
            None => std::future::pending().await,
        }
    }
}

/// Every link that is up and ends at another interface of the peer than it begins at here.
fn crossing(settings: &config::Tipc, links: &[LinkState]) -> Option<String> {
    let all = settings.bearers.iter().zip(links);
    let crossed: Vec<String> = all
        .filter(|(_, link)| link.up)
        .filter_map(|(set, link)| {
            let ends = link.ends.as_ref().filter(|ends| **ends != set.interface)?;
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

    fn link(up: bool, ends: &str) -> LinkState {
        LinkState { up, ends: Some(ends.into()) }
    }

    /// Two cables swapped cross both links: when one of them is right again, the other is still told.
    #[test]
    fn each_bearer_is_crossed_or_not_by_itself() {
        let crossing = |links: &[LinkState]| crossing(&settings(), links);
        assert_eq!(crossing(&[link(true, "eth3"), link(true, "eth4")]), None);
        let text = crossing(&[link(true, "eth4"), link(true, "eth3")]).expect("crossed");
        assert!(
            text.contains("link primary begins at eth3 here and ends at eth4")
                && text.contains("link secondary begins at eth4 here and ends at eth3"),
            "{text}"
        );
        let text = crossing(&[link(true, "eth3"), link(true, "eth3")]).expect("one is still crossed");
        assert!(text.contains("secondary") && !text.contains("primary"), "{text}");
        // A link that is down says nothing of cables.
        assert_eq!(crossing(&[link(false, "eth4"), link(false, "eth3")]), None);
        assert_eq!(crossing(&[LinkState::default(), LinkState::default()]), None);
    }
}
