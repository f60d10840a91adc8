//! The files of `drectl db bootstrap`: where the server reads its own, and how one is put there. Whoever reads finds the old text or the
//! new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use dre::logic::db::server_file;

/// As Debian's package has it.
const DIRECTORY: &str = "etc/mysql/mariadb.conf.d";
/// Where else a server begins to read.
const BEGINS: [&str; 2] = ["etc/mysql/my.cnf", "etc/my.cnf"];
/// Read after what a package brings.
const NAME: &str = "60-dre.cnf";

/// The server's file of the pair, below `root`: where Debian has its own, else in what `my.cnf` includes last.
pub fn place(root: &Path) -> Result<PathBuf, String> {
    let usual = root.join(DIRECTORY);
    if usual.is_dir() {
        return Ok(usual.join(NAME));
    }
    for begin in BEGINS {
        let Ok(text) = fs::read_to_string(root.join(begin)) else { continue };
        let last = server_file::included(&text).last().map(|named| root.join(named.trim_start_matches('/')));
        if let Some(directory) = last.filter(|directory| directory.is_dir()) {
            return Ok(directory.join(NAME));
        }
    }
    Err(format!(
        "neither /{DIRECTORY} is there nor a directory that /{} or /{} includes (!includedir): is the server's package installed?",
        BEGINS[0], BEGINS[1]
    ))
}

/// `None`: it is not there.
pub fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}; nothing was changed", path.display())),
    }
}

/// The server's own group: that of its data.
pub fn group_of(data: &Path) -> Result<u32, String> {
    fs::metadata(data).map(|meta| meta.gid()).map_err(|error| format!("{}: {error}", data.display()))
}

pub fn directory(path: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    // Whatever the umask took away: the server reads it as its own user.
    let open = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    open.map_err(|error| format!("{}: {error}", path.display()))
}

/// Beside the old one and moved over it. `group`: who may read it too.
pub fn put(path: &Path, bytes: &[u8], mode: u32, group: Option<u32>) -> Result<(), String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = Path::new(&beside);
    // Nobody else's until it belongs to whom it shall.
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside).and_then(|mut file| {
            file.write_all(bytes)?;
            if group.is_some() {
                fchown(&file, None, group)?;
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
    let moved = written.and_then(|()| fs::rename(beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(beside);
    });
    let kept = moved.and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    kept.map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_file_is_where_it_reads_last() {
        let root = std::env::temp_dir().join(format!("drectl-files-{}", std::process::id()));
        let make = |path: &str| fs::create_dir_all(root.join(path)).expect("a directory");
        make("etc");
        assert!(place(&root).expect_err("no server").contains("installed"));
        make("etc/my.cnf.d");
        fs::write(root.join("etc/my.cnf"), "[mysqld]\n!includedir /etc/none.d\n!includedir /etc/my.cnf.d\n")
            .expect("written");
        assert_eq!(place(&root), Ok(root.join("etc/my.cnf.d/60-dre.cnf")));
        make(DIRECTORY);
        assert_eq!(place(&root), Ok(root.join("etc/mysql/mariadb.conf.d/60-dre.cnf")));
        fs::remove_dir_all(&root).expect("removed");
    }

    #[test]
    fn a_file_is_put_whole_with_its_mode_and_nothing_stays_beside_it() {
        let root = std::env::temp_dir().join(format!("drectl-put-{}", std::process::id()));
        directory(&root.join("tls")).expect("made");
        let path = root.join("tls/key.pem");
        assert_eq!(read(&path), Ok(None));
        for text in ["old", "new"] {
            put(&path, text.as_bytes(), 0o640, Some(group_of(&root).expect("has one"))).expect("put");
            assert_eq!(read(&path), Ok(Some(text.to_owned())));
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_dir(root.join("tls")).expect("a directory").count(), 1);
        assert!(put(&root.join("none/key.pem"), b"x", 0o600, None).is_err());
        fs::remove_dir_all(&root).expect("removed");
    }
}
