//! The root file system every node is an overlay of: Debian 13, made once, kept in the cache. Beside it those of other suites, with one
//! server each, from which processes are run.
//!
//! The directory's name carries a digest of everything that went into it, so a changed list makes a new one. It is
//! built under another name and renamed when complete: what bears the final name is whole.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Raised when the finishing below changes.
const VERSION: u32 = 3;

/// What every node has.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "libpam-systemd",
    "polkitd",
    "iproute2",
    "iputils-ping",
    "nftables",
    "procps",
    "kmod",
    "tcpdump",
    "openssh-server",
    "rsync",
    "acl",
    "vim-tiny",
    "nano",
    "libfaketime",
    "memcached",
    "nginx-light",
    "freediameterd",
    "freediameter-extensions",
    "libfaketime",
];

/// Run inside once it is installed. Services that packages start by themselves are left to the tests; what systemd
/// does on a first boot is done here, once, instead of at every node's boot.
const FINISH: &str = "
systemctl disable -q memcached nginx freediameter freediameterd mariadb 2>/dev/null
systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer \
    console-getty.service container-getty@.service
set -e
rm -f /etc/apt/sources.list /etc/nginx/sites-enabled/default /etc/machine-id /var/lib/dbus/machine-id
rm -rf /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/*
mkdir -p /var/log/journal /etc/systemd/journald.conf.d
printf '[Journal]\\nStorage=persistent\\nRateLimitIntervalSec=0\\nSystemMaxUse=256M\\n' \
    > /etc/systemd/journald.conf.d/lab.conf
systemd-sysusers; ldconfig; journalctl --update-catalog
touch /etc/.updated /var/.updated
";

/// On top of it where there is a kernel: an initial RAM disk with what the machines boot from and no more, because it is
/// unpacked under emulation.
const FINISH_KERNEL: &str = "
set -e
printf 'MODULES=list\nCOMPRESS=gzip\nBUSYBOX=n\nFSTYPE=ext4\n' > /etc/initramfs-tools/conf.d/lab.conf
printf 'virtio_pci\nvirtio_blk\nvirtio_net\nvirtio_console\next4\n' > /etc/initramfs-tools/modules
rm -f /boot/initrd.img-*
update-initramfs -c -k all
";

/// Of a file system that nothing boots from and nobody reads.
const FINISH_SERVER: &str = "
set -e
rm -rf /etc/apt/sources.list /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/*
";

/// An unstable suite's lists are good for a week, and a mirror that is behind has the server all the same. They are signed as ever.
const SERVER_OPTIONS: &str = "Acquire::Check-Valid-Until \"false\"";

/// Where file systems are kept: $DRE_LAB_CACHE, or target/lab.
pub fn cache() -> PathBuf {
    std::env::var_os("DRE_LAB_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab"), PathBuf::from)
}

/// The file system with these packages on top of the usual ones; made if it is not there (15 s).
pub fn provide(extra: &[String]) -> Result<PathBuf> {
    let mut packages: Vec<&str> = PACKAGES.iter().copied().chain(extra.iter().map(String::as_str)).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut hash = DefaultHasher::new();
    (VERSION, &packages, FINISH, FINISH_KERNEL).hash(&mut hash);
    let mut finish = vec![FINISH];
    if packages.contains(&"linux-image-amd64") {
        finish.push(FINISH_KERNEL);
    }
    make("trixie", hash.finish(), &packages, &[], &finish)
}

/// A server of another suite: that alone, and what it needs.
pub fn provide_server(suite: &str, package: &str) -> Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    (VERSION, package, FINISH_SERVER).hash(&mut hash);
    let options = format!("--aptopt={SERVER_OPTIONS}");
    make(suite, hash.finish(), &[package], &[&options], &[FINISH_SERVER])
}

/// What is in the cache under that name, or made.
fn make(suite: &str, digest: u64, packages: &[&str], options: &[&str], finish: &[&str]) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache)
        .with_context(|| format!("{}: cannot make the lab's cache", cache.display()))?;
    let root = cache.join(format!("{suite}-{digest:016x}"));
    // Two test binaries at once: the second waits and finds it made. The lock goes with the file.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if root.is_dir() {
        return Ok(root);
    }
    let part = cache.join("part");
    if part.exists() {
        // This machine's /proc, /sys and /dev may lie in it: they are not to be removed.
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        if mounts.contains(&format!("{}/", part.display())) {
            bail!(
                "{}: a build that broke has left mounts in it; umount them, then remove it",
                part.display()
            );
        }
        fs::remove_dir_all(&part).with_context(|| format!("{}: left from a broken build", part.display()))?;
    }
    eprintln!("lab: making {} (once)", root.display());
    let log = cache.join("mmdebstrap.log");
    // What it mounts goes with it, however it ends.
    let made = Command::new("unshare")
        .args(["--mount", "--propagation=private", "mmdebstrap", "--variant=minbase", "--quiet"])
        .arg(format!("--include={}", packages.join(",")))
        .args(options)
        .arg(suite)
        .arg(&part)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(File::create(&log)?)
        .status()
        .context("mmdebstrap is missing: run tests/prepare")?;
    if !made.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().skip(said.lines().count().saturating_sub(10)).collect::<Vec<_>>().join("\n");
        bail!("mmdebstrap failed ({made}):\n{last}\nall of it: {}", log.display());
    }
    for script in finish {
        let out = Command::new("chroot").arg(&part).args(["sh", "-c", script]).output()?;
        if !out.status.success() {
            bail!("{}: finishing failed: {}", part.display(), String::from_utf8_lossy(&out.stderr));
        }
    }
    fs::rename(&part, &root)?;
    Ok(root)
}
