//! The command line. Man pages and completions are made from these structs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use dre::logic::group;

use crate::rules::setup::Wanted;

/// See and steer this pair of servers.
///
/// Without a command it shows the status.
#[derive(Debug, Parser)]
#[command(name = "drectl", version, after_help = EXAMPLES, after_long_help = LONG, max_term_width = 100)]
pub struct Cli {
    /// The group; default: the only one that is configured, or dre. The status and the checks are of all of them
    #[arg(long, short, global = true, env = "DRE_GROUP", value_name = "NAME", hide_env_values = true)]
    #[arg(value_parser = group_name)]
    pub group: Option<String>,
    /// The control socket of the group's dre.service [default: /run/dre/control, /run/dre-GROUP/control]
    #[arg(long, global = true, env = "DRE_CONTROL", value_name = "PATH", value_hint = ValueHint::FilePath)]
    #[arg(hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// The control socket of dre-sync.service
    #[arg(long, global = true, env = "DRE_SYNC_CONTROL", value_name = "PATH", value_hint = ValueHint::FilePath)]
    #[arg(default_value = "/run/dre-sync/control", hide_env_values = true)]
    pub sync_socket: PathBuf,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  drectl                        who is active, is the service given, what is wrong
  drectl status --watch         the same, live
  drectl switchover             hand the role to the other node, print the gap
  drectl check                  is this node ready for its part?
  drectl config check           would the daemons accept /etc/dre/dre.toml and sync.toml?
  drectl rules                  are the rules files the same on both nodes?
  drectl -g mysql switchover    the same of another group of this machine";

const LONG: &str = "\
Examples:
  drectl                        who is active, is the service given, what is wrong
  drectl status --watch         the same, live
  drectl switchover             hand the role to the other node, print the gap
  drectl check                  is this node ready for its part?
  drectl config check           would the daemons accept /etc/dre/dre.toml and sync.toml?
  drectl rules                  are the rules files the same on both nodes?
  drectl -g mysql switchover    the same of another group of this machine

Exit status:
  0   done
  64  usage
  65  what was to be imported cannot be understood
  69  dre.service (of a group: dre@GROUP.service; for drectl rules: dre-sync.service) is not running or does not answer
  75  refused for now, or not ready; the message says why and what to do
  78  the configuration does not hold, or what was imported is not complete";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who is active, is the service given, what is wrong
    #[command(
        after_help = "Without --group the status of every group of this machine that is configured, with --json a line each.\n\n\
                      Examples:\n  drectl status\n  drectl status --watch\n  drectl status --json | jq .role\n  \
                      drectl -g mysql status"
    )]
    Status(StatusArgs),
    /// Hand the role over, wait for it, print the gap the nodes measured
    ///
    /// Refused, with the reason, when the other node is not ready; nothing is changed then.
    #[command(
        after_help = "Examples:\n  drectl switchover\n  drectl switchover --to hadev2\n  drectl switchover --force"
    )]
    Switchover(SwitchoverArgs),
    /// The right to be active, by hand (dre-lease.service runs these)
    #[command(subcommand)]
    Lease(Lease),
    /// The configuration as the daemon would read it
    #[command(subcommand)]
    Config(Config),
    /// The key that authenticates heartbeats
    #[command(subcommand)]
    Key(Key),
    /// A group's file from what another program was configured with
    #[command(subcommand)]
    Import(Import),
    /// The rules files that are the same on both nodes
    ///
    /// Without a command it shows how they stand.
    #[command(after_help = RULES_EXAMPLES)]
    Rules {
        #[command(subcommand)]
        command: Option<Rules>,
    },
    /// The database server that follows the role of the group (name it: -g mysql)
    ///
    /// Without a command it shows how it stands.
    #[command(
        after_help = "Examples:\n  drectl -g mysql db\n  drectl -g mysql db status --watch\n  drectl -g mysql db check\n  \
                            drectl -g mysql db promote --force"
    )]
    Db {
        #[command(subcommand)]
        command: Option<Db>,
    },
    /// Is this node ready for its part? Findings, each with its remedy
    #[command(
        after_help = "Run it as root: the key, the firewall and BPF cannot be looked at otherwise.\n\n\
                            Examples:\n  drectl check\n  drectl check --json | jq '.[] | select(.level != \"ok\")'"
    )]
    Check(Json),
    /// The versions of drectl and of the running daemon
    Version(Json),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Db {
    /// State, replication, the peer's server, what commits wait for
    Status(StatusArgs),
    /// Each setting of the server that is not as it must be, with what to write where; the agent need not run
    Check(Json),
    /// Make this node's empty server one of the pair; run it on each node
    ///
    /// Writes the server's file and its certificate, restarts it, makes the accounts, and says from whom it replicates. Nothing is carried
    /// between the nodes: both make the same of the cluster key. A second run repairs what is wrong, and renews certificate and password.
    #[command(
        after_help = "Examples:\n  drectl -g mysql db bootstrap --print-config\n  drectl -g mysql db bootstrap"
    )]
    Bootstrap(BootstrapArgs),
    /// Make a pair that replicates already, set up by hand, dre's; on both nodes at the same time
    ///
    /// Both commands look at both servers, say what speaks against it and what they will do, and ask. Then nobody may write any more, each
    /// server applies the other's last transaction, every table is compared, and the servers are set up as bootstrap does it. Up to then
    /// everything is undone where anything speaks against it.
    #[command(
        after_help = "Examples:\n  drectl -g mysql db adopt              # on both nodes\n  drectl -g mysql db adopt --watch 60"
    )]
    Adopt(AdoptArgs),
    /// What is on this server alone, in words and rows; changes nothing
    #[command(
        after_help = "Examples:\n  drectl -g mysql db diverged\n  drectl -g mysql db diverged --dump /root/lost.sql"
    )]
    Diverged(DivergedArgs),
    /// The next promotion here takes what this server has, whatever is missing
    ///
    /// For the day on which the other machine is gone for good, or its data is to be given up. The role itself is taken by
    /// "switchover" or "lease take" of the same group.
    Promote {
        /// Transactions may be lost by it: say that you mean it
        #[arg(long)]
        force: bool,
    },
    /// Replicate although this server has transactions that the peer lacks
    AcceptErrant,
    /// Make this server a copy of the peer's: what a state like DIVERGED, OWN_LOST or PURGED asks for
    ///
    /// The copy (mariadb-backup, on both nodes) comes over the links, encrypted and authenticated with the cluster key. The old data stays as it is
    /// until the copy is whole, takes its place in one step, and is kept until the server is in step with the ACTIVE; where
    /// the copy does not start, the old data comes back. As root, on the standby.
    #[command(
        after_help = "Examples:\n  drectl -g mysql db diverged      # first: what is here alone\n  drectl -g mysql db reseed\n  drectl -g mysql db reseed --yes --keep-old"
    )]
    Reseed(Reseed),
    /// This server's data was made a copy of the peer's by hand: forget what was kept of the old ones
    Reseeded,
}

