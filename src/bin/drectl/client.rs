//! A Varlink client of a hundred lines: JSON, a NUL, back and forth. No runtime: drectl is done before one is set up.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use dre::snapshot::Status;
use serde_json::{Value, json};

use crate::exit::Fail;

/// The daemon answers reads in a millisecond, and commands within its own 5 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// A reply longer than this is not from dre-elect.
const REPLY_MAX: usize = 4 * 1024 * 1024;

const INTERFACE: &str = "io.dre.Control";

/// One connection to the control socket.
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self, Fail> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Fail::not_running(),
            ErrorKind::PermissionDenied => Fail::refused(format!(
                "{}: permission denied; run it as root, or join the group: usermod -aG dre {}",
                socket.display(),
                std::env::var("USER").unwrap_or_else(|_| "NAME".into())
            )),
            _ => Fail::silent(format!("{}: {error}; look at: systemctl status dre.socket", socket.display())),
        })?;
        Ok(Self { stream, buffer: vec![] })
    }

    pub fn status(&mut self) -> Result<Status, Fail> {
        let reply = self.call("Status", json!({}))?;
        status_of(&reply)
    }

    /// One call, one answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value, Fail> {
        self.call_within(method, parameters, ANSWER_WITHIN)?.ok_or_else(silence)
    }

    /// The same; `None`: it was sent, and not answered for so long.
    pub fn call_within(
        &mut self,
        method: &str,
        parameters: Value,
        patience: Duration,
    ) -> Result<Option<Value>, Fail> {
        self.send(json!({ "method": format!("{INTERFACE}.{method}"), "parameters": parameters }))?;
        self.receive(Instant::now() + patience)?.map(|reply| parameters_of(&reply)).transpose()
    }

    /// Statuses from now on; see [`Client::next`].
    pub fn watch(&mut self) -> Result<(), Fail> {
        self.send(json!({ "method": format!("{INTERFACE}.Watch"), "parameters": {}, "more": true }))
    }

    /// The next status of a watch; `None` when `until` came first. The daemon says something every second, so a
    /// longer silence is a failure of its own.
    pub fn next(&mut self, until: Instant) -> Result<Option<Status>, Fail> {
        let patience = Instant::now() + ANSWER_WITHIN;
        match self.receive(until.min(patience))? {
            Some(reply) => status_of(&parameters_of(&reply)?).map(Some),
            None if patience < until => Err(silence()),
            None => Ok(None),
        }
    }

    fn send(&mut self, call: Value) -> Result<(), Fail> {
        let mut bytes = call.to_string().into_bytes();
        bytes.push(0);
        let _ = self.stream.set_write_timeout(Some(ANSWER_WITHIN));
        self.stream.write_all(&bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => silence(),
            _ => hung_up(),
        })
    }

    /// One message; `None` at the deadline.
    fn receive(&mut self, until: Instant) -> Result<Option<Value>, Fail> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = message.get(..end).unwrap_or_default();
                return serde_json::from_slice(text).map(Some).map_err(|error| {
                    Fail::silent(format!("the control socket answers something that is not JSON ({error}); is another program listening on it?"))
                });
            }
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
                Ok(0) => return Err(hung_up()),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(hung_up()),
            }
        }
    }
}

fn silence() -> Fail {
    Fail::silent(format!(
        "dre.service does not answer within {} s; look at: systemctl status dre, journalctl -u dre -e",
        ANSWER_WITHIN.as_secs()
    ))
}

fn hung_up() -> Fail {
    Fail::silent(
        "dre.service closed the connection: it stops, was restarted, or is older than drectl and does not know this \
         command; look at: systemctl status dre, drectl version",
    )
}

/// What a reply carries, or the error it is.
fn parameters_of(reply: &Value) -> Result<Value, Fail> {
    let parameters = reply.get("parameters").cloned().unwrap_or_else(|| json!({}));
    let Some(error) = reply.get("error").and_then(Value::as_str) else { return Ok(parameters) };
    let reason = parameters.get("reason").and_then(Value::as_str);
    match (error.rsplit('.').next().unwrap_or_default(), reason) {
        ("Refused" | "NotPermitted", Some(reason)) => Err(Fail::refused(reason)),
        ("MethodNotFound", _) => Err(Fail::refused(
            "the running dre.service does not know this command: it is older than drectl; restart it with: systemctl restart dre",
        )),
        _ => Err(Fail::refused(format!("dre.service refused: {error} {parameters}"))),
    }
}

fn status_of(parameters: &Value) -> Result<Status, Fail> {
    serde_json::from_value(parameters.get("status").cloned().unwrap_or_default()).map_err(|error| {
        Fail::silent(format!(
            "the running dre.service is of a version that drectl {} cannot read ({error}); restart it with: systemctl restart dre",
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
        let Err(fail) = Client::connect(Path::new("/nonexistent/control")) else { panic!("connected") };
        assert_eq!(fail.code, NOT_RUNNING);
        assert_eq!(fail.text, "dre.service is not running; start it with: systemctl start dre");
    }

    #[test]
    fn a_refusal_is_the_daemons_own_sentence_and_status_75() {
        let reply = json!({ "error": "io.dre.Control.Refused", "parameters": { "reason": "not now; wait" } });
        assert_eq!(parameters_of(&reply), Err(Fail { code: REFUSED, text: "not now; wait".into() }));
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_it_goes() {
        let parameters = json!({ "status": { "node": "hadev1", "role": "active", "coming": [1, 2] } });
        let status = status_of(&parameters).expect("readable");
        assert_eq!((status.node.as_str(), status.role.as_str(), status.term), ("hadev1", "active", 0));
    }

    #[test]
    fn half_an_answer_is_waited_for_and_two_in_one_are_two() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut client = Client { stream: ours, buffer: vec![] };
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
