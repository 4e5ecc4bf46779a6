//! A way between two processes that can be broken: it delays, freezes, cuts and refuses, as told.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

const PIECE: usize = 64 * 1024;
/// Under way in one direction of a connection; the sender waits above it.
const PIECES: usize = 64;

/// A TCP proxy in front of one address. It ends with it, and so does what it carries.
#[derive(Debug)]
pub struct Way {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    _tasks: JoinSet<()>,
}

/// What happens to what comes.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    passage: Passage,
    /// Of everything, in either direction.
    delay: Duration,
    /// So many times, every connection was cut.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Open,
    Frozen,
    Refused,
}

impl Way {
    /// An open way to `target`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen")?;
        let address = listener.local_addr()?;
        let orders = watch::Sender::default();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, orders.subscribe(), Arc::clone(&arrivals)));
        Ok(Self { address, orders, arrivals, _tasks: tasks })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, and nothing says so: connections stay open, and new ones are taken and not answered. The kernels
    /// at either end go on to acknowledge what is sent.
    pub fn freeze(&self) {
        self.orders.send_modify(|orders| orders.passage = Passage::Frozen);
    }

    /// From now on new connections are reset, and [`Way::arrivals`] are counted anew.
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| {
            orders.passage = Passage::Refused;
            self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
    }

    /// From now on everything passes; what was held up does at once.
    pub fn open(&self) {
        self.orders.send_modify(|orders| orders.passage = Passage::Open);
    }

    /// Resets every connection there is.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// From now on everything arrives later by this, in either direction.
    pub fn delay(&self, delay: Duration) {
        self.orders.send_modify(|orders| orders.delay = delay);
    }

    /// When connections have come that were refused.
    pub fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    orders: watch::Receiver<Orders>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => {
                if orders.borrow().passage == Passage::Refused {
                    arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    reset(near);
                } else {
                    connections.spawn(carry(near, target, orders.clone()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Ends without the usual farewell.
fn reset(connection: TcpStream) {
    // One that is gone already needs no more.
    drop(connection.set_zero_linger());
}

async fn carry(mut near: TcpStream, target: SocketAddr, orders: watch::Receiver<Orders>) {
    let mut told = orders.clone();
    let cuts = told.borrow_and_update().cuts;
    let mut far = None;
    let carried = async {
        until_open(&mut orders.clone()).await;
        let far = far.insert(TcpStream::connect(target).await?);
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_reader, near_writer), (far_reader, far_writer)) = (near.split(), far.split());
        tokio::try_join!(
            one_way(near_reader, far_writer, orders.clone()),
            one_way(far_reader, near_writer, orders.clone())
        )
    };
    let whole = tokio::select! {
        carried = carried => carried.is_ok(),
        _cut_or_over = told.wait_for(|orders| orders.cuts != cuts) => false,
    };
    if !whole {
        reset(near);
        if let Some(far) = far {
            reset(far);
        }
    }
}

async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut orders: watch::Receiver<Orders>) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let delays = orders.clone();
    let take = async {
        let sender = sender;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let due = Instant::now() + delays.borrow().delay;
            if sender.send((due, buffer.split().freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let give = async {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            until_open(&mut orders).await;
            to.write_all(&piece).await?;
        }
        until_open(&mut orders).await;
        to.shutdown().await
    };
    tokio::try_join!(take, give).map(|_| ())
}

/// Of a way that refuses, the connections that it has go on.
async fn until_open(orders: &mut watch::Receiver<Orders>) {
    // A way that is over aborts what it carries.
    let _over = orders.wait_for(|orders| orders.passage != Passage::Frozen).await;
}
