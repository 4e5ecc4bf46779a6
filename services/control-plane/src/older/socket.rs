//! A user's WebSocket, whose messages go through the link one by one.
//!
//! The agent has no word for a WebSocket that came about: the client is answered at once, and learns of a failure as of one
//! of a session under way.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response};
use protocol::message::proxied::{Headers, Opcode, ProxyCommand, WebSocketData, WebSocketStart};
use protocol::{Status, User};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::Shared;
use super::bridged::{self, Bridged};
use super::channels::{Channels, Subprotocol};
use super::exchange::{Broken, Kind, Said, Ticket};
use super::request::{check_path, with_identity};
use crate::site::RequestBody;
use crate::websocket;

const READ_BUFFER: usize = 8 * 1024;
/// Largest message of a client.
const LARGEST: usize = 1 << 20;

/// Asks the agent for the WebSocket that `request` asks for: what to answer the client, and the cluster's side of it.
pub async fn open(
    shared: &Arc<Shared>,
    cluster: &str,
    request: &Request<RequestBody>,
    user: &User,
) -> Result<(Response<()>, Bridged), Box<Status>> {
    let refuse = |why: &str| Box::new(Status::bad_request(why));
    check_path(request.uri())?;
    let path = request.uri().path();
    // It would leave some of these out, and ask for something else.
    if path.contains(['%', '\\']) || path.contains("..") || path.contains("//") {
        return Err(refuse(
            "the agent of this cluster speaks only the older protocol, which has no WebSocket for such a path",
        ));
    }
    let mut response = websocket::accept(request).ok_or_else(|| {
        refuse(
            "the agent of this cluster speaks only the older protocol, which carries no upgrade but WebSocket version 13: \
             use a client with WebSockets, such as kubectl from 1.31 on, or update the agent",
        )
    })?;
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.iter().filter_map(|names| names.to_str().ok());
    let offered = offered.flat_map(|names| names.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let subprotocol = Subprotocol::choose(offered, path).ok_or_else(|| {
        refuse(
            "the agent of this cluster speaks only the older protocol, which carries none of the subprotocols that the \
             client offers; it carries those of channel.k8s.io without base64, and SPDY/3.1+portforward.k8s.io",
        )
    })?;
    if let Some(name) = subprotocol.answer {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    let mut headers: HeaderMap = request.headers().clone();
    with_identity(shared, cluster, &mut headers, user)?;
    let ticket = shared.begin(Kind::Socket)?;
    let start = WebSocketStart {
        stream_id: ticket.id().to_owned(),
        method: request.method().as_str().to_owned(),
        path: path.to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        protocol: subprotocol.asked.to_owned(),
        headers: Headers::from(&headers),
    };
    let sent = shared.send(ticket.id(), &ProxyCommand::WebSocketStart(Box::new(start))).await;
    sent.map_err(|_| {
        Box::new(Status::unavailable(format!("the link to cluster {cluster:?} was lost; try again soon")))
    })?;
    let (near, far) = bridged::pipe();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let bridge = async move {
        let client = WebSocketStream::from_raw_socket(far, Role::Server, Some(config)).await;
        Bridge { ticket, channels: Channels::of(&subprotocol) }.run(client).await
    };
    Ok((response, Bridged::new(near, bridge)))
}

type Client = WebSocketStream<DuplexStream>;

/// Makes messages of a WebSocket, and the other way round.
struct Bridge {
    ticket: Ticket,
    channels: Channels,
}

impl Bridge {
    /// To the end of either side. An error is one of the cluster's side.
    async fn run(mut self, client: Client) -> io::Result<()> {
        let (mut sink, stream) = client.split();
        let (shared, id) = (Arc::clone(&self.ticket.shared), self.ticket.id().to_owned());
        let ended = tokio::select! {
            // The end of a session that both sides end is the agent's.
            biased;
            ended = self.carry(&mut sink) => ended,
            left = to_agent(&shared, &id, stream) => {
                let told = match left {
                    Err(tungstenite::Error::Capacity(_)) => Some((CloseCode::Size, "a message is larger than 1 MiB")),
                    Err(tungstenite::Error::Utf8(_)) => Some((CloseCode::Invalid, "a text that is not UTF-8")),
                    Ok(()) | Err(_) => None,
                };
                if let Some((code, reason)) = told {
                    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
                    // One that is gone needs no word.
                    let _gone = sink.send(Message::Close(Some(frame))).await;
                }
                return Ok(());
            }
        };
        // Its last words.
        let last = match &ended {
            Err(broken) if broken.is_said() => {
                self.channels.conclude().or_else(|| self.channels.fail(&broken.to_string()))
            }
            Ok(()) | Err(_) => self.channels.conclude(),
        };
        if let Some((opcode, bytes)) = last
            && let Some(message) = message(opcode, bytes)
            && sink.send(message).await.is_err()
        {
            return Ok(());
        }
        // A client with channels hears on one of them how it ended, and takes any other code of a close frame for more
        // than that.
        if self.channels.is_concluded() && ended.as_ref().err().is_none_or(Broken::is_said) {
            if let Err(reason) = ended {
                tracing::info!(exchange = id, %reason, "a session ended early");
            }
            let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
            // One that is gone needs no word.
            let _gone = sink.send(Message::Close(Some(frame))).await;
            return Ok(());
        }
        // Without a close frame, the session says that this was no proper end.
        ended.map_err(io::Error::other)
    }

    /// What the agent sends, to its end.
    async fn carry(&mut self, sink: &mut SplitSink<Client, Message>) -> Result<(), Broken> {
        loop {
            // Its part of the budget is given back once the client's connection has it.
            let (said, _held) = self.ticket.next().await;
            let (opcode, bytes) = match said {
                Said::Message(opcode, bytes) => (opcode, bytes),
                Said::End => return Ok(()),
                Said::Broken(broken) => return Err(broken),
                Said::Head(_) | Said::Whole(..) | Said::Data(_) => return Err(Broken::Order),
            };
            // Nothing follows a close frame: what was kept goes before it.
            let kept = if opcode == Opcode::Close { self.channels.conclude() } else { None };
            let said = self.channels.take(opcode, bytes);
            for (opcode, bytes) in kept.into_iter().chain(said.into_iter().flatten()) {
                let message = message(opcode, bytes)
                    .ok_or_else(|| Broken::Malformed("a message that no WebSocket can carry".to_owned()))?;
                tell(sink, message).await;
            }
        }
    }
}

/// One that takes no more has closed, or is about to go: its own direction ends the session.
async fn tell(sink: &mut SplitSink<Client, Message>, message: Message) {
    if sink.send(message).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the client sends, to its end.
async fn to_agent(shared: &Shared, id: &str, mut stream: SplitStream<Client>) -> Result<(), tungstenite::Error> {
    while let Some(message) = stream.next().await {
        let (opcode, bytes) = match message? {
            Message::Text(text) => (Opcode::Text, text.into()),
            Message::Binary(bytes) => (Opcode::Binary, bytes),
            // Asked for by the agent. The client's own pings are answered here.
            Message::Pong(bytes) => (Opcode::Pong, bytes),
            Message::Close(frame) => (Opcode::Close, frame.map_or_else(Bytes::new, |frame| close_payload(&frame))),
            Message::Ping(_) | Message::Frame(_) => continue,
        };
        let data = ProxyCommand::WebSocketData(WebSocketData::new(id, opcode, &bytes));
        if shared.send(id, &data).await.is_err() {
            // The other direction tells how the link ended.
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// None: no WebSocket carries it.
fn message(opcode: Opcode, bytes: Bytes) -> Option<Message> {
    /// Of a control frame.
    const LONGEST: usize = 125;
    Some(match opcode {
        Opcode::Text => Message::Text(Utf8Bytes::try_from(bytes).ok()?),
        Opcode::Binary => Message::Binary(bytes),
        Opcode::Ping | Opcode::Pong if bytes.len() > LONGEST => return None,
        Opcode::Ping => Message::Ping(bytes),
        Opcode::Pong => Message::Pong(bytes),
        Opcode::Close if bytes.is_empty() => Message::Close(None),
        Opcode::Close if bytes.len() > LONGEST => return None,
        Opcode::Close => {
            let (code, reason) = bytes.split_first_chunk::<2>()?;
            let code = CloseCode::from(u16::from_be_bytes(*code));
            let reason = Utf8Bytes::try_from(Bytes::copy_from_slice(reason)).ok()?;
            if !code.is_allowed() {
                return None;
            }
            Message::Close(Some(CloseFrame { code, reason }))
        }
    })
}

fn close_payload(frame: &CloseFrame) -> Bytes {
    [&u16::from(frame.code).to_be_bytes()[..], frame.reason.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_a_websocket_can_carry_is_passed_on() {
        let carried = |opcode, bytes: &'static [u8]| message(opcode, bytes.into());
        assert_eq!(carried(Opcode::Text, "ü".as_bytes()), Some(Message::text("ü")));
        assert_eq!(carried(Opcode::Text, b"\xff"), None);
        assert_eq!(carried(Opcode::Binary, b"\xff"), Some(Message::binary(&b"\xff"[..])));
        assert_eq!(carried(Opcode::Close, b""), Some(Message::Close(None)));
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("bye") };
        assert_eq!(carried(Opcode::Close, b"\x03\xe8bye"), Some(Message::Close(Some(frame.clone()))));
        assert_eq!(close_payload(&frame), &b"\x03\xe8bye"[..]);
        for close in [&b"\x03"[..], b"\x03\xe8\xff", b"\x03\xed", b"\x00\x00", &[3; 126]] {
            assert_eq!(carried(Opcode::Close, close), None, "{close:?}");
        }
        assert_eq!(carried(Opcode::Ping, &[0; 126]), None);
    }

    proptest! {
        #[test]
        fn what_is_passed_on_is_what_came(code in prop::sample::select(vec![1u8, 2, 8, 9, 10]), bytes: Vec<u8>) {
            let opcode = Opcode::try_from(code).unwrap();
            if let Some(message) = message(opcode, bytes.clone().into()) {
                let back = match message {
                    Message::Close(frame) => frame.map_or_else(Bytes::new, |frame| close_payload(&frame)),
                    message => message.into_data(),
                };
                prop_assert_eq!(back, bytes);
            }
        }
    }
}
