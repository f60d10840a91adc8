//! What the README promises of its commands: `make demo` shows the pair and leaves it up, `make demo-down` leaves nothing, and
//! an interrupted run leaves nothing either: at once where it can say good-bye, at the next start where it was killed. Root.
//!
//! Asked of this machine, not of the lab: name spaces, control groups, mounts, processes.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, leftovers, sys};

const STATE: &str = "/run/dre-demo";

fn make(words: &[&str]) -> Command {
    let mut make = Command::new("make");
    // Not as a part of the make that runs this test.
    make.arg("-s").args(words).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(inherited);
    }
    make
}

fn done(words: &[&str]) -> Result<String> {
    let out = make(words).output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "make {words:?}: {}\n{said}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(said)
}

/// The process that holds the demo's pair.
fn holder() -> Result<u32> {
    let pid = fs::read_to_string(Path::new(STATE).join("pid")).context("the demo has no process")?;
    Ok(pid.trim().parse()?)
}

/// It runs: one that has ended and was not yet waited for has no command.
fn is_there(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

fn nothing_left(of: u32) -> Result<()> {
    let limit = Duration::from_secs(20);
    let begun = Instant::now();
    loop {
        let left = leftovers(of);
        if left.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < limit, "left behind after {limit:?}: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `make demo` built it.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent).context("no target directory")?;
    Ok(built.join("examples/demo"))
}

/// `demo up` in the background, until its lab has nodes on; its process and that of the pair.
fn beginning() -> Result<(Child, u32)> {
    let mut up = Command::new(program()?);
    let mut up = up.arg("up").stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Ok(pid) = holder()
            && leftovers(pid).iter().any(|left| left.contains("systemd-nspawn"))
        {
            return Ok((up, pid));
        }
        ensure!(up.try_wait()?.is_none(), "demo up ended at once");
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("demo up has no nodes after a minute")
}

#[test]
fn the_demo_shows_it_and_leaves_nothing() -> Result<()> {
    ensure!(!Path::new(STATE).exists(), "a demo is up on this machine: make demo-down");
    let mut up = make(&["demo"]).stdout(Stdio::piped()).spawn()?;
    let (lines, said) = mpsc::channel();
    let out = BufReader::new(up.stdout.take().context("no output")?);
    std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
    let status = up.wait()?;
    let said: Vec<String> = said.iter().collect();
    let text = said.join("\n");
    println!("{text}");
    ensure!(status.success(), "make demo: {status}");
    let pid = holder()?;
    ensure!(is_there(pid) && !leftovers(pid).is_empty(), "the demo is not up");
    // A switchover by the command that is named, a power loss, and the measured gaps.
    ensure!(text.contains("=== Switchover: drectl switchover on hadev"), "no switchover");
    ensure!(text.contains(" is active; nobody served for "), "no gap by drectl");
    ensure!(text.contains("=== Power loss: hadev"), "no power loss");
    let gaps =
        said.iter().filter(|l| l.contains("the client went without for ") && l.contains(" ms;")).count();
    ensure!(gaps == 2, "{gaps} gaps were printed");
    ensure!(text.contains("make demo-down"), "it does not say how it ends");

    // Once only; and a person can play with it.
    ensure!(
        !make(&["demo"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success(),
        "a second demo came up"
    );
    let status = done(&["demo-shell", "NODE=hadev1", "RUN=drectl status --json"])?;
    let status: dre::snapshot::Status = serde_json::from_str(&status)?;
    ensure!(status.node == "hadev1" && ["active", "standby"].contains(&status.role.as_str()), "{status:?}");

    // All of a line is for the node, none of it for this machine.
    let words = done(&["demo-shell", "NODE=hadev2", "RUN=true; echo \"$(hostname)\" && hostname"])?;
    ensure!(words == "hadev2\nhadev2\n", "{words:?}");

    done(&["demo-down"])?;
    ensure!(!is_there(pid), "the demo's process is there");
    nothing_left(pid)?;
    ensure!(!Path::new(STATE).exists(), "{STATE} is there");
    // Down twice is no error.
    done(&["demo-down"]).map(drop)
}

#[test]
fn an_interrupted_run_leaves_nothing() -> Result<()> {
    done(&["demo-down"])?;
    if !program()?.exists() {
        bail!("no {}: cargo build --example demo", program()?.display());
    }

    // Ctrl-C at the terminal: the pair goes with it, at once.
    let (mut up, pid) = beginning()?;
    sys::kill(up.id() as i32, libc::SIGINT);
    let status = up.wait()?;
    ensure!(status.code() == Some(128 + libc::SIGINT), "{status}");
    nothing_left(pid)?;
    ensure!(!Path::new(STATE).exists(), "{STATE} is there");

    // A signal to the process that has the lab, as a test has one: the same.
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (mut up, pid) = beginning()?;
        sys::kill(pid as i32, signal);
        nothing_left(pid)?;
        up.wait()?;
    }

    // Killed: it cannot clean up. The next lab that starts does, whoever starts it.
    let (mut up, pid) = beginning()?;
    sys::kill(pid as i32, libc::SIGKILL);
    up.wait()?;
    ensure!(!leftovers(pid).is_empty(), "nothing was left: the case shows nothing");
    let next = Lab::builder().lay()?;
    nothing_left(pid)?;
    drop(next);
    nothing_left(std::process::id())?;
    done(&["demo-down"]).map(drop)
}
