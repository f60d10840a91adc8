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
    /// The journal could not take so many entries for a while.
    Lost {
        count: u64,
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
            Self::Lost { .. } => "92f1e6d3c8b74a5ea0d5b7c4f8e613f4",
            Self::Detail { .. } => "",
        }
    }

    pub const fn priority(&self) -> Priority {
        match self {
            Self::ConfigRejected { .. } | Self::TargetFailed { .. } => Priority::Error,
            Self::AlarmRaised { .. }
            | Self::Refused { .. }
            | Self::VipMended { .. }
            | Self::GateMended { .. }
            | Self::Trouble { .. }
            | Self::Lost { .. } => Priority::Warning,
            Self::RoleChanged { .. } | Self::TakenOver { .. } | Self::AlarmCleared { .. } => Priority::Notice,
            Self::Suspected { .. }
            | Self::Started { .. }
            | Self::Stopping { .. }
            | Self::ConfigReloaded { .. } => Priority::Info,
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
            Self::Started { text, .. }
            | Self::Stopping { text }
            | Self::ConfigReloaded { text }
            | Self::ConfigRejected { text }
            | Self::VipMended { text }
            | Self::Trouble { text }
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
            _ => vec![],
        }
    }
}
