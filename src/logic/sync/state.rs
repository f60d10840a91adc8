//! What a set's state is called, why, and what to do about it: one table, the worst first.

use std::time::Duration;

/// From how far on clocks that differ are an alarm.
pub const SKEW_MAX: Duration = Duration::from_secs(1);

/// What the worker knows of its set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why the root cannot be used.
    pub root_gone: Option<String>,
    /// Why nothing can be done with the set though its root may be there: its database, the disk, this process's limits.
    pub fault: Option<String>,
    /// The settings of the set differ between the nodes.
    pub differs: bool,
    /// So many deletions of so many files wait for a word; on this node, or (by its verdict) on the peer.
    pub held: Option<(usize, usize)>,
    pub peer_held: Option<String>,
    pub rejected: Option<String>,
    pub peer_rejected: Option<String>,
    pub blocked: Option<String>,
    pub peer_blocked: Option<String>,
    /// inotify's limit was reached: changes are found by scans only.
    pub watch_limit: bool,
    /// Looked at and all there are to look at.
    pub scanning: Option<(u64, u64)>,
    /// Entries of the peer's not yet taken in.
    pub taking: usize,
    pub connected: bool,
    /// Given to the peer, or to be given, and not acknowledged.
    pub pending: u64,
    /// Paths that are changed and not yet looked at.
    pub dirty: usize,
    pub conflicts: u64,
    /// The clocks' difference.
    pub skew: Duration,
    /// Paths that cannot be replicated (sockets, devices, links out of the root).
    pub refused: Option<String>,
}

/// A state with its reason and remedy. The remedy has no "; ": an alarm's text is `reason; remedy`, and whoever shows it splits there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub word: &'static str,
    pub reason: String,
    pub remedy: String,
    /// An operator should look.
    pub alarm: bool,
}

