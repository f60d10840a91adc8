//! dre-tipc.service as dre-elect sees it: what keeps TIPC from being set up, in words, and when another run is worth it. Pure.

use std::time::Duration;

use dre::config::{Tipc, TipcAddress};
use dre::logic::time::Moment;
use dre::shell::tipc::AGAIN;
use dre::shell::unit::{Ask, Fact, Word};

/// How dre-tipc begins the status of its unit when something is wrong.
const TROUBLE: &str = "trouble: ";
/// A run takes its time; nothing is said of one that may still be on its way.
const GRACE: Duration = Duration::from_secs(5);
/// A bearer that could not be enabled is tried again this often.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What the machine itself shows.
pub struct Ground<'a> {
    pub wanted: &'a Tipc,
    /// What the kernel takes for this node's address; 0.0.0: none.
    pub address: Option<TipcAddress>,
    /// Interfaces of bearers that are not there.
    pub missing: Vec<&'a str>,
}

pub struct Setup {
    word: Option<Word>,
    refused: Option<String>,
    /// For this configuration nothing was asked yet. Not for long: who stops the unit later means it.
    fresh: bool,
    /// An interface appeared, and nothing was asked for it yet.
    appeared: bool,
    since: Moment,
    asked_at: Moment,
}

impl Setup {
    /// TIPC is configured since now, or otherwise than before.
    pub fn new(now: Moment) -> Self {
        Self { word: None, refused: None, fresh: true, appeared: false, since: now, asked_at: now }
    }

    /// Another configuration; what systemd said last still holds.
    pub fn renew(&mut self, now: Moment) {
        let word = self.word.take();
        *self = Self { word, ..Self::new(now) };
    }

    pub fn hear(&mut self, fact: Fact) {
        match fact {
            Fact::Seen(word) => self.word = Some(word),
            Fact::Refused(why) => self.refused = Some(why),
        }
    }

    /// What to ask of systemd now. `appeared`: an interface of a bearer is there that was not, or is another one.
    pub fn ask(&mut self, now: Moment, appeared: bool) -> Option<Ask> {
        // Not forgotten while systemd is not heard, and while a run is on its way that may have come too early.
        self.appeared |= appeared;
        let word = self.word.as_ref()?;
        let troubled = word.text.starts_with(TROUBLE);
        let ask = match word.active.as_str() {
            "active"
                if self.appeared || (troubled && (self.fresh || now.since(self.asked_at) >= AGAIN_AFTER)) =>
            {
                Ask::Reload
            }
            "inactive" | "failed" | "deactivating" if self.appeared || self.fresh => Ask::Start,
            _ => {
                self.fresh &= now.since(self.since) < GRACE;
                return None;
            }
        };
        (self.fresh, self.appeared, self.refused) = (false, false, None);
        self.asked_at = now;
        Some(ask)
    }

    /// What is wrong, with the remedy at the end.
    pub fn trouble(&self, now: Moment, ground: &Ground<'_>) -> Option<String> {
        let settled = now.since(self.since) >= GRACE && now.since(self.asked_at) >= GRACE;
        self.units_trouble(settled).or_else(|| {
            let wanted = ground.wanted.local;
            match ground.address {
                Some(TipcAddress(0)) if settled => Some(
                    "TIPC of this machine has no address: dre-tipc.service has not set it; systemctl restart dre-tipc".into(),
                ),
                Some(address) if address != wanted && address.0 != 0 => Some(format!(
                    "TIPC of this machine has the address {address}, and {wanted} is asked for: the kernel takes an address once; {AGAIN}"
                )),
                _ => None,
            }
        }).or_else(|| {
            let interface = ground.missing.first()?;
            Some(format!(
                "this machine has no {interface} (any more): its bearer is enabled when it appears; look at the interface's driver"
            ))
        })
    }

