//! A Varlink client of a hundred lines: JSON, a NUL, back and forth. No runtime: drectl is done before one is set up.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dre::database::DatabaseStatus;
use dre::logic::group;
use dre::rules::RulesStatus;
use dre::snapshot::Status;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::exit::Fail;

/// The daemon answers reads in a millisecond, and commands within its own 5 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// A reply longer than this is not from a daemon of ours: a trash of 100,000 files has 20 MB.
const REPLY_MAX: usize = 64 * 1024 * 1024;

/// Whom to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    interface: &'static str,
    /// Without its `.service`; its socket unit has the same name.
    unit: String,
}

impl Daemon {
    /// dre-elect of a group.
    pub fn elect(group: &str) -> Self {
        Self { interface: "io.dre.Control", unit: group::unit("dre", group) }
    }

    /// dre-mysql of a group.
    pub fn database(group: &str) -> Self {
        Self { interface: "io.dre.Database", unit: format!("dre-mysql@{group}") }
    }

    pub fn sync() -> Self {
        Self { interface: "io.dre.Rules", unit: "dre-sync".into() }
    }
}

/// A group, and where its dre-elect listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub group: String,
    pub socket: PathBuf,
}

impl Place {
    /// `socket`: named by hand.
    pub fn of(group: &str, socket: Option<&Path>) -> Self {
        let usual = || Path::new("/run").join(group::directory(group)).join("control");
        Self { group: group.to_owned(), socket: socket.map_or_else(usual, Path::to_path_buf) }
    }

    /// A command line of drectl for it.
    pub fn command(&self, words: &str) -> String {
        group::command(&self.group, words)
    }

    /// Its unit of that kind, without the suffix.
    pub fn unit(&self, base: &str) -> String {
        group::unit(base, &self.group)
    }
}

/// One connection to a control socket.
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    daemon: Daemon,
    /// How long an answer may take.
    patience: Duration,
}

impl Client {
    /// To dre-elect.
    pub fn connect(place: &Place) -> Result<Self, Fail> {
        Self::to(Daemon::elect(&place.group), &place.socket, ANSWER_WITHIN)
    }

    /// To dre-sync.
    pub fn sync(socket: &Path) -> Result<Self, Fail> {
        Self::to(Daemon::sync(), socket, ANSWER_WITHIN)
    }

    pub fn to(daemon: Daemon, socket: &Path, patience: Duration) -> Result<Self, Fail> {
        let unit = daemon.unit.as_str();
        let stream = dial(socket, patience).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Fail::not_running(unit),
            ErrorKind::PermissionDenied => Fail::refused(format!(
                "{}: permission denied; run it as root, or join the group: usermod -aG dre {}",
                socket.display(),
                std::env::var("USER").unwrap_or_else(|_| "NAME".into())
            )),
            _ => Fail::silent(format!(
                "{}: {error}; look at: systemctl status {unit}.socket {unit}",
                socket.display()
            )),
        })?;
        Ok(Self { stream, buffer: vec![], daemon, patience })
    }

    pub fn status(&mut self) -> Result<Status, Fail> {
        self.read_status()
    }

    /// dre-sync's.
    pub fn rules(&mut self) -> Result<RulesStatus, Fail> {
        self.read_status()
    }

    /// dre-mysql's.
    pub fn database(&mut self) -> Result<DatabaseStatus, Fail> {
        self.read_status()
    }

    fn read_status<S: DeserializeOwned>(&mut self) -> Result<S, Fail> {
        let reply = self.call("Status", json!({}))?;
        status_of(&self.daemon, &reply)
    }

    /// One call, one answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value, Fail> {
        self.call_for(method, parameters, self.patience)?.ok_or_else(|| self.silence(self.patience))
    }

    /// The same for what takes its time.
    pub fn call_within(&mut self, method: &str, parameters: Value, within: Duration) -> Result<Value, Fail> {
        self.call_for(method, parameters, within)?.ok_or_else(|| self.silence(within))
    }

    /// The same; `None`: it was sent, and not answered for so long.
    pub fn call_for(
        &mut self,
        method: &str,
        parameters: Value,
        patience: Duration,
    ) -> Result<Option<Value>, Fail> {
        let method = format!("{}.{method}", self.daemon.interface);
        self.send(json!({ "method": method, "parameters": parameters }))?;
        let reply = self.receive(Instant::now() + patience)?;
        reply.map(|reply| parameters_of(&self.daemon, &reply)).transpose()
    }

    /// Statuses from now on; see [`Client::next`].
    pub fn watch(&mut self) -> Result<(), Fail> {
        let method = format!("{}.Watch", self.daemon.interface);
        self.send(json!({ "method": method, "parameters": {}, "more": true }))
    }

    /// The next status of a watch; `None` when `until` came first. The daemon says something every second, so a
    /// longer silence is a failure of its own.
    pub fn next(&mut self, until: Instant) -> Result<Option<Status>, Fail> {
        self.next_status(until)
    }

    /// dre-sync's.
    pub fn next_rules(&mut self, until: Instant) -> Result<Option<RulesStatus>, Fail> {
        self.next_status(until)
    }

    /// dre-mysql's.
    pub fn next_database(&mut self, until: Instant) -> Result<Option<DatabaseStatus>, Fail> {
        self.next_status(until)
    }

    fn next_status<S: DeserializeOwned>(&mut self, until: Instant) -> Result<Option<S>, Fail> {
        let patience = Instant::now() + self.patience;
        match self.receive(until.min(patience))? {
            Some(reply) => status_of(&self.daemon, &parameters_of(&self.daemon, &reply)?).map(Some),
            None if patience < until => Err(self.silence(self.patience)),
            None => Ok(None),
        }
    }

    fn send(&mut self, call: Value) -> Result<(), Fail> {
        let mut bytes = call.to_string().into_bytes();
        bytes.push(0);
        let _ = self.stream.set_write_timeout(Some(self.patience));
        self.stream.write_all(&bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.silence(self.patience),
            _ => self.hung_up(),
        })
    }

    /// One message; `None` at the deadline.
    fn receive(&mut self, until: Instant) -> Result<Option<Value>, Fail> {
        let mut chunk = [0; 16 * 1024];
        // How much of the buffer is known to have no end in it: a long answer is not searched again and again.
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == 0).map(|at| searched + at) {
                let message: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = message.get(..end).unwrap_or_default();
                return serde_json::from_slice(text).map(Some).map_err(|error| {
                    Fail::silent(format!("the control socket answers something that is not JSON ({error}); is another program listening on it?"))
                });
            }
            searched = self.buffer.len();
            if self.buffer.len() > REPLY_MAX {
                return Err(Fail::silent(
                    "the control socket does not end its answer; is another program listening on it?",
                ));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let _ = self.stream.set_read_timeout(Some(left));
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.hung_up()),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(self.hung_up()),
            }
        }
    }

    fn silence(&self, within: Duration) -> Fail {
        let unit = &self.daemon.unit;
        Fail::silent(format!(
            "{unit}.service does not answer within {} s; look at: systemctl status {unit}, journalctl -u {unit} -e",
            within.as_secs_f32()
        ))
    }

    fn hung_up(&self) -> Fail {
        let unit = &self.daemon.unit;
        Fail::silent(format!(
            "{unit}.service closed the connection: it stops, was restarted, or is older than drectl and does not know \
             this command; look at: systemctl status {unit}, drectl version"
        ))
    }
}

