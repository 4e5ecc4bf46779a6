//! The two ends of a link, or of as many TCP connections.

use super::{load, rows::Subject};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use mux::{Config, Role, Timed, Windows};
use rcgen::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::{accept_async_with_config, client_async_with_config};
use tokio_util::sync::CancellationToken;

/// A byte stream, whatever carries it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Something that listens in a thread of its own until it is dropped.
pub(crate) struct End {
    address: SocketAddr,
    thread: Thread,
}

/// A thread with a runtime.
pub(crate) struct Thread {
    id: i32,
    stop: CancellationToken,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Runs what `work` makes, until it ends or this is dropped.
    pub(crate) async fn start<F: Future<Output = ()>>(
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self> {
        let (sender, id) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let run = move || {
            // Whoever started it waits for this.
            let _told = sender.send(rustix::thread::gettid().as_raw_nonzero().get());
            runtime.block_on(async {
                tokio::select! { () = work() => {}, () = stopped.cancelled() => {} }
            });
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(run).context("cannot start a thread")?;
        Ok(Self { id: id.await.context("a thread ended at once")?, stop, handle: Some(handle) })
    }

    /// CPU time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let file = format!("/proc/self/task/{}/schedstat", self.id);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let nanoseconds = text.split_whitespace().next().unwrap_or_default();
        Ok(Duration::from_nanos(nanoseconds.parse().with_context(|| format!("{file} says {text:?}"))?))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(handle) = self.handle.take() {
            // One that has panicked has said so.
            let _ended = handle.join();
        }
    }
}

impl End {
    pub(crate) async fn listen<F: Future<Output = ()>>(
        name: &str,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let work = async move || match TcpListener::from_std(listener) {
            Ok(listener) => serve(listener).await,
            Err(error) => eprintln!("cannot listen: {error}"),
        };
        Ok(Self { address, thread: Thread::start(name, work).await? })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.thread.cpu_time()
    }
}

/// Opens streams to the agent.
pub(crate) type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Stream>>> + Send + Sync>;

/// The agent's end: serves every stream.
pub(super) async fn agent(subject: Subject, listener: TcpListener, tls: Tls, taken: Arc<AtomicU64>) {
    let mut tasks = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, taken) = (tls.clone(), Arc::clone(&taken));
        match subject {
            Subject::Direct => tasks.spawn(async move {
                // It ends when the other end has had enough.
                let _ended = load::serve(tcp, &taken).await;
            }),
            Subject::PipeOps => tasks.spawn(async move {
                if let Err(error) = linked_agent(tcp, tls, taken).await {
                    eprintln!("the agent's end: {error:#}");
                }
            }),
        };
    }
}

async fn linked_agent(tcp: TcpStream, tls: Tls, taken: Arc<AtomicU64>) -> Result<()> {
    tcp.set_nodelay(true)?;
    // The roles in TLS and WebSocket are those of the product, though it is the other end that dials.
    let tls = TlsConnector::from(tls.client).connect(ServerName::try_from("link.test")?, tcp).await?;
    let config = Config::default();
    let (ws, _) = client_async_with_config("ws://link.test/", Timed::new(tls), Some(config.websocket())).await?;
    let (link, mut incoming, driver) = mux::start(ws, Role::Agent, config);
    link.start_streams(Windows::Tuned);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        driver.await;
    });
    while let Some(stream) = incoming.streams.recv().await {
        let taken = Arc::clone(&taken);
        tasks.spawn(async move {
            let _ended = load::serve(stream, &taken).await;
        });
    }
    Ok(())
}

/// The control plane's end. The future that comes with it has to run meanwhile.
pub(super) async fn dial(subject: Subject, way: SocketAddr, tls: Tls) -> Result<(Open, BoxFuture<'static, ()>)> {
    if subject == Subject::Direct {
        let open: Open = Box::new(move || {
            Box::pin(async move {
                let tcp = TcpStream::connect(way).await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp) as Box<dyn Stream>)
            })
        });
        return Ok((open, Box::pin(std::future::pending())));
    }
    let tcp = TcpStream::connect(way).await?;
    tcp.set_nodelay(true)?;
    let tls = TlsAcceptor::from(tls.server).accept(tcp).await?;
    let config = Config::default();
    let ws = accept_async_with_config(Timed::new(tls), Some(config.websocket())).await?;
    let (link, incoming, driver) = mux::start(ws, Role::ControlPlane, config);
    link.start_streams(Windows::Tuned);
    let open: Open = Box::new(move || {
        let link = link.clone();
        Box::pin(async move { Ok(Box::new(link.open().await?) as Box<dyn Stream>) })
    });
    let drive = async move {
        let _incoming = incoming;
        driver.await;
    };
    Ok((open, Box::pin(drive)))
}

/// A certificate that both ends know.
#[derive(Clone)]
pub(super) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub(super) fn generate() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["link.test".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}
