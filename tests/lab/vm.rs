//! Virtual machines: the two nodes on a kernel of their own, Debian's, which has TIPC, netem and bonding.
//!
//! The same root file system, the same switch, client, arbitrator and judge as the containers'; plain emulation, because
//! not every machine has KVM to offer, so time runs slowly inside: limits are generous, and figures are compared only
//! within one machine. Commands go in by the guest agent over a serial port, which no fault on the networks touches.
//!
//! Each machine has a sixth interface, eth5, on the service network: the second leg of a bond.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::judge::Judge;
use super::net::{self, NETS, Net};
use super::node::{self, Node};
use super::{Install, Remover, lab_directory, new_id, rootfs, sweep, sys, watch_signals};

/// What the machines have beside the containers' packages.
pub const PACKAGES: &[&str] = &["linux-image-amd64", "initramfs-tools", "qemu-guest-agent", "zstd"];
/// Emulated, two side by side on two cores: 60 to 70 s were seen.
const BOOT: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(60);
/// The sixth interface: which network, and its name at the switch.
const SECOND_LEG: &str = "eth1";

/// What networkd or ifupdown would do elsewhere; run before dre's units. A test may lay another one.
fn network_script(name: &str) -> String {
    let mut script = String::from("set -e\nip link set lo up\n");
    for (n, net) in NETS.iter().enumerate() {
        for v6 in [false, true] {
            if let Some(address) = net::address(name, n, v6) {
                let prefix = if v6 {
                    64
                } else if n == 2 {
                    16
                } else {
                    24
                };
                let more = if v6 { "nodad" } else { "brd +" };
                script += &format!("ip addr add {address}/{prefix} {more} dev {net}\n");
            }
        }
        script += &format!("ip link set {net} up\n");
    }
    script
}

const NETWORK_UNIT: &str = "[Unit]
DefaultDependencies=no
After=systemd-sysctl.service systemd-udev-settle.service local-fs.target
Before=network-pre.target network.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh /etc/lab-net.sh
[Install]
WantedBy=sysinit.target
";

/// Two machines. Dropping it removes them.
pub struct VmLab {
    pub hadev1: Vm,
    pub hadev2: Vm,
    pub net: Arc<Net>,
    remover: Remover,
}

impl VmLab {
    /// Lays the disks and boots both; `install` is called for each root, as in [`super::Builder::install`].
    pub fn start(install: &Install<'_>) -> Result<Self> {
        let lab = Self::lay(install)?;
        lab.boot()?;
        Ok(lab)
    }

    pub fn lay(install: &Install<'_>) -> Result<Self> {
        watch_signals();
        sweep();
        let packages: Vec<String> = PACKAGES.iter().map(|p| (*p).to_owned()).collect();
        let base = rootfs::provide(&packages)?;
        let guard = Remover(new_id());
        let dir = lab_directory(&guard.0, "12G")?;
        let net = Arc::new(Net::build(&guard.0)?);
        let lay = |name| Vm::lay(name, &guard.0, &dir, &base, &net, install);
        Ok(Self { hadev1: lay("hadev1")?, hadev2: lay("hadev2")?, net, remover: guard })
    }

    /// Both side by side.
    pub fn boot(&self) -> Result<()> {
        let begun = Instant::now();
        thread::scope(|s| {
            let boots: Vec<_> = self.machines().into_iter().map(|m| s.spawn(|| m.boot())).collect();
            boots.into_iter().try_for_each(|b| b.join().unwrap_or_else(|_| Err(anyhow!("a boot panicked"))))
        })?;
        println!("FIGURE both virtual machines up after {:.0?}", begun.elapsed());
        Ok(())
    }

    pub fn machines(&self) -> [&Vm; 2] {
        [&self.hadev1, &self.hadev2]
    }

    pub fn other(&self, vm: &Vm) -> &Vm {
        if vm.name == "hadev1" { &self.hadev2 } else { &self.hadev1 }
    }

    pub fn judge(&self, vip: &str) -> Result<Judge> {
        let (client, judge) = (self.net.ns("client"), self.net.ns("judge"));
        Judge::start_every(&client, &judge, vip.parse()?, Duration::from_millis(10))
    }

