//! Agents that the control plane should not trust.

use crate::Others;
use anyhow::{Context, Result, ensure};
use e2e::{
    client::Target,
    gauges::Look,
    side::{AGENT, CLUSTER},
    stage::Stage,
    wire::Framing,
};
use futures::{SinkExt, StreamExt};
use lab::{Process, until};
use serde_json::Value;
use std::time::Duration;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Bytes, Message, protocol::Role},
};

const SOON: Duration = Duration::from_secs(5);
const PATH: &str = "/api/v1/clusters/agent/ws";
type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Asks for a link; gives the status and the reason, or the link.
async fn dial(target: &Target, token: &str) -> Result<Result<TlsStream<TcpStream>, (u16, String)>> {
    let mut wire = target.connect().await?;
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nhost: cp\r\nauthorization: Bearer {token}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    wire.send(request.as_bytes()).await?;
    let head = timeout(SOON, wire.need_head()).await??;
    if head.status() == 101 {
        return Ok(Ok(wire.io));
    }
    let (body, _) = wire.body(head.framing(Framing::Length(0))).await?;
    Ok(Err((head.status(), String::from_utf8_lossy(&body).into_owned())))
}

async fn link(stage: &Stage, token: &str) -> Result<Socket> {
    let stream = dial(&stage.plain()?, token).await?.map_err(|(status, body)| anyhow::anyhow!("{status}: {body}"))?;
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

fn register(agent: &str) -> Message {
    Message::text(format!(
        r#"{{"type":"register","request_id":"r1","payload":{{"agent_id":"{agent}","name":"x","capabilities":["streams/2","links/n"]}},"timestamp":"2026-01-01T00:00:00Z"}}"#
    ))
}

/// The next message of one of these types.
async fn hear(socket: &mut Socket, kinds: &[&str]) -> Result<Value> {
    timeout(SOON, async {
        loop {
            let message = socket.next().await.context("the link ends")??;
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text)?;
            if kinds.iter().any(|kind| message.get("type").is_some_and(|found| found == kind)) {
                return Ok(message);
            }
        }
    })
    .await
    .with_context(|| format!("none of {kinds:?}"))?
}

/// The code the link is closed with.
async fn closed(socket: &mut Socket) -> Result<u16> {
    timeout(SOON, async {
        loop {
            if let Message::Close(frame) = socket.next().await.context("the link ends without a code")?? {
                return Ok(frame.context("the link is closed without a code")?.code.into());
            }
        }
    })
    .await
    .context("the link stays open")?
}

async fn links(stage: &Stage) -> Result<u64> {
    let client = stage.plain()?.http(e2e::Protocol::Http1)?;
    let url = format!("{}/api/v1/clusters", stage.lab.url()?);
    let list: Value = serde_json::from_str(&client.get(url).send().await?.error_for_status()?.text().await?)?;
    let clusters = list.get("clusters").and_then(Value::as_array).context("no list")?;
    let side = clusters.iter().find(|cluster| cluster.get("name").is_some_and(|name| name == CLUSTER));
    side.and_then(|cluster| cluster.get("links")).and_then(Value::as_u64).context("no such cluster")
}

async fn links_become(stage: &Stage, wanted: u64) -> Result<()> {
    until(&format!("{wanted} links"), SOON, || async {
        let now = links(stage).await?;
        ensure!(now == wanted, "{now}");
        Ok(())
    })
    .await
}

