//! TIPC as it is set up on this machine, asked of iproute2's `tipc`: an operator can type the same lines.

use std::process::Command;

use crate::config::TipcAddress;

/// TIPC on this machine.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct State {
    pub network_id: u32,
    /// 0.0.0: none yet.
    pub address: TipcAddress,
    /// Interfaces of enabled Ethernet bearers, with their tolerance in ms.
    pub bearers: Vec<(String, u64)>,
}

/// The command is not installed, or what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Absent(String),
    Said(String),
}

impl Failure {
    pub fn text(&self) -> &str {
        let (Self::Absent(text) | Self::Said(text)) = self;
        text
    }
}

/// Runs `tipc` with these words; its output, or what it said.
pub fn run(words: &[String]) -> Result<String, Failure> {
    let spoken = format!("tipc {}", words.join(" "));
    let out = Command::new("tipc").args(words).output().map_err(|error| {
        Failure::Absent(format!("cannot run {spoken:?}: {error}; install the package iproute2, which has it"))
    })?;
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " ");
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(Failure::Said(format!(
        "{spoken:?} failed: {}",
        if said.is_empty() { out.status.to_string() } else { said }
    )))
}

fn ask(words: &[&str]) -> Result<String, Failure> {
    run(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
}

/// Interfaces of the enabled Ethernet bearers.
pub fn enabled() -> Result<Vec<String>, Failure> {
    Ok(bearers(&ask(&["bearer", "list"])?))
}

/// All of it.
pub fn observe() -> Result<State, Failure> {
    let unclear =
        |what: &str, text: &str| Failure::Said(format!("{what} is not understood: {:?}", text.trim()));
    let number = |text: String, what: &str| text.trim().parse::<u64>().map_err(|_| unclear(what, &text));
    let id = number(ask(&["node", "get", "netid"])?, "the network id")?;
    let shown = ask(&["node", "get", "address"])?;
    let address = address(&shown).ok_or_else(|| unclear("the address", &shown))?;
    let mut state = State { network_id: u32::try_from(id).unwrap_or(0), address, bearers: vec![] };
    for interface in enabled()? {
        let tolerance = ask(&["bearer", "get", "tolerance", "media", "eth", "device", &interface])?;
        state.bearers.push((interface, number(tolerance, "the tolerance")?));
    }
    Ok(state)
}

/// "1001017" as `tipc node get address` prints it: hexadecimal, without a prefix.
fn address(text: &str) -> Option<TipcAddress> {
    u32::from_str_radix(text.trim(), 16).ok().map(TipcAddress)
}

/// "eth:eth3" lines of `tipc bearer list`.
fn bearers(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.trim().strip_prefix("eth:")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_output_is_understood() {
        assert_eq!(address("1001017\n"), Some(TipcAddress(0x0100_1017)));
        assert_eq!(address("0\n"), Some(TipcAddress(0)));
        assert_eq!(address("error\n"), None);
        assert_eq!(bearers("eth:eth3\nudp:x\neth:eth4\n"), ["eth3", "eth4"]);
        assert_eq!(bearers("No bearers\n"), Vec::<String>::new());
    }
}
