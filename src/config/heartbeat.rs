//! Linux Heartbeat's directory (`ha.cf`, `haresources`, `authkeys`, and a hosts file) → a group's file of dre's.
//!
//! ```text
//!   ha.cf ──────▶ nodes, timing, media, pings ─┐
//!   haresources ▶ VIPs, database, services ────┼─▶ draft ─▶ TOML, read again by the loader itself
//!   hosts, this machine's interfaces ▶ addresses ┘
//! ```
//!
//! Invariant: every line that says something has a [`Remark`], and what is not known is never guessed: it stands in the text as
//! [`FILL_IN`], which the loader refuses.
//!
//! The style is that of Heartbeat's first release (`haresources`); of the later ones' `cib.xml` nothing is understood.
//!
//! Absent on purpose: files, resolvers, and any text of `authkeys` but numbers and methods.

use serde::Serialize;

use super::HostFacts;

mod addresses;
mod draft;
mod ha_cf;
mod hosts;
mod resources;

/// What stands where something is to be filled in: neither an address nor an interface's name, so the loader refuses it.
pub const FILL_IN: &str = "FILL IN";

/// A file's text and the name by which it is spoken of.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub file: String,
    pub text: String,
}

/// All that an import may know.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The group whose file it becomes.
    pub group: String,
    pub ha_cf: Source,
    pub haresources: Source,
    pub authkeys: Option<Source>,
    pub hosts: Option<Source>,
    /// This machine's name, without a domain. Its interfaces are believed if it is one of the nodes.
    pub host: String,
    pub facts: HostFacts,
    /// The interface that the arbitrators are asked over, where somebody said it.
    pub arbitrator_interface: Option<String>,
    /// The node whose lines of `haresources` are meant; default: that of the first one.
    pub preferred: Option<String>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It says the same in dre's words.
    Taken,
    /// It became something that is not quite the same.
    Changed,
    /// Nothing of dre's corresponds.
    Dropped,
    /// The text holds when somebody has filled it in.
    Open,
    /// It cannot be understood; there is no text then.
    Wrong,
}

impl Outcome {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::Open => "LEFT OPEN",
            Self::Wrong => "WRONG",
        }
    }
}

/// One line of the old files and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    pub file: String,
    /// 0: the file as a whole.
    pub line: usize,
    pub outcome: Outcome,
    /// What stands there; never a key, a password, or arguments among which one may be.
    pub what: String,
    /// What stands in the new file for it; empty: nothing.
    pub became: String,
    pub why: String,
    pub remedy: String,
}

impl Remark {
    /// `ha.cf:7`, or `ha.cf` for all of it.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        }
    }
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, became, why, remedy, .. } = self;
        write!(f, "{}: {}: {what}", self.place(), self.outcome.word())?;
        if !became.is_empty() {
            write!(f, " -> {became}")?;
        }
        if !why.is_empty() {
            write!(f, " ({why})")?;
        }
        if !remedy.is_empty() {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// `None`: something is [`Outcome::Wrong`].
    pub toml: Option<String>,
    /// In the order of the files and their lines.
    pub remarks: Vec<Remark>,
    /// What holds but may surprise, as the loader says it.
    pub warnings: Vec<String>,
}

impl Import {
    pub fn of(&self, outcome: Outcome) -> impl Iterator<Item = &Remark> {
        self.remarks.iter().filter(move |remark| remark.outcome == outcome)
    }
}

/// Text to text. Pure.
pub fn import(given: &Given) -> Import {
    let mut remarks = Remarks::new(given);
    let ha_cf = ha_cf::read(&given.ha_cf.text, &mut remarks);
    let resources = resources::read(given, &ha_cf, &mut remarks);
    if let Some(keys) = &given.authkeys {
        authkeys(&keys.text, &mut remarks);
    }
    if remarks.any(Outcome::Wrong) {
        return Import { toml: None, remarks: remarks.sorted(), warnings: vec![] };
    }
    let (text, warnings) = draft::write(given, &ha_cf, &resources, &mut remarks);
    Import { toml: Some(text), remarks: remarks.sorted(), warnings }
}

