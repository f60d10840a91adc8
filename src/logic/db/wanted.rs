//! How the server must be set up, and without what it is never made ACTIVE.

use std::collections::BTreeMap;

use crate::logic::db::facts::{Flavor, Wrong};

/// A variable, what it must be, whether histories may fork unseen or commits be lost without it.
type Wanted = (&'static str, Must, bool);

enum Must {
    On,
    Off,
    Be(&'static str),
    AtLeast(u64),
    AtMost(u64),
    /// 0 = for ever.
    For(u64),
}
use Must::{AtLeast, AtMost, Be, For, Off, On};

const MARIADB: &[Wanted] = &[
    ("server_id", AtLeast(1), true),
    ("log_bin", On, true),
    ("log_slave_updates", On, true),
    ("gtid_strict_mode", On, true),
    // One for both servers: with one each, histories fork and no error says so.
    ("gtid_domain_id", Be("0"), true),
    ("binlog_format", Be("ROW"), true),
    ("sync_binlog", Be("1"), false),
    ("innodb_flush_log_at_trx_commit", Be("1"), false),
    ("relay_log_recovery", On, false),
    ("skip_name_resolve", On, false),
    ("slave_net_timeout", AtMost(10), false),
    ("slave_parallel_threads", AtLeast(1), false),
    ("rpl_semi_sync_slave_enabled", On, false),
    ("rpl_semi_sync_master_wait_point", Be("AFTER_SYNC"), false),
    ("event_scheduler", Off, false),
    ("expire_logs_days", For(7), false),
];

const MYSQL: &[Wanted] = &[
    ("server_id", AtLeast(1), true),
    ("log_bin", On, true),
    ("gtid_mode", On, true),
    ("enforce_gtid_consistency", On, true),
    ("log_replica_updates", On, true),
    ("binlog_format", Be("ROW"), true),
    ("sync_binlog", Be("1"), false),
    ("innodb_flush_log_at_trx_commit", Be("1"), false),
    ("relay_log_recovery", On, false),
    ("skip_name_resolve", On, false),
    ("skip_replica_start", On, true),
    ("replica_net_timeout", AtMost(10), false),
    ("replica_preserve_commit_order", On, false),
    ("rpl_semi_sync_replica_enabled", On, false),
    ("rpl_semi_sync_source_wait_point", Be("AFTER_SYNC"), false),
    ("binlog_expire_logs_seconds", For(7 * 86_400), false),
];

/// Every variable that is demanded of either product; a server leaves out what it does not know.
pub fn names() -> impl Iterator<Item = &'static str> {
    MARIADB.iter().chain(MYSQL).map(|(name, ..)| *name)
}

pub fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "ON" | "1" | "YES" | "TRUE")
}

pub fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "OFF" | "0" | "NO" | "FALSE")
}

pub fn wrong(flavor: Flavor, variables: &BTreeMap<String, String>) -> Vec<Wrong> {
    let all = match flavor {
        Flavor::MariaDb => MARIADB,
        Flavor::MySql => MYSQL,
    };
    all.iter()
        .filter_map(|(name, must, fatal)| {
            let have = variables.get(*name);
            let text = have.map_or("", String::as_str);
            // MariaDB has whole numbers with a fraction ("14.000000").
            let number = text.split('.').next().and_then(|whole| whole.parse::<u64>().ok()).unwrap_or(0);
            let (holds, want) = match must {
                On => (is_on(text), "ON".to_owned()),
                Off => (!is_on(text), "OFF".to_owned()),
                Be(value) => (text.eq_ignore_ascii_case(value), (*value).to_owned()),
                AtLeast(least) => (number >= *least, format!("{least} or more")),
                AtMost(most) => (have.is_some() && number <= *most, format!("{most} or less")),
                For(least) => (number == 0 || number >= *least, format!("{least} or more")),
            };
            let have = have.map_or("not there (is its plugin loaded?)".to_owned(), Clone::clone);
            (!holds).then(|| Wrong { variable: (*name).into(), have, want, fatal: *fatal })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_is_not_as_it_must_be_is_named_with_both_values() {
        let variables: BTreeMap<String, String> = [
            ("server_id", "1"),
            ("log_bin", "ON"),
            ("log_slave_updates", "OFF"),
            ("gtid_strict_mode", "ON"),
            ("gtid_domain_id", "0"),
            ("binlog_format", "MIXED"),
            ("sync_binlog", "1"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("relay_log_recovery", "ON"),
            ("skip_name_resolve", "ON"),
            ("slave_net_timeout", "60"),
            ("slave_parallel_threads", "4"),
            ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
            ("event_scheduler", "OFF"),
            ("expire_logs_days", "3.500000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let found = wrong(Flavor::MariaDb, &variables);
        let names: Vec<&str> = found.iter().map(|wrong| wrong.variable.as_str()).collect();
        assert_eq!(
            names,
            [
                "log_slave_updates",
                "binlog_format",
                "slave_net_timeout",
                "rpl_semi_sync_slave_enabled",
                "expire_logs_days"
            ]
        );
        assert!(found[0].fatal && found[1].fatal && !found[2].fatal);
        assert_eq!((found[2].have.as_str(), found[2].want.as_str()), ("60", "10 or less"));
        assert!(found[3].have.contains("plugin"));
    }
}
