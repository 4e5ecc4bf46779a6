//! A control plane that says what the test says.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

pub const SOON: Duration = Duration::from_secs(20);

pub struct Peer(TcpListener);

/// One connection of an agent.
pub struct Connection {
    pub path: String,
    pub token: String,
    socket: WebSocketStream<TcpStream>,
}

impl Peer {
    pub async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// `http://...`, or with another scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.0.local_addr().unwrap().port())
    }

    pub async fn accept(&self) -> Connection {
        self.answer(|_| None).await.unwrap_or_else(|| panic!("no connection"))
    }

    /// Refuses the next with this status, and gives the token that it showed.
    pub async fn refuse(&self, status: StatusCode, reason: &'static str) -> String {
        self.refuse_after(status, reason, || {}).await
    }

    /// The same, once this is done.
    pub async fn refuse_after(&self, status: StatusCode, reason: &'static str, first: impl Fn()) -> String {
        let mut shown = String::new();
        self.answer(|token| {
            first();
            token.clone_into(&mut shown);
            let mut response = ErrorResponse::new(Some(reason.to_owned()));
            *response.status_mut() = status;
            Some(response)
        })
        .await;
        shown
    }

    /// Whether anybody comes within this time.
    pub async fn is_left_alone(&self, time: Duration) -> bool {
        timeout(time, self.0.accept()).await.is_err()
    }

    async fn answer(&self, mut refuse: impl FnMut(&str) -> Option<ErrorResponse>) -> Option<Connection> {
        let (tcp, _) = timeout(SOON, self.0.accept()).await.expect("nobody comes").unwrap();
        let (mut path, mut token) = (String::new(), String::new());
        #[expect(clippy::result_large_err, reason = "what the library calls")]
        let look = |request: &Request, response: Response| {
            path = request.uri().to_string();
            let shown = request.headers().get("authorization").unwrap().to_str().unwrap();
            shown.strip_prefix("Bearer ").unwrap().clone_into(&mut token);
            refuse(&token).map_or(Ok(response), Err)
        };
        let socket = timeout(SOON, tokio_tungstenite::accept_hdr_async(tcp, look)).await.unwrap().ok()?;
        Some(Connection { path, token, socket })
    }
}

impl Connection {
    pub async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// A message of that type.
    pub async fn tell(&mut self, kind: &str, payload: &str) {
        self.say(&format!(r#"{{"type":"{kind}","payload":{payload}}}"#)).await;
    }

    /// The payload of the next message, which has to be of that type.
    pub async fn hear(&mut self, kind: &str) -> Value {
        let mut message = self.next().await.unwrap_or_else(|| panic!("the link ends before {kind}"));
        assert_eq!(message["type"], kind, "{message}");
        message["payload"].take()
    }

    /// The payload of the next message of that type.
    pub async fn wait_for(&mut self, kind: &str) -> Value {
        let waiting = async {
            loop {
                let mut message = self.next().await.unwrap_or_else(|| panic!("the link ends before {kind}"));
                if message["type"] == kind {
                    return message["payload"].take();
                }
            }
        };
        timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("no {kind}"))
    }

    /// None: it has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("nothing is said") {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Waits for the registration, and accepts it with these further fields.
    pub async fn register(&mut self, more: &str) -> Value {
        let register = self.hear("register").await;
        self.tell("register_success", &format!(r#"{{"cluster_id":"c-1"{more}}}"#)).await;
        register
    }

    pub async fn ended(mut self) {
        while self.next().await.is_some() {}
    }
}

/// What a control plane of this project offers.
pub const OURS: &str = r#","capabilities":["streams/2","links/n","token_refresh","config_push"]"#;
