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

/// With any of these otherwise, transactions that were acknowledged are missing on the standby while its position says that they are
/// there. Empty: a filter, of which there must be none. Variables, and columns of what the servers say of their logs and of replication.
const WHOLE: &[(&str, &str)] = &[
    ("replicate_do_db", ""),
    ("replicate_ignore_db", ""),
    ("replicate_do_table", ""),
    ("replicate_ignore_table", ""),
    ("replicate_wild_do_table", ""),
    ("replicate_wild_ignore_table", ""),
    ("replicate_rewrite_db", ""),
    ("replicate_do_domain_ids", ""),
    ("replicate_ignore_domain_ids", ""),
    ("replicate_ignore_server_ids", ""),
    ("binlog_do_db", ""),
    ("binlog_ignore_db", ""),
    ("replicate_events_marked_for_skip", "REPLICATE"),
    ("slave_exec_mode", "STRICT"),
    ("replica_exec_mode", "STRICT"),
    ("slave_skip_errors", "OFF"),
    ("replica_skip_errors", "OFF"),
];

/// What [`filters`] looks at, where it is a variable of the server.
pub fn names_of_filters() -> impl Iterator<Item = &'static str> {
    WHOLE.iter().map(|(name, _)| *name)
}

/// What a server filters out, or goes over in silence. What it says nothing of, it does not know.
pub fn filters(settings: &BTreeMap<String, String>) -> Vec<Wrong> {
    let newer = |name: &str| name.strip_prefix("slave_").map(|rest| format!("replica_{rest}"));
    WHOLE
        .iter()
        .filter_map(|(name, must)| {
            let have = settings.get(*name)?;
            // MySQL 8.0 has both names for one thing.
            let twice = newer(name).is_some_and(|newer| settings.contains_key(&newer));
            let want = match *must {
                "" if name.ends_with("_ids") => "empty (CHANGE MASTER TO sets it)",
                "" => "empty (without such a line in any of the server's files)",
                value => value,
            };
            (!twice && !have.eq_ignore_ascii_case(must)).then(|| Wrong {
                variable: (*name).into(),
                have: have.clone(),
                want: want.into(),
                fatal: true,
            })
        })
        .collect()
}

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

    #[test]
    fn what_keeps_transactions_from_the_standby_is_named_and_what_a_server_does_not_know_is_not() {
        let of = |settings: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            filters(&settings.iter().map(pair).collect())
        };
        let sound = [
            ("replicate_do_db", ""),
            ("binlog_ignore_db", ""),
            ("replicate_events_marked_for_skip", "replicate"),
            ("slave_exec_mode", "STRICT"),
            ("slave_skip_errors", "OFF"),
        ];
        assert_eq!((of(&[]), of(&sound)), (vec![], vec![]));
        for (name, must) in WHOLE {
            let found = of(&[(name, "anything")]);
            assert_eq!(found.len(), 1, "{name}");
            assert!(found[0].fatal && found[0].variable == *name && found[0].have == "anything");
            let want = if must.is_empty() { "empty" } else { must };
            assert!(found[0].want.starts_with(want), "{found:?}");
        }
        let both = [("slave_exec_mode", "IDEMPOTENT"), ("replica_exec_mode", "IDEMPOTENT")];
        assert_eq!(
            of(&both).iter().map(|wrong| wrong.variable.as_str()).collect::<Vec<_>>(),
            ["replica_exec_mode"]
        );
    }
}
