//! `make demo`: two systemd nodes on this machine, a switchover and a power loss while a client pings.
//!
//! `up` leaves the pair running in the background, `shell NODE [COMMAND …]` runs a command in a node, `down` removes everything;
//! so does an interrupted `up`.
//! The pair lives in a process of its own (`hold`), because a lab lives as long as the process that made it.

mod lab;
mod product;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::judge::Verdict;
use product::{Pair, configuration, ms, outage_ms};

const STATE: &str = "/run/dre-demo";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["up"] => up(),
        ["down"] => down(),
        ["hold"] => hold(),
        ["shell", node, ref command @ ..] => shell(node, command),
        _ => {
            eprintln!("usage: demo up | down | shell NODE [COMMAND …]");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn state(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// The process that holds the demo's pair, if it lives.
fn holder() -> Option<i32> {
    let pid: i32 = fs::read_to_string(state("pid")).ok()?.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    command.contains("hold").then_some(pid)
}

fn up() -> Result<()> {
    if holder().is_some() {
        bail!("the demo is up already; make demo-down removes it");
    }
    fs::create_dir_all(STATE)?;
    println!("Building the nodes' root file system (once, about a minute) and booting two nodes …");
    let mut child = Command::new(std::env::current_exe()?)
        .arg("hold")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(state("log"))?)
        .process_group(0)
        .spawn()?;
    fs::write(state("pid"), child.id().to_string())?;
    interrupted_is_down();
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    for line in lines {
        let line = line?;
        if line == "UP" {
            println!(
                "\nThe pair is up. Try:\n  make demo-shell NODE=hadev1                 a shell there (drectl, journalctl, systemctl)\n  \
                 make demo-shell NODE=hadev1 RUN='systemctl stop dre'\n  make demo-down                              removes everything"
            );
            return Ok(());
        }
        println!("{line}");
    }
    let status = child.wait()?;
    while lab::sys::signalled() != 0 {
        // Interrupted: the other thread ends this process when everything is removed.
        std::thread::park();
    }
    bail!(
        "the demo ended ({status}); {} has its last words:\n{}",
        state("log").display(),
        fs::read_to_string(state("log"))?
    )
}

/// The pair is in a process group of its own, so an interrupt at the terminal reaches only this process.
fn interrupted_is_down() {
    lab::sys::note_signals();
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(ms(50));
            let signal = lab::sys::signalled();
            if signal != 0 {
                let status = match down() {
                    Ok(()) => 128 + signal,
                    Err(error) => {
                        eprintln!("demo: {error:#}");
                        1
                    }
                };
                std::process::exit(status);
            }
        }
    });
}

fn down() -> Result<()> {
    if let Some(pid) = holder() {
        ensure!(lab::sys::kill(pid, libc::SIGTERM), "process {pid} was gone");
        let begun = Instant::now();
        while holder().is_some() {
            ensure!(begun.elapsed() < Duration::from_secs(30), "process {pid} does not end");
            std::thread::sleep(ms(50));
        }
    }
    lab::sweep();
    if Path::new(STATE).exists() {
        fs::remove_dir_all(STATE)?;
    }
    println!("The demo is gone.");
    Ok(())
}

fn shell(node: &str, command: &[&str]) -> Result<()> {
    ensure!(holder().is_some(), "the demo is not up: make demo");
    let pid =
        fs::read_to_string(state(node)).with_context(|| format!("no node {node}: say hadev1 or hadev2"))?;
    let mut enter = Command::new("nsenter");
    enter.args(["-t", pid.trim(), "-a", "--"]);
    if command.is_empty() {
        enter.args(["bash", "-l"]);
    } else {
        enter.args(["sh", "-c", &command.join(" ")]);
    }
    Err(enter.exec().into())
}

fn note_leaders(pair: &Pair) -> Result<()> {
    for node in pair.lab.nodes() {
        fs::write(state(node.name), node.leader()?.to_string())?;
    }
    Ok(())
}

fn show(pair: &Pair) -> Result<()> {
    for node in pair.lab.nodes() {
        println!("\n--- {}: systemctl status dre says\n{}", node.name, product::status(node)?);
        let page = node.run_for(&["drectl", "status"], Duration::from_secs(5))?;
        print!("{}", page.stdout);
    }
    Ok(())
}

/// `drectl switchover` on the active node, seen by the client.
fn switched(pair: &Pair, said: &mut String) -> Result<Verdict> {
    let active = pair.active()?;
    pair.judged(ms(500), || {
        *said = active.run(&["drectl", "switchover"])?;
        Ok(())
    })
}

fn hold() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    note_leaders(&pair)?;
    println!("Two nodes are up. Heartbeats every 10 ms, a peer is lost after 30 ms of silence.");
    show(&pair)?;

    let active = pair.active()?;
    println!(
        "\n=== Switchover: drectl switchover on {} while a client pings {} every millisecond",
        active.name,
        product::VIP
    );
    let mut said = String::new();
    let mut seen = switched(&pair, &mut said);
    for _ in 0..2 {
        // At this timing a busy machine may be too slow for it; it says so, and nothing is lost.
        let Err(refused) = &seen else { break };
        println!("    {refused:#}\n    once more:");
        pair.settled(Duration::from_secs(20))?;
        seen = switched(&pair, &mut said);
    }
    let seen = seen?;
    for line in said.lines() {
        println!("    drectl: {line}");
    }
    println!("    the client went without for {:.1} ms; two nodes never answered at once", outage_ms(&seen));
    pair.settled(Duration::from_secs(20))?;

    let active = pair.active()?;
    println!("\n=== Power loss: {} loses power while the client pings", active.name);
    let seen = pair.judged(ms(500), || active.power_loss().map(drop))?;
    println!("    the client went without for {:.1} ms; two nodes never answered at once", outage_ms(&seen));
    active.boot()?;
    pair.settled(Duration::from_secs(20))?;
    note_leaders(&pair)?;
    show(&pair)?;
    println!("UP");
    // Until SIGTERM: the lab removes itself then.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
