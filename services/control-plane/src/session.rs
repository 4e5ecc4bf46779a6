//! A user's session after its 101. One that does not end by itself is told why, as far as its protocol has words for it.

mod client;
mod frames;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use duplex::{Broken, Duplex, Relay};
use exchange::Upgraded;
use mux::MuxStream;
use runtime::error_text;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::client::Client;
use crate::auth::TokenRecord;
use crate::clusters::Place;

/// For a client to take its last words, and to close.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// Of that, for the rest of a frame that has begun.
const LAST_FRAME: Duration = Duration::from_millis(500);

/// The other half of a session, and what it ends with.
#[derive(Debug)]
pub struct Session<T = Upgraded<MuxStream>> {
    pub cluster: T,
    /// That it was begun with; none where it needed none.
    pub token: Option<Arc<TokenRecord>>,
    /// Both sides speak WebSocket.
    pub websocket: bool,
    /// Among the requests of its cluster.
    pub place: Option<Place>,
}

/// Why a session ends before both sides have ended it. Its text, without the source, is what the user reads: at most the
/// 123 bytes that a close frame has place for.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the cluster's side broke; begin the session again")]
    Broken(#[source] io::Error),
    #[error("the cluster's side ended without a reason; begin the session again")]
    Ended,
    #[error("the token was revoked; ask for a new one")]
    Revoked,
    #[error("the control plane is shutting down; begin the session again")]
    Stopped,
}

impl Cut {
    /// RFC 6455, section 7.4.1.
    fn code(&self) -> u16 {
        match self {
            Self::Broken(_) | Self::Ended => 1011,
            Self::Revoked => 1008,
            Self::Stopped => 1001,
        }
    }

    /// A close frame as a server sends it.
    fn frame(&self) -> Vec<u8> {
        let reason = self.to_string();
        let length = u8::try_from(2 + reason.len()).unwrap_or(u8::MAX);
        [&[0x88, length][..], &self.code().to_be_bytes(), reason.as_bytes()].concat()
    }

    /// The cluster's side works, and may have more of what the client was being sent.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Revoked | Self::Stopped)
    }
}

impl<T: Duplex> Session<T> {
    /// Carries it to its end, or until `stop` and [`FAREWELL`] after that.
    pub async fn run(self, client: impl Duplex, stop: &CancellationToken) {
        let Self { cluster, token, websocket, place: _place } = self;
        let mut relay = Relay::new(Client::new(client, websocket), cluster);
        let cut = tokio::select! {
            // What ends the session may break it as well.
            biased;
            () = revoked(token.as_deref()) => Cut::Revoked,
            () = stop.cancelled() => Cut::Stopped,
            ended = poll_fn(|cx| relay.poll(cx, &|_| {})) => match ended {
                Ok(()) => return,
                Err(Broken::Left(_)) if relay.left.is_unclosed() => Cut::Ended,
                Err(Broken::Left(error)) => {
                    tracing::debug!(%error, "a session's client went away");
                    return;
                }
                Err(Broken::Right(error)) => Cut::Broken(error),
            },
        };
        let deadline = Instant::now() + FAREWELL;
        let token = token.as_ref().map(|token| token.id.as_str());
        tracing::info!(token, reason = error_text(&cut), "session ended early");
        if cut.is_ours() && !relay.left.has_whole_frames() {
            relay.left.take_last_frame();
            let rest = poll_fn(|cx| {
                let ended = relay.poll_left(cx).map(drop);
                if relay.left.has_whole_frames() { ().into() } else { ended }
            });
            // What has not come by then is shown by the frame itself.
            let _in_time = timeout(LAST_FRAME, rest).await;
        }
        let Relay { left: client, right: cluster, .. } = relay;
        // The client may take its time; nothing in the cluster waits for it.
        drop(cluster);
        match timeout_at(deadline, client.tell(&cut)).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::info!(token, %reason, "a session's client was not told why"),
            // One that does not listen is left alone.
            Err(_) => tracing::info!(token, "a session's client did not close when it was told why"),
        }
    }
}

async fn revoked(token: Option<&TokenRecord>) {
    match token {
        Some(token) => token.revoked().cancelled().await,
        None => std::future::pending().await,
    }
}