/// Connects, and does not wait for a daemon that no longer accepts: its queue may be full.
fn dial(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect_timeout(&SockAddr::unix(path)?, within)?;
    Ok(socket.into())
}

/// What a reply carries, or the error it is.
fn parameters_of(daemon: &Daemon, reply: &Value) -> Result<Value, Fail> {
    let unit = &daemon.unit;
    let parameters = reply.get("parameters").cloned().unwrap_or_else(|| json!({}));
    let Some(error) = reply.get("error").and_then(Value::as_str) else { return Ok(parameters) };
    let reason = parameters.get("reason").and_then(Value::as_str);
    match (error.rsplit('.').next().unwrap_or_default(), reason) {
        ("Refused" | "NotPermitted", Some(reason)) => Err(Fail::refused(reason)),
        ("MethodNotFound", _) => Err(Fail::refused(format!(
            "the running {unit}.service does not know this command: it is older than drectl; restart it with: \
             systemctl restart {unit}"
        ))),
        _ => Err(Fail::refused(format!("{unit}.service refused: {error} {parameters}"))),
    }
}

fn status_of<S: DeserializeOwned>(daemon: &Daemon, parameters: &Value) -> Result<S, Fail> {
    let unit = &daemon.unit;
    serde_json::from_value(parameters.get("status").cloned().unwrap_or_default()).map_err(|error| {
        Fail::silent(format!(
            "the running {unit}.service is of a version that drectl {} cannot read ({error}); restart it with: \
             systemctl restart {unit}",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{NOT_RUNNING, REFUSED};

    #[test]
    fn without_a_daemon_the_remedy_is_named_and_the_status_is_69() {
        for (group, unit) in [("dre", "dre"), ("mysql", "dre@mysql")] {
            let place = Place::of(group, Some(Path::new("/nonexistent/control")));
            let Err(fail) = Client::connect(&place) else { panic!("connected") };
            assert_eq!(fail.code, NOT_RUNNING);
            assert_eq!(
                fail.text,
                format!("{unit}.service is not running; start it with: systemctl start {unit}")
            );
        }
        assert_eq!(Place::of("mysql", None).socket, Path::new("/run/dre-mysql/control"));
    }

    #[test]
    fn a_refusal_is_the_daemons_own_sentence_and_status_75() {
        let reply = json!({ "error": "io.dre.Control.Refused", "parameters": { "reason": "not now; wait" } });
        assert_eq!(
            parameters_of(&Daemon::elect("dre"), &reply),
            Err(Fail { code: REFUSED, text: "not now; wait".into() })
        );
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_it_goes() {
        let parameters = json!({ "status": { "node": "hadev1", "role": "active", "coming": [1, 2] } });
        let status: Status = status_of(&Daemon::elect("dre"), &parameters).expect("readable");
        assert_eq!((status.node.as_str(), status.role.as_str(), status.term), ("hadev1", "active", 0));
    }

    #[test]
    fn half_an_answer_is_waited_for_and_two_in_one_are_two() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut client =
            Client { stream: ours, buffer: vec![], daemon: Daemon::elect("dre"), patience: ANSWER_WITHIN };
        theirs.write_all(b"{\"parameters\":{\"status\":").expect("written");
        assert_eq!(client.next(Instant::now() + Duration::from_millis(5)), Ok(None));
        theirs.write_all(b"{\"term\":1}}}\0{\"parameters\":{\"status\":{\"term\":2}}}\0").expect("written");
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(client.next(soon).expect("read").map(|s| s.term), Some(1));
        assert_eq!(client.next(soon).expect("read").map(|s| s.term), Some(2));
        drop(theirs);
        assert_eq!(client.next(soon).expect_err("closed").code, NOT_RUNNING);
    }
}
