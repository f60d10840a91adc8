//! `[database]` of a group: the server whose writes follow the role.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Services;
use super::check::{Findings, service_name};
use super::raw::{self, At};
pub use crate::logic::db::facts::{Durability, RelayLost};

/// A database pair's settings: the same on both nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The server's unit. Default `mariadb.service`.
    pub unit: String,
    /// The server's local socket. Default `/run/mysqld/mysqld.sock`.
    pub socket: PathBuf,
    /// The server's TCP port on both nodes, to replicate from. Default 3306.
    pub port: u16,
    /// The two agents speak to each other on this TCP port of the links' addresses. Default 1696.
    pub agent_port: u16,
    /// Default `available`.
    pub durability: Durability,
    /// A standby that lags more is not ready. Default 10 s.
    pub max_lag: Duration,
    /// How long a promotion waits for what was received and is not applied yet, before it says so again. Default 60 s.
    pub relay_wait: Duration,
    /// Default `promote`.
    pub on_relay_lost: RelayLost,
    /// Accounts whose connections survive a demotion (monitoring, backup). Default none.
    pub keep_users: Vec<String>,
}

/// A standby that may lag for longer than a day is no standby, and an operator is asked sooner than that.
const SECONDS: RangeInclusive<u64> = 1..=86_400;
/// `sun_path` of sockaddr_un, less the NUL.
const SOCKET_MAX: usize = 107;
/// What the server's unit may be called, or what it may be an instance of: dre-mysql ends a server that does not stop taking writes, and
/// may end these alone (config/50-dre.rules).
const SERVERS: [&str; 3] = ["mariadb", "mysql", "mysqld"];
/// MariaDB's longest account name.
const USER_MAX: usize = 128;

impl Database {
    /// All checks of the table. `reached`: the nodes have addresses on which the agents can speak to each other.
    pub(super) fn check(raw: &raw::Database, services: &Services, reached: bool, bad: &mut Findings) -> Self {
        let word = |given: &Option<At<String>>, default: &str| {
            given.as_ref().map_or_else(|| default.to_owned(), |at| at.value.clone())
        };
        if !reached {
            bad.add(
                &raw.place,
                "[database] without links",
                "the agents of the two nodes tell each other how far their servers are, over the links' addresses",
                "write links = { primary = \"ADDRESS\", secondary = \"ADDRESS\" } under each [nodes.NAME]",
            );
        }
        let unit = word(&raw.unit, "mariadb.service");
        if let Some(given) = &raw.unit {
            service_name(bad, given, "mariadb.service");
            // What is no unit's name at all was said.
            if unit.ends_with(".service") && !unit.ends_with("@.service") && !is_server(&unit) {
                bad.add(
                    &given.place,
                    format!("unit = {unit:?}"),
                    "a server that does not stop taking writes when the lease ends is killed, and dre-mysql may kill mariadb.service, \
                     mysql.service, mysqld.service and their instances alone (50-dre.rules): this one would go on writing",
                    "give the unit's file one of these names, as /etc/systemd/system/mysqld.service, and write that; an alias does not do, \
                     because systemd asks for the right by the file's name",
                );
            }
        }
        if services.active.iter().chain(&services.standby).any(|listed| *listed == unit) {
            let place = raw.unit.as_ref().map_or(&raw.place, |given| &given.place);
            bad.add(
                place,
                format!("the database's server {unit} stands in [services] active or standby"),
                "it runs on both nodes: the standby's copy is kept up to date by it",
                "take it out there; [services] both may name it",
            );
        }
        let socket = PathBuf::from(word(&raw.socket, "/run/mysqld/mysqld.sock"));
        if let Some(given) = raw.socket.as_ref().filter(|_| !is_socket(&socket)) {
            bad.add(
                &given.place,
                format!("socket = {:?}", given.value),
                format!("a local socket is an absolute path of at most {SOCKET_MAX} bytes"),
                "write the server's own: SELECT @@socket shows it",
            );
        }
        let port = tcp_port(bad, raw.port.as_ref(), "port", 3306);
        let agent_port = tcp_port(bad, raw.agent_port.as_ref(), "agent_port", 1696);
        if port == agent_port
            && let Some(given) = raw.agent_port.as_ref().or(raw.port.as_ref())
        {
            bad.add(
                &given.place,
                format!("port and agent_port are both {port}"),
                "the server and the agent cannot listen on one",
                "write another one; 1696 is the agents' usual",
            );
        }
        let durability = match raw.durability.as_ref().map(|at| (at.value.as_str(), at)) {
            None | Some(("available", _)) => Durability::Available,
            Some(("strict", _)) => Durability::Strict,
            Some((other, at)) => {
                bad.add(
                    &at.place,
                    format!("durability = {other:?}"),
                    "there is no such durability",
                    "write \"available\" (a commit waits 2 s for the standby) or \"strict\" (until it is known to be dead)",
                );
                Durability::Available
            }
        };
        let on_relay_lost = match raw.on_relay_lost.as_ref().map(|at| (at.value.as_str(), at)) {
            None | Some(("promote", _)) => RelayLost::Promote,
            Some(("block", _)) => RelayLost::Block,
            Some((other, at)) => {
                bad.add(
                    &at.place,
                    format!("on_relay_lost = {other:?}"),
                    "there is no such answer to transactions that were received and are gone",
                    "write \"promote\" (go on, with an alarm) or \"block\" (wait for an operator, or for the old node)",
                );
                RelayLost::Promote
            }
        };
        let mut keep_users: Vec<String> = vec![];
        for user in raw.keep_users.iter().flatten() {
            let name = user.value.as_str();
            if name.is_empty() || name.len() > USER_MAX || name.contains(|c: char| c.is_control() || c == '@')
            {
                bad.add(
                    &user.place,
                    format!("keep_users: {name:?} is no account's name"),
                    format!("a name has 1 to {USER_MAX} bytes, and no host behind an @"),
                    "write it as SELECT user FROM mysql.user shows it",
                );
            }
            if !keep_users.contains(&user.value) {
                keep_users.push(user.value.clone());
            }
        }
        keep_users.sort();
        Self {
            unit,
            socket,
            port,
            agent_port,
            durability,
            max_lag: seconds(bad, raw.max_lag_s.as_ref(), "max_lag_s", 10),
            relay_wait: seconds(bad, raw.relay_wait_s.as_ref(), "relay_wait_s", 60),
            on_relay_lost,
            keep_users,
        }
    }

