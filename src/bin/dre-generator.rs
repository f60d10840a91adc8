//! dre-generator: at boot and daemon-reload, turns `[services]` into wants and drop-ins.
//!
//! systemd.generator(7): arguments are three directories; nothing may hang, nothing of the network is up. A configuration that
//! does not hold yields nothing but a line in the kernel's log: a boot must not fail over it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

use dre::config;
use dre::config::Services;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("dre-generator: systemd runs this; see systemd.generator(7)");
        return ExitCode::from(64);
    };
    let result = config::load().map_err(|e| e.lines()).and_then(|settings| {
        generate(Path::new(&directory), &settings.services, settings.tipc.is_some())
            .map_err(|error| format!("cannot write: {error}"))
    });
    if let Err(text) = result {
        let line = format!("<4>dre-generator: no units for managed services: {text}");
        let logged = fs::OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut k| k.write_all(line.as_bytes()));
        if logged.is_err() {
            eprintln!("{line}");
        }
    }
    ExitCode::SUCCESS
}

fn generate(directory: &Path, services: &Services, tipc: bool) -> io::Result<()> {
    let drop_in = |unit: &str, text: &str| -> io::Result<()> {
        let dir = directory.join(format!("{unit}.d"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("50-dre.conf"), text)
    };
    let wanted_by = |target: &str, unit: &str| -> io::Result<()> {
        let dir = directory.join(format!("{target}.wants"));
        fs::create_dir_all(&dir)?;
        // By name: systemd finds the unit itself, wherever it is.
        match symlink(format!("/usr/lib/systemd/system/{unit}"), dir.join(unit)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    if tipc {
        wanted_by("dre.service", "dre-tipc.service")?;
    }
    for unit in &services.active {
        drop_in(unit, ACTIVE)?;
        wanted_by("dre-active.target", unit)?;
    }
    for unit in &services.standby {
        drop_in(unit, STANDBY)?;
        wanted_by("dre-standby.target", unit)?;
    }
    for unit in &services.both {
        drop_in(unit, BOTH)?;
        wanted_by("multi-user.target", unit)?;
    }
    Ok(())
}

const ACTIVE: &str = "# made by dre-generator from [services] active; do not edit
[Unit]
# Runs only while this node holds the lease.
BindsTo=dre-lease.service
After=dre-lease.service
PartOf=dre-active.target
# The standby role is reached when this has stopped, not before.
Before=dre-standby.target
";

const STANDBY: &str = "# made by dre-generator from [services] standby; do not edit
[Unit]
PartOf=dre-standby.target
Before=dre-active.target
";

const BOTH: &str = "# made by dre-generator from [services] both; do not edit
[Unit]
# A restart that fails now may succeed in a minute: never give up.
StartLimitIntervalSec=0
IgnoreOnIsolate=yes
[Service]
Restart=always
RestartSec=1s
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_become_wants_and_drop_ins() {
        let dir = std::env::temp_dir().join(format!("dre-generator-{}", std::process::id()));
        let services = Services {
            active: vec!["diameter.service".into()],
            standby: vec!["report.service".into()],
            both: vec!["memcached.service".into()],
        };
        generate(&dir, &services, false).expect("generated");
        assert!(!dir.join("dre.service.wants").exists(), "TIPC is not loaded unless it is configured");
        generate(&dir, &services, true).expect("again is no error");
        assert!(dir.join("dre.service.wants/dre-tipc.service").is_symlink());
        let drop_in = fs::read_to_string(dir.join("diameter.service.d/50-dre.conf")).expect("a drop-in");
        for line in [
            "BindsTo=dre-lease.service",
            "After=dre-lease.service",
            "PartOf=dre-active.target",
            "Before=dre-standby.target",
        ] {
            assert!(drop_in.lines().any(|l| l == line), "{line}");
        }
        assert!(dir.join("dre-active.target.wants/diameter.service").is_symlink());
        assert!(dir.join("dre-standby.target.wants/report.service").is_symlink());
        assert!(dir.join("multi-user.target.wants/memcached.service").is_symlink());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
