//! A managed service that clients can feel: nginx on the VIP alone, and somebody who asks it every 20 ms.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dre::logic::time::Moment;
use socket2::{Domain, Protocol, Socket, Type};

use super::judge::Gap;
use super::{Lab, sys};

/// The unit's name; put it into `services.active`.
pub const UNIT: &str = "vip-web.service";

const EVERY: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(1);

/// Puts the unit and its configuration on a node. It binds the VIP itself, so it starts only where the VIP is
/// (`ip_nonbind` stays off): a service that came before its address is seen as failed.
pub fn install(root: &Path, vip: &str) -> Result<()> {
    let unit = "[Unit]
Description=Web page on the VIP

[Service]
Type=forking
PIDFile=/run/dre-web.pid
ExecStart=/usr/sbin/nginx -c /etc/nginx/dre-web.conf
KillMode=mixed
TimeoutStopSec=5
";
    let name = std::fs::read_to_string(root.join("etc/hostname"))?;
    let name = name.trim();
    let listen = if vip.contains(':') { format!("[{vip}]:80") } else { format!("{vip}:80") };
    let conf = format!(
        "pid /run/dre-web.pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         server {{\n    listen {listen};\n    location / {{ default_type text/plain; return 200 \"{name}\\n\"; }}\n  \
         }}\n}}\n"
    );
    std::fs::create_dir_all(root.join("etc/systemd/system"))?;
    std::fs::write(root.join("etc/systemd/system").join(UNIT), unit)?;
    std::fs::write(root.join("etc/nginx/dre-web.conf"), conf)?;
    Ok(())
}

/// One request: when it left, when its answer was whole, and from which node.
#[derive(Clone, Debug)]
pub struct Request {
    pub sent: Moment,
    pub answered: Option<(Moment, String)>,
}

/// Somebody who asks for the page every 20 ms, each time over a new connection.
pub struct Visitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Request>>>>,
}

/// What a visitor saw.
pub struct Visit {
    pub requests: Vec<Request>,
}

impl Visitor {
    /// Starts asking from the client's namespace.
    pub fn start(lab: &Lab, vip: &str) -> Result<Self> {
        let to = SocketAddr::new(vip.parse().with_context(|| format!("VIP {vip}"))?, 80);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ns) = (Arc::clone(&stop), lab.net.ns("client"));
        let thread = thread::Builder::new().name("visitor".into()).spawn(move || {
            sys::enter_netns(&ns).with_context(|| ns.clone())?;
            Ok(ask_on(to, &stopped))
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends asking.
    pub fn stop(mut self) -> Result<Visit> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("stopped twice")?;
        Ok(Visit { requests: thread.join().map_err(|_| anyhow!("the visitor panicked"))?? })
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

impl Visit {
    /// The longest time without a request that was answered: from the leaving of the last good one to that of the
    /// next good one.
    pub fn longest_gap(&self) -> Option<Gap> {
        let (mut found, mut last, mut lost): (Option<Gap>, Option<Moment>, usize) = (None, None, 0);
        for r in &self.requests {
            if r.answered.is_none() {
                lost += 1;
                continue;
            }
            if let Some(from) = last
                && lost > 0
            {
                let gap = Gap { from, to: r.sent, lost, open: false };
                if found.is_none_or(|f| gap.length() > f.length()) {
                    found = Some(gap);
                }
            }
            (last, lost) = (Some(r.sent), 0);
        }
        found
    }

    /// Answered and unanswered requests.
    pub fn counts(&self) -> (usize, usize) {
        let good = self.requests.iter().filter(|r| r.answered.is_some()).count();
        (good, self.requests.len() - good)
    }

    /// The nodes that answered, in order, each once per row.
    pub fn who(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.requests.iter().filter_map(|r| Some(r.answered.as_ref()?.1.clone())).collect();
        names.dedup();
        names
    }
}

struct Open {
    number: usize,
    socket: Socket,
    asked: bool,
    page: Vec<u8>,
}

fn ask_on(to: SocketAddr, stop: &AtomicBool) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut due = sys::now();
    while !stop.load(Ordering::Relaxed) {
        if sys::now() >= due {
            due = (due + EVERY).max(sys::now());
            requests.push(Request { sent: sys::now(), answered: None });
            if let Ok(socket) = connect(to) {
                open.push(Open { number: requests.len() - 1, socket, asked: false, page: Vec::new() });
            }
        }
        let fds: Vec<(i32, i16)> = open
            .iter()
            .map(|o| (o.socket.as_raw_fd(), if o.asked { libc::POLLIN } else { libc::POLLOUT }))
            .collect();
        let ready = sys::wait(&fds, sys::now().until(due));
        let mut kept = Vec::new();
        for (mut o, events) in open.into_iter().zip(ready) {
            let age = sys::now().since(requests[o.number].sent);
            if events == 0 {
                if age < GIVE_UP {
                    kept.push(o);
                }
            } else if let Some(done) = step(&mut o) {
                requests[o.number].answered = done.map(|name| (sys::now(), name));
            } else {
                kept.push(o);
            }
        }
        open = kept;
    }
    requests
}

fn connect(to: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

/// Goes on with one request: None = not over yet, Some(None) = failed, Some(name) = answered by that node.
fn step(o: &mut Open) -> Option<Option<String>> {
    if !o.asked {
        if !matches!(o.socket.take_error(), Ok(None))
            || o.socket.write_all(b"GET / HTTP/1.0\r\n\r\n").is_err()
        {
            return Some(None);
        }
        o.asked = true;
        return None;
    }
    let mut buffer = [0u8; 1024];
    loop {
        match o.socket.read(&mut buffer) {
            Ok(0) => {
                let page = String::from_utf8_lossy(&o.page);
                let good = page.starts_with("HTTP/1.1 200");
                return Some(good.then(|| page.rsplit("\r\n\r\n").next().unwrap_or("").trim().to_owned()));
            }
            Ok(n) => o.page.extend(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(None),
        }
    }
}
