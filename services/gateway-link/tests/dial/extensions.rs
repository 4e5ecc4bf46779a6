//! What a control plane answers to the offer to compress.

use super::*;
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// What the agent has offered, and how its dialling ends.
#[expect(clippy::result_large_err, reason = "tungstenite's")]
async fn dialled(compression: bool, answer: Option<&'static str>) -> (Option<HeaderValue>, Result<bool, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api_url = format!("http://{}", listener.local_addr().unwrap());
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut offered = None;
        let socket = tokio_tungstenite::accept_hdr_async(tcp, |request: &Request, mut response: Response| {
            offered = request.headers().get(SEC_WEBSOCKET_EXTENSIONS).cloned();
            if let Some(answer) = answer {
                response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(answer));
            }
            Ok(response)
        });
        (socket.await.unwrap(), offered)
    });
    let dialer = Dialer::new(&PipeOps { api_url, compression, ..PipeOps::default() }).unwrap();
    let outcome = dial(&dialer).await.map(|socket| socket.get_ref().compresses());
    let (_socket, offered) = answering.join_next().await.unwrap().unwrap();
    (offered, outcome.map_err(|error| runtime::error_text(&error)))
}

#[tokio::test]
async fn links_are_compressed_when_both_ends_agree_and_a_wrong_answer_is_shown() {
    const OFFER: &str = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";
    let (offered, outcome) = dialled(true, Some("permessage-deflate; server_no_context_takeover")).await;
    assert_eq!((offered, outcome), (Some(HeaderValue::from_static(OFFER)), Ok(true)));
    assert_eq!(dialled(true, None).await.1, Ok(false));
    assert_eq!(dialled(false, None).await, (None, Ok(false)));

    for (compression, answer, reason) in [
        (
            true,
            "permessage-deflate",
            "it lacks server_no_context_takeover, which was asked for: \"permessage-deflate\"",
        ),
        (true, "permessage-bzip2", "permessage-deflate alone was offered: \"permessage-bzip2\""),
        (false, OFFER, "no extension was offered: \"permessage-deflate; "),
    ] {
        let said = dialled(compression, Some(answer)).await.1.unwrap_err();
        assert!(said.contains(reason) && said.contains("pipeops.compression"), "{said}");
    }
}
