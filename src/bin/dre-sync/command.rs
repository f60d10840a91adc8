//! The set's own commands, run outside of dre-sync's sandbox and inside one of their own, by systemd.
//!
//! `validate` reads what is to be published as root and may write nothing and speak to nobody; `apply` is the operator's and runs
//! as a service of the system. Both are transient units: their output, limits and end are systemd's business, and a command
//! that hangs leaves nothing behind.

use std::ffi::OsString;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// What systemd-run ends with where the command has no exit status to hand on: it could not be run (no bus, no unit), or was ended
/// for its time. A command may end with it too.
const NO_STATUS: i32 = 1;

/// Runs `validate`: `Err` with the first lines of what it said, if it does not end well.
pub fn judge(command: &[OsString], timeout: Duration) -> Result<(), String> {
    run(
        command,
        timeout,
        &[
            "--property=CapabilityBoundingSet=CAP_DAC_READ_SEARCH",
            "--property=NoNewPrivileges=yes",
            "--property=ProtectSystem=strict",
            "--property=ProtectHome=read-only",
            "--property=PrivateNetwork=yes",
            "--property=PrivateDevices=yes",
            "--property=PrivateTmp=yes",
            "--property=RestrictAddressFamilies=AF_UNIX",
        ],
    )
}

/// Runs `apply`.
pub fn apply(command: &[String], timeout: Duration) -> Result<(), String> {
    let words: Vec<OsString> = command.iter().map(OsString::from).collect();
    run(&words, timeout, &[])
}

fn run(command: &[OsString], timeout: Duration, properties: &[&str]) -> Result<(), String> {
    let limit = format!("--property=RuntimeMaxSec={}ms", timeout.as_millis().max(1));
    let begun = std::time::Instant::now();
    let output = Command::new("systemd-run")
        .args(["--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", &limit])
        .args(properties)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .output();
    let name = command.first().map(|word| word.display().to_string()).unwrap_or_default();
    let name = name.as_str();
    match output {
        Err(error) => Err(format!("{name} could not be run: systemd-run: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(why(name, &output, (begun.elapsed(), timeout))),
    }
}

fn why(name: &str, output: &Output, (took, timeout): (Duration, Duration)) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let lines = first_lines(&text);
    match output.status.code() {
        // However late: systemd's limit runs from the command's start, and a busy machine takes its time before and after.
        Some(NO_STATUS) if took >= timeout => {
            format!("{name} did not end within {} ms: {lines}", timeout.as_millis())
        }
        Some(NO_STATUS) if lines.contains("systemd") => format!("{name} could not be run: {lines}"),
        Some(code) => format!("{name} ended with {code}: {lines}"),
        None => format!("{name} was ended by a signal: {lines}"),
    }
}

/// The first lines of what a command said.
fn first_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).collect();
    if lines.is_empty() { "it said nothing".into() } else { lines.join(" · ") }
}

/// `ROOT_GONE` as alarms are named: `RootGone`.
pub fn camel(word: &str) -> String {
    word.split('_')
        .map(|part| {
            let (first, rest) = part.split_at(part.len().min(1));
            first.to_owned() + &rest.to_lowercase()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn only_what_gave_no_status_of_its_own_did_not_end_in_time() {
        let limit = Duration::from_millis(1500);
        let (soon, late) = (limit / 2, limit * 2);
        let said = |wait: i32, took, text: &str| {
            let status = ExitStatus::from_raw(wait);
            why("check", &Output { status, stdout: text.into(), stderr: vec![] }, (took, limit))
        };
        let ended = |code: i32| code << 8;
        assert_eq!(said(ended(3), soon, "rule 7"), "check ended with 3: rule 7");
        // A verdict is one, whatever systemd took to bring it.
        assert_eq!(said(ended(3), late, "rule 7"), "check ended with 3: rule 7");
        assert_eq!(said(ended(1), soon, ""), "check ended with 1: it said nothing");
        assert_eq!(said(ended(1), late, "rule 1 …"), "check did not end within 1500 ms: rule 1 …");
        let no_bus = "Failed to connect to system scope bus via local transport (systemd)";
        assert_eq!(said(ended(1), soon, no_bus), format!("check could not be run: {no_bus}"));
        assert_eq!(said(9, soon, "x"), "check was ended by a signal: x");
    }

    #[test]
    fn states_are_written_as_alarms_and_words_in_short() {
        assert_eq!(camel("ROOT_GONE") + &camel("HELD"), "RootGoneHeld");
        assert_eq!(first_lines(b"\n a \n\nb\n"), "a · b");
    }
}
