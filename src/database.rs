//! The database stream: what dre-elect and dre-mysql say to each other.
//!
//! A `SOCK_SEQPACKET` unix socket beside the lease stream's, `/run/dre-GROUP/database`; dre-elect makes it and listens, dre-mysql
//! connects. One message a packet, coded as on the lease stream ([`crate::stream::encode`]). A group has it if its configuration
//! has a `[database]`.
//!
//! What it is for: the role decides who may answer for the VIP; with a database behind it, nobody may until the server takes
//! writes, and nobody hands the role over before the server has stopped to. Election, lease and gate stay what they are: the
//! agent can hold a role back, never extend one. A stream that closes counts as a database that cannot be ACTIVE.

use serde::{Deserialize, Serialize};

mod shown;
pub mod talk;

pub use shown::{DatabasePeer, DatabaseReplication, DatabaseSetting, DatabaseStatus, RESEEDING, STATES};

use crate::logic::time::Moment;

/// Whom dre-mysql runs as, and its account on the server.
pub const AGENT: &str = "dre_ctl";
/// Whom dre-elect runs as.
pub const ELECT: &str = "dre";

/// Longest sentence in a [`Word`], bytes: a server's own errors have a kilobyte, and a message must fit ([`crate::stream::MESSAGE_MAX`]).
const TEXT_MAX: usize = 700;

/// dre-elect to dre-mysql.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charge {
    /// This node has the role in `term`, and answers for nothing yet: make the server take writes. Answered by
    /// [`Word::Writable`] or [`Word::Failed`] of the same term. `planned`: the peer handed the role over and is alive: nothing that
    /// it acknowledged may be missing. `force`: an operator takes what is there, whatever is lost.
    Promote { term: u64, planned: bool, force: bool },
    /// The server may take writes until this moment and no longer (the lease; kernel's boot clock). Sent again whenever it grows,
    /// from the promotion on. Past it the agent makes the server read-only by itself, by force if SQL does not answer.
    Until { term: u64, until: Moment },
    /// Make the server read-only within `bound_ms`, end its clients, keep the positions for the peer. Answered by
    /// [`Word::Demoted`] with the same number, whatever became of it. Also sent at the start of a stream to a node without the role.
    Demote { serial: u64, bound_ms: u32 },
    /// The peer's election process is heard and says that it is standby or releasing (`false`: active, or not heard). What the
    /// agent may do on its own side, as start to replicate, does not depend on it; what its status says does.
    Peer { heard: bool, active: bool },
}

/// dre-mysql to dre-elect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Could this node's database be ACTIVE? First message of a stream, and again when it changes. `why_not`: for the operator; `None` = it
    /// could. On the node with the role, a reason makes it unfit: the role goes to the peer if that one is fit.
    Fit { why_not: Option<String> },
    /// The server takes writes.
    Writable { term: u64 },
    /// It could not be made to: the role is given back. `reason` for the operator.
    Failed { term: u64, reason: String },
    /// The server takes no writes any more and its clients are gone. `clean`: it said so itself, nothing was committed after;
    /// else it was ended by force, or does not run.
    Demoted { serial: u64, clean: bool },
    /// Something an operator must see; `None` clears the alarm of that name.
    Alarm { name: String, text: Option<String> },
}

impl Word {
    /// The same with its sentence cut to what fits.
    #[must_use]
    pub fn cut(mut self) -> Self {
        let text = match &mut self {
            Self::Fit { why_not } => why_not.as_mut(),
            Self::Failed { reason, .. } => Some(reason),
            Self::Alarm { text, .. } => text.as_mut(),
            Self::Writable { .. } | Self::Demoted { .. } => None,
        };
        if let Some(text) = text.filter(|text| text.len() > TEXT_MAX) {
            let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{MESSAGE_MAX, decode, encode};

    #[test]
    fn a_long_sentence_is_cut_and_a_word_always_fits() {
        let long = "ä".repeat(3000);
        let mut buffer = [0; MESSAGE_MAX];
        for word in [
            Word::Fit { why_not: Some(long.clone()) },
            Word::Failed { term: u64::MAX, reason: long.clone() },
            Word::Alarm { name: "Database".into(), text: Some(long.clone()) },
        ] {
            assert!(encode(&word, &mut buffer).is_none());
            assert!(encode(&word.cut(), &mut buffer).is_some());
        }
        let word = Word::Fit { why_not: Some("short".into()) };
        assert_eq!(word.clone().cut(), word);
    }

    #[test]
    fn a_word_survives_the_wire() {
        let mut buffer = [0; MESSAGE_MAX];
        let word = Word::Fit { why_not: Some("DIVERGED: 4 transactions".into()) };
        let packet = encode(&word, &mut buffer).expect("fits").to_vec();
        assert_eq!(decode::<Word>(&packet), Some(word));
        let charge = Charge::Until { term: 3, until: Moment::from_nanos(12) };
        assert_eq!(decode::<Charge>(encode(&charge, &mut buffer).expect("fits")), Some(charge));
    }
}
