use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use duplex::{Broken, Duplex, Relay, Relayed, Socket};
use protocol::StreamKind;
use runtime::tcp::{reset_when_dropped, tune};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::answering::{Answering, Refused};
use super::metrics::Failure;
use super::reach::Way;
use super::{Port, Served, proxy_header};

/// Too many open files, mostly: those that are open have to end first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Takes clients until the port is closed; their connections go on in the tracker until they end, or the tunnel does.
pub async fn serve(listener: TcpListener, port: Arc<Port>) {
    let places = Arc::new(Semaphore::new(port.shared.options.max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        let (client, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, tunnel = port.name, "cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            port.shared.metrics.failed(Failure::TooMany);
            tracing::debug!(tunnel = port.name, "a client is turned away: gateway.max_connections are there");
            reset_when_dropped(&client, true);
            continue;
        };
        let served = port.served();
        let (tracker, port) = (port.shared.tasks.clone(), Arc::clone(&port));
        tracker.spawn(async move {
            let ended = port.ended.clone();
            let connection = connection(client, address, &served, &port);
            tokio::select! {
                () = connection => {}
                // Dropped, its connections are reset.
                () = ended.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection(client: TcpStream, address: SocketAddr, served: &Served, port: &Port) {
    let metrics = &port.shared.metrics;
    let _open = metrics.connection();
    // Until the relay has ended as it should.
    reset_when_dropped(&client, true);
    if let Err(error) = tune(&client) {
        tracing::debug!(%error, "a tunnel's client is gone at once");
        return;
    }
    let ended = match port.open(StreamKind::Tcp, served, address).await {
        Ok((mut way, _place)) => {
            let named = name_client(&mut way, served.tunnel.tunnel.proxy_protocol, &client, address).await;
            match named {
                Ok(()) => carry(client, way, |relayed| metrics.relayed(relayed)).await,
                Err(error) => Err(Broken::Right(error)),
            }
        }
        Err(error) => {
            metrics.failed(error.failure());
            port.complain(address, &error);
            return;
        }
    };
    match ended {
        Ok(()) => {}
        Err(Broken::Left(error)) => tracing::debug!(tunnel = port.name, %error, "a tunnel's client broke off"),
        // The client had nothing more to say, and is perhaps no longer there.
        Err(Broken::Right(error)) if error.kind() == io::ErrorKind::TimedOut => {
            tracing::debug!(tunnel = port.name, %error, "a tunnel's connection is ended");
        }
        Err(Broken::Right(error)) => {
            let refused = error.get_ref().is_some_and(|inner| inner.is::<Refused>());
            metrics.failed(if refused { Failure::Refused } else { Failure::Broken });
            port.complain(address, &error);
        }
    }
}

/// Tells the Service who its client is, if it wants to know.
pub async fn name_client(way: &mut Way, wanted: bool, client: &TcpStream, address: SocketAddr) -> io::Result<()> {
    if !wanted {
        return Ok(());
    }
    // One that is gone at once is told of by its connection.
    let server = client.local_addr().unwrap_or(address);
    way.begin_with(&proxy_header::header(address, server)).await
}

/// Carries a client's connection to its end; `report` is told the bytes.
pub async fn carry(client: TcpStream, way: Way, report: impl Fn(Relayed)) -> Result<(), Broken> {
    match way {
        Way::Stream(stream) => relay(client, Answering::new(stream), report).await,
        Way::OlderStream(stream) => relay(client, stream, report).await,
        Way::Messages(stream) => relay(client, stream, report).await,
    }
}

async fn relay<S: Duplex>(client: TcpStream, cluster: S, report: impl Fn(Relayed)) -> Result<(), Broken> {
    let mut relay = Relay::new(Socket::new(client), cluster);
    let ended = poll_fn(|cx| relay.poll(cx, &report)).await;
    if ended.is_ok() {
        // Both have said their ends; what was sent last may still be on its way.
        reset_when_dropped(relay.left.get_ref(), false);
    }
    ended
}
