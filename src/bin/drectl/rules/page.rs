//! The rules files' status and what is kept aside, for a person. Pure: data in, text out.
//!
//! From the top: is the peer there; a line a set, and below it why, since when, what to do, how much is left.

use std::fmt::Write;
use std::time::Duration;

use anstyle::Style;
use dre::logic::group::PLAIN;
use dre::logic::sync::state::SKEW_MAX;
use dre::rules::{Kept, RulesStatus, SetStatus};
use indicatif::{HumanBytes, HumanCount};

use crate::page::{BAD, CARE, FAINT, GOOD, paint, write_alarm};
use crate::when;

/// The whole page. `now` is the wall clock, seconds since 1970.
pub fn page(s: &RulesStatus, now: i64) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, s, now);
    out
}

fn write(out: &mut String, s: &RulesStatus, now: i64) -> std::fmt::Result {
    writeln!(out, "{}", peer(s))?;
    for alarm in &s.alarms {
        write_alarm(out, PLAIN, alarm, now)?;
    }
    writeln!(out)?;
    if s.sets.is_empty() {
        return writeln!(out, "no set of files is configured; do: drectl rules setup");
    }
    let names = s.sets.iter().map(|set| set.name.chars().count()).max().unwrap_or(0);
    let states = s.sets.iter().map(|set| set.state.len()).max().unwrap_or(0);
    for set in &s.sets {
        let state = paint(style(&set.state), &format!("{:<states$}", plain(&set.state)));
        writeln!(out, "{:<names$}  {state}  {}", plain(&set.name), holds(set))?;
        for (name, text) in below(set, now) {
            writeln!(out, "{:<names$}  {} {text}", "", paint(FAINT, &format!("{name:<8}")))?;
        }
    }
    Ok(())
}

/// Who is at the other end, over what, and how far the clocks are apart.
fn peer(s: &RulesStatus) -> String {
    let node = plain(&s.node);
    let peer = plain(&s.peer);
    if !s.connected {
        return format!(
            "{node}: {peer} is {}: changes wait for it here, and there for this node",
            paint(CARE, "AWAY")
        );
    }
    let apart = s.skew_ms.unsigned_abs();
    let skew = if Duration::from_millis(apart) > SKEW_MAX {
        paint(CARE, &format!("its clock is {apart} ms {}", if s.skew_ms < 0 { "behind" } else { "ahead" }))
    } else {
        format!("clocks {apart} ms apart")
    };
    format!("{node}: {} to {peer} over {}, {skew}", paint(GOOD, "connected"), plain(&s.link))
}

/// How loud a state is.
pub fn style(state: &str) -> Style {
    match state {
        "IN_SYNC" => GOOD,
        "SYNCING" | "SCANNING" | "PENDING" | "PEER_AWAY" | "CONFLICTS" | "CLOCK_SKEW" => CARE,
        _ => BAD,
    }
}

/// What the set has, and how fast the newest change came.
fn holds(set: &SetStatus) -> String {
    let mut text = format!("{} in {}", files_and_bytes(set.files, set.bytes), plain(&set.root));
    if set.counters.last_latency_us > 0 {
        let _ = write!(text, "; newest change visible after {}", when::micros(set.counters.last_latency_us));
    }
    text
}

/// `10,000 files, 11.77 MiB`.
pub fn files_and_bytes(files: u64, bytes: u64) -> String {
    let word = if files == 1 { "file" } else { "files" };
    format!("{} {word}, {}", HumanCount(files), HumanBytes(bytes))
}

/// What is to be said of a set beside its line: name and text.
fn below(set: &SetStatus, now: i64) -> Vec<(&'static str, String)> {
    let mut rows = vec![];
    if !set.remedy.is_empty() {
        rows.push(("do:", plain(&set.remedy)));
    }
    if !set.reason.is_empty() {
        rows.push(("why:", plain(&set.reason)));
    }
    if set.state != "IN_SYNC" && !set.since.is_empty() {
        rows.push(("since:", when::ago(&set.since, now)));
    }
    let mut left = vec![];
    if set.files_todo > 0 {
        let files = set.files_todo.saturating_sub(set.files_done);
        left.push(format!("{} of {} files", HumanCount(files), HumanCount(set.files_todo)));
    }
    if set.bytes_todo > 0 {
        let bytes = set.bytes_todo.saturating_sub(set.bytes_done);
        left.push(format!("{} of {}", HumanBytes(bytes), HumanBytes(set.bytes_todo)));
    }
    if !left.is_empty() {
        rows.push(("left:", left.join(", ")));
    }
    if set.pending > 0 {
        let change = if set.pending == 1 { "change" } else { "changes" };
        rows.push((
            "pending:",
            format!("{} {change} that the peer has not taken yet", HumanCount(set.pending)),
        ));
    }
    if set.conflicts > 0 {
        let name = plain(&set.name);
        rows.push((
            "kept:",
            format!("{} of conflicts: drectl rules conflicts {name}", HumanCount(set.conflicts)),
        ));
    }
    rows
}