#[derive(Debug, Args)]
pub struct Reseed {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Keep the old data, in datadir.dre-old, when all is well
    #[arg(long)]
    pub keep_old: bool,
    /// Also from a server that takes no writes
    #[arg(long)]
    pub from_standby: bool,
    /// How long to wait until it is in step, once the copy has its place
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    pub timeout: f64,
    /// One line of JSON at the end, no progress
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Print the server's file as it would be written, and change nothing
    #[arg(long)]
    pub print_config: bool,
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    /// As JSON, at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// For how long both servers are watched for clients that write
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, value_parser = seconds)]
    pub watch: f64,
    /// Take both servers for the same without comparing their tables
    #[arg(long)]
    pub no_checksum: bool,
}

#[derive(Debug, Args)]
pub struct DivergedArgs {
    /// Where to write the rows; default: lost-DATE.sql beside the agent's own files
    #[arg(long, value_name = "FILE", conflicts_with = "no_dump", value_hint = ValueHint::FilePath)]
    pub dump: Option<PathBuf>,
    /// Only say which transactions they are
    #[arg(long)]
    pub no_dump: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Default, Args)]
pub struct StatusArgs {
    /// One line of JSON; its fields are stable
    #[arg(long)]
    pub json: bool,
    /// Again after every change, until interrupted
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The node that shall be active; default: the one that is not
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Also when the configurations of the nodes differ, and what else is safe to override
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// How long to wait for it to be done
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, value_parser = seconds)]
    pub timeout: f64,
}

/// What names a group.
fn group_name(text: &str) -> Result<String, String> {
    group::fault(text).map_or_else(|| Ok(text.to_owned()), |why| Err(why.to_owned()))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("a number of seconds between 0 and 86400, e.g. 15 or 2.5".into()),
    }
}

