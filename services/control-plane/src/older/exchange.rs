//! What an agent says of one request, on its way to whoever waits for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use mux::{Budget, Held};
use protocol::message::proxied::{Opcode, ProxyCommand, TcpTunnelClose, WebSocketClose, WholeBody};
use tokio::task::JoinSet;

use super::Shared;

/// What a message takes besides its bytes, about.
const OVERHEAD: usize = 128;
/// What of an agent's own words is passed on.
const LONGEST_TEXT: usize = 1024;

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Socket,
    Tcp,
    Udp,
}

impl Kind {
    /// That nobody waits for it any more, if there is a word for that.
    pub fn cancel(self, id: &str) -> Option<ProxyCommand> {
        Some(match self {
            Self::Request => ProxyCommand::Cancel,
            Self::Socket => ProxyCommand::WebSocketClose(WebSocketClose { stream_id: id.to_owned(), error: None }),
            Self::Tcp => {
                let reason = "client_closed".to_owned();
                ProxyCommand::TcpClose(TcpTunnelClose { reason, ..TcpTunnelClose::default() })
            }
            Self::Udp => return None,
        })
    }
}

#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// In the words of both kinds of exchange.
#[derive(Debug)]
pub enum Said {
    Head(Head),
    /// The answer as a whole.
    Whole(Head, WholeBody),
    Data(Bytes),
    Message(Opcode, Bytes),
    End,
    Broken(Broken),
}

impl Said {
    fn weight(&self) -> usize {
        match self {
            Self::Whole(_, WholeBody::Plain(bytes) | WholeBody::Gzip(bytes))
            | Self::Data(bytes)
            | Self::Message(_, bytes) => bytes.len() + OVERHEAD,
            Self::Head(_) | Self::End | Self::Broken(_) => 0,
        }
    }
}

/// Why an exchange has no end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Broken {
    #[error("the agent broke off: {0}")]
    Aborted(String),
    #[error("the agent reports: {0}")]
    Refused(String),
    #[error("what the agent sent cannot be used: {0}")]
    Malformed(String),
    #[error("what the agent sent makes no sense in this order")]
    Order,
    #[error("the answer is not as long as its head says")]
    Length,
    #[error("the unpacked answer is larger than {0} bytes (links.max_unpacked)")]
    Unpacked(usize),
    #[error("the client did not read, and more than {0} bytes waited for it (links.message_unread)")]
    Unread(usize),
    #[error("clients did not read, and what waited for all of them was above the limit (links.message_unread_total)")]
    AllUnread,
    #[error("the agent dropped a part of what it was sent, because that came faster than it was taken")]
    Dropped,
    #[error("the request's body broke off: {0}")]
    Upload(String),
    #[error("the link was lost")]
    LinkLost,
}

impl Broken {
    /// With the agent's own words.
    pub fn text(text: &str) -> String {
        let text: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect();
        if text.is_empty() { "without a reason".to_owned() } else { text }
    }

    pub fn malformed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Malformed(Self::text(&runtime::error_text(error).to_string()))
    }

    /// In the agent's own words.
    pub fn is_said(&self) -> bool {
        matches!(self, Self::Aborted(_) | Self::Refused(_))
    }

    /// Found here, so that the agent has to be told.
    fn is_ours(&self) -> bool {
        !self.is_said() && !matches!(self, Self::LinkLost)
    }

    fn is_unread(&self) -> bool {
        matches!(self, Self::Unread(_) | Self::AllUnread)
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    Answering,
    /// The agent says no more, or nobody listens.
    Over,
}

#[derive(Debug)]
pub struct Exchange {
    pub id: Box<str>,
    pub kind: Kind,
    state: Mutex<State>,
    reader: AtomicWaker,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    queue: VecDeque<(Said, Option<Held>)>,
    /// Of all in the queue.
    weight: usize,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// There is more to come.
    Taken,
    /// That was the last. `cancel`: the agent does not know it.
    Over { cancel: bool },
    /// The same, because its reader does not keep up.
    Cut { cancel: bool },
    /// A datagram for which there is no room: there is more to come.
    Dropped,
    /// It came behind the last.
    Late,
}