/// The first line that holds is the state.
pub fn state(set: &str, f: &Facts) -> State {
    let alarm = |word, reason: String, remedy: String| State { word, reason, remedy, alarm: true };
    let plain = |word, reason: String| State { word, reason, remedy: String::new(), alarm: false };
    if let Some(why) = &f.root_gone {
        return alarm(
            "ROOT_GONE",
            format!("the root cannot be used: {why}; nothing is taken for deleted meanwhile"),
            "mount it, or bring the directory back, or, if what is there now is to be the set from now on, \"systemctl restart dre-sync\""
                .into(),
        );
    }
    if let Some(why) = &f.fault {
        return alarm(
            "BLOCKED",
            format!("the set cannot be worked on: {why}"),
            "mend what is named, it is tried again by itself".into(),
        );
    }
    if f.differs {
        return alarm(
            "DIFFERS",
            "the nodes' sync.toml differ for this set; it is not synchronised".into(),
            "make /etc/dre/sync.toml the same on both nodes, then there \"systemctl daemon-reload\", if encrypt, rsync_port or the links \
             changed \"systemctl restart dre-sync-rsync.socket\", and \"systemctl restart dre-sync\""
                .into(),
        );
    }
    if let Some((deleted, known)) = f.held {
        return alarm(
            "HELD",
            format!(
                "{deleted} of {known} files were deleted here; the other node keeps them until somebody says so"
            ),
            format!("if it was meant, \"drectl rules accept-deletes {set}\" here, else put them back"),
        );
    }
    if let Some(why) = &f.rejected {
        return alarm(
            "REJECTED",
            format!("the set's validate refused what the peer gave: {why}"),
            format!("mend the file on the peer, or \"drectl rules force {set}\" here"),
        );
    }
    if let Some(why) = &f.blocked {
        return alarm(
            "BLOCKED",
            format!("what the peer gave cannot be written: {why}"),
            "make room or give the right, it is tried again by itself".into(),
        );
    }
    if let Some(why) = &f.peer_rejected {
        return alarm(
            "REJECTED",
            format!("the set's validate refused on the peer what was changed here: {why}"),
            format!("mend the file, or \"drectl rules force {set}\" on the peer"),
        );
    }
    if let Some(why) = &f.peer_blocked {
        return alarm(
            "BLOCKED",
            format!("the peer cannot write what was changed here: {why}"),
            "make room or give the right there, it is tried again by itself".into(),
        );
    }
    if let Some(why) = &f.peer_held {
        return alarm(
            "HELD",
            format!("on the peer: {why}"),
            format!("if it was meant, \"drectl rules accept-deletes {set}\" on the peer"),
        );
    }
    if let Some((done, all)) = f.scanning {
        let percent = (done * 100).checked_div(all).unwrap_or(0);
        return plain("SCANNING", format!("looking at every file: {percent} %"));
    }
    if f.taking > 0 {
        return plain("SYNCING", format!("{} paths of the peer's are being taken in", f.taking));
    }
    if !f.connected {
        let reason = match f.pending {
            0 => "the peer's dre-sync is not connected".into(),
            n => format!("the peer's dre-sync is not connected; {n} changes wait for it"),
        };
        return State {
            word: "PEER_AWAY",
            reason,
            remedy:
                "look at dre-sync on the peer and at the heartbeat networks, what waits is given by itself"
                    .into(),
            alarm: true,
        };
    }
    if f.pending > 0 || f.dirty > 0 {
        let n = f.pending + f.dirty as u64;
        return plain("PENDING", format!("{n} changes are on their way to the peer"));
    }
    if f.watch_limit {
        return alarm(
            "WATCH_LIMIT",
            "the kernel's limit of watches is reached: some changes are seen by the periodic scan only".into(),
            "raise fs.inotify.max_user_watches (see /usr/lib/sysctl.d/50-dre.conf), then \"systemctl restart dre-sync\""
                .into(),
        );
    }
    if f.skew > SKEW_MAX {
        return alarm(
            "CLOCK_SKEW",
            format!(
                "the nodes' clocks are {:.1} s apart: of two edits, which was later is not certain",
                f.skew.as_secs_f64()
            ),
            "synchronise the clocks (chrony, systemd-timesyncd)".into(),
        );
    }
    if f.conflicts > 0 {
        return alarm(
            "CONFLICTS",
            format!("{} versions lost against another edit and are kept aside", f.conflicts),
            format!(
                "\"drectl rules conflicts {set}\" lists them, \"drectl rules conflicts restore\" puts one in force, \"drectl rules \
                 conflicts drop\" throws one away"
            ),
        );
    }
    plain("IN_SYNC", f.refused.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_worst_is_what_is_shown_and_each_alarm_says_what_to_do() {
        let ok = Facts { connected: true, ..Facts::default() };
        let some = || Some(String::from("why"));
        let rows = [
            (Facts { root_gone: some(), fault: some(), held: Some((1, 2)), ..ok.clone() }, "ROOT_GONE"),
            (Facts { fault: some(), differs: true, ..ok.clone() }, "BLOCKED"),
            (Facts { differs: true, rejected: some(), ..ok.clone() }, "DIFFERS"),
            (Facts { held: Some((30, 40)), blocked: some(), ..ok.clone() }, "HELD"),
            (Facts { rejected: some(), taking: 3, ..ok.clone() }, "REJECTED"),
            (Facts { blocked: some(), taking: 3, ..ok.clone() }, "BLOCKED"),
            (Facts { peer_rejected: some(), pending: 3, ..ok.clone() }, "REJECTED"),
            (Facts { peer_blocked: some(), pending: 3, ..ok.clone() }, "BLOCKED"),
            (Facts { peer_held: some(), ..ok.clone() }, "HELD"),
            (Facts { scanning: Some((1, 4)), taking: 3, ..ok.clone() }, "SCANNING"),
            (Facts { taking: 3, pending: 2, ..ok.clone() }, "SYNCING"),
            (Facts { connected: false, pending: 2, ..ok.clone() }, "PEER_AWAY"),
            (Facts { pending: 2, skew: Duration::from_secs(5), ..ok.clone() }, "PENDING"),
            (Facts { watch_limit: true, skew: Duration::from_secs(5), ..ok.clone() }, "WATCH_LIMIT"),
            (Facts { skew: Duration::from_secs(5), conflicts: 1, ..ok.clone() }, "CLOCK_SKEW"),
            (Facts { conflicts: 1, ..ok.clone() }, "CONFLICTS"),
            (ok, "IN_SYNC"),
        ];
        let words: BTreeSet<&str> = rows.iter().map(|(_, word)| *word).collect();
        assert_eq!(words, BTreeSet::from(crate::rules::STATES), "each state has a row, and no other");
        for (facts, word) in rows {
            let state = state("re", &facts);
            assert_eq!(state.word, word, "{facts:?}");
            assert_eq!(state.alarm, !state.remedy.is_empty(), "{word}");
            assert!(word == "IN_SYNC" || !state.reason.is_empty(), "{word} gives no reason");
            assert!(
                !state.remedy.contains("; "),
                "{word}: \"; \" is where an alarm's remedy begins: {}",
                state.remedy
            );
        }
    }
}
