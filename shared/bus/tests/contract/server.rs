//! A real nats-server, and a TCP proxy in front of it that cuts and freezes.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::harness::eventually;

pub struct Server {
    child: Child,
    pub port: u16,
    config: Option<String>,
    /// Its files; gone with it.
    pub directory: PathBuf,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "NATS_SERVER={} is not a file", path.display());
        return path;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("nats-server"))
        .find(|file| file.is_file())
        .expect("the bus tests need a real nats-server: set NATS_SERVER or put nats-server on PATH (`cargo lab parts`)")
}

impl Server {
    pub async fn start(config: Option<String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("bus-contract-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (child, port) = launch(&directory, config.as_deref(), -1).await;
        Self { child, port, config, directory }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port.
    pub async fn restart(&mut self) {
        let (child, port) = launch(&self.directory, self.config.as_deref(), self.port.into()).await;
        self.child = child;
        assert_eq!(self.port, port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn launch(directory: &Path, config: Option<&str>, port: i32) -> (Child, u16) {
    let mut command = Command::new(binary());
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--ports_file_dir"]).arg(directory);
    if let Some(config) = config {
        let file = directory.join("nats.conf");
        std::fs::write(&file, config).unwrap();
        command.arg("--config").arg(file);
    }
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let ports = directory.join(format!("nats-server_{}.ports", child.id()));
    let port = eventually(Duration::from_secs(10), "nats-server says its port", || {
        let text = std::fs::read_to_string(&ports).map_err(|error| {
            format!("{error}; log: {}", std::fs::read_to_string(directory.join("log")).unwrap_or_default())
        })?;
        let ports: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let url = ports["nats"][0].as_str().ok_or("no nats url")?.to_owned();
        url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).ok_or(url)
    })
    .await;
    (child, port)
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Pass,
    /// Keeps the connections and moves nothing.
    Freeze,
    Cut,
}

/// Between a client and the server.
pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, follow) = watch::channel(Mode::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(relay(client, server, follow.clone()));
            }
        });
        Self { port, mode, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Freeze);
    }

    pub fn thaw(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Ends the connections there are; new ones pass.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
        self.mode.send_replace(Mode::Pass);
    }
}

async fn relay(mut client: TcpStream, server: u16, mut mode: watch::Receiver<Mode>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    mode.mark_unchanged();
    loop {
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            changed = mode.changed() => {
                changed.unwrap();
                match *mode.borrow_and_update() {
                    // Both states set at once are seen as the last: that was a cut.
                    Mode::Cut | Mode::Pass => return,
                    Mode::Freeze => {}
                }
            }
        }
        // A byte read by the copy and not yet written is lost here, which is what a broken network does to it.
        mode.wait_for(|mode| *mode != Mode::Freeze).await.unwrap();
    }
}
