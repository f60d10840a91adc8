//! Every log event an operator can meet: MESSAGE_ID, priority, sentence, fields.
//!
//! The catalogue (`config/dre.catalog`) explains each id; `tests/units.rs` holds the two together.
//! Logged on change only. Values here, words for people as one of their faces.

/// An event for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The election moved this node.
    RoleChanged { from: &'static str, to: &'static str, rule: &'static str, term: u64 },
}