pub async fn a_wrong_token_opens_no_link(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let target = stage.plain()?;
    let changed = format!("{}0", stage.side.token);
    for (token, expected) in [("", 401), ("nonsense", 401), (changed.as_str(), 401), (stage.lab.user_token()?, 403)] {
        let Err((status, body)) = dial(&target, token).await? else { anyhow::bail!("{expected}: a link is opened") };
        ensure!(status == expected && body.contains("\"kind\":\"Status\""), "{status} instead of {expected}: {body}");
        ensure!(!body.contains(token) || token.len() < 10, "the token is in the answer: {body}");
    }
    // The service itself, of an agent that has no other token, ends at once with the reason: nothing will change by waiting.
    let [port] = lab::free_ports()?;
    let another = |of: &Process, env: &[(&str, String)]| {
        let mut spec = of.spec().clone();
        spec.name = format!("refused-{}", spec.name);
        spec.env.insert("PIPEOPS_SERVER_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        spec.env.insert("PIPEOPS_BUS_URL".to_owned(), format!("nats://127.0.0.1:{port}"));
        spec.env.extend(env.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        spec
    };
    let mut bus = another(&stage.side.nats, &[]);
    bus.args = ["--addr", "127.0.0.1", "--port", &port.to_string()].map(str::to_owned).to_vec();
    let state = stage.lab.folder().join("refused-state").display().to_string();
    let specs = [bus, another(&stage.side.state_keeper, &[("PIPEOPS_STATE_FILE", state)])];
    let beside = specs.map(|spec| stage.lab.add_process(spec));
    for process in &beside {
        process.start().await?;
    }
    let refused = stage.lab.add_process(another(&stage.side.gateway_link, &[("PIPEOPS_TOKEN", changed)]));
    refused.start().await?;
    let status =
        until("the refused service to end", 4 * SOON, || async { refused.exit_status().context("it runs") }).await?;
    ensure!(status.code() == Some(1), "it ends with {status}");
    let log = refused.log_tail(20);
    ensure!(log.contains("401") && log.contains("token"), "it does not say why: {log}");
    for process in &beside {
        process.stop().await?;
    }
    others.are_well(stage).await
}

pub async fn a_second_agent_is_refused_with_the_reason_and_a_second_link_of_the_same_is_not(
    stage: &Stage,
) -> Result<()> {
    let others = Others::now(stage).await?;
    let mut second = link(stage, &stage.side.token).await?;
    second.send(register("another-agent")).await?;
    let answer = hear(&mut second, &["error", "register_success"]).await?;
    let text = answer.to_string();
    ensure!(text.contains("\"error\"") && text.contains(AGENT) && text.contains("another-agent"), "{text}");
    ensure!(closed(&mut second).await? == 1008, "not closed for policy");
    others.are_well(stage).await?;

    // Another replica of the same agent shares the work, and either alone suffices.
    ensure!(links(stage).await? == 1, "not one link at first");
    let mut spec = stage.side.gateway_link.spec().clone();
    spec.name = "side-gateway-link-1".to_owned();
    spec.env.insert("PIPEOPS_SERVER_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    spec.health = lab::Health::Running;
    let replica = stage.lab.add_process(spec);
    replica.start().await?;
    links_become(stage, 2).await?;
    for _ in 0..10 {
        others.are_well(stage).await?;
    }
    replica.kill().await?;
    links_become(stage, 1).await?;
    others.are_well(stage).await
}

pub async fn a_link_that_breaks_the_rules_is_closed_and_nobody_else_notices(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let token = stage.lab.create_token(&["--agent", "--cluster", "hostile"]).await?;
    let big = "x".repeat(5 << 20);
    let deep = format!("{{\"type\":\"register\",\"payload\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let control_plane = stage.process("control-plane")?;
    let bad = "pipeops_control_plane_bad_messages_total";
    // What is sent before anything else, the code that answers it, and how many messages then count as unreadable.
    let first: [(&str, Message, u16, f64); 6] = [
        ("invalid JSON", Message::text("{\"type\": \"regi"), 1007, 1.0),
        ("a register without an id", Message::text(r#"{"type":"register","payload":{}}"#), 1007, 1.0),
        ("deep JSON", Message::text(deep), 1007, 1.0),
        ("binary before hello", Message::Binary(Bytes::from_static(b"\0\x01\0\x01\0\0\0\x02\0\0\0\0")), 1002, 0.0),
        ("a text of 5 MiB", Message::text(big.clone()), 1009, 0.0),
        ("a binary of 5 MiB", Message::Binary(big.into()), 1009, 0.0),
    ];
    for (what, message, code, unreadable) in first {
        let before = Look::at(&control_plane).await?.metric(bad);
        let mut socket = link(stage, &token).await?;
        timeout(SOON, socket.send(message)).await.with_context(|| what.to_owned())?.with_context(|| what.to_owned())?;
        let end = closed(&mut socket).await.with_context(|| what.to_owned())?;
        ensure!(end == code, "{what}: closed with {end}, not {code}");
        let after = Look::at(&control_plane).await?.metric(bad);
        ensure!(after == before + unreadable, "{what}: {bad} is {after} after {before}");
        others.are_well(stage).await.with_context(|| format!("after {what}"))?;
    }
    // Bytes that are no WebSocket at all.
    let mut socket = link(stage, &token).await?;
    socket.get_mut().write_all(&[0xff; 4096]).await?;
    let end = closed(&mut socket).await.context("garbage")?;
    ensure!(end == 1002, "garbage: closed with {end}");
    others.are_well(stage).await.context("after garbage")?;

    // An unknown type is counted and passed over; what must come first is asked for.
    let name = "pipeops_control_plane_unknown_messages_total";
    let counted = Look::at(&control_plane).await?.metric(name);
    let mut socket = link(stage, &token).await?;
    let unknown = || Message::text(r#"{"type":"teleport","payload":{"to":"moon"},"timestamp":"x"}"#);
    socket.send(unknown()).await?;
    let asked = hear(&mut socket, &["error"]).await?.to_string();
    ensure!(asked.contains("register"), "{asked}");
    socket.send(register("good-after-all")).await?;
    hear(&mut socket, &["gateway_hello"]).await?;
    socket.send(unknown()).await?;
    socket
        .send(Message::text(r#"{"type":"heartbeat","payload":{"cluster_id":"c","agent_id":"good-after-all"}}"#))
        .await?;
    hear(&mut socket, &["heartbeat_ack"]).await?;
    let now = Look::at(&control_plane).await?.metric(name);
    ensure!(now > counted, "{name} is {now} after {counted}");
    // Garbage in place of yamux ends this link only.
    let ack = r#"{"type":"gateway_hello_ack","payload":{"use_yamux":true,"capabilities":["streams/2"]}}"#;
    socket.send(Message::text(ack)).await?;
    socket.send(Message::Binary(Bytes::from(vec![0xee; 1000]))).await?;
    let end = closed(&mut socket).await.context("no yamux")?;
    ensure!(end == 1002, "no yamux: closed with {end}");
    others.are_well(stage).await
}

pub async fn an_older_agent_that_sends_no_credentials_is_said_to_send_none(stage: &Stage) -> Result<()> {
    let others = Others::now(stage).await?;
    let token = stage.lab.create_token(&["--agent", "--cluster", "older"]).await?;
    let mut socket = link(stage, &token).await?;
    let register = r#"{"type":"register","payload":{"agent_id":"agent-0123","agent_version":"1.4.0","name":"older"}}"#;
    socket.send(Message::text(register)).await?;
    hear(&mut socket, &["gateway_hello"]).await?;
    socket.send(Message::text(r#"{"type":"gateway_hello_ack","payload":{"use_yamux":true}}"#)).await?;
    let target = Target::new(&stage.lab, "older")?;
    let response = target.http(e2e::Protocol::Http1)?.get(target.url("/api/v1/pods")).send().await?;
    let (status, said) = (response.status(), response.text().await?);
    ensure!(status == 503 && said.contains("sent no k8s_service_token when it registered"), "{status}: {said}");
    others.are_well(stage).await
}