/// One line of the bar's title: `re SCANNING`.
pub fn title(set: &SetStatus) -> String {
    format!("{} {}", plain(&set.name), plain(&set.state))
}

/// What is kept aside, and how it comes back. `what`: `conflicts` or `trash`.
pub fn kept(kept: &[Kept], what: &str, set: Option<&str>, now: i64) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_kept(&mut out, kept, what, set, now);
    out
}

fn write_kept(out: &mut String, kept: &[Kept], what: &str, set: Option<&str>, now: i64) -> std::fmt::Result {
    let Some(first) = kept.first() else {
        let of = set.map(|set| format!(" of set {}", plain(set))).unwrap_or_default();
        return writeln!(
            out,
            "{}",
            match what {
                "conflicts" => format!("no conflicts{of}: nothing was edited on both nodes at once"),
                _ => format!("the trash{of} is empty"),
            }
        );
    };
    let width = |of: fn(&Kept) -> &str, least: usize| {
        kept.iter().map(|k| plain(of(k)).chars().count()).max().unwrap_or(0).max(least)
    };
    let (sets, ids, nodes) = (width(|k| &k.set, 3), width(|k| &k.id, 2), width(|k| &k.node, 4));
    let conflicts = what == "conflicts";
    let node = |text: &str| if conflicts { format!("{text:<nodes$}  ") } else { String::new() };
    let head =
        format!("{:<sets$}  {:<ids$}  {}{:>10}  {:<9}  PATH", "SET", "ID", node("NODE"), "SIZE", "AGE");
    writeln!(out, "{}", paint(FAINT, &head))?;
    for k in kept {
        let age = when::seconds(&k.at).map_or_else(|| plain(&k.at), |then| when::span(now - then));
        let uncertain = if k.uncertain { paint(CARE, "  (order uncertain)") } else { String::new() };
        writeln!(
            out,
            "{:<sets$}  {:<ids$}  {}{:>10}  {age:<9}  {}{uncertain}",
            plain(&k.set),
            plain(&k.id),
            node(&plain(&k.node)),
            HumanBytes(k.size).to_string(),
            plain(&k.path)
        )?;
    }
    let (set, id) = (plain(&first.set), plain(&first.id));
    writeln!(out, "\nput one back: drectl rules {what} restore {set} {id}")?;
    if conflicts {
        writeln!(out, "throw one away: drectl rules conflicts drop {set} {id}")?;
    }
    Ok(())
}

