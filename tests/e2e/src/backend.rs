//! A plain HTTP/1.1 server for the executor to talk to, which does on request what an API server does only by accident: streams, hangs,
//! breaks off, answers early, upgrades. It says of every exchange how it went for it.
//!
//! `?id=NAME` names an exchange for [`Backend::exchange`]; `?size=N` is a number of bytes.

use crate::wire::{Framing, Head, Sum, Wire, blocks, chunk};
use anyhow::{Context, Result, ensure};
use lab::until;
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How an exchange stands, as this end sees it.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// Under way; bytes of body sent so far.
    Open { sent: u64 },
    /// Both sides are through.
    Complete,
    /// The other side went away first, or broke the connection.
    Abandoned,
}

/// What is to become of an exchange that waits to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its body ends as it should.
    Clean,
    /// Its connection is closed in the middle.
    Cut,
}

#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    exchanges: Mutex<HashMap<String, Record>>,
}

#[derive(Debug)]
struct Record {
    head: Head,
    state: Exchange,
    end: watch::Sender<Option<End>>,
}

impl Backend {
    /// # Errors
    /// When there is no port to be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let mut accepting = JoinSet::new();
        let state = Arc::clone(&shared);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((tcp, _)) = listener.accept() => { connections.spawn(serve(tcp, Arc::clone(&state))); }
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        Ok(Self { address, shared, _accepting: accepting })
    }

    /// How an exchange stands; none while its request has not come.
    #[must_use]
    pub fn exchange(&self, id: &str) -> Option<Exchange> {
        self.shared.lock().get(id).map(|record| record.state.clone())
    }

    /// The head of an exchange's request.
    #[must_use]
    pub fn head(&self, id: &str) -> Option<Head> {
        self.shared.lock().get(id).map(|record| record.head.clone())
    }

    /// Tells an exchange that waits how to end.
    pub fn end(&self, id: &str, end: End) {
        if let Some(record) = self.shared.lock().get(id) {
            record.end.send_replace(Some(end));
        }
    }

    /// Waits until an exchange's request is here.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub async fn started(&self, id: &str, limit: Duration) -> Result<()> {
        until(&format!("the request of {id} at the backend"), limit, || async {
            self.exchange(id).map(drop).context("no request")
        })
        .await
    }

    /// Waits until an exchange is abandoned.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn abandoned(&self, id: &str, limit: Duration) -> Result<()> {
        until(&format!("the backend's connection of {id} to be dropped"), limit, || async {
            match self.exchange(id) {
                Some(Exchange::Abandoned) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until an exchange has ended, in whatever way.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub async fn ended(&self, id: &str, limit: Duration) -> Result<()> {
        until(&format!("the end of {id} at the backend"), limit, || async {
            match self.exchange(id) {
                Some(Exchange::Abandoned | Exchange::Complete) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// How many exchanges are under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.lock().values().filter(|record| matches!(record.state, Exchange::Open { .. })).count()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, id: &str, state: Exchange) {
        if let Some(record) = self.lock().get_mut(id) {
            record.state = state;
        }
    }
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    // What breaks here was broken by the other side, and is seen in the exchange's state.
    drop(tcp.set_nodelay(true));
    let mut wire = Wire::new(tcp);
    while let Ok(Some(head)) = wire.head().await {
        let (path, query) = head.second().split_once('?').unwrap_or((head.second(), ""));
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let id = parameter("id").unwrap_or_default().to_owned();
        let size = parameter("size").and_then(|size| size.parse().ok()).unwrap_or(0);
        let code = parameter("code").unwrap_or("200").to_owned();
        let path = path.to_owned();
        let (end, told) = watch::channel(None);
        if !id.is_empty() {
            let state = Exchange::Open { sent: 0 };
            shared.lock().insert(id.clone(), Record { head: head.clone(), state, end });
        }
        let mut served = Served { wire: &mut wire, head: &head, shared: &shared, id: &id, told, sent: 0 };
        let outcome = served.answer(&path, size, &code).await;
        let state = if outcome.is_ok() { Exchange::Complete } else { Exchange::Abandoned };
        shared.set(&id, state);
        if !matches!(outcome, Ok(true)) {
            break;
        }
    }
}

struct Served<'a> {
    wire: &'a mut Wire<TcpStream>,
    head: &'a Head,
    shared: &'a Shared,
    id: &'a str,
    told: watch::Receiver<Option<End>>,
    sent: u64,
}

impl Served<'_> {
    /// True: the connection serves another request.
    async fn answer(&mut self, path: &str, size: u64, code: &str) -> Result<bool> {
        let head_only = self.head.first.starts_with("HEAD ");
        match path {
            "/download" => {
                self.wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                for piece in blocks(size) {
                    self.body(&chunk(&piece), piece.len()).await?;
                }
                self.wire.send(b"0\r\n\r\n").await?;
            }
            "/sized" => {
                self.wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await?;
                for piece in blocks(if head_only { 0 } else { size }) {
                    self.body(&piece, piece.len()).await?;
                }
            }
            "/upload" => {
                let mut sum = Sum::default();
                let trailers = self.wire.each(self.head.framing(Framing::Length(0)), |piece| sum.add(piece)).await?;
                let trailers: Vec<_> = trailers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                self.text("200 OK", "", &format!("{}{}", sum.text(), trailers.concat())).await?;
            }
            "/echo" => self.echo().await?,
            // Answers while it reads: for a client that reads nothing until it has sent everything.
            "/crossing" => return self.crossing(size).await,
            "/hang" => {
                self.gone().await?;
                return Ok(false);
            }
            "/watch" => return self.watch().await,
            "/half-read" => {
                // Takes what is there and no more, until it is told.
                self.wire.fill().await?;
                told(&mut self.told).await;
                return Ok(false);
            }
            "/cut" => {
                self.wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
                self.wire.send(&[b'x'; 5000]).await?;
                return Ok(false);
            }
            "/cut-chunked" => {
                self.wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                self.wire.send(&chunk(&[b'x'; 5000])).await?;
                return Ok(false);
            }
            "/no-answer" => return Ok(false),
            "/early" => {
                self.text("413 Payload Too Large", "connection: close\r\n", "too much").await?;
                // Closing with unread bytes would reset the connection, and the answer with it.
                self.wire.io.shutdown().await?;
                while self.wire.fill().await? {}
                return Ok(false);
            }
            "/interim" => {
                self.wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n").await?;
                self.text("200 OK", "", "after the hints").await?;
            }
            "/status" => {
                let head = format!("HTTP/1.1 {code} Whatever\r\netag: \"e1\"\r\n\r\n");
                self.wire.send(head.as_bytes()).await?;
            }
            "/upgrade" => return self.upgrade().await,
            _ => self.text("200 OK", "", "ok").await?,
        }
        Ok(true)
    }

    async fn text(&mut self, status: &str, headers: &str, text: &str) -> Result<()> {
        let length = text.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{headers}\r\n{text}");
        self.wire.send(answer.as_bytes()).await
    }

    async fn body(&mut self, wire: &[u8], length: usize) -> Result<()> {
        self.wire.send(wire).await?;
        self.sent += length as u64;
        self.shared.set(self.id, Exchange::Open { sent: self.sent });
        Ok(())
    }

    async fn echo(&mut self) -> Result<()> {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        self.wire.send(head.as_bytes()).await?;
        let mut sum = Sum::default();
        let mut framing = self.head.framing(Framing::Length(0));
        while let Some(piece) = self.wire.piece(&mut framing).await? {
            sum.add(&piece);
            self.body(&chunk(&piece), piece.len()).await?;
        }
        self.wire.send(format!("0\r\nx-sum: {}\r\n\r\n", sum.text()).as_bytes()).await
    }

    async fn crossing(&mut self, size: u64) -> Result<bool> {
        self.wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await?;
        let length = self.head.get("content-length").context("no length")?.parse::<u64>()?;
        let left = length.saturating_sub(self.wire.ahead() as u64);
        let (read, mut write) = self.wire.io.split();
        let reading = async {
            let got = tokio::io::copy(&mut read.take(left), &mut tokio::io::sink()).await?;
            ensure!(got == left, "the request ends early");
            Ok(())
        };
        let writing = async {
            for piece in blocks(size) {
                write.write_all(&piece).await?;
            }
            Ok(())
        };
        tokio::try_join!(reading, writing)?;
        Ok(false)
    }

    async fn watch(&mut self) -> Result<bool> {
        self.wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        self.body(&chunk(b"first"), 5).await?;
        if self.gone_or_told().await? == End::Clean {
            self.wire.send(b"0\r\n\r\n").await?;
        }
        Ok(false)
    }

    async fn upgrade(&mut self) -> Result<bool> {
        let protocol = self.head.get("upgrade").context("no upgrade asked for")?;
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\nhello");
        self.wire.send(answer.as_bytes()).await?;
        let mut sum = Sum::default();
        loop {
            let piece = tokio::select! {
                piece = self.wire.some() => piece?,
                () = told(&mut self.told) => return Ok(false),
            };
            if piece.is_empty() {
                break;
            }
            sum.add(&piece);
            self.wire.send(&piece).await?;
        }
        // The client has ended its half: it can still be talked to.
        self.wire.send(format!("|{}", sum.text()).as_bytes()).await?;
        self.wire.io.shutdown().await?;
        Ok(false)
    }

    /// Waits until the connection is gone, which is an error.
    async fn gone(&mut self) -> Result<()> {
        while self.wire.fill().await? {}
        anyhow::bail!("gone")
    }

    async fn gone_or_told(&mut self) -> Result<End> {
        let mut told = self.told.clone();
        tokio::select! {
            outcome = self.gone() => outcome.map(|()| End::Cut),
            ended = async { told.wait_for(Option::is_some).await.ok().and_then(|end| *end) } => {
                ended.context("nobody tells any more")
            }
        }
    }
}

async fn told(told: &mut watch::Receiver<Option<End>>) {
    if told.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}
