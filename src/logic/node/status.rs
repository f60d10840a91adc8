//! The machine as an operator sees it.

use std::time::Duration;

use super::{Node, Target};
use crate::logic::election::Rule;
use crate::logic::lease::By;
use crate::logic::liveness::{Heard, LinkState};
use crate::logic::time::Moment;
use crate::logic::wire::Role;
use crate::snapshot::{Alarm, Arbitrator, Lease, Link, Peer, Rejected, Status, Takeover, Vips};
use crate::stream::GateKind;

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn us(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

impl Node {
    /// `when` writes a moment as RFC 3339; the services' states are systemd's own words and come with the shell.
    pub fn status(&self, now: Moment, when: impl Fn(Moment) -> String) -> Status {
        let (until, by) = self.lease(now);
        let held = self.role == Role::Active && by != By::None;
        let arbitrators: Vec<bool> = self.arbitrators_up(now).collect();
        let chosen = arbitrators.iter().position(|up| *up).unwrap_or(0);
        let gate = match (self.vip.armed, self.vip.serving.is_some()) {
            (None, _) => "absent",
            (Some(GateKind::Bpf), true) => "open",
            (Some(GateKind::Bpf), false) => "shut",
            (Some(GateKind::Lifetimes), true) => "lifetimes-open",
            (Some(GateKind::Lifetimes), false) => "lifetimes-shut",
            (Some(GateKind::Unguarded), true) => "unguarded-open",
            (Some(GateKind::Unguarded), false) => "unguarded-shut",
        };
        Status {
            group: self.setup.group.clone(),
            node: self.setup.node.clone(),
            role: self.role.word().into(),
            term: self.term,
            since: when(self.since),
            rule: self.reason().word().into(),
            lease: Lease {
                held,
                left_ms: if held { ms(now.until(until)) } else { 0 },
                by: if held { by.word() } else { "none" }.into(),
            },
            peer: Peer {
                node: self.setup.peer.clone().unwrap_or_default(),
                state: match self.liveness.heard(now) {
                    Heard::Heard => "heard",
                    Heard::Suspect => "suspect",
                    Heard::Unproven => "one-way",
                    Heard::Lost if !self.liveness.ever() => "never",
                    Heard::Lost => "lost",
                }
                .into(),
                role: self.says.as_ref().map_or("unknown", |s| s.role.word()).into(),
                fit: self.says.as_ref().is_some_and(|s| s.flags.fit),
                heard_ms: ms(now.since(self.liveness.fresh_at())),
            },
            links: self
                .setup
                .links
                .iter()
                .enumerate()
                .map(|(index, name)| {
                    let (state, rtt, loss) = self.link(now, index);
                    let shared = self.is_shared(index);
                    let (rtt, loss) = if shared { self.all_links(now) } else { (rtt, loss) };
                    let word = match state {
                        LinkState::Up => "up",
                        LinkState::OneWay => "one-way",
                        LinkState::Down => "down",
                    };
                    Link {
                        name: name.clone(),
                        up: state == LinkState::Up,
                        state: word.into(),
                        rtt_us: us(rtt),
                        loss_pct: (loss * 10.0).round() / 10.0,
                        measured: if shared { "heartbeats" } else { "link" }.into(),
                    }
                })
                .collect(),
            arbitrator: self.setup.arbitrators.get(chosen).map(|address| Arbitrator {
                address: address.clone(),
                reachable: arbitrators.get(chosen).copied().unwrap_or(false),
                rtt_us: us(self.arbitrators.get(chosen).map_or(Duration::ZERO, |(_, rtt)| *rtt)),
            }),
            vips: Vips {
                wanted: self.vip.wanted,
                held: self.vip.held,
                announced: self.vip.announced,
                gate: gate.into(),
            },
            reached: self.reached.map_or("", Target::word).into(),
            services: vec![],
            fit: self.fit(now),
            unfit_because: self.unfit_reasons(now),
            maintenance: false,
            standalone: self.peer_is_given(),
            alarms: self
                .alarms
                .iter()
                .map(|(key, (since, text))| Alarm {
                    name: key.name.to_string(),
                    subject: key.subject.clone(),
                    text: text.clone(),
                    since: when(*since),
                })
                .collect(),
            last_takeover: self.takeover.map(|t| Takeover {
                here: t.here,
                gap_us: us(t.gap),
                at: when(t.at),
                rule: t.rule.word().into(),
            }),
            rejected: self
                .rejected
                .iter()
                .map(|(reason, count)| Rejected { reason: reason.word().into(), count: *count })
                .collect(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Mean round trip and loss of the heartbeats, whichever link carried them.
    fn all_links(&self, now: Moment) -> (Duration, f64) {
        let count = self.setup.links.len();
        let all = (0..count).map(|n| self.liveness.link(now, n));
        let (rtt, loss) = all.fold((Duration::ZERO, 0.0), |(rtt, loss), (_, r, l)| (rtt + r, loss + l));
        (rtt / u32::try_from(count).unwrap_or(1).max(1), loss / count.max(1) as f64)
    }

    /// What stood when the role changed by `rule`: for the journal.
    pub fn grounds(&self, now: Moment, rule: Rule) -> String {
        let line = self.status_line(now);
        if rule == Rule::Unfit { format!("{}; {line}", self.unfit_reasons(now).join(", ")) } else { line }
    }

    /// `STATUS=` of sd_notify: `ACTIVE term 7 · peer hadev2 STANDBY · links 2/2 · VIPs 2/2`.
    pub fn status_line(&self, now: Moment) -> String {
        let up = (0..self.setup.links.len()).filter(|n| self.link(now, *n).0 == LinkState::Up).count();
        let peer = match (&self.setup.peer, self.liveness.heard(now)) {
            (None, _) => "no peer".into(),
            (Some(peer), Heard::Heard | Heard::Suspect) => {
                format!(
                    "peer {peer} {}",
                    self.says.as_ref().map_or("unknown", |s| s.role.word()).to_uppercase()
                )
            }
            (Some(peer), Heard::Unproven) => format!("peer {peer} one-way"),
            (Some(peer), Heard::Lost) => format!("peer {peer} lost"),
        };
        // In the order of their keys: those of one name stand together.
        let mut names: Vec<&str> = self.alarms.keys().map(|key| &*key.name).collect();
        names.dedup();
        let alarms = if names.is_empty() { String::new() } else { format!(" · ALARM {}", names.join(", ")) };
        format!(
            "{} term {} ({}) · {peer} · links {up}/{} · VIPs {}/{}{alarms}",
            self.role.word().to_uppercase(),
            self.term,
            self.reason().word(),
            self.setup.links.len(),
            self.vip.held,
            self.vip.wanted,
        )
    }
}