impl Exchange {
    pub fn new(id: Box<str>, kind: Kind) -> Arc<Self> {
        let state = State { stage: Stage::Asked, queue: VecDeque::new(), weight: 0 };
        Arc::new(Self { id, kind, state: Mutex::new(state), reader: AtomicWaker::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `said` to its reader. At most `limit` bytes wait, and any one message.
    pub fn give(&self, said: Said, limit: usize, budget: &Arc<Budget>) -> Given {
        let mut state = self.state();
        if state.stage == Stage::Over {
            return Given::Late;
        }
        let is_datagram = self.kind == Kind::Udp && matches!(said, Said::Data(_));
        let is_all = matches!(said, Said::Whole(..));
        let checked =
            state.check(self.kind, &said, limit).and_then(|()| match budget.take_beside(said.weight(), state.weight) {
                Some(held) => Ok((said, Some(held))),
                None => Err(Broken::AllUnread),
            });
        // A datagram that comes too fast is lost, as on any network.
        if is_datagram && checked.is_err() {
            return Given::Dropped;
        }
        let (said, held) = checked.unwrap_or_else(|broken| (Said::Broken(broken), None));
        let given = match &said {
            Said::End | Said::Whole(..) => Given::Over { cancel: false },
            // Of a whole answer that did not fit there is no more.
            Said::Broken(broken) if broken.is_unread() => Given::Cut { cancel: !is_all },
            Said::Broken(broken) => Given::Over { cancel: broken.is_ours() },
            Said::Head(_) | Said::Data(_) | Said::Message(..) => Given::Taken,
        };
        if let Given::Cut { .. } = given {
            // Its client gets a broken transfer, and need not have the rest.
            state.clear();
        }
        state.stage = if given == Given::Taken { Stage::Answering } else { Stage::Over };
        state.weight += held.as_ref().map_or(0, Held::bytes);
        state.queue.push_back((said, held));
        drop(state);
        self.reader.wake();
        given
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<(Said, Option<Held>)> {
        self.reader.register(cx.waker());
        let mut state = self.state();
        let Some((said, held)) = state.queue.pop_front() else {
            let over = (Said::Broken(Broken::Order), None);
            return if state.stage == Stage::Over { Poll::Ready(over) } else { Poll::Pending };
        };
        state.weight -= held.as_ref().map_or(0, Held::bytes);
        Poll::Ready((said, held))
    }

    /// Nobody listens any more. True if the agent would say more.
    fn abandon(&self) -> bool {
        let mut state = self.state();
        state.clear();
        std::mem::replace(&mut state.stage, Stage::Over) != Stage::Over
    }
}

impl State {
    /// Whether `said` may come now, and more may wait.
    fn check(&self, kind: Kind, said: &Said, limit: usize) -> Result<(), Broken> {
        let in_order = match (said, kind, self.stage) {
            (Said::Head(_) | Said::Whole(..), Kind::Request, Stage::Asked)
            | (Said::Data(_), Kind::Request, Stage::Answering)
            | (Said::Data(_), Kind::Tcp | Kind::Udp, _)
            | (Said::Message(..), Kind::Socket, _) => true,
            (Said::End, kind, stage) => kind != Kind::Request || stage == Stage::Answering,
            (Said::Broken(_), ..) => true,
            _ => false,
        };
        if !in_order {
            return Err(Broken::Order);
        }
        if self.has_room(said, limit) { Ok(()) } else { Err(Broken::Unread(limit)) }
    }

    /// One message always has.
    fn has_room(&self, said: &Said, limit: usize) -> bool {
        self.weight == 0 || self.weight + said.weight() <= limit
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.weight = 0;
    }
}

/// An exchange, for whoever waits for it. Dropped, it is over, and the agent is told if it does not know.
#[derive(Debug)]
pub struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) exchange: Arc<Exchange>,
    /// Sends the request's body.
    uploading: JoinSet<()>,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, exchange: Arc<Exchange>) -> Self {
        Self { shared, exchange, uploading: JoinSet::new() }
    }

    pub fn id(&self) -> &str {
        &self.exchange.id
    }

    /// Sends more of the request beside whatever else is done.
    pub fn upload(&mut self, uploading: impl Future<Output = ()> + Send + 'static) {
        self.uploading.spawn(uploading);
    }

    /// What comes next, and its part of the budget: to be kept as long as its bytes are.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Said, Option<Held>)> {
        self.exchange.poll(cx)
    }

    /// The same. Losing the future loses nothing.
    pub async fn next(&mut self) -> (Said, Option<Held>) {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        while self.uploading.try_join_next().is_some() {}
        let unfinished = self.exchange.abandon();
        if unfinished || !self.uploading.is_empty() {
            self.shared.table.cancel(&self.exchange);
        } else {
            self.shared.table.forget(&self.exchange);
        }
    }
}
