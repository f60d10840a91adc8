//! The groups of one machine beside each other: what two of them cannot both have.
//!
//! For `drectl config check` and `drectl check`, not for the daemons: a mistake in one group's file must not keep another one
//! from starting. Where two meet all the same, each says by its own alarm what it cannot have.

use super::Settings;
use super::error::{Error, Finding};

/// Everything that stands in the files of two groups; an error if there is any. Pure.
pub fn clashes(groups: &[Settings]) -> Result<(), Error> {
    let mut found = vec![];
    for (n, one) in groups.iter().enumerate() {
        for other in &groups[n + 1..] {
            pair(one, other, &mut found);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Error::of_host(found)) }
}

fn pair(one: &Settings, other: &Settings, found: &mut Vec<Finding>) {
    let both = format!("the groups {} and {}", one.group, other.group);
    let mut add = |what: String, why: &str, remedy: &str| {
        found.push(Finding { place: None, what, why: why.into(), remedy: remedy.into() });
    };
    let addresses = |s: &Settings| s.vips.iter().map(|vip| vip.address.addr()).collect::<Vec<_>>();
    let theirs = addresses(other);
    for vip in addresses(one).into_iter().filter(|vip| theirs.contains(vip)) {
        add(
            format!("{both} both have the VIP {vip}"),
            "each brings it up and takes it away by its own role",
            "keep it in one of the two files",
        );
    }
    let listens =
        |s: &Settings| s.links.iter().map(|link| (link.local, s.heartbeat.port)).collect::<Vec<_>>();
    let theirs = listens(other);
    if let Some((address, port)) = listens(one).into_iter().find(|own| theirs.contains(own)) {
        add(
            format!("{both} both listen on UDP port {port} of {address}"),
            "only one of them gets it, and the other hears nobody",
            "write another [heartbeat] port in one of the two files, the same on both nodes",
        );
    }
    let units = |s: &Settings| {
        let managed = s.services.active.iter().chain(&s.services.standby).map(|unit| (unit.clone(), true));
        let both = s.services.both.iter().map(|unit| (unit.clone(), false));
        managed.chain(both).collect::<Vec<_>>()
    };
    let theirs = units(other);
    for (unit, managed) in units(one) {
        // Ready on both nodes is ready on both nodes, whoever asks for it.
        if theirs.iter().any(|(name, there)| *name == unit && (managed || *there)) {
            add(
                format!("{both} both manage {unit}"),
                "a service follows one role",
                "keep it in one of the two files",
            );
        }
    }
    if let (Some(own), Some(there)) = (&one.database, &other.database) {
        if own.unit == there.unit || own.socket == there.socket {
            add(
                format!("{both} both have the database server {}", own.unit),
                "its writes follow one role",
                "give each its own server (unit, socket, port), or keep one [database]",
            );
        } else if [own.port, own.agent_port].iter().any(|port| [there.port, there.agent_port].contains(port))
        {
            add(
                format!("{both} have a port of their databases in common"),
                "two servers, or two agents, cannot listen on one",
                "write another port or agent_port in one of the two files",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn group(name: &str, more: &str) -> Settings {
        let text = format!(
            "[nodes.hadev1]\nlinks = {{ primary = \"172.16.11.54\", secondary = \"172.16.13.54\" }}\n\
             [nodes.hadev2]\nlinks = {{ primary = \"172.16.11.55\", secondary = \"172.16.13.55\" }}\n{more}"
        );
        parse(&[(format!("/etc/dre/{name}.toml").into(), text)], name, "hadev1", false).expect("holds")
    }

    fn vip(address: &str) -> String {
        format!("[[vip]]\naddress = \"{address}\"\ninterface = \"eth1\"\n")
    }

    #[test]
    fn two_groups_may_share_networks_and_nothing_that_only_one_can_have() {
        let dre = group(
            "dre",
            &format!(
                "{}[services]\nactive = [\"a.service\"]\nboth = [\"c.service\"]\n",
                vip("172.16.9.61/24")
            ),
        );
        let mysql = |more: &str| group("mysql", more);
        let apart = mysql(&format!(
            "[heartbeat]\nport = 694\n{}[services]\nboth = [\"b.service\"]\n",
            vip("172.16.9.62/24")
        ));
        clashes(&[dre.clone(), apart]).expect("they live beside each other");
        let port = "[heartbeat]\nport = 694\n";
        for (more, words) in [
            (String::new(), "UDP port 1694 of 172.16.11.54"),
            (format!("{port}{}", vip("172.16.9.61/16")), "the VIP 172.16.9.61"),
            (format!("{port}[services]\nactive = [\"a.service\"]\n"), "a.service"),
            (format!("{port}[services]\nboth = [\"a.service\"]\n"), "a.service"),
            (format!("{port}[services]\nactive = [\"c.service\"]\n"), "c.service"),
        ] {
            let error = clashes(&[dre.clone(), mysql(&more)]).expect_err(words);
            assert!(error.findings().len() == 1 && error.lines().contains(words), "{}", error.lines());
            assert!(error.lines().contains("dre and mysql"), "{}", error.lines());
        }
        let ready = format!("{port}[services]\nboth = [\"c.service\"]\n");
        clashes(&[dre, mysql(&ready)]).expect("ready on both nodes is one thing");
    }

    #[test]
    fn two_databases_are_two_servers() {
        let one = group("mysql", "[heartbeat]\nport = 694\n[database]\n");
        let other = |more: &str| group("db2", &format!("[heartbeat]\nport = 695\n[database]\n{more}"));
        let all =
            "unit = \"mariadb@2.service\"\nsocket = \"/run/mysqld2/sock\"\nport = 3307\nagent_port = 1697\n";
        clashes(&[one.clone(), other(all)]).expect("two servers");
        for (less, words) in
            [("unit = \"mariadb@2.service\"\n", "mariadb.service"), ("agent_port = 1697\n", "in common")]
        {
            let error = clashes(&[one.clone(), other(&all.replace(less, ""))]).expect_err(words);
            assert!(error.lines().contains(words), "{}", error.lines());
        }
    }
}
