//! How drectl ends when it could not do what was asked: a sentence with its remedy, and a status for scripts.

use dre::config;

/// EX_USAGE of sysexits.h.
pub const USAGE: u8 = 64;
/// EX_DATAERR: what was to be taken over cannot be understood.
pub const NOT_UNDERSTOOD: u8 = 65;
/// EX_UNAVAILABLE: the daemon is not running or does not answer.
pub const NOT_RUNNING: u8 = 69;
/// EX_TEMPFAIL: refused for now, the reason says why.
pub const REFUSED: u8 = 75;

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail {
    pub code: u8,
    pub text: String,
}

impl Fail {
    /// `unit` without its `.service`.
    pub fn not_running(unit: &str) -> Self {
        let text = format!("{unit}.service is not running; start it with: systemctl start {unit}");
        Self { code: NOT_RUNNING, text }
    }

    pub fn silent(text: impl Into<String>) -> Self {
        Self { code: NOT_RUNNING, text: text.into() }
    }

    pub fn refused(text: impl Into<String>) -> Self {
        Self { code: REFUSED, text: text.into() }
    }

    /// A file of dre's that is broken, or cannot be read: no second try mends it.
    pub fn config(error: &config::Error) -> Self {
        Self { code: config::EXIT_CONFIG, text: error.lines() }
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }
}

pub type Done = Result<(), Fail>;