#[derive(Debug, Args)]
pub struct TakeArgs {
    /// Also when the configurations of the nodes differ
    #[arg(long)]
    pub force: bool,
    /// Where the unit leaves the term for the role's services
    #[arg(long, hide = true, value_name = "FILE")]
    pub term_file: Option<PathBuf>,
    #[command(flatten)]
    pub lease: LeaseArgs,
}

#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// Asked by dre-lease.service
    #[arg(long, hide = true)]
    pub unit: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Ask for the lease; done when this node is active
    #[command(after_help = "Examples:\n  drectl lease take\n  drectl lease take --timeout 60")]
    Take(TakeArgs),
    /// Give the lease back and stay out of it; done when this node is standby
    #[command(
        after_help = "The node stays out of the role until the other one is heard ACTIVE, or somebody says \"drectl lease take\" \
                            here. On a standby it changes nothing: it takes over when the other one is lost."
    )]
    Release(LeaseArgs),
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Exactly the daemons' own validation, and what this host says to it
    ///
    /// Of every group's file, or of that of --group, and of sync.toml where there is one beside dre.toml. A FILE is taken for the
    /// group's after which it is called.
    #[command(after_help = "Examples:\n  drectl config check\n  drectl config check ./dre.toml.new\n  \
                      drectl config check ./sync.toml.new\n  drectl -g mysql config check")]
    Check(FileArgs),
    /// The effective settings, with what is derived from them
    #[command(after_help = "Examples:\n  drectl config show\n  drectl config show --json | jq .derived")]
    Show(FileArgs),
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// The file; default: the one the daemon reads
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key from 32 random bytes, readable by its owner alone; it is never shown
    #[command(after_help = "Examples:\n  drectl key new\n  drectl key new --out ./key")]
    New {
        /// Where to write it
        #[arg(long, value_name = "FILE", default_value = "/etc/dre/key", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// Replace the key that is there; the nodes do not hear each other until both have the new one
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Import {
    /// From Linux Heartbeat's ha.cf and haresources
    ///
    /// The group's file goes to standard output, and what became of each line of the old ones to standard error. What they do not
    /// say is never guessed: it stands in the file as FILL IN, and the exit status is 78. On a node the addresses of its own
    /// interfaces are known; those of the other one are found in the hosts file, by names like hadev2-eth3.
    #[command(
        after_help = "Exit status: 0 complete, 65 the old files cannot be understood, 75 not read or not written, 78 something is \
                            left to fill in.\n\nExamples:\n  drectl -g mysql import heartbeat /etc/ha.d\n  \
                            drectl import heartbeat /etc/ha.d --output /etc/dre/mysql.toml\n  \
                            drectl import heartbeat ./ha.d --hosts ./hosts --arbitrator-interface eth0 --json | jq -r .toml"
    )]
    Heartbeat(HeartbeatArgs),
}

#[derive(Debug, Args)]
pub struct HeartbeatArgs {
    /// Where ha.cf, haresources and authkeys are
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Where names of addresses are looked for; default: DIR/hosts if it is there, else /etc/hosts
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub hosts: Option<PathBuf>,
    /// The interface over which the hosts that ha.cf pings are asked; default, on a node: that on whose network they are
    #[arg(long, value_name = "NAME")]
    pub arbitrator_interface: Option<String>,
    /// The node whose lines of haresources are meant; default: that of the first line
    #[arg(long, value_name = "NODE")]
    pub preferred: Option<String>,
    /// Write it there instead; the group is called like it, unless --group names it
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Replace the file that is there
    #[arg(long, requires = "output")]
    pub force: bool,
    /// As JSON: the file, and what became of each line
    #[arg(long)]
    pub json: bool,
}

const RULES_EXAMPLES: &str = "\
Examples:
  drectl rules                          how the sets of files stand, what is wrong, what to do
  drectl rules status --watch           the same, live
  drectl rules setup                    name the directories, once
  drectl rules conflicts                what was edited on both nodes at once
  drectl rules trash restore re ID      a deleted file back
  drectl rules check re                 would the set's validate accept what is there?";