    /// The arbitrator's cable.
    pub fn arbitrator(&self, up: bool) -> Result<()> {
        self.net.ports("arbitrator", up)
    }

    pub fn id(&self) -> &str {
        &self.remover.0
    }
}

/// A boot that is on.
struct Running {
    group: PathBuf,
    reaper: thread::JoinHandle<()>,
}

/// One virtual machine.
pub struct Vm {
    pub name: &'static str,
    prefix: String,
    dir: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    net: Arc<Net>,
    running: Mutex<Option<Running>>,
    agent: Mutex<Option<BufReader<UnixStream>>>,
    boots: Mutex<u32>,
}

/// A command's end.
#[derive(Debug)]
pub struct Output {
    /// `None`: did not end in time.
    pub code: Option<i64>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

fn newest(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}* in {}", dir.display()))
}

fn done(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vm {
    fn lay(
        name: &'static str,
        prefix: &str,
        dir: &Path,
        base: &Path,
        net: &Arc<Net>,
        install: &Install<'_>,
    ) -> Result<Self> {
        // The overlay is the workbench; what boots is an image made of it.
        let bench = Node::lay(name, prefix, dir, base, Arc::clone(net))?;
        bench.write("/etc/lab-net.sh", network_script(name))?;
        bench.write("/etc/systemd/system/lab-net.service", NETWORK_UNIT)?;
        bench.write("/etc/sysctl.d/10-lab.conf", "net.ipv6.conf.all.accept_dad=0\nnet.ipv6.conf.default.accept_dad=0\nnet.ipv6.conf.default.accept_ra=0\n")?;
        let root = bench.root();
        done(
            Command::new("systemctl")
                .arg(format!("--root={}", root.display()))
                .args(["enable", "lab-net.service"]),
        )?;
        install(&root).with_context(|| format!("installing on {name}"))?;
        let home = dir.join(name);
        let disk = home.join("disk.img");
        done(
            Command::new("mke2fs")
                // With a journal: a machine that is killed comes back to a file system that holds.
                .args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", "-d"])
                .arg(&root)
                .arg(&disk)
                .arg("4G"),
        )?;
        drop(bench);
        done(Command::new("umount").arg(&root))?;
        Ok(Self {
            name,
            prefix: prefix.to_owned(),
            dir: home,
            kernel: newest(&base.join("boot"), "vmlinuz-")?,
            initrd: newest(&base.join("boot"), "initrd.img-")?,
            net: Arc::clone(net),
            running: Mutex::new(None),
            agent: Mutex::new(None),
            boots: Mutex::new(0),
        })
    }

    /// Switches it on and waits until systemd has finished starting.
    pub fn boot(&self) -> Result<()> {
        self.switch_on()?;
        self.wait_running()
    }

    /// Name of an interface's port at the switch.
    fn port(&self, index: usize) -> String {
        format!("{}-eth{index}", self.name)
    }

    pub fn switch_on(&self) -> Result<()> {
        self.switch_off();
        let boot = {
            let mut n = locked(&self.boots);
            *n += 1;
            *n
        };
        let switch = self.net.ns("switch");
        let mut ports = String::new();
        for index in 0..=NETS.len() {
            let (port, bridge) = (self.port(index), NETS.get(index).unwrap_or(&SECOND_LEG));
            ports += &format!("tuntap add dev {port} mode tap\nlink set {port} master br-{bridge} up\n");
        }
        net::ip(&["-n", &switch, "-batch", "-"], &ports)?;
        let group = node::cgroup_root()?.join(format!("{}.{}.vm{boot}", self.prefix, self.name));
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let socket = |name: &str| format!("path={},server=on,wait=off", self.dir.join(name).display());
        for stale in ["agent", "monitor"] {
            let _ = fs::remove_file(self.dir.join(stale));
        }
        let mut qemu = Command::new("ip");
        qemu.args(["netns", "exec", &switch, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "768"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", "console=ttyS0 root=/dev/vda rw net.ifnames=0 quiet loglevel=4 mitigations=off audit=0 apparmor=0 systemd.show_status=no"])
            .args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", self.dir.join("disk.img").display())])
            .args(["-serial", &format!("file:{}", self.dir.join("console").display())])
            .args(["-chardev", &format!("socket,id=agent,{}", socket("agent"))])
            .args(["-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", self.dir.join("monitor").display())])
            .args(["-device", "virtio-rng-pci"]);
        for index in 0..=NETS.len() {
            let mac = if index < NETS.len() {
                net::mac_text(net::mac(self.name, index))
            } else {
                let mut mac = net::mac(self.name, 1);
                mac[4] = 5;
                net::mac_text(mac)
            };
            qemu.args([
                "-netdev",
                &format!("tap,id=n{index},ifname={},script=no,downscript=no", self.port(index)),
            ])
            .args(["-device", &format!("virtio-net-pci,netdev=n{index},id=eth{index},mac={mac},romfile=")]);
        }
        let log = fs::File::options().create(true).append(true).open(self.dir.join("qemu.log"))?;
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("qemu-system-x86_64: run tests/prepare")?;
        fs::write(group.join("cgroup.procs"), child.id().to_string())?;
        let reaper = thread::spawn(move || drop(child.wait()));
        *locked(&self.running) = Some(Running { group, reaper });
        Ok(())
    }

    /// Off, without a word, ports taken away. Nothing if it is off.
    fn switch_off(&self) {
        *locked(&self.agent) = None;
        let Some(running) = locked(&self.running).take() else { return };
        node::kill_group(&running.group);
        let _ = running.reaper.join();
        node::remove_group(&running.group);
        let ports: String = (0..=NETS.len()).map(|n| format!("link del {}\n", self.port(n))).collect();
        let _ = net::ip(&["-n", &self.net.ns("switch"), "-batch", "-"], &ports);
    }

    /// All ports silent at once, then the machine ended; the moment of it.
    pub fn power_loss(&self) -> Result<dre::logic::time::Moment> {
        let down: String = (0..=NETS.len()).map(|n| format!("link set {} down\n", self.port(n))).collect();
        net::ip(&["-n", &self.net.ns("switch"), "-batch", "-"], &down)?;
        let at = sys::now();
        self.switch_off();
        Ok(at)
    }

    pub fn is_on(&self) -> bool {
        locked(&self.running).as_ref().is_some_and(|r| !r.reaper.is_finished())
    }

    /// The last of what it printed, and what QEMU said.
    pub fn console(&self) -> String {
        let tail = |file: &str| {
            let text = fs::read(self.dir.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
        };
        format!("{}\n{}", tail("qemu.log"), tail("console"))
    }

    /// Waits until `systemctl is-system-running` says `running`.
    pub fn wait_running(&self) -> Result<()> {
        let until = Instant::now() + BOOT;
        loop {
            if !self.is_on() {
                bail!("{}: QEMU ended: {}", self.name, self.console());
            }
            if let Ok(out) = self.run_for(&["systemctl", "is-system-running"], PATIENCE) {
                match out.stdout.trim() {
                    "running" => return Ok(()),
                    "degraded" => {
                        let failed = self.run(&["systemctl", "--failed", "--no-legend", "--plain"])?;
                        bail!("{}: units failed at boot:\n{failed}", self.name);
                    }
                    _ => {}
                }
            }
            if Instant::now() > until {
                bail!("{}: not up after {BOOT:?}: {}", self.name, self.console());
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// `systemctl reboot`, and up again.
    pub fn reboot(&self) -> Result<()> {
        let id = |vm: &Self| vm.sh("cat /proc/sys/kernel/random/boot_id");
        let before = id(self)?;
        let _ = self.run_for(&["systemctl", "reboot", "--no-block"], Duration::from_secs(5));
        let until = Instant::now() + BOOT;
        while Instant::now() < until {
            thread::sleep(Duration::from_secs(1));
            if id(self).is_ok_and(|now| now != before) {
                return self.wait_running();
            }
        }
        bail!("{}: not back after {BOOT:?}: {}", self.name, self.console())
    }

    // --- the guest agent ----------------------------------------------------------------------------------

    fn connect(&self) -> Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(self.dir.join("agent")).context("guest agent")?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut agent = BufReader::new(stream);
        // Of its own: an agent that was not there yet answers all that it was asked meanwhile, and with one id for all the answer to
        // an earlier connection would be taken for that to this one, and every later answer for that to the question before.
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let id = u64::from(std::process::id()) << 16 | CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        writeln!(agent.get_mut(), "{}", json!({"execute": "guest-sync", "arguments": {"id": id}}))?;
        for _ in 0..10 {
            let mut line = String::new();
            agent.read_line(&mut line).context("the guest agent is not there yet")?;
            // What an earlier connection left unread.
            let answer: Value = serde_json::from_str(line.trim_start_matches('\u{ff}')).unwrap_or_default();
            if answer["return"] == json!(id) {
                agent.get_ref().set_read_timeout(Some(PATIENCE))?;
                return Ok(agent);
            }
        }
        bail!("{}: the guest agent does not answer", self.name)
    }

    fn ask(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut slot = locked(&self.agent);
        if slot.is_none() {
            *slot = Some(self.connect()?);
        }
        let agent = slot.as_mut().context("connected")?;
        let mut talk = || -> Result<Value> {
            writeln!(agent.get_mut(), "{}", json!({"execute": command, "arguments": arguments}))?;
            let mut line = String::new();
            agent.read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        };
        let answer = talk();
        if answer.is_err() {
            *slot = None;
        }
        let answer = answer.with_context(|| format!("{}: {command}", self.name))?;
        if let Some(error) = answer.get("error") {
            bail!("{}: {command}: {error}", self.name);
        }
        Ok(answer["return"].clone())
    }

    fn exec(&self, argv: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let started = self.ask(
            "guest-exec",
            &json!({
                "path": argv[0], "arg": &argv[1..], "capture-output": true, "input-data": STANDARD.encode(input),
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root",
                        "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"],
            }),
        )?;
        let until = Instant::now() + limit;
        loop {
            let state = self.ask("guest-exec-status", &json!({"pid": started["pid"]}))?;
            let ended = state["exited"] == json!(true);
            if ended || Instant::now() > until {
                let text = |name: &str| {
                    let bytes = STANDARD.decode(state[name].as_str().unwrap_or_default()).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                let code = ended.then(|| state["exitcode"].as_i64().unwrap_or(-1));
                return Ok(Output { code, stdout: text("out-data"), stderr: text("err-data") });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command inside; its output, or an error with what it wrote.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let out = self.exec(argv, b"", PATIENCE)?;
        if !out.ok() {
            bail!("{}: {}: {:?}\n{}{}", self.name, argv.join(" "), out.code, out.stdout, out.stderr);
        }
        Ok(out.stdout)
    }

    pub fn run_for(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        self.exec(argv, b"", limit)
    }

    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&["sh", "-c", script])
    }

    /// Writes a file (0644, its directories made).
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let script = format!("mkdir -p \"$(dirname {path})\" && cat > {path}");
        let out = self.exec(&["sh", "-c", &script], content.as_ref(), PATIENCE)?;
        if out.ok() { Ok(()) } else { bail!("{}: {path}: {}", self.name, out.stderr) }
    }

    /// Waits until the script ends with 0; how long that took.
    pub fn wait_for(&self, script: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let out = self.run_for(&["sh", "-c", script], limit)?;
            if out.ok() {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                bail!("{}: not within {limit:?}: {script}\n{}{}", self.name, out.stdout, out.stderr);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn journal(&self, args: &[&str]) -> Result<String> {
        let mut argv = vec!["journalctl", "-b", "--no-pager", "-o", "short-monotonic"];
        argv.extend_from_slice(args);
        self.run(&argv)
    }

    /// Where the journal ends now.
    pub fn cursor(&self) -> Result<String> {
        // A journal that is just being rotated has none for a moment.
        for _ in 0..50 {
            let out = self.run(&["journalctl", "-n1", "-o", "cat", "--show-cursor", "-q"])?;
            if let Some(cursor) = out.lines().find_map(|l| l.strip_prefix("-- cursor: ")) {
                return Ok(cursor.to_owned());
            }
            thread::sleep(Duration::from_millis(200));
        }
        bail!("{}: the journal has no cursor", self.name)
    }

    /// What the journal has after a cursor, as it is printed; `args` as for journalctl. All that was said until now: journald itself may
    /// be seconds behind on an emulated machine.
    pub fn journal_after(&self, cursor: &str, args: &[&str]) -> Result<String> {
        self.run(&["journalctl", "--sync"])?;
        let mut argv = vec!["journalctl", "--no-pager", "-o", "short-monotonic", "--after-cursor", cursor];
        argv.extend_from_slice(args);
        self.run(&argv)
    }

    /// The same, as journald's JSON, an entry each.
    pub fn entries_after(&self, cursor: &str, args: &[&str]) -> Result<Vec<Value>> {
        self.run(&["journalctl", "--sync"])?;
        let mut argv = vec!["journalctl", "--no-pager", "-o", "json", "--after-cursor", cursor];
        argv.extend_from_slice(args);
        self.run(&argv)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// What the guest's wall clock is ahead of the host's, in seconds, and how far that may be off.
    pub fn clock(&self) -> Result<(f64, f64)> {
        let host = || std::time::SystemTime::UNIX_EPOCH.elapsed().map(|d| d.as_secs_f64());
        let mut best = (0.0, f64::MAX);
        for _ in 0..8 {
            let before = host()?;
            let guest = self.ask("guest-get-time", &json!({}))?.as_f64().context("guest-get-time")? / 1e9;
            let after = host()?;
            if (after - before) / 2.0 < best.1 {
                best = (guest - f64::midpoint(before, after), (after - before) / 2.0);
            }
        }
        Ok(best)
    }

    // --- faults -------------------------------------------------------------------------------------------

    /// Commands to QEMU itself, in one connection.
    fn monitor(&self, commands: &[Value]) -> Result<()> {
        let stream = UnixStream::connect(self.dir.join("monitor")).context("QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut talk = BufReader::new(stream);
        let mut line = String::new();
        talk.read_line(&mut line)?;
        for command in std::iter::once(&json!({"execute": "qmp_capabilities"})).chain(commands) {
            writeln!(talk.get_mut(), "{command}")?;
            loop {
                line.clear();
                talk.read_line(&mut line)?;
                let answer: Value = serde_json::from_str(&line)?;
                if let Some(error) = answer.get("error") {
                    bail!("{}: {command}: {error}", self.name);
                }
                if answer.get("return").is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Interface `eth0` to `eth5`: its cable pulled (the guest sees no carrier), or put back.
    pub fn cable(&self, interface: &str, up: bool) -> Result<()> {
        self.monitor(&[json!({"execute": "set_link", "arguments": {"name": interface, "up": up}})])
    }

    /// The other end of an interface's cable in another network's switch.
    pub fn plug(&self, interface: &str, net: &str) -> Result<()> {
        let (port, bridge) = (format!("{}-{interface}", self.name), format!("br-{net}"));
        net::ip(&["-n", &self.net.ns("switch"), "link", "set", &port, "master", &bridge], "")
    }

    /// An interface taken out of the running machine (its driver lets go of it), or put back, up, with its addresses.
    pub fn plugged(&self, interface: &str, there: bool) -> Result<()> {
        let driver = "/sys/bus/virtio/drivers/virtio_net";
        if there {
            let again = network_script(self.name);
            let lines: String =
                again.lines().filter(|l| l.contains(interface)).map(|l| format!("{l}\n")).collect();
            let wait = format!(
                "for n in $(seq 100); do [ -e /sys/class/net/{interface} ] && break; sleep 0.1; done"
            );
            self.sh(&format!("cat /run/unplugged-{interface} > {driver}/bind\n{wait}\n{lines}"))?;
        } else {
            self.sh(&format!(
                "set -e; device=$(basename $(readlink /sys/class/net/{interface}/device))\n\
                 echo $device > /run/unplugged-{interface}; echo $device > {driver}/unbind"
            ))?;
        }
        Ok(())
    }

    /// The whole machine stands still, its kernel and clocks too; or goes on.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.monitor(&[json!({"execute": if paused { "stop" } else { "cont" }})])
    }

    /// Frames on a network lost both ways, carrier up.
    pub fn silent(&self, net: &str, cut: bool) -> Result<()> {
        self.net.silent(self.name, net, cut)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.switch_off();
    }
}
