//! What an operator must see: derived from the facts now and then, never on the takeover path.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, Node, Target, Unit, UnitState};
use crate::logic::election::Peer;
use crate::logic::group;
use crate::logic::liveness::{Heard, LinkState};
use crate::logic::time::Moment;
use crate::logic::wire::{Reject, Role};
use crate::stream::GateKind;

/// What an alarm is about. Two of one name stand side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmKey {
    /// Two words, as in the README's table; dre-vip's alarms keep the names it gave them.
    pub name: Cow<'static, str>,
    /// Which link, which unit; empty where there is but one.
    pub subject: String,
}

/// By its name alone.
impl PartialEq<str> for AlarmKey {
    fn eq(&self, name: &str) -> bool {
        self.name == name
    }
}

/// A unit may need this long to come up, or to be started again by systemd, before its absence is an alarm.
const SERVICE_GRACE: Duration = Duration::from_secs(10);
/// Services that stop for longer than this keep the role from the peer for longer than a takeover should take.
const STOP_EXPECTED: Duration = Duration::from_secs(5);
/// Wall clocks further apart than this are worth a word. Source: rules files are compared by time of change.
const SKEW_MAX_MS: u64 = 1_000;

impl Node {
    /// Every alarm that holds at `now`, with its sentence and the remedy.
    fn alarms_now(&self, now: Moment) -> Vec<(AlarmKey, String)> {
        let mut all: Vec<(AlarmKey, String)> = vec![];
        let mut raise_of = |name: &'static str, subject: &str, text: String| {
            all.push((AlarmKey { name: name.into(), subject: subject.into() }, text));
        };
        self.unit_alarms(now, &mut raise_of);
        self.database_alarms(now, &mut raise_of);
        let mut raise = |name: &'static str, text: String| raise_of(name, "", text);
        let peer = self.setup.peer.as_deref().unwrap_or("the peer");
        let unit = group::unit("dre", &self.setup.group);
        let settled = now >= self.started + self.setup.startup_hold;
        let heard = self.liveness.heard(now);
        let has_peer = self.setup.peer.is_some() && !self.setup.links.is_empty();

