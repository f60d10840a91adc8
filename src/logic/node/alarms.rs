//! What an operator must see: derived from the facts now and then, never on the takeover path.

use std::borrow::Cow;
use std::time::Duration;

use super::{Action, Node, Target};
use crate::logic::election::Peer;
use crate::logic::liveness::{Heard, LinkState};
use crate::logic::time::Moment;
use crate::logic::wire::{Reject, Role};
use crate::stream::GateKind;

/// Two words, as in the README's table; dre-vip's alarms keep the names it gave them.
pub type AlarmName = Cow<'static, str>;

/// Wall clocks further apart than this are worth a word. Source: rules files are compared by time of change.
const SKEW_MAX_MS: u64 = 1_000;

impl Node {
    /// Every alarm that holds at `now`, with its sentence and the remedy.
    fn alarms_now(&self, now: Moment) -> Vec<(AlarmName, String)> {
        let mut all: Vec<(AlarmName, String)> = vec![];
        let mut raise = |name: &'static str, text: String| all.push((name.into(), text));
        let peer = self.setup.peer.as_deref().unwrap_or("the peer");
        let settled = now >= self.started + self.setup.startup_hold;
        let heard = self.liveness.heard(now);
        let has_peer = self.setup.peer.is_some() && !self.setup.links.is_empty();

        if has_peer && settled && heard == Heard::Lost {
            raise(
                "PeerLost",
                format!("{peer} is not heard on any link; look at its power, dre.service and the links"),
            );
        }
        if has_peer && self.peer_gone && self.liveness.ever() {
            let text = if self.peer_unreachable {
                format!(
                    "the kernel has no TIPC link to {peer} any more: its machine is down, or every bearer is cut; look at its power, \
                     cables and switches"
                )
            } else {
                format!(
                    "the kernel says that the election process of {peer} ended, while its machine is still reached; look at \
                     dre.service there: systemctl status dre"
                )
            };
            raise("PeerGone", text);
        }
        if has_peer && heard == Heard::Unproven {
            raise(
                "PeerOneWay",
                format!("{peer} is heard but does not hear this node; look at the links one way"),
            );
        }
        if has_peer && heard != Heard::Lost {
            for (index, name) in self.setup.links.iter().enumerate() {
                match self.link(now, index).0 {
                    LinkState::Up => {}
                    LinkState::OneWay => raise(
                        "LinkOneWay",
                        format!(
                            "link {name}: datagrams come from {peer} but do not reach it; look at its receiving side"
                        ),
                    ),
                    LinkState::Down => raise(
                        "LinkDown",
                        format!(
                            "link {name} is down; the pair lives on the other; look at cable, switch and interface"
                        ),
                    ),
                }
            }
        }
        if let Some((reason, at)) = self.last_rejected
            && now.since(at) < Duration::from_secs(10)
            && heard == Heard::Lost
        {
            let cause = match reason {
                Reject::Mac => {
                    "they do not verify: another key in /etc/dre/key; copy one node's to the other"
                }
                Reject::Version => "they are of another wire version; bring both nodes to the same release",
                Reject::Group => "they are of another group; compare the file names under /etc/dre",
                Reject::Sender => "they are from another node name; compare [nodes] with the hostnames",
                _ => "they are not heartbeats of this pair; look who else sends on the heartbeat networks",
            };
            raise("PeerStrange", format!("datagrams arrive on the links, but {cause}"));
        }
        if !self.setup.arbitrators.is_empty() && settled {
            let up: Vec<bool> = self.arbitrators_up(now).collect();
            if !up.iter().any(|up| *up) {
                raise(
                    "ArbitratorSilent",
                    format!(
                        "no arbitrator answers ({}); if the peer is lost now, nobody takes over",
                        self.setup.arbitrators.join(", ")
                    ),
                );
            }
        }
        if self.role == Role::Standby && heard == Heard::Lost && settled {
            if let Some((_, vip, mac)) = self.evidence.foreign_holder()
                && !self.evidence.quiet(now)
            {
                let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
                let vip = self.setup.vips.get(vip as usize).map_or("a VIP", String::as_str);
                raise(
                    "PeerStillServes",
                    format!(
                        "{peer} is lost on all links, but {} answers for {vip}: not doubled; restore the links",
                        mac.join(":")
                    ),
                );
            }
            if !self.arbitrator_lately(now) {
                raise(
                    "Isolated",
                    "neither the peer nor an arbitrator answers: this node may be the one that is cut off, and stays standby"
                        .into(),
                );
            }
        }
        if self.both_active {
            raise("BothActive", format!("{peer} is active too; the lower term yields now"));
        }
        if self.differs() {
            raise(
                "ConfigDiffers",
                format!(
                    "the configuration of {peer} differs in {}; make the file the same on both nodes, then: systemctl reload dre",
                    self.differing_sections()
                ),
            );
        }
        if self.vip.armed.is_some() && self.vip.digest != self.setup.digest {
            raise(
                "VipConfigDiffers",
                "dre-vip runs with another configuration; systemctl reload dre-vip".into(),
            );
        }
        if let (Peer::In { .. }, Some(says)) = (self.peer(now), &self.says)
            && self.wall_ms != 0
            && self.wall_ms.abs_diff(says.wall_ms) > SKEW_MAX_MS
        {
            raise(
                "ClockSkew",
                format!(
                    "the wall clocks of the nodes differ by more than {SKEW_MAX_MS} ms; check time synchronisation on both"
                ),
            );
        }
        let why = self.unfit_reasons(now);
        if !why.is_empty() && settled {
            raise("Unfit", format!("this node could not run the services: {}", why.join(", ")));
        }
        if self.vip.armed == Some(GateKind::Lifetimes) {
            raise(
                "GateWeak",
                "the kernel refused BPF: VIPs are bound to the lease by address lifetimes of whole seconds; a frozen node \
                 may answer for a second or two beyond its lease"
                    .into(),
            );
        }
        if self.held_back {
            raise("HeldBack", "an operator stopped the role here; drectl lease take brings it back".into());
        }
        if self.setup.standalone {
            raise(
                "Standalone",
                "standalone mode (DRE_STANDALONE): there is no second node to take over".into(),
            );
        }
        if self.manager == Some(false) {
            raise(
                "SystemdSilent",
                "systemd cannot be asked over D-Bus: VIPs move all the same, the role's services follow when it is back; \
                 systemctl status dbus"
                    .into(),
            );
        }
        let wanted = if self.role == Role::Active { Target::Active } else { Target::Standby };
        if let Some((target, _, why)) = &self.unreached
            && *target == wanted
        {
            raise(
                "TargetFailed",
                format!(
                    "dre-{0}.target is not reached: {why}; it is asked for again every 2 s; systemctl status dre-lease \
                     dre-{0}.target",
                    target.word()
                ),
            );
        }
        for (name, text) in &self.troubles {
            raise(name, text.clone());
        }
        for (name, text) in &self.vip.alarms {
            all.push((name.clone().into(), text.clone()));
        }
        all
    }

    pub(super) fn watch_alarms(&mut self, now: Moment, out: &mut Vec<Action>) {
        let holds = self.alarms_now(now);
        let gone: Vec<AlarmName> =
            self.alarms.keys().filter(|name| !holds.iter().any(|(held, _)| held == *name)).cloned().collect();
        for name in gone {
            self.alarms.remove(&name);
            out.push(Action::Cleared { alarm: name });
        }
        for (name, text) in holds {
            match self.alarms.get_mut(&name) {
                Some((_, old)) => *old = text,
                None => {
                    self.alarms.insert(name.clone(), (now, text.clone()));
                    out.push(Action::Raised { alarm: name, text });
                }
            }
        }
    }
}