#[derive(Debug, Subcommand)]
pub enum Rules {
    /// How the sets of files stand, what is wrong, what to do
    #[command(after_help = "Examples:\n  drectl rules status\n  drectl rules status --watch\n  \
                      drectl rules status --json | jq '.sets[] | select(.state != \"IN_SYNC\")'")]
    Status(StatusArgs),
    /// Name the directories whose files shall be the same on both nodes; writes sync.toml
    ///
    /// On a terminal it asks, and proposes RE_CONFDIR and ERLBF_RE_CONFDIR from the environment or from
    /// /etc/default/dre. Sets are added to an existing file, and nothing in it is changed.
    #[command(after_help = "Examples:\n  drectl rules setup\n  \
                      drectl rules setup --set re=/opt/dre/rules --apply 'systemctl reload diameter.service' --yes\n  \
                      RE_CONFDIR=/opt/dre/rules drectl rules setup --yes --out ./sync.toml")]
    Setup(SetupArgs),
    /// Look at everything again and compare; waits until it is done
    #[command(after_help = "Every ten minutes dre-sync does it by itself, and once a day deeply.\n\n\
                            Examples:\n  drectl rules verify\n  drectl rules verify re --deep")]
    Verify {
        /// The set; default: all
        set: Option<String>,
        /// Read every byte, not only sizes and times
        #[arg(long)]
        deep: bool,
    },
    /// What lost when both nodes edited a file at once; none of it is lost
    ///
    /// Each is kept on one of the nodes, and that node's set is CONFLICTS until all are restored or dropped.
    #[command(
        args_conflicts_with_subcommands = true,
        disable_help_subcommand = true,
        after_help = "Examples:\n  drectl rules conflicts\n  drectl rules conflicts re --json\n  \
                      drectl rules conflicts restore re 20261125T140211Z-000017\n  \
                      drectl rules conflicts drop re 20261125T140211Z-000017"
    )]
    Conflicts(ConflictsArgs),
    /// What was deleted here because it was deleted on the other node, while it is still kept
    ///
    /// The node on which a file is deleted by hand keeps nothing of it: look in the other one's trash. What gave way to something
    /// that was restored is here too.
    #[command(
        args_conflicts_with_subcommands = true,
        disable_help_subcommand = true,
        after_help = "Examples:\n  drectl rules trash\n  drectl rules trash re --json\n  \
                      drectl rules trash restore re 20261125T140211Z-000017"
    )]
    Trash(TrashArgs),
    /// A mass deletion that is held was meant: delete on the other node too
    #[command(
        after_help = "What is deleted there goes to the trash there.\n\nExamples:\n  drectl rules accept-deletes re"
    )]
    AcceptDeletes {
        /// The set
        set: String,
    },
    /// Publish here what the set's validate refused
    #[command(after_help = "Examples:\n  drectl rules force re")]
    Force {
        /// The set
        set: String,
    },
    /// Would the set's validate accept it? Runs it on what is live, or on files before they are saved
    ///
    /// Exit status 0: accepted, 75: refused. It runs as you, outside of dre-sync's sandbox.
    #[command(after_help = "Examples:\n  drectl rules check re\n  drectl rules check re ./a.xml\n  \
                      drectl rules check re de/a.xml=/tmp/draft.xml --json")]
    Check(CheckArgs),
    /// What happened, from the journal
    #[command(after_help = "Examples:\n  drectl rules log\n  drectl rules log re --since -1h --explain\n  \
                      drectl rules log --since today --follow")]
    Log(LogArgs),
}

#[derive(Debug, Args)]
pub struct SetupArgs {
    /// A directory and the name of its set; may be given more than once
    #[arg(long = "set", value_name = "NAME=DIR", value_parser = crate::rules::setup::wanted)]
    pub sets: Vec<Wanted>,
    /// A command that may refuse changes before they go live, - for none; {staging} and {list} are replaced
    #[arg(long, value_name = "COMMAND")]
    pub validate: Option<String>,
    /// A command to run after changes went live, - for none
    #[arg(long, value_name = "COMMAND")]
    pub apply: Option<String>,
    /// Ask nothing; without --set: what RE_CONFDIR and ERLBF_RE_CONFDIR name
    #[arg(long, short)]
    pub yes: bool,
    /// Make a directory that is not there
    #[arg(long)]
    pub mkdir: bool,
    /// Copy sync.toml, and nothing else, to the other node by scp; not with --out elsewhere
    #[arg(long)]
    pub copy: bool,
    /// Where to write it; default: sync.toml beside dre.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ConflictsArgs {
    #[command(subcommand)]
    pub command: Option<Loser>,
    #[command(flatten)]
    pub list: ListArgs,
}

