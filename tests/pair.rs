//! The pair: two systemd nodes, one VIP, exactly one holder. Root; see tests/lab.

mod lab;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Lab;

pub const VIP: &str = "172.16.9.61";
pub const VIP6: &str = "2001:db8:9::61";

/// The running example of the requirements, at the timing a case asks for.
fn configuration(interval_ms: u32, missed: u32, services: &str) -> String {
    format!(
        r#"
[nodes.hadev1]
links = {{ primary = "172.16.11.54", secondary = "172.16.13.54" }}
[nodes.hadev2]
links = {{ primary = "172.16.11.55", secondary = "172.16.13.55" }}
[heartbeat]
interval_ms = {interval_ms}
missed_max = {missed}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/24"
interface = "eth1"
[[vip]]
address = "{VIP6}/64"
interface = "eth1"
[services]
{services}
[election]
startup_hold_ms = 1000
"#
    )
}

fn make_install(root: &Path) -> Result<()> {
    let out = Command::new("make")
        .arg("install")
        .arg(format!("DESTDIR={}", root.display()))
        .args(["PROFILE=dev", "CARGO=true"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(out.status.success(), "make install: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

fn install(root: &Path, toml: &str) -> Result<()> {
    make_install(root)?;
    // What a package's postinst does.
    let root_arg = format!("--root={}", root.display());
    for argv in [["systemd-sysusers", &root_arg]] {
        let out = Command::new(argv[0]).args(&argv[1..]).output()?;
        ensure!(out.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    std::fs::create_dir_all(root.join("etc/dre"))?;
    std::fs::write(root.join("etc/dre/dre.toml"), toml)?;
    let key = root.join("etc/dre/key");
    std::fs::write(&key, "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=\n")?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants)?;
    for unit in ["dre.service"] {
        std::os::unix::fs::symlink(format!("/usr/lib/systemd/system/{unit}"), wants.join(unit))?;
    }
    Ok(())
}

#[test]
fn try_it() -> Result<()> {
    let toml = configuration(10, 3, "");
    let lab = Lab::builder().install(|root| install(root, &toml)).start()?;
    std::thread::sleep(Duration::from_secs(3));
    for node in lab.nodes() {
        println!("==== {}", node.name);
        for cmd in [
            "systemctl status dre dre-vip --no-pager -l | head -60",
            "journalctl -b --no-pager | grep -i -E 'dre|polkit' | tail -40",
            "ss -xlp | grep dre; ss -xp | grep -i seq; ls -la /run/dre; tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID dre)/environ | grep LISTEN; ls -la /proc/$(systemctl show -P MainPID dre)/fd",
            "ip -br addr",
            "systemctl --failed --no-pager",
        ] {
            println!("--- {cmd}\n{}", node.sh(cmd).unwrap_or_else(|e| format!("{e:#}")));
        }
    }
    Ok(())
}