    /// What must be the same on both nodes: for the digest.
    pub(super) fn canonical(&self) -> String {
        format!(
            "{}:{}:{}:{}:{:?}:{}:{}:{:?}:{}",
            self.unit,
            self.socket.display(),
            self.port,
            self.agent_port,
            self.durability,
            self.max_lag.as_secs(),
            self.relay_wait.as_secs(),
            self.on_relay_lost,
            self.keep_users.join(",")
        )
    }
}

fn is_server(unit: &str) -> bool {
    let Some(name) = unit.strip_suffix(".service") else { return false };
    let (name, instance) = name.split_once('@').map_or((name, None), |(name, of)| (name, Some(of)));
    let fine = |of: &str| !of.is_empty() && of.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    SERVERS.contains(&name) && instance.is_none_or(fine)
}

fn is_socket(path: &Path) -> bool {
    path.is_absolute() && path.as_os_str().len() <= SOCKET_MAX && path.file_name().is_some()
}

fn tcp_port(bad: &mut Findings, given: Option<&At<u64>>, name: &str, default: u16) -> u16 {
    let Some(at) = given else { return default };
    match u16::try_from(at.value).ok().filter(|port| *port != 0) {
        Some(port) => port,
        None => {
            bad.add(
                &at.place,
                format!("{name} = {}", at.value),
                "TCP ports go from 1 to 65535",
                format!("write {default}, or a free port; the same on both nodes"),
            );
            default
        }
    }
}

fn seconds(bad: &mut Findings, given: Option<&At<u64>>, name: &str, default: u64) -> Duration {
    let value = given.map_or(default, |at| at.value);
    if let Some(at) = given.filter(|_| !SECONDS.contains(&value)) {
        bad.add(
            &at.place,
            format!("{name} = {value}"),
            "with 0 nothing would ever be in time, and nobody waits for longer than a day",
            format!("write a number from 1 to 86400; the default is {default}"),
        );
    }
    Duration::from_secs(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may be named and not killed would go on taking writes: both say the same.
    #[test]
    fn the_servers_that_may_be_named_are_those_that_may_be_killed() {
        let rules = include_str!("../../config/50-dre.rules");
        let pattern =
            format!("/^({})(@[A-Za-z0-9_-]+)?\\.service$/.test(action.lookup(\"unit\"))", SERVERS.join("|"));
        assert!(rules.contains(&pattern), "{pattern} is not in\n{rules}");
        for (unit, may) in [
            ("mariadb.service", true),
            ("mysql.service", true),
            ("mysqld.service", true),
            ("mariadb@2.service", true),
            ("mysqld@one_A-2.service", true),
            ("mariadb@.service", false),
            ("mariadb@a.b.service", false),
            ("mariadb@a@b.service", false),
            ("percona.service", false),
            ("mysql2.service", false),
            ("mariadb", false),
            ("mariadb.socket", false),
        ] {
            assert_eq!(is_server(unit), may, "{unit}");
        }
    }
}