#[derive(Debug, Args)]
pub struct TrashArgs {
    #[command(subcommand)]
    pub command: Option<Trashed>,
    #[command(flatten)]
    pub list: ListArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The set; default: all
    pub set: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct One {
    /// The set
    pub set: String,
    /// What names it in the list
    pub id: String,
}

#[derive(Debug, Subcommand)]
pub enum Loser {
    /// Put one back into the live tree, as an edit of now; what is there goes to the trash
    Restore(One),
    /// Throw one away: it is not wanted any more
    #[command(after_help = "There is no way back.\n\nExamples:\n  \
                      drectl rules conflicts drop re 20261125T140211Z-000017\n  \
                      drectl rules conflicts re --json | jq -r '.[].id' | xargs -n1 drectl rules conflicts drop re")]
    Drop(One),
}

#[derive(Debug, Subcommand)]
pub enum Trashed {
    /// Put one back into the live tree, as an edit of now; what is there goes to the trash
    Restore(One),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The set
    pub set: String,
    /// Files as they would be saved: a file below the set's root, or PATH=FILE, PATH being where it would be in the set.
    /// Default: everything that is live
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Only of this set
    pub set: Option<String>,
    /// From when, as journalctl takes it: today, -1h, "2026-11-25 14:00"
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
    /// With what each entry means and what to do
    #[arg(long, short = 'x')]
    pub explain: bool,
    /// As JSON, an entry a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Json {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_may_be_named_before_and_after_the_command() {
        for line in [["drectl", "--socket", "/x", "status"], ["drectl", "status", "--socket", "/x"]] {
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!(cli.socket, Some(PathBuf::from("/x")));
        }
    }

    #[test]
    fn a_group_may_be_named_before_and_after_the_command() {
        for line in [["drectl", "-g", "mysql", "status"], ["drectl", "status", "--group", "mysql"]] {
            assert_eq!(Cli::try_parse_from(line).expect("parses").group.as_deref(), Some("mysql"));
        }
        for bad in ["../x", "sync", ""] {
            assert!(Cli::try_parse_from(["drectl", "-g", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_and_its_restore_are_told_apart() {
        let parse = |line: &[&str]| {
            let line = ["drectl", "--sync-socket", "/y", "rules", "conflicts"].iter().chain(line);
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!(cli.sync_socket, PathBuf::from("/y"));
            let Some(Command::Rules { command: Some(Rules::Conflicts(args)) }) = cli.command else {
                panic!("something else")
            };
            args
        };
        assert!(parse(&[]).list.set.is_none());
        let listed = parse(&["re", "--json"]);
        assert!(listed.command.is_none() && listed.list.json);
        assert_eq!(listed.list.set.as_deref(), Some("re"));
        let one = |one: &One| (one.set.clone(), one.id.clone());
        let Some(Loser::Restore(back)) = parse(&["restore", "re", "1-2"]).command else { panic!("a list") };
        assert_eq!(one(&back), ("re".into(), "1-2".into()));
        let Some(Loser::Drop(away)) = parse(&["drop", "re", "1-2"]).command else { panic!("a list") };
        assert_eq!(one(&away), ("re".into(), "1-2".into()));
        for bad in [
            &["conflicts", "re", "erlbf"][..],
            &["conflicts", "restore", "re"],
            &["conflicts", "drop", "re"],
            &["trash", "drop", "re", "1-2"],
            &["verify", "re", "erlbf"],
        ] {
            assert!(Cli::try_parse_from(["drectl", "rules"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_moment_may_begin_with_a_minus() {
        let cli = Cli::try_parse_from(["drectl", "rules", "log", "--since", "-1h", "re"]).expect("parses");
        let Some(Command::Rules { command: Some(Rules::Log(args)) }) = cli.command else { panic!("not log") };
        assert_eq!((args.since.as_deref(), args.set.as_deref()), (Some("-1h"), Some("re")));
    }

    #[test]
    fn a_wait_is_a_positive_number_of_seconds() {
        for bad in ["0", "-1", "x", "nan", "inf"] {
            assert!(Cli::try_parse_from(["drectl", "lease", "take", "--timeout", bad]).is_err(), "{bad}");
        }
    }
}