// ---- what is said ------------------------------------------------------------------------------------------

/// Which file; the order in which it is spoken of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    HaCf,
    Resources,
    Keys,
    /// The new text.
    Draft,
}

/// A line of a file; 0: all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spot(Which, usize);

/// A value, how it was written, and where.
#[derive(Debug, Clone)]
struct Told<T> {
    value: T,
    text: String,
    spot: Spot,
}

struct Remarks {
    files: [String; 4],
    said: Vec<(Spot, Remark)>,
}

impl Remarks {
    fn new(given: &Given) -> Self {
        let keys = given.authkeys.as_ref().map(|source| source.file.clone()).unwrap_or_default();
        let draft = format!("{}.toml", given.group);
        Self { files: [given.ha_cf.file.clone(), given.haresources.file.clone(), keys, draft], said: vec![] }
    }

    fn file(&self, which: Which) -> &str {
        let Some(file) = self.files.get(which as usize) else { return "" };
        file
    }

    fn add(&mut self, spot: Spot, outcome: Outcome, what: &str, became: &str, why: &str, remedy: &str) {
        let remark = Remark {
            file: self.file(spot.0).to_owned(),
            line: spot.1,
            outcome,
            what: printable(what),
            became: printable(became),
            why: printable(why),
            remedy: printable(remedy),
        };
        self.said.push((spot, remark));
    }

    fn taken(&mut self, spot: Spot, what: &str, became: &str) {
        self.add(spot, Outcome::Taken, what, became, "", "");
    }

    fn changed(&mut self, spot: Spot, what: &str, became: &str, why: &str) {
        self.add(spot, Outcome::Changed, what, became, why, "");
    }

    fn dropped(&mut self, spot: Spot, what: &str, why: &str, remedy: &str) {
        self.add(spot, Outcome::Dropped, what, "", why, remedy);
    }

    fn open(&mut self, spot: Spot, what: &str, why: &str, remedy: &str) {
        self.add(spot, Outcome::Open, what, "", why, remedy);
    }

    fn wrong(&mut self, spot: Spot, what: &str, why: &str, remedy: &str) {
        self.add(spot, Outcome::Wrong, what, "", why, remedy);
    }

    fn any(&self, outcome: Outcome) -> bool {
        self.said.iter().any(|(_, remark)| remark.outcome == outcome)
    }

    fn sorted(mut self) -> Vec<Remark> {
        self.said.sort_by_key(|(spot, _)| *spot);
        self.said.into_iter().map(|(_, remark)| remark).collect()
    }
}

/// Nothing in an old file may steer a terminal, or end a comment of the new one.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

// ---- authkeys ----------------------------------------------------------------------------------------------

/// Numbers and methods are shown, and nothing else: what is not understood may be the key.
fn authkeys(text: &str, remarks: &mut Remarks) {
    // Said once; the other lines are of the same kind.
    let mut why = "dre has one key for all groups, 32 random bytes, and authenticates every heartbeat by it";
    let mut remedy = "make it with \"drectl key new\" on one node, and copy it to the other";
    for (line, text) in numbered(text) {
        let spot = Spot(Which::Keys, line);
        let mut words = text.split_whitespace();
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u8>().ok());
        let what = match words.next() {
            None => continue,
            Some(word) if word.starts_with('#') => continue,
            Some("auth") => match number(words.next()) {
                Some(n) => format!("auth {n}"),
                None => "auth".into(),
            },
            first => match (number(first), words.next()) {
                (Some(n), Some(method @ ("crc" | "md5" | "sha1"))) => format!("key {n} ({method})"),
                _ => "a line that is not shown".into(),
            },
        };
        remarks.dropped(spot, &what, why, remedy);
        (why, remedy) = ("dre has a key of its own", "");
    }
}

/// Lines with their numbers, from 1 on.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line))
}

#[cfg(test)]
mod tests;