        if has_peer && settled && heard == Heard::Lost {
            raise(
                "PeerLost",
                format!("{peer} is not heard on any link; look at its power, {unit}.service and the links"),
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
                     {unit}.service there: systemctl status {unit}"
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
        if let Some((reason, at)) = self.last_rejected
            && now.since(at) < Duration::from_secs(10)
            && heard == Heard::Lost
        {
            let cause = match reason {
                Reject::Mac => {
                    "they do not verify: another key in /etc/dre/key; copy one node's to the other"
                }
                Reject::Version => "they are of another wire version; bring both nodes to the same release",
                Reject::Group => {
                    "they are of another group; compare the file names under /etc/dre, and give each group a port of its own"
                }
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
        // Heard one way is enough: it may be over before the first echo is back.
        if self.both_active && heard != Heard::Lost {
            raise("BothActive", format!("{peer} is active too; the lower term yields now"));
        }
        if self.differs(now) {
            raise(
                "ConfigDiffers",
                format!(
                    "the configuration of {peer} differs in {}; make the file the same on both nodes, then: systemctl reload {unit}",
                    self.differing_sections()
                ),
            );
        }
        if self.vip.armed.is_some() && self.vip.digest != self.setup.digest {
            raise(
                "VipConfigDiffers",
                format!(
                    "dre-vip runs with another configuration; systemctl reload {}",
                    group::unit("dre-vip", &self.setup.group)
                ),
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
        if !why.is_empty() && settled && !self.only_gave(now) {
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
            let take = group::command(&self.setup.group, "lease take");
            raise("HeldBack", format!("an operator stopped the role here; {take} brings it back"));
        }
        if self.peer_is_given() {
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
                    "{0}.target is not reached: {why}; it is asked for again every 2 s; systemctl status {1} {0}.target",
                    group::unit(&format!("dre-{}", target.word()), &self.setup.group),
                    group::unit("dre-lease", &self.setup.group)
                ),
            );
        }
        for (name, text) in &self.troubles {
            raise(name, text.clone());
        }
        if has_peer && heard != Heard::Lost {
            for (index, name) in self.setup.links.iter().enumerate() {
                match self.link(now, index).0 {
                    LinkState::Up => {}
                    LinkState::OneWay => raise_of(
                        "LinkOneWay",
                        name,
                        format!(
                            "link {name}: datagrams come from {peer} but do not reach it; look at its receiving side"
                        ),
                    ),
                    LinkState::Down => raise_of(
                        "LinkDown",
                        name,
                        format!(
                            "link {name} is down; the pair lives on the other; look at cable, switch and interface"
                        ),
                    ),
                }
            }
        }
        for (name, text) in self.vip.alarms.iter().chain(&self.database.alarms) {
            all.push((AlarmKey { name: name.clone().into(), subject: String::new() }, text.clone()));
        }
        all
    }

    /// Managed units that are not what the role wants them to be.
    fn unit_alarms(&self, now: Moment, raise: &mut impl FnMut(&'static str, &str, String)) {
        if self.role == Role::Releasing && now >= self.since + STOP_EXPECTED && !self.services_down(now) {
            let up: Vec<String> = self
                .of_active()
                .filter(|(_, unit)| !unit.state.is_down())
                .map(|(name, unit)| format!("{name} is {}", unit.state.words()))
                .collect();
            raise(
                "StopOverdue",
                "",
                format!(
                    "the role is let go, but not free for the peer while its services run: {}; systemd kills what does not stop \
                     within its TimeoutStopSec; if nobody stops it: systemctl daemon-reload, then systemctl stop it",
                    up.join(", ")
                ),
            );
        }
        let own = match self.role {
            Role::Active => &self.setup.services,
            Role::Standby => &self.setup.standby,
            // In between everything is on its way.
            Role::Claiming | Role::Releasing => &vec![],
        };
        let skip = if self.role == Role::Standby { self.setup.services.len() } else { 0 };
        let missing = |unit: &Unit, since: Moment| {
            !matches!(unit.state, UnitState::Up | UnitState::Unknown)
                && now >= since.max(unit.since) + SERVICE_GRACE
        };
        for (name, unit) in own.iter().zip(self.units.iter().skip(skip)) {
            if missing(unit, self.since) {
                raise(
                    "ServiceDown",
                    name,
                    format!(
                        "{name} shall run on the {} node, and is {}; systemctl status {name}",
                        self.role.word(),
                        unit.state.words()
                    ),
                );
            }
        }
        let skip = self.setup.services.len() + self.setup.standby.len();
        for (name, unit) in self.setup.both.iter().zip(self.units.iter().skip(skip)) {
            if missing(unit, self.started) {
                raise(
                    "BothServiceDown",
                    name,
                    format!(
                        "{name} shall run on both nodes, and is {} here; systemctl status {name}",
                        unit.state.words()
                    ),
                );
            }
        }
    }

    pub(super) fn watch_alarms(&mut self, now: Moment, out: &mut Vec<Action>) {
        let mut holds: BTreeMap<AlarmKey, String> = BTreeMap::new();
        for (key, text) in self.alarms_now(now) {
            // Two reasons for one alarm are both told.
            holds.entry(key).and_modify(|all| *all = format!("{all}; {text}")).or_insert(text);
        }
        let gone: Vec<AlarmKey> =
            self.alarms.keys().filter(|key| !holds.contains_key(*key)).cloned().collect();
        for alarm in gone {
            self.alarms.remove(&alarm);
            out.push(Action::Cleared { alarm });
        }
        for (alarm, text) in holds {
            match self.alarms.get_mut(&alarm) {
                Some((_, old)) => *old = text,
                None => {
                    self.alarms.insert(alarm.clone(), (now, text.clone()));
                    out.push(Action::Raised { alarm, text });
                }
            }
        }
    }
}
