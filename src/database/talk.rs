//! What goes from one node's agent to the other's, and how a copy of a server travels: over the same door, behind the same proof.
//!
//! ```text
//!   drectl db reseed ── Noise ──▶ dre-mysql ── local socket ──▶ dre-donor
//!        ◀── Offer ‖ newline ──
//!        ── go ‖ newline ──▶                          when the operator has said yes
//!        ◀── (u32 length ‖ bytes)… ‖ 0 ‖ Ended ‖ newline ──
//! ```
//!
//! Nothing is read of the server before the go: what nobody takes yet would fill the wire, and the kernel ends a connection that
//! stands still.
//!
//! `Offer` and `Ended` are lines of JSON. A copy without its `Ended` is none: what the wire cut off is not taken for whole.

use std::io::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::db::facts::Tell;

/// Longest part of a copy, bytes.
pub const PART_MAX: usize = 256 * 1024;
/// Longest line, bytes: an `Ended` has the last words of the program that copied.
pub const LINE_MAX: usize = 64 * 1024;

/// The copy may begin.
pub const GO: &[u8] = b"go\n";
/// How long an operator may think about an offer.
pub const THINKS: Duration = Duration::from_secs(600);
/// Nothing came of a copy for so long, or nothing of it was taken: a giver that starts reading its files is silent for a moment, and
/// a receiver's disk may stall.
pub const SILENT: Duration = Duration::from_secs(60);

/// The word of an agent, or the first word of somebody who wants a copy.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    Lives,
    Tell(Tell),
    /// The connection becomes a pipe, and what comes over it is this node's server.
    Copy,
}

/// What is about to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    pub node: String,
    pub version: String,
    /// Of the files, about: for the bar, and for whether there is room.
    pub bytes: u64,
    /// `gtid_binlog_state` before the copy began. What was committed until its end has the giver's own id.
    pub has: String,
    /// The giver's server, as a writer.
    pub server_id: u32,
    pub read_only: bool,
    /// Why there is no copy, and what to do; empty = it follows.
    pub refused: String,
}

/// The end of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    pub whole: bool,
    /// The copying program's last words where it is not.
    pub last: String,
}

/// A line of JSON.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// One part; an empty one ends the copy.
pub fn part(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_and_reads_the_same_again() {
        let ended = Ended { whole: false, last: "two\nlines, and \"quotes\"".into() };
        let text = line(&ended);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Ended>(&text).expect("JSON"), ended);
        let mut out = vec![];
        part(&mut out, b"abc").expect("written");
        part(&mut out, b"").expect("written");
        assert_eq!(out, b"\0\0\0\x03abc\0\0\0\0");
    }
}
