//! The settings that come by environment: what systemd's `EnvironmentFile=` gives the daemons, the generator (which
//! systemd starts without one) and a person's `drectl` read from the same files.
//!
//! A group but `dre` has files of its own behind them, which win: one pair of a machine may be standalone, or talkative, alone.

use std::path::PathBuf;

use crate::logic::group;
use crate::notice::Priority;

/// As in the units; a later file wins.
const FILES: [&str; 2] = ["/etc/sysconfig/dre", "/etc/default/dre"];

/// The value of `name` for a group: of this process, else of the files. An empty one counts as none.
pub fn get(group: &str, name: &str) -> Option<String> {
    std::env::var(name).ok().or_else(|| in_files(&files(group), name)).filter(|value| !value.is_empty())
}

fn files(group: &str) -> Vec<PathBuf> {
    let own = FILES.map(|file| group::unit(file, group));
    let common = FILES.into_iter().map(str::to_owned).filter(|file| !own.contains(file));
    common.chain(own.clone()).map(PathBuf::from).collect()
}

/// Yes or no, as systemd takes it; `None`: neither.
pub fn truth(word: &str) -> Option<bool> {
    match word.to_lowercase().as_str() {
        "yes" | "true" | "1" | "on" | "y" | "t" => Some(true),
        "no" | "false" | "0" | "off" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// Settings with values nobody knows: each is taken as its default, and that is said.
pub fn strange(get: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut all = vec![];
    if let Some(word) = get("DRE_LOG_LEVEL").filter(|word| Priority::from_word(word).is_none()) {
        all.push(format!(
            "DRE_LOG_LEVEL = {word:?} is no level, \"info\" is taken; write err, warning, notice, info or debug in \
             /etc/default/dre or /etc/sysconfig/dre"
        ));
    }
    if let Some(word) = get("DRE_STANDALONE").filter(|word| truth(word).is_none()) {
        all.push(format!(
            "DRE_STANDALONE = {word:?} is neither yes nor no, \"no\" is taken; write yes or no in /etc/default/dre or \
             /etc/sysconfig/dre"
        ));
    }
    all
}

fn in_files(files: &[PathBuf], name: &str) -> Option<String> {
    files.iter().rev().find_map(|file| value(&std::fs::read_to_string(file).ok()?, name))
}

/// `NAME=value` lines as systemd and a shell both take them: comments, blanks, an `export`, one pair of quotes. The
/// last assignment wins.
fn value(text: &str, name: &str) -> Option<String> {
    let mut found = None;
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((key, raw)) = line.split_once('=') else { continue };
        if line.starts_with(['#', ';']) || key.trim() != name {
            continue;
        }
        let raw = raw.trim();
        let quoted = |q: char| raw.strip_prefix(q).and_then(|rest| rest.strip_suffix(q));
        found = Some(quoted('"').or_else(|| quoted('\'')).unwrap_or(raw).to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_nobody_knows_is_said() {
        let with = |level: &'static str, alone: &'static str| {
            strange(move |name| match name {
                "DRE_LOG_LEVEL" => Some(level.into()),
                "DRE_STANDALONE" => Some(alone.into()),
                _ => None,
            })
        };
        assert!(
            with("DEBUG", "Yes").is_empty()
                && with("warning", "off").is_empty()
                && strange(|_| None).is_empty()
        );
        let said = with("verbose", "maybe");
        assert!(said[0].contains("\"verbose\"") && said[1].contains("\"maybe\""), "{said:?}");
    }

    #[test]
    fn a_group_has_files_of_its_own_that_win() {
        let named = |group| files(group).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(named("dre"), FILES);
        let mysql = named("mysql");
        assert_eq!(mysql[..2], FILES);
        assert_eq!(mysql[2..], ["/etc/sysconfig/dre@mysql", "/etc/default/dre@mysql"]);
    }

    #[test]
    fn lines_as_systemd_takes_them() {
        let text = "# DRE_STANDALONE=no\n DRE_STANDALONE = yes\nexport DRE_CONFDIR=\"/opt/my dre\"\nA='b'\nA=c\nEMPTY=\n";
        for (name, wanted) in [
            ("DRE_STANDALONE", Some("yes")),
            ("DRE_CONFDIR", Some("/opt/my dre")),
            ("A", Some("c")),
            ("EMPTY", Some("")),
            ("DRE", None),
        ] {
            assert_eq!(value(text, name).as_deref(), wanted, "{name}");
        }
    }
}
