//! Clients' connections and datagrams with ports of Services. The messages have no half-close: whichever side closes ends
//! both directions. Datagrams have no session: each client is a tunnel of its own to the agent, so that each gets its own
//! answers only.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use protocol::message::proxied::{Base64, ProxyCommand, TcpTunnelData, TcpTunnelStart, UdpTunnelData};
use protocol::stream::{Datagrams, put_datagram};
use protocol::{Target, Tunnel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::bridged::{self, Bridged};
use super::exchange::{Broken, Kind, Said, Ticket};
use super::table::NoPlace;

const READ: usize = 16 * 1024;
/// After a client's last byte, how long the Service may say nothing before the connection is ended, which the client then
/// sees as a reset: it may have closed one direction only, and wait for an answer that cannot come any more.
const SILENCE: Duration = Duration::from_secs(5);

/// Who comes through which tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub tunnel: &'a Tunnel,
    pub target: &'a Target,
    pub address: SocketAddr,
}

/// Why a tunnel of an older agent takes no client.
#[derive(Debug, thiserror::Error)]
pub enum NoTunnel {
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    #[error("the link was lost")]
    Link(#[from] mux::Closed),
}

pub async fn tcp(shared: &Arc<Shared>, client: &Client<'_>) -> Result<Bridged, NoTunnel> {
    let ticket = shared.begin(Kind::Tcp)?;
    let Client { tunnel, target, address } = client;
    let start = TcpTunnelStart {
        tunnel_id: tunnel.tunnel_id.to_string(),
        gateway_name: tunnel.gateway_name.clone(),
        gateway_namespace: tunnel.gateway_namespace.clone(),
        gateway_port: gateway_port(tunnel),
        service_name: target.service().to_owned(),
        service_namespace: target.namespace().to_owned(),
        service_port: target.port().get(),
        client_addr: address.to_string(),
    };
    shared.send(ticket.id(), &ProxyCommand::TcpStart(Box::new(start))).await?;
    let (near, far) = bridged::pipe();
    Ok(Bridged::new(near, carry_tcp(ticket, far)))
}

pub fn udp(shared: &Arc<Shared>, client: &Client<'_>) -> Result<Bridged, NoTunnel> {
    let ticket = shared.begin(Kind::Udp)?;
    let Client { tunnel, target, address } = client;
    let envelope = UdpTunnelData {
        tunnel_id: ticket.id().to_owned(),
        client_addr: address.ip().to_string(),
        client_port: address.port(),
        gateway_name: tunnel.gateway_name.clone(),
        gateway_namespace: tunnel.gateway_namespace.clone(),
        gateway_port: gateway_port(tunnel),
        service_name: target.service().to_owned(),
        service_namespace: target.namespace().to_owned(),
        service_port: target.port().get(),
        ..UdpTunnelData::default()
    };
    let (near, far) = bridged::pipe();
    Ok(Bridged::new(near, carry_udp(ticket, far, envelope)))
}

/// The existing agent dials the Gateway's own port.
fn gateway_port(tunnel: &Tunnel) -> u16 {
    if tunnel.gateway_port == 0 { tunnel.service_port } else { tunnel.gateway_port }
}

async fn carry_tcp(ticket: Ticket, client: DuplexStream) -> io::Result<()> {
    let (reading, writing) = tokio::io::split(client);
    let (shared, id) = (Arc::clone(&ticket.shared), ticket.id().to_owned());
    let client_ended = CancellationToken::new();
    // One future to the end: what it has of a piece must not be lost half-way.
    let mut answering = pin!(to_client(ticket, writing, &client_ended));
    tokio::select! {
        // The end of a connection that both sides end is the agent's.
        biased;
        ended = &mut answering => return ended,
        () = to_agent(&shared, &id, reading) => client_ended.cancel(),
    }
    answering.await
}

/// To the Service's last byte, or until it has been silent for too long behind the client's.
async fn to_client(
    mut ticket: Ticket,
    mut client: WriteHalf<DuplexStream>,
    client_ended: &CancellationToken,
) -> io::Result<()> {
    loop {
        let silence = async {
            client_ended.cancelled().await;
            sleep(SILENCE).await;
        };
        // Its part of the budget is given back once the client's connection has it.
        let (said, _held) = tokio::select! {
            next = ticket.next() => next,
            () = silence => return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client has sent its last byte, which the older protocol cannot tell the Service, and that said no more",
            )),
        };
        match said {
            Said::Data(bytes) => client.write_all(&bytes).await?,
            Said::End => return client.shutdown().await,
            Said::Broken(broken) => return Err(io::Error::other(broken)),
            Said::Head(_) | Said::Whole(..) | Said::Message(..) => return Err(io::Error::other(Broken::Order)),
        }
    }
}

/// To the client's last byte.
async fn to_agent(shared: &Shared, id: &str, mut client: ReadHalf<DuplexStream>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match client.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = TcpTunnelData { data: Base64(buffer.split().freeze()), direction: None };
        if shared.send(id, &ProxyCommand::TcpData(data)).await.is_err() {
            // The other direction tells how the link ended.
            std::future::pending::<()>().await;
        }
    }
}

async fn carry_udp(mut ticket: Ticket, client: DuplexStream, envelope: UdpTunnelData) -> io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(client);
    let (shared, id) = (Arc::clone(&ticket.shared), ticket.id().to_owned());
    let to_agent = async {
        let (mut arriving, mut buffer) = (Datagrams::default(), BytesMut::new());
        loop {
            buffer.reserve(READ);
            if reading.read_buf(&mut buffer).await? == 0 {
                break;
            }
            arriving.push(&buffer.split());
            while let Some(datagram) = arriving.next() {
                let data = UdpTunnelData { data: Base64(datagram), ..envelope.clone() };
                let sent = shared.send(&id, &ProxyCommand::UdpData(Box::new(data))).await;
                sent.map_err(io::Error::other)?;
            }
        }
        Ok(())
    };
    let to_client = async {
        let mut framed = BytesMut::new();
        loop {
            match ticket.next().await.0 {
                Said::Data(datagram) => {
                    framed.clear();
                    if put_datagram(&mut framed, &datagram) {
                        writing.write_all(&framed).await?;
                    }
                }
                Said::Broken(broken) => return Err(io::Error::other(broken)),
                _ => return Err(io::Error::other(Broken::Order)),
            }
        }
    };
    tokio::select! {
        ended = to_agent => ended,
        broken = to_client => broken,
    }
}
