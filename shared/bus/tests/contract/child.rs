//! Another process: this test binary again, told by its environment to be an instance that echoes.

use std::process::{Child, Command, Stdio};

use bus::{Bus, Options, Service};
use protocol::StreamKind;

use crate::harness::echo;

const URL: &str = "BUS_CONTRACT_CHILD_URL";

/// Not a test: what a child process runs. Without its environment there is nothing to do.
#[tokio::test]
async fn entry() {
    let Ok(url) = std::env::var(URL) else { return };
    let bus = Bus::connect(&Options { url, ..Options::default() }, Service::ProxyExecutor).await.unwrap();
    echo(bus.listen(StreamKind::Kube).await.unwrap()).await.unwrap();
}

/// An echoing proxy-executor that can be killed and frozen.
pub struct Peer(Child);

impl Peer {
    pub fn start(url: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::entry", "--nocapture"])
            .env(URL, url)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {signal}: {status}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
