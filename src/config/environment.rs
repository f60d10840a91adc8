//! The settings that come by environment: what systemd's `EnvironmentFile=` gives the daemons, the generator (which
//! systemd starts without one) and a person's `drectl` read from the same files.

use std::path::Path;

/// As in the units; a later file wins.
const FILES: [&str; 2] = ["/etc/sysconfig/dre", "/etc/default/dre"];

/// The value of `name`: of this process, else of the files. An empty one counts as none.
pub fn get(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .or_else(|| in_files(&FILES.map(Path::new), name))
        .filter(|value| !value.is_empty())
}

fn in_files(files: &[&Path], name: &str) -> Option<String> {
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
