//! `drectl rules log`: journalctl with the right words. It takes this process's place.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::args::LogArgs;
use crate::exit::{Done, Fail};

pub fn run(args: &LogArgs) -> Done {
    // Returns only when it could not be started.
    let error = Command::new("journalctl").args(line(args)).exec();
    Err(Fail::silent(format!("journalctl cannot be started: {error}; this log is kept by systemd-journald")))
}

fn line(args: &LogArgs) -> Vec<String> {
    let mut line = vec!["--unit=dre-sync.service".to_owned()];
    line.extend(args.since.as_ref().map(|since| format!("--since={since}")));
    let flags = [(args.follow, "--follow"), (args.explain, "--catalog"), (args.json, "--output=json")];
    line.extend(flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag.to_owned()));
    line.extend(args.set.as_ref().map(|set| format!("DRE_SET={set}")));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalctl_is_asked_for_this_daemon_and_this_set() {
        let plain = LogArgs { set: None, since: None, follow: false, explain: false, json: false };
        assert_eq!(line(&plain), ["--unit=dre-sync.service"]);
        let all = LogArgs {
            set: Some("re".into()),
            since: Some("-1h".into()),
            follow: true,
            explain: true,
            json: true,
        };
        assert_eq!(
            line(&all),
            [
                "--unit=dre-sync.service",
                "--since=-1h",
                "--follow",
                "--catalog",
                "--output=json",
                "DRE_SET=re"
            ]
        );
    }
}
