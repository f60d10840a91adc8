//! The server's own file as `drectl db bootstrap` writes it, and as the README shows it: what [`super::wanted`] demands, and beside it
//! what a pair cannot do without.

use std::fmt::Write;

/// The first line: a file without it was written by somebody else, and is left alone.
pub const MARK: &str = "# written by drectl db bootstrap";
/// Where the server's certificate, its key and the pair's authority are.
pub const TLS: &str = "/etc/mysql/dre";

/// What differs from node to node, and from pair to pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// 1 or 2.
    pub id: u32,
    /// Written only where it is not the product's own.
    pub port: u16,
    /// Addresses of the pair are IPv6.
    pub six: bool,
}

/// The product's own port.
const PORT: u16 = 3306;

/// A line each: the setting, and why where that is not plain.
const LINES: &[(&str, &str)] = &[
    ("log-bin = binlog", ""),
    ("log_slave_updates = 1", ""),
    ("binlog_format = ROW", ""),
    ("gtid_domain_id = 0", ""),
    ("gtid_strict_mode = 1", "a fork is an error, and not silence"),
    ("sync_binlog = 1", ""),
    ("innodb_flush_log_at_trx_commit = 1", ""),
    ("read_only = 1", "only dre-mysql lifts it"),
    ("skip-slave-start", ""),
    ("relay_log_recovery = 1", ""),
    ("slave_parallel_threads = 4", ""),
    ("slave_net_timeout = 4", ""),
    ("master-retry-count = 0", "for ever: the default gives up after a day"),
    ("skip-name-resolve", ""),
    ("rpl_semi_sync_slave_enabled = 1", ""),
    ("rpl_semi_sync_master_wait_point = AFTER_SYNC", ""),
    ("init-rpl-role = SLAVE", "after a crash it drops what no standby had acknowledged"),
    ("event_scheduler = OFF", "events would run on both"),
    ("expire_logs_days = 14", ""),
    ("auto_increment_increment = 2", ""),
];

/// The whole text, MariaDB's.
pub fn text(own: &Own) -> String {
    let other = format!("{} on the other node", 3 - own.id);
    let mut out = format!("{MARK}\n[mysqld]\n");
    let mut line = |setting: &str, why: &str| {
        let _ = match why {
            "" => writeln!(out, "{setting}"),
            why => writeln!(out, "{setting:<45} # {why}"),
        };
    };
    line(&format!("server-id = {}", own.id), &other);
    line(&format!("bind-address = {}", if own.six { "*" } else { "0.0.0.0" }), "");
    if own.port != PORT {
        line(&format!("port = {}", own.port), "");
    }
    for (setting, why) in LINES {
        line(setting, why);
    }
    line(&format!("auto_increment_offset = {}", own.id), &other);
    for (setting, file) in [("ssl_ca", "ca.pem"), ("ssl_cert", "cert.pem"), ("ssl_key", "key.pem")] {
        line(&format!("{setting} = {TLS}/{file}"), "");
    }
    out
}

/// A file of this name may be replaced.
pub fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

/// The directories that a `my.cnf` includes, in its order: what is read last is in the last one.
pub fn included(my_cnf: &str) -> Vec<&str> {
    let named = my_cnf.lines().filter_map(|line| line.trim().strip_prefix("!includedir"));
    named.map(str::trim).filter(|directory| !directory.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::logic::db::facts::Flavor;
    use crate::logic::db::wanted;

    const ONE: Own = Own { id: 1, port: 3306, six: false };

    /// As the server takes it: what stands alone is on, - and _ are one.
    fn read(text: &str) -> BTreeMap<String, String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('['))
            .map(|line| {
                let (name, value) = line.split_once(" = ").unwrap_or((line, "ON"));
                let value = if name == "log-bin" { "ON" } else { value };
                (name.replace('-', "_"), value.to_owned())
            })
            .collect()
    }

    #[test]
    fn nothing_is_left_to_complain_of_and_no_line_of_it_is_idle() {
        let all = read(&text(&ONE));
        assert_eq!(wanted::wrong(Flavor::MariaDb, &all), []);
        let demanded = wanted::names().filter(|name| all.contains_key(*name));
        for name in demanded.filter(|name| *name != "event_scheduler") {
            let mut less = all.clone();
            less.remove(name);
            let wrong = wanted::wrong(Flavor::MariaDb, &less);
            assert!(wrong.iter().any(|wrong| wrong.variable == name) || name == "expire_logs_days", "{name}");
        }
    }

    #[test]
    fn the_nodes_differ_in_their_numbers_alone() {
        let (one, two) = (text(&ONE), text(&Own { id: 2, ..ONE }));
        let differ: Vec<_> = one.lines().zip(two.lines()).filter(|(one, two)| one != two).collect();
        assert_eq!(differ.len(), 2, "{differ:?}");
        assert!(differ[0].0.starts_with("server-id = 1") && differ[0].1.starts_with("server-id = 2"));
        assert!(differ[1].0.starts_with("auto_increment_offset = 1"), "{differ:?}");
        assert!(is_ours(&one) && !is_ours("[mysqld]\n") && !is_ours(""));
    }

    #[test]
    fn another_port_and_the_other_family_are_written_down() {
        let text = text(&Own { port: 3307, six: true, ..ONE });
        assert!(text.contains("\nport = 3307\n") && text.contains("\nbind-address = *\n"), "{text}");
    }

    #[test]
    fn what_is_included_last_is_read_last() {
        let text = "[client]\n!includedir /etc/mysql/conf.d/\n  !includedir  /etc/mysql/mariadb.conf.d/ \n#!includedir /x\n!include /y\n";
        assert_eq!(included(text), ["/etc/mysql/conf.d/", "/etc/mysql/mariadb.conf.d/"]);
    }
}
