//! Starts the example, reads its log as it comes, and waits for things to be true; never longer than [`PATIENCE`].

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// The example as a command with nothing of this test's environment.
pub fn command() -> Command {
    let test = std::env::current_exe().unwrap();
    let example: PathBuf = test.ancestors().nth(2).unwrap().join("examples/driven");
    assert!(example.exists(), "{} is missing: run `cargo test -p runtime`, which builds it", example.display());
    let mut command = Command::new(example);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the example to its end, which has to come by itself.
pub fn finished(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command();
    let child = command.args(args).envs(environment.iter().copied()).stdin(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (sender, receiver) = mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = kill_process(pid, Signal::KILL);
        panic!("{args:?} {environment:?} did not end by itself");
    });
    waiting.join().unwrap().unwrap();
    output.unwrap()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A running example.
pub struct Driven {
    child: Child,
    stdin: Option<ChildStdin>,
    log: Arc<Lines>,
    out: Arc<Lines>,
    pub address: SocketAddr,
}

#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Driven {
    /// Starts it and waits until it says where it listens.
    pub fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command().args(args).envs(environment.iter().copied()).spawn().unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let out = Lines::of(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        let mut driven = Self { child, stdin, log, out, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let first = driven.wait_log("where it listens", |line| line["address"].is_string());
        driven.address = first["address"].as_str().unwrap().parse().unwrap();
        driven
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    /// Waits for a JSON log line.
    pub fn wait_log(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.log.wait(what, |line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
            wanted(&value).then_some(value)
        })
    }

    pub fn wait_out(&self, nth: usize) -> String {
        let mut seen = 0;
        self.out.wait("a line on standard output", |line| {
            seen += 1;
            (seen == nth + 1).then(|| line.to_owned())
        })
    }

    pub fn log(&self) -> Vec<Value> {
        self.log.lines.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn request(&self, method: &str, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    /// Asks `path` until the answer is as wanted.
    pub fn wait_get(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path);
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path} last said {} {}", answer.status, answer.body);
            std::thread::yield_now();
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit status; the log is complete then.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log.wait("the end of the log", |line| (line == Lines::END).then_some(()));
                self.log.lines.lock().unwrap().pop();
                return status;
            }
            assert!(Instant::now() < end, "still running; log: {:#?}", self.log.lines.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    const END: &str = "\"end of file\"";

    fn of(source: impl std::io::Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let filled = Arc::clone(&lines);
        std::thread::spawn(move || {
            let read = BufReader::new(source).lines().map_while(Result::ok);
            for line in read.chain([Self::END.to_owned()]) {
                filled.lines.lock().unwrap().push(line);
                filled.changed.notify_all();
            }
        });
        lines
    }

    fn wait<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        let mut next = 0;
        loop {
            while let Some(line) = lines.get(next) {
                if let Some(found) = wanted(line) {
                    return found;
                }
                next += 1;
            }
            let ended = lines.last().is_some_and(|line| line == Self::END);
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !ended, "waited for {what}; there was: {lines:#?}");
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }
}