/// Text from files' names and other programs: what would move the cursor or colour the terminal is shown as `\xNN`.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "\\x{byte:02x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use dre::rules::Counters;
    use dre::snapshot::Alarm;

    use super::*;

    /// 2026-11-25T14:05:11Z.
    const NOW: i64 = 1_795_615_511;

    fn set(name: &str, state: &str) -> SetStatus {
        SetStatus {
            name: name.into(),
            root: format!("/opt/dre/{name}"),
            state: state.into(),
            since: "2026-11-25T14:02:11Z".into(),
            files: 10_000,
            bytes: 12_345_678,
            ..SetStatus::default()
        }
    }

    fn status(sets: Vec<SetStatus>) -> RulesStatus {
        RulesStatus {
            node: "hadev1".into(),
            peer: "hadev2".into(),
            connected: true,
            link: "primary".into(),
            skew_ms: 3,
            sets,
            ..RulesStatus::default()
        }
    }

    fn read(s: &RulesStatus) -> String {
        anstream::adapter::strip_str(&page(s, NOW)).to_string()
    }

    #[test]
    fn in_sync_is_one_line_a_set() {
        let counters = Counters { last_latency_us: 12_034, ..Counters::default() };
        let s = status(vec![SetStatus { counters, ..set("re", "IN_SYNC") }, set("erlbf", "IN_SYNC")]);
        assert_eq!(
            read(&s),
            "hadev1: connected to hadev2 over primary, clocks 3 ms apart\n\n\
             re     IN_SYNC  10,000 files, 11.77 MiB in /opt/dre/re; newest change visible after 12.0 ms\n\
             erlbf  IN_SYNC  10,000 files, 11.77 MiB in /opt/dre/erlbf\n"
        );
    }

    #[test]
    fn what_is_wrong_says_first_what_to_do() {
        let held = SetStatus {
            reason: "9000 of 10000 files are gone at once".into(),
            remedy: "drectl rules accept-deletes re, or bring them back".into(),
            pending: 1,
            conflicts: 2,
            ..set("re", "HELD")
        };
        assert_eq!(
            read(&status(vec![held])),
            "hadev1: connected to hadev2 over primary, clocks 3 ms apart\n\n\
             re  HELD  10,000 files, 11.77 MiB in /opt/dre/re\n\
             \x20   do:      drectl rules accept-deletes re, or bring them back\n\
             \x20   why:     9000 of 10000 files are gone at once\n\
             \x20   since:   2026-11-25 14:02:11 UTC (3 min ago)\n\
             \x20   pending: 1 change that the peer has not taken yet\n\
             \x20   kept:    2 of conflicts: drectl rules conflicts re\n"
        );
    }

    #[test]
    fn work_says_how_much_is_left_and_a_peer_that_is_away_is_said() {
        let s = RulesStatus {
            connected: false,
            link: String::new(),
            alarms: vec![Alarm {
                subject: String::new(),
                name: "PeerAway".into(),
                text: "no link; look there".into(),
                since: String::new(),
            }],
            ..status(vec![SetStatus {
                files_done: 1_000,
                files_todo: 3_000,
                bytes_done: 1 << 20,
                bytes_todo: 3 << 20,
                pending: 7,
                ..set("re", "SYNCING")
            }])
        };
        let text = read(&s);
        for line in [
            "hadev1: hadev2 is AWAY: changes wait",
            "ALARM PeerAway\n  do:  look there\n  why: no link",
            "    left:    2,000 of 3,000 files, 2.00 MiB of 3.00 MiB\n",
            "    pending: 7 changes that the peer has not taken yet\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        let ms = i64::try_from(SKEW_MAX.as_millis()).expect("a figure");
        let skewed = RulesStatus { skew_ms: -ms - 1, ..status(vec![]) };
        assert!(read(&skewed).contains(&format!("its clock is {} ms behind", ms + 1)));
        let bearable = RulesStatus { skew_ms: ms, ..status(vec![]) };
        assert!(read(&bearable).contains(&format!("clocks {ms} ms apart")));
        assert!(read(&skewed).contains("drectl rules setup"));
    }

    #[test]
    fn states_have_their_colour() {
        assert!(dre::rules::STATES.iter().filter(|state| style(state) == GOOD).eq(["IN_SYNC"].iter()));
        for (state, expected) in [
            ("IN_SYNC", GOOD),
            ("SYNCING", CARE),
            ("PEER_AWAY", CARE),
            ("HELD", BAD),
            ("ROOT_GONE", BAD),
            ("DIFFERS", BAD),
            ("A_STATE_OF_A_LATER_RELEASE", BAD),
        ] {
            assert_eq!(style(state), expected, "{state}");
        }
    }

    #[test]
    fn what_is_kept_is_a_table_that_says_how_it_comes_back() {
        let one = Kept {
            set: "re".into(),
            id: "20261125T140211Z-000017".into(),
            path: "de/a.xml".into(),
            node: "hadev2".into(),
            at: "2026-11-25T14:02:11Z".into(),
            size: 2_048,
            uncertain: true,
        };
        let strip = |text: String| anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            strip(kept(std::slice::from_ref(&one), "conflicts", None, NOW)),
            "SET  ID                       NODE          SIZE  AGE        PATH\n\
             re   20261125T140211Z-000017  hadev2    2.00 KiB  3 min      de/a.xml  (order uncertain)\n\n\
             put one back: drectl rules conflicts restore re 20261125T140211Z-000017\n\
             throw one away: drectl rules conflicts drop re 20261125T140211Z-000017\n"
        );
        let trash = Kept { node: String::new(), uncertain: false, ..one };
        let text = strip(kept(&[trash], "trash", None, NOW));
        assert!(!text.contains("NODE") && text.contains("rules trash restore re 2026"), "{text}");
        assert!(!text.contains("drop"), "{text}");
        assert!(kept(&[], "conflicts", Some("re"), NOW).starts_with("no conflicts of set re"));
        assert_eq!(kept(&[], "trash", None, NOW), "the trash is empty\n");
    }

    /// A file may be called anything; its name must not write on the operator's terminal.
    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}"), "a\\x1b[2Jb\\x0ac\\xc2\\x9b");
        let evil = Kept { set: "re".into(), path: "\x1b]0;x\x07".into(), ..Kept::default() };
        assert!(!kept(&[evil], "trash", None, NOW).contains("\x1b]0"));
    }
}