    fn units_trouble(&self, settled: bool) -> Option<String> {
        let word = self.word.as_ref()?;
        let said = word.text.strip_prefix(TROUBLE);
        match (word.active.as_str(), said) {
            ("failed", Some(said)) => Some(format!("dre-tipc.service failed: {said}")),
            ("failed", None) => Some(format!(
                "dre-tipc.service failed ({}), TIPC is not set up; journalctl -u dre-tipc, then: systemctl restart dre-tipc",
                word.result
            )),
            (_, Some(said)) => Some(format!("dre-tipc.service: {said}")),
            ("inactive", None) if settled || self.refused.is_some() => {
                let why = self.refused.as_ref().map(|why| format!(" (systemd refuses to start it: {why})"));
                Some(format!(
                    "dre-tipc.service does not run{}, so nothing sets TIPC up; systemctl start dre-tipc",
                    why.unwrap_or_default()
                ))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dre::config::Bearer;

    const fn at(s: u64) -> Moment {
        Moment::from_nanos(s * 1_000_000_000)
    }

    fn wanted() -> Tipc {
        Tipc {
            network_id: 1983,
            local: TipcAddress(0x0100_1017),
            peer: None,
            bearers: vec![Bearer { name: "primary".into(), interface: "eth3".into() }],
        }
    }

    fn seen(active: &str, result: &str, text: &str) -> Fact {
        Fact::Seen(Word { active: active.into(), result: result.into(), text: text.into() })
    }

    fn says(setup: &Setup, now: u64, address: u32, missing: &[&str]) -> Option<String> {
        let wanted = wanted();
        let ground =
            Ground { wanted: &wanted, address: Some(TipcAddress(address)), missing: missing.to_vec() };
        setup.trouble(at(now), &ground)
    }

    const GOOD: u32 = 0x0100_1017;

    #[test]
    fn the_units_failure_is_told_in_its_own_words() {
        let mut setup = Setup::new(at(0));
        assert_eq!(says(&setup, 1, GOOD, &[]), None, "systemd was not heard yet");
        setup.hear(seen("failed", "exit-code", "trouble: the address 1.1.24; do this"));
        assert_eq!(
            says(&setup, 1, GOOD, &[]).as_deref(),
            Some("dre-tipc.service failed: the address 1.1.24; do this")
        );
        setup.hear(seen("failed", "timeout", ""));
        let text = says(&setup, 1, GOOD, &[]).expect("failed");
        assert!(text.contains("(timeout)") && text.ends_with("systemctl restart dre-tipc"), "{text}");
        // Active, but for a bearer; and between two tries.
        for active in ["active", "activating", "reloading"] {
            setup.hear(seen(active, "success", "trouble: no eth4; look"));
            assert_eq!(says(&setup, 1, GOOD, &[]).as_deref(), Some("dre-tipc.service: no eth4; look"));
        }
        setup.hear(seen("active", "success", "network 1983, address 1.1.23"));
        assert_eq!(says(&setup, 9, GOOD, &[]), None);
    }

    #[test]
    fn an_address_that_is_not_the_configured_one_is_told() {
        let setup = Setup::new(at(0));
        let text = says(&setup, 0, 0x0100_1018, &[]).expect("another address");
        assert!(text.contains("has the address 1.1.24, and 1.1.23") && text.ends_with(AGAIN), "{text}");
        assert_eq!(says(&setup, 4, 0, &[]), None, "dre-tipc may be on its way");
        assert!(says(&setup, 5, 0, &[]).is_some_and(|text| text.ends_with("systemctl restart dre-tipc")));
        assert!(says(&setup, 5, GOOD, &["eth4"]).is_some_and(|text| text.contains("no eth4")));
    }

    #[test]
    fn a_change_to_tipc_starts_what_sets_it_up_and_says_so_if_it_cannot() {
        let mut setup = Setup::new(at(0));
        assert_eq!(setup.ask(at(1), false), None, "systemd was not heard yet");
        setup.hear(seen("inactive", "success", ""));
        assert_eq!(setup.ask(at(2), false), Some(Ask::Start));
        assert_eq!(setup.ask(at(3), false), None, "once");
        assert_eq!(says(&setup, 3, GOOD, &[]), None, "on its way");
        setup.hear(Fact::Refused("not authorised".into()));
        let text = says(&setup, 3, GOOD, &[]).expect("refused");
        assert!(text.contains("not authorised") && text.ends_with("; systemctl start dre-tipc"), "{text}");
        // An operator stopped it: that is told, not undone.
        let mut setup = Setup::new(at(0));
        setup.hear(seen("active", "success", "network 1983"));
        assert_eq!(setup.ask(at(6), false), None);
        setup.hear(seen("inactive", "success", ""));
        assert_eq!(setup.ask(at(90), false), None);
        assert!(says(&setup, 90, GOOD, &[]).is_some_and(|text| text.ends_with("systemctl start dre-tipc")));
        // A reload asks again; also if what systemd said last was from before the unit stopped.
        setup.renew(at(100));
        assert_eq!(setup.ask(at(100), false), Some(Ask::Start));
        setup.hear(seen("active", "success", "network 1983"));
        setup.renew(at(200));
        assert_eq!(setup.ask(at(200), false), None);
        setup.hear(seen("inactive", "success", ""));
        assert_eq!(setup.ask(at(201), false), Some(Ask::Start));
    }

    #[test]
    fn an_interface_that_appears_has_its_bearer_enabled_again() {
        let mut setup = Setup::new(at(0));
        setup.hear(seen("active", "success", "network 1983"));
        assert_eq!(setup.ask(at(1), false), None);
        assert_eq!(setup.ask(at(2), true), Some(Ask::Reload));
        assert_eq!(setup.ask(at(3), false), None);
        setup.hear(seen("failed", "exit-code", "trouble: x"));
        assert_eq!(setup.ask(at(4), true), Some(Ask::Start));
        // Seen before systemd was heard, or while a run was on its way: not forgotten.
        let mut setup = Setup::new(at(0));
        assert_eq!(setup.ask(at(1), true), None);
        setup.hear(seen("reloading", "success", "network 1983"));
        assert_eq!(setup.ask(at(1), false), None);
        setup.hear(seen("active", "success", "network 1983"));
        assert_eq!(setup.ask(at(2), false), Some(Ask::Reload));
    }

    #[test]
    fn a_bearer_in_trouble_is_tried_again_after_a_minute_and_a_refusal_is_not() {
        let mut setup = Setup::new(at(0));
        setup.hear(seen("active", "success", "trouble: no eth4"));
        assert_eq!(setup.ask(at(1), false), Some(Ask::Reload));
        assert_eq!(setup.ask(at(60), false), None);
        assert_eq!(setup.ask(at(61), false), Some(Ask::Reload));
        assert_eq!(setup.ask(at(62), false), None);
        setup.hear(seen("failed", "exit-code", "trouble: the kernel has no TIPC"));
        assert_eq!(setup.ask(at(500), false), None);
    }
}
