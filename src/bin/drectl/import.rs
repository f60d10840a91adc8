//! `drectl import heartbeat`: reads the old files, and says what became of each line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use dre::config::heartbeat::{Given, Import, Outcome, Remark, Source, import};
use dre::config::{self, EXIT_CONFIG};
use dre::logic::group;
use serde_json::json;

use crate::args::HeartbeatArgs;
use crate::exit::{self, Done, Fail};
use crate::print;

/// Heartbeat ran one group; that of this name has it where nobody says another.
const USUAL: &str = "mysql";

/// `named`: the group that was named.
pub fn heartbeat(args: &HeartbeatArgs, named: Option<&str>) -> Done {
    let given = given(args, named)?;
    let made = import(&given);
    if args.json {
        let Import { toml, remarks, warnings } = &made;
        print(&format!("{}\n", json!({ "toml": toml, "findings": remarks, "warnings": warnings })))?;
    } else {
        for remark in &made.remarks {
            anstream::eprintln!("{remark}");
        }
        for warning in &made.warnings {
            anstream::eprintln!("warning: {warning}");
        }
    }
    let Some(text) = &made.toml else {
        let count = made.of(Outcome::Wrong).count();
        let text = format!(
            "nothing was made of {}: {count} of what stands there cannot be understood:{}",
            args.dir.display(),
            places(made.of(Outcome::Wrong))
        );
        return Err(Fail { code: exit::NOT_UNDERSTOOD, text });
    };
    match &args.output {
        Some(out) => {
            write(out, text.as_bytes(), args.force).map_err(|error| not_written(out, &error))?;
            if !args.json {
                print(&format!("{} is written; it must be the same on both nodes\n", out.display()))?;
            }
        }
        None if args.json => {}
        None => print(text)?,
    }
    let left = made.of(Outcome::Open).count();
    if left == 0 {
        return Ok(());
    }
    let text = format!(
        "it is not complete: {left} to be filled in, then \"drectl config check FILE\":{}",
        places(made.of(Outcome::Open))
    );
    Err(Fail { code: EXIT_CONFIG, text })
}

/// Where to look, line by line.
fn places<'a>(remarks: impl Iterator<Item = &'a Remark>) -> String {
    remarks.map(|remark| format!("\n  {}: {}; {}", remark.place(), remark.what, remark.remedy)).collect()
}

fn given(args: &HeartbeatArgs, named: Option<&str>) -> Result<Given, Fail> {
    let needed = |name: &str| {
        let path = args.dir.join(name);
        source(&path).map_err(|error| {
            Fail::refused(format!(
                "{}: {error}; name the directory that Heartbeat runs with, which has ha.cf and haresources in it (usually /etc/ha.d)",
                path.display()
            ))
        })
    };
    let beside = args.dir.join("hosts");
    let hosts = match &args.hosts {
        Some(path) => Some(source(path).map_err(|error| {
            Fail::refused(format!(
                "{}: {error}; name a file that is laid out like /etc/hosts",
                path.display()
            ))
        })?),
        None if beside.exists() => Some(source(&beside).map_err(|error| {
            Fail::refused(format!("{}: {error}; or name another file: --hosts FILE", beside.display()))
        })?),
        None => source(Path::new("/etc/hosts")).ok(),
    };
    Ok(Given {
        group: named.map_or_else(|| group_of(args.output.as_deref()), str::to_owned),
        ha_cf: needed("ha.cf")?,
        haresources: needed("haresources")?,
        // For root alone to read, and nothing of it is needed.
        authkeys: source(&args.dir.join("authkeys")).ok(),
        hosts,
        host: config::host_name(),
        facts: config::host_facts(),
        arbitrator_interface: args.arbitrator_interface.clone(),
        preferred: args.preferred.clone(),
    })
}

/// A file of old days may be in any encoding; what matters in it is ASCII.
fn source(path: &Path) -> io::Result<Source> {
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    Ok(Source { file: path.display().to_string(), text })
}

/// The group whose file is called so: `mysql.toml`, `mysql.toml.new`.
fn group_of(output: Option<&Path>) -> String {
    let name = output.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let called = name.as_deref().and_then(|name| name.split('.').next()).unwrap_or(USUAL);
    match group::fault(called) {
        None => called.to_owned(),
        Some(_) => USUAL.to_owned(),
    }
}

fn not_written(out: &Path, error: &io::Error) -> Fail {
    let path = out.display();
    Fail::refused(match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{path} exists and was not touched; add --force to replace it, or name another file")
        }
        ErrorKind::PermissionDenied => format!("{path}: permission denied; run it as root"),
        _ => format!("{path}: {error}; nothing was written"),
    })
}

/// Made beside it and moved there: whoever reads finds the whole file, the old one, or none.
fn write(out: &Path, text: &[u8], force: bool) -> io::Result<()> {
    let dir = match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut beside = out.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = Path::new(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(beside)?;
    // Whatever the umask took away: the daemons have a user of their own.
    let mode = fs::Permissions::from_mode(0o644);
    let written =
        file.write_all(text).and_then(|()| file.set_permissions(mode)).and_then(|()| file.sync_all());
    // A link takes no name that is there, whoever made it in the meantime.
    let moved = written.and_then(|()| match force {
        true => fs::rename(beside, out),
        false => fs::hard_link(beside, out),
    });
    if !force || moved.is_err() {
        let _ = fs::remove_file(beside);
    }
    moved.and_then(|()| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_called_like_the_file() {
        for (output, group) in [
            (None, "mysql"),
            (Some("/etc/dre/db2.toml"), "db2"),
            (Some("mysql.toml.new"), "mysql"),
            (Some("/etc/dre/sync.toml"), "mysql"),
            (Some("/tmp/OUT"), "mysql"),
            (Some(".."), "mysql"),
        ] {
            assert_eq!(group_of(output.map(Path::new)), group, "{output:?}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_replaced_by_force_alone_and_nothing_is_left_beside_it() {
        let dir = std::env::temp_dir().join(format!("drectl-import-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let out = dir.join("mysql.toml");
        write(&out, b"one", false).expect("written");
        let error = write(&out, b"two", false).expect_err("it is there");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&out).expect("there"), b"one");
        write(&out, b"two", true).expect("by force");
        assert_eq!(fs::read(&out).expect("there"), b"two");
        assert!(write(&dir.join("no/mysql.toml"), b"", false).is_err());
        assert!(write(&dir, b"", true).is_err(), "a directory");
        let left = fs::read_dir(&dir).expect("a directory").count();
        assert_eq!(left, 1);
        let beside = format!("{}.new-{}", dir.display(), std::process::id());
        assert!(!Path::new(&beside).exists());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
