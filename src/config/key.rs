//! The cluster key: 32 random bytes, base64, readable by root alone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use super::error::Error;

/// Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(not shown)")
    }
}

/// Where the daemon finds it: the credential systemd passed, else the file itself.
pub fn path() -> PathBuf {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => Path::new(&dir).join("key"),
        None => PathBuf::from("/etc/dre/key"),
    }
}

/// Reads and checks a key. A file that others may read is refused; a credential is on a private file system.
pub fn read(path: &Path) -> Result<Key, Error> {
    let why = "heartbeats are authenticated, and there is no mode without";
    let fail =
        |what: String, remedy: &str| Error::plain(format!("{}: {what}", path.display()), why, remedy.into());
    let meta = std::fs::metadata(path).map_err(|error| {
        fail(error.to_string(), "make one with \"drectl key new\" and copy it to the other node, mode 0600")
    })?;
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    let mode = meta.permissions().mode() & 0o777;
    if !credential && mode & 0o077 != 0 {
        return Err(fail(
            format!("mode {mode:04o} lets others read the key"),
            "chmod 0600, and make a new key",
        ));
    }
    let text =
        Zeroizing::new(std::fs::read_to_string(path).map_err(|e| fail(e.to_string(), "make it readable"))?);
    decode(&text).ok_or_else(|| {
        fail(
            "is not the base64 of exactly 32 bytes".into(),
            "make one with \"drectl key new\", the same on both nodes",
        )
    })
}

fn decode(text: &str) -> Option<Key> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
    Some(Key(bytes.as_slice().try_into().ok()?))
}

/// The text of a key file.
pub fn encode(bytes: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_exactly_32_bytes_and_is_not_shown() {
        let key = decode(&encode(&[7; 32])).expect("a key");
        assert_eq!(key.bytes(), &[7; 32]);
        assert!(!format!("{key:?}").contains('7'));
        assert!(decode("").is_none());
        assert!(decode(&STANDARD.encode([1; 31])).is_none());
        assert!(decode(&STANDARD.encode([1; 33])).is_none());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = std::env::temp_dir().join(format!("dre-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("key");
        std::fs::write(&path, encode(&[7; 32]).as_bytes()).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
        assert!(read(&path).expect_err("refused").to_string().contains("0644"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        assert!(read(&path).is_ok());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
