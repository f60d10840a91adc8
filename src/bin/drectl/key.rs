//! `drectl key new`: a key that nobody sees.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dre::config;
use dre::logic::group;
use zeroize::Zeroizing;

use crate::exit::Fail;
use crate::settings::all_groups;

/// Makes the key; answers what to do next.
pub fn new(out: &Path, force: bool) -> Result<String, Fail> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| {
        Fail::refused(format!("the kernel's generator gives no bytes: {error}; try again"))
    })?;
    let text = config::encode_key(&bytes);
    // Beside the old one and moved over it: whoever reads finds the old key or the new one, never half of one.
    let made = if force { replace(out, text.as_bytes()) } else { create(out, text.as_bytes()) };
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Fail::refused(format!(
            "{} exists and was not touched; a new key parts the nodes until both have it. To replace it: drectl key new --force",
            out.display()
        )),
        ErrorKind::NotFound => Fail::refused(format!("{}: no such directory; mkdir -p -m 0755 it first", out.display())),
        ErrorKind::PermissionDenied => Fail::refused(format!("{}: permission denied; run it as root", out.display())),
        _ => Fail::refused(format!("{}: {error}; nothing was written", out.display())),
    })?;
    let path = out.display();
    Ok(format!(
        "{path}: a new key, readable by its owner alone. Now give the peer the same one, over a channel you trust:\n  \
         scp -p {path} root@PEER:{path}\n{}",
        Holders::here().take_up()
    ))
}

/// Who read the old key when it was started, and knows no other until it is started anew.
#[derive(Default)]
struct Holders {
    /// Groups without a database, and those with one.
    groups: Vec<String>,
    databases: Vec<String>,
    rules_files: bool,
}

impl Holders {
    fn here() -> Self {
        let has_database =
            |group: &String| config::load_of(group, None).is_ok_and(|settings| settings.database.is_some());
        let (databases, groups) = all_groups().into_iter().partition(has_database);
        Self { groups, databases, rules_files: config::sync::locate().exists() }
    }

    /// What is to be typed. dre-vip has no key, and dre-mysql is started anew with its group.
    fn take_up(&self) -> String {
        let mut units: Vec<String> = self.groups.iter().map(|group| group::unit("dre", group)).collect();
        units.extend(self.rules_files.then(|| "dre-sync".into()));
        let mut lines = vec![];
        if !units.is_empty() {
            lines.push("and on both nodes, the standby first:".to_owned());
            lines.push(format!("  systemctl restart {}", units.join(" ")));
        }
        for name in &self.databases {
            let unit = group::unit("dre", name);
            lines.push(format!(
                "and for group {name}, whose servers' certificates and password come of the key (MariaDB's), on both nodes:"
            ));
            lines.push(format!("  systemctl stop {unit}                  # the standby first"));
            lines.push(format!("  {}", group::command(name, "db bootstrap")));
            lines.push(format!("  systemctl start {unit}                 # when both are done"));
        }
        lines.join("\n")
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = Path::new(&beside);
    create(beside, text)?;
    fs::rename(beside, path).inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// One that goes on with the old key is heard by nobody, and says so of the peer.
    #[test]
    fn everything_that_holds_the_key_is_started_anew() {
        let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let plain = Holders { groups: of(&["dre"]), ..Holders::default() };
        assert_eq!(plain.take_up(), "and on both nodes, the standby first:\n  systemctl restart dre");
        let all =
            Holders { groups: of(&["dre", "web"]), databases: of(&["mysql"]), rules_files: true }.take_up();
        for words in [
            "\n  systemctl restart dre dre@web dre-sync\n",
            "\n  systemctl stop dre@mysql ",
            "\n  drectl -g mysql db bootstrap\n",
            "\n  systemctl start dre@mysql ",
        ] {
            assert!(all.contains(words), "{words:?} is not in\n{all}");
        }
    }

    #[test]
    fn a_new_key_is_private_valid_never_shown_and_not_overwritten_by_accident() {
        let dir = std::env::temp_dir().join(format!("drectl-key-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("key");
        let said = new(&path, false).expect("made");
        let text = fs::read_to_string(&path).expect("there");
        assert!(!said.contains(text.trim()), "the key is never shown");
        assert!(said.contains("scp -p"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(config::read_key(&path).is_ok());

        let refused = new(&path, false).expect_err("it exists");
        assert_eq!(refused.code, crate::exit::REFUSED);
        assert_eq!(fs::read_to_string(&path).expect("there"), text, "not touched");

        new(&path, true).expect("replaced");
        assert_ne!(fs::read_to_string(&path).expect("there"), text);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 1, "nothing left beside it");
        assert!(new(&dir.join("no/key"), false).is_err());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
