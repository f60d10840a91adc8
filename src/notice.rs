//! Every log event an operator can meet: MESSAGE_ID, priority, sentence, fields.
//!
//! The catalogue (`config/dre.catalog`) explains each id; `tests/tidy.rs` holds the two together.
//! Logged on change only. Values here, words for people as one of their faces.

/// syslog(3) levels, as journald's PRIORITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

impl Priority {
    /// As `DRE_LOG_LEVEL` and `systemctl service-log-level` spell it.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_lowercase().as_str() {
            "emerg" | "alert" | "crit" | "err" | "error" | "3" => Self::Error,
            "warning" | "warn" | "4" => Self::Warning,
            "notice" | "5" => Self::Notice,
            "info" | "6" => Self::Info,
            "debug" | "trace" | "7" => Self::Debug,
            _ => return None,
        })
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    pub const fn from_number(n: u8) -> Self {
        match n {
            0..=3 => Self::Error,
            4 => Self::Warning,
            5 => Self::Notice,
            6 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// An event for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The election moved this node. `evidence`: what the rule stood on.
    RoleChanged {
        from: &'static str,
        to: &'static str,
        rule: &'static str,
        term: u64,
        evidence: String,
    },
    /// A standby began to gather evidence against its peer: the kernel withdrew the peer's name, or D/2 of silence.
    Suspected {
        withdrawn: bool,
        silent_us: u64,
        /// Microseconds since 1970.
        at_us: u64,
    },
    /// `subject`: which link, which unit; empty where there is but one.
    AlarmRaised {
        alarm: String,
        subject: String,
        text: String,
    },
    AlarmCleared {
        alarm: String,
        subject: String,
    },
    /// A takeover was measured.
    TakenOver {
        here: bool,
        gap_us: u64,
        rule: String,
    },
    /// What an operator asked was refused.
    Refused {
        asked: String,
        reason: String,
    },
    Started {
        what: &'static str,
        text: String,
    },
    Stopping {
        text: String,
    },
    ConfigReloaded {
        text: String,
    },
    /// The old configuration stays in force.
    ConfigRejected {
        text: String,
    },
    /// systemd did not reach a role's target.
    TargetFailed {
        target: String,
        result: String,
    },
    /// A VIP that somebody took away was brought back, or one that somebody brought was taken away.
    VipMended {
        text: String,
    },
    /// The gate's program was missing on an interface and was put back.
    GateMended {
        interface: String,
    },
    /// Something of this machine does not work as it should.
    Trouble {
        text: String,
    },
    /// A database server, its replication or its promotion: what its agent found or did.
    Database {
        priority: Priority,
        text: String,
    },
    /// The journal could not take so many entries for a while.
    Lost {
        count: u64,
    },
    /// A batch of the peer's changes is visible here. `path`: its first; `latency_us`: from the newest file's mtime to
    /// its visibility, 0 where there is none (deletions alone).
    RulesPublished {
        set: String,
        peer: String,
        files: u64,
        deleted: u64,
        bytes: u64,
        path: String,
        latency_us: u64,
    },
    /// Both nodes changed a path without having seen the other's change. `kept`: where the loser is, empty when it was a
    /// deletion. `uncertain`: the clocks were apart.
    RulesConflict {
        set: String,
        path: String,
        winner: String,
        loser: String,
        kept: String,
        uncertain: bool,
    },
    /// So many deletions at once wait for an operator's word.
    RulesHeld {
        set: String,
        deleted: u64,
        known: u64,
    },
    /// A set's directory is not there, or is not the one it was (unmounted).
    RulesRootGone {
        set: String,
        root: String,
        reason: String,
    },
    /// `validate` on `node` refused a batch; `path`: its first, `output`: the command's first lines.
    RulesRejected {
        set: String,
        node: String,
        files: u64,
        path: String,
        output: String,
    },
    /// A batch cannot be taken in for now: disk full, permission, quota.
    RulesBlocked {
        set: String,
        path: String,
        reason: String,
    },
    /// The kernel dropped events (or a watch), so everything was looked at again.
    RulesRescanned {
        set: String,
        reason: String,
    },
    /// A user or group of the peer's files that this node does not have, once for each.
    RulesOwnerUnknown {
        set: String,
        reason: String,
    },
    /// The two nodes' files were put together without a common history: first contact, or a lost database.
    RulesJoined {
        set: String,
        peer: String,
        reason: String,
    },
    RulesPeerConnected {
        peer: String,
        link: String,
    },
    RulesPeerAway {
        peer: String,
        reason: String,
    },
    /// `skew_ms`: the peer's wall clock less ours.
    RulesClockSkew {
        peer: String,
        skew_ms: i64,
    },
    /// For `debug`.
    Detail {
        text: String,
    },
}

impl Notice {
    /// MESSAGE_ID; random, never reused.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::RoleChanged { .. } => "5c1d0b7f4a0e4a6f9d53b1c2e8a70f11",
            Self::Suspected { .. } => "3b90d6e47f1c4c5fa2de8b7c61f4a9c5",
            Self::AlarmRaised { .. } => "8f2c3de1b7744c0e9d0ab6ce51f3a712",
            Self::AlarmCleared { .. } => "e0a9d57a6c1c4f55b6f2b1f0c7be8913",
            Self::TakenOver { .. } => "b3f7a8c2d9e54bb08a41c6d2f5e07a14",
            Self::Refused { .. } => "4d7be0f19a3c4d28b5ef60718c92da15",
            Self::Started { .. } => "29c6b1f3e8d74a0f8c35d7e9b2a4f016",
            Self::Stopping { .. } => "f61e0d8c7b5a4932a1c4e6f8d0b39217",
            Self::ConfigReloaded { .. } => "07a5c4e3f2b14d69be8d1f6c3a598e18",
            Self::ConfigRejected { .. } => "c9d2e7b6a1f84530974bde5c8f60a219",
            Self::TargetFailed { .. } => "1e8f6a5d4c3b42a7902fd7e1b6c85a20",
            Self::VipMended { .. } => "a7b4c1d8e5f24096b38c2e9f5d7160b1",
            Self::GateMended { .. } => "63d9e2f5a8b14c7d86e0f3b9c5a271d2",
            Self::Trouble { .. } => "d0c7b8a5f4e34291b6d8e7f2a19c05e3",
            Self::Database { .. } => "5b7d0c92e6a84f13b1d8c4f7a09e63d5",
            Self::Lost { .. } => "92f1e6d3c8b74a5ea0d5b7c4f8e613f4",
            Self::RulesPublished { .. } => "da64f7fbb9e490a8caddbe84d4b621e2",
            Self::RulesConflict { .. } => "463826effa37ef268066c11f6fe708e0",
            Self::RulesHeld { .. } => "a3d9b22cea1e6791d6a4ebc40a162833",
            Self::RulesRootGone { .. } => "acc92af1a2543fd8c174ee298ee078e2",
            Self::RulesRejected { .. } => "3d9152c35b31acc48a937d71aed48427",
            Self::RulesBlocked { .. } => "ad9d411933b27d89f0ce49b6e5bf7d86",
            Self::RulesRescanned { .. } => "aa9f61794b2a3d9deb98276e9486c4ba",
            Self::RulesOwnerUnknown { .. } => "ebd87712ee4d4281a64479c2cfc938e0",
            Self::RulesJoined { .. } => "fee1dfed2c18c028ffab980db36cb07c",
            Self::RulesPeerConnected { .. } => "c6d10587d801a4f00824521fb9a57424",
            Self::RulesPeerAway { .. } => "2df08c2417bf8222cc6fddb8227960bc",
            Self::RulesClockSkew { .. } => "9aaabb6fd9593facc042ea11cdfcd14a",
            Self::Detail { .. } => "",
        }
    }

    pub const fn priority(&self) -> Priority {
        match self {
            Self::ConfigRejected { .. } | Self::TargetFailed { .. } | Self::RulesRootGone { .. } => {
                Priority::Error
            }
            Self::AlarmRaised { .. }
            | Self::Refused { .. }
            | Self::VipMended { .. }
            | Self::GateMended { .. }
            | Self::Trouble { .. }
            | Self::Lost { .. }
            | Self::RulesConflict { .. }
            | Self::RulesHeld { .. }
            | Self::RulesRejected { .. }
            | Self::RulesBlocked { .. }
            | Self::RulesOwnerUnknown { .. }
            | Self::RulesClockSkew { .. } => Priority::Warning,
            Self::RoleChanged { .. }
            | Self::TakenOver { .. }
            | Self::AlarmCleared { .. }
            | Self::RulesRescanned { .. }
            | Self::RulesJoined { .. }
            | Self::RulesPeerConnected { .. }
            | Self::RulesPeerAway { .. } => Priority::Notice,
            Self::Suspected { .. }
            | Self::Started { .. }
            | Self::Stopping { .. }
            | Self::ConfigReloaded { .. }
            | Self::RulesPublished { .. } => Priority::Info,
            Self::Database { priority, .. } => *priority,
            Self::Detail { .. } => Priority::Debug,
        }
    }

    /// One sentence.
    pub fn message(&self) -> String {
        match self {
            Self::RoleChanged { from, to, rule, term, evidence } => {
                format!("{} -> {}: {rule}, term {term} ({evidence})", from.to_uppercase(), to.to_uppercase())
            }
            Self::Suspected { withdrawn, silent_us, .. } => format!(
                "evidence against the peer is gathered: {}; last heard {}.{:03} ms ago",
                if *withdrawn { "the kernel withdrew its name" } else { "it has been silent for D/2" },
                silent_us / 1000,
                silent_us % 1000
            ),
            Self::AlarmRaised { alarm, text, .. } => format!("alarm {alarm}: {text}"),
            Self::AlarmCleared { alarm, subject } if subject.is_empty() => format!("alarm {alarm} is over"),
            Self::AlarmCleared { alarm, subject } => format!("alarm {alarm} is over for {subject}"),
            Self::TakenOver { here, gap_us, rule } => format!(
                "the VIPs are served {} after {}.{:03} ms ({rule})",
                if *here { "here" } else { "by the peer" },
                gap_us / 1000,
                gap_us % 1000
            ),
            Self::Refused { asked, reason } => format!("{asked}: {reason}"),
            Self::Lost { count } => {
                format!("{count} journal entries were lost while journald did not take them")
            }
            Self::GateMended { interface } => format!("the gate was gone from {interface} and is back"),
            Self::TargetFailed { target, result } => format!("{target} was not reached: {result}"),
            Self::RulesPublished { set, peer, files, deleted, bytes, path, latency_us } => {
                let deleted = if *deleted > 0 { format!(", {deleted} deleted") } else { String::new() };
                let after = if *latency_us > 0 {
                    format!(
                        ", the newest visible {}.{:03} ms after its edit",
                        latency_us / 1000,
                        latency_us % 1000
                    )
                } else {
                    String::new()
                };
                format!(
                    "set {set}: {} taken in from {peer}, {bytes} bytes{deleted}{after}; first: {path}",
                    counted(*files, "file")
                )
            }
            Self::RulesConflict { set, path, winner, loser, kept, uncertain } => {
                let kept = if kept.is_empty() {
                    format!("{loser} had deleted it")
                } else {
                    format!("{loser}'s is kept in {kept}")
                };
                let order =
                    if *uncertain { "; the clocks were apart: which is newer is not certain" } else { "" };
                format!("set {set}: both nodes changed {path}: {winner}'s is in force, {kept}{order}")
            }
            Self::RulesHeld { set, deleted, known } => format!(
                "set {set}: {deleted} of {known} files are gone at once: nothing is deleted on the other node until \
                 \"drectl rules accept-deletes {set}\""
            ),
            Self::RulesRootGone { set, root, reason } => {
                format!("set {set}: {root} is gone ({reason}): nothing is taken for deleted")
            }
            Self::RulesRejected { set, node, files, path, output } => format!(
                "set {set}: validate on {node} refused {} (first: {path}): {}",
                counted(*files, "file"),
                output.lines().next().unwrap_or("it said nothing")
            ),
            Self::RulesBlocked { set, path, reason } => {
                format!("set {set}: {path} cannot be taken in: {reason}; it is tried again until it can")
            }
            Self::RulesRescanned { set, reason } => {
                format!("set {set}: {reason}: everything was looked at again")
            }
            Self::RulesOwnerUnknown { set, reason } => format!("set {set}: {reason}"),
            Self::RulesJoined { set, peer, reason } => {
                format!(
                    "set {set}: {reason}: put together with {peer}'s files, without a common history; nothing was deleted on either side"
                )
            }
            Self::RulesPeerConnected { peer, link } => format!("dre-sync of {peer} is connected over {link}"),
            Self::RulesPeerAway { peer, reason } => format!("dre-sync of {peer} is away: {reason}"),
            Self::RulesClockSkew { peer, skew_ms } => format!(
                "the clock of {peer} is {} ms {} ours: which of two edits is newer is not certain",
                skew_ms.unsigned_abs(),
                if *skew_ms < 0 { "behind" } else { "ahead of" }
            ),
            Self::Started { text, .. }
            | Self::Stopping { text }
            | Self::ConfigReloaded { text }
            | Self::ConfigRejected { text }
            | Self::VipMended { text }
            | Self::Trouble { text }
            | Self::Database { text, .. }
            | Self::Detail { text } => text.clone(),
        }
    }

    /// Fields beside the message.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::RoleChanged { from, to, rule, term, evidence } => vec![
                ("DRE_ROLE", (*to).into()),
                ("DRE_ROLE_BEFORE", (*from).into()),
                ("DRE_RULE", (*rule).into()),
                ("DRE_TERM", term.to_string()),
                ("DRE_EVIDENCE", evidence.clone()),
            ],
            Self::Suspected { withdrawn, silent_us, at_us } => vec![
                ("DRE_CAUSE", if *withdrawn { "withdrawn" } else { "silent" }.into()),
                ("DRE_SILENT_US", silent_us.to_string()),
                ("DRE_AT_US", at_us.to_string()),
            ],
            Self::AlarmRaised { alarm, subject, text } => vec![
                ("DRE_ALARM", alarm.clone()),
                ("DRE_SUBJECT", subject.clone()),
                ("DRE_TEXT", text.clone()),
            ],
            Self::AlarmCleared { alarm, subject } => {
                vec![("DRE_ALARM", alarm.clone()), ("DRE_SUBJECT", subject.clone())]
            }
            Self::TakenOver { gap_us, rule, .. } => {
                vec![("DRE_GAP_US", gap_us.to_string()), ("DRE_RULE", rule.clone())]
            }
            Self::Refused { asked, reason } => {
                vec![("DRE_ASKED", asked.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::TargetFailed { target, result } => {
                vec![("DRE_TARGET", target.clone()), ("DRE_RESULT", result.clone())]
            }
            Self::GateMended { interface } => vec![("DRE_INTERFACE", interface.clone())],
            Self::RulesPublished { set, peer, files, deleted, bytes, path, latency_us } => vec![
                ("DRE_SET", set.clone()),
                ("DRE_PEER", peer.clone()),
                ("DRE_FILES", files.to_string()),
                ("DRE_DELETED", deleted.to_string()),
                ("DRE_BYTES", bytes.to_string()),
                ("DRE_PATH", path.clone()),
                ("DRE_LATENCY_US", latency_us.to_string()),
            ],
            Self::RulesConflict { set, path, winner, loser, kept, uncertain } => vec![
                ("DRE_SET", set.clone()),
                ("DRE_PATH", path.clone()),
                ("DRE_WINNER", winner.clone()),
                ("DRE_LOSER", loser.clone()),
                ("DRE_KEPT", kept.clone()),
                ("DRE_UNCERTAIN", if *uncertain { "yes" } else { "no" }.into()),
            ],
            Self::RulesHeld { set, deleted, known } => vec![
                ("DRE_SET", set.clone()),
                ("DRE_DELETED", deleted.to_string()),
                ("DRE_FILES", known.to_string()),
            ],
            Self::RulesRootGone { set, root, reason } => {
                vec![("DRE_SET", set.clone()), ("DRE_ROOT", root.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::RulesRejected { set, node, files, path, output } => vec![
                ("DRE_SET", set.clone()),
                ("DRE_NODE", node.clone()),
                ("DRE_FILES", files.to_string()),
                ("DRE_PATH", path.clone()),
                ("DRE_OUTPUT", output.clone()),
            ],
            Self::RulesBlocked { set, path, reason } => {
                vec![("DRE_SET", set.clone()), ("DRE_PATH", path.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::RulesRescanned { set, reason } | Self::RulesOwnerUnknown { set, reason } => {
                vec![("DRE_SET", set.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::RulesJoined { set, peer, reason } => {
                vec![("DRE_SET", set.clone()), ("DRE_PEER", peer.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::RulesPeerConnected { peer, link } => {
                vec![("DRE_PEER", peer.clone()), ("DRE_LINK", link.clone())]
            }
            Self::RulesPeerAway { peer, reason } => {
                vec![("DRE_PEER", peer.clone()), ("DRE_REASON", reason.clone())]
            }
            Self::RulesClockSkew { peer, skew_ms } => {
                vec![("DRE_PEER", peer.clone()), ("DRE_SKEW_MS", skew_ms.to_string())]
            }
            _ => vec![],
        }
    }
}

fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("a {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_told_as_it_was() {
        let published = |files, deleted, latency_us| Notice::RulesPublished {
            set: "re".into(),
            peer: "hadev2".into(),
            files,
            deleted,
            bytes: 512,
            path: "a.xml".into(),
            latency_us,
        };
        assert_eq!(
            published(1, 0, 12_034).message(),
            "set re: a file taken in from hadev2, 512 bytes, the newest visible 12.034 ms after its edit; first: a.xml"
        );
        assert_eq!(
            published(0, 2, 0).message(),
            "set re: 0 files taken in from hadev2, 512 bytes, 2 deleted; first: a.xml"
        );
    }

    #[test]
    fn a_conflict_says_who_won_and_where_the_loser_is() {
        let conflict = |kept: &str, uncertain| Notice::RulesConflict {
            set: "re".into(),
            path: "a.xml".into(),
            winner: "hadev2".into(),
            loser: "hadev1".into(),
            kept: kept.into(),
            uncertain,
        };
        assert_eq!(
            conflict("/var/lib/dre/x", false).message(),
            "set re: both nodes changed a.xml: hadev2's is in force, hadev1's is kept in /var/lib/dre/x"
        );
        let deleted = conflict("", true).message();
        assert!(deleted.contains("hadev1 had deleted it") && deleted.ends_with("not certain"), "{deleted}");
    }

    #[test]
    fn the_faster_clock_is_named() {
        let skew = |skew_ms| Notice::RulesClockSkew { peer: "hadev2".into(), skew_ms }.message();
        assert!(skew(-1_500).contains("1500 ms behind ours"));
        assert!(skew(1_500).contains("1500 ms ahead of ours"));
    }
}
