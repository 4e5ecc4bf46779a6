//! A real browser on an app that talks back: a page over HTTP/2, events, and a WebSocket.

use crate::prepare::{self, SOON};
use anyhow::{Context, Result, ensure};
use futures::{SinkExt as _, StreamExt as _};
use lab::{Lab, Progress, until};
use std::{net::IpAddr, process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

const HOST: &str = "talk.apps.test";
const NAMESPACE: &str = "browser";
/// Says at the end what it has heard, and over which version of HTTP it came itself.
const PAGE: &str = r#"<!doctype html><title>talk</title><script>
const heard = [];
const hear = (what) => {
  heard.push(what);
  if (heard.length === 5) {
    const version = performance.getEntriesByType("navigation")[0].nextHopProtocol;
    fetch("/heard", { method: "POST", body: version + " " + heard.sort().join(" ") });
  }
};
const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
socket.onopen = () => { socket.send("text"); socket.send(new Uint8Array(100000)); };
socket.binaryType = "arraybuffer";
socket.onmessage = (message) => hear("socket:" + (message.data.byteLength ?? message.data));
const events = new EventSource("/events");
events.onmessage = (event) => { hear("event:" + event.data); if (event.data === "3") events.close(); };
</script>"#;
const HEARD: &str = "h2 event:1 event:2 event:3 socket:100000 socket:text";

/// The app, on this machine; what its page has heard is told.
async fn serve(listener: TcpListener, heard: mpsc::Sender<String>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let heard = heard.clone();
        connections.spawn(async move { answer(tcp, heard).await });
    }
}

async fn answer(mut tcp: TcpStream, heard: mpsc::Sender<String>) -> Result<()> {
    let mut start = [0; 5];
    while tcp.peek(&mut start).await? < start.len() {}
    let mut head = Vec::new();
    if &start == b"GET /" {
        let mut line = [0; 12];
        while tcp.peek(&mut line).await? < line.len() {}
        if &line == b"GET /socket " {
            let mut socket = tokio_tungstenite::accept_async(tcp).await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
            return Ok(());
        }
    }
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let close = "Connection: close\r\n";
    match head.split(' ').nth(1).unwrap_or_default() {
        "/" => {
            let length = PAGE.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n{close}\r\n{PAGE}");
            tcp.write_all(answer.as_bytes()).await?;
        }
        "/events" => {
            tcp.write_all(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{close}\r\n").as_bytes())
                .await?;
            for event in 1..=3 {
                tcp.write_all(format!("data: {event}\n\n").as_bytes()).await?;
            }
            // Until the page has them all and goes: what comes late is held back by nobody.
            while tcp.read(&mut [0; 64]).await? > 0 {}
        }
        "/heard" => {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
            let mut body = vec![0; length.parse()?];
            tcp.read_exact(&mut body).await?;
            tcp.write_all(format!("HTTP/1.1 204 No Content\r\n{close}\r\n").as_bytes()).await?;
            heard.send(String::from_utf8(body)?).await?;
        }
        _ => tcp.write_all(format!("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n{close}\r\n").as_bytes()).await?,
    }
    Ok(())
}

pub async fn a_browser_talks_with_an_app_in_every_way(lab: Arc<Lab>) -> Result<()> {
    lab::install_debian_packages(&["chromium-headless-shell"], &Progress::slow_only()).await?;
    // Pods reach the control plane, and so this machine, by its address.
    let host = lab.url()?.trim_start_matches("https://").split(':').next().context("no host")?.parse::<IpAddr>()?;
    let listener = TcpListener::bind((host, 0)).await?;
    let port = listener.local_addr()?.port();
    let (tell, mut heard) = mpsc::channel(16);
    let _serving = JoinSet::from_iter([serve(listener, tell)]);

    lab.create_namespace(NAMESPACE).await?;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"containers":[{"name":"web",
        "image":"lab.local/tools:1","args":["socat","TCP-LISTEN:8080,fork,reuseaddr,backlog=64","TCP:HOST:PORT"],
        "readinessProbe":{"tcpSocket":{"port":8080},"periodSeconds":1}}]}}"#;
    let pod = pod.replace("HOST", &host.to_string()).replace("PORT", &port.to_string());
    prepare::create(&lab, NAMESPACE, "pod/web", &pod).await?;
    let objects = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"web"}},
        "spec":{{"selector":{{"app":"web"}},"ports":[{{"port":80,"targetPort":8080}}]}}}},
        {{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{{"name":"web","labels":{{"pipeops.io/managed":"true"}}}},
        "spec":{{"tls":[{{"hosts":["{HOST}"]}}],"rules":[{{"host":"{HOST}","http":{{"paths":[{{"path":"/","pathType":"Prefix",
        "backend":{{"service":{{"name":"web","port":{{"number":80}}}}}}}}]}}}}]}}}}]}}"#
    );
    lab.admin().stdout_with_input(&["create", "-n", NAMESPACE, "-f", "-"], &objects).await?;
    until("the Ingress to be published", SOON, || async {
        let described = lab.admin().stdout(&["describe", "ingress", "web", "-n", NAMESPACE]).await?;
        ensure!(described.contains("RoutePublished"), "{described}");
        anyhow::Ok(())
    })
    .await?;

    let [_, https] = lab.web()?;
    let folder = tempfile::tempdir()?;
    let log = std::fs::File::create(folder.path().join("log"))?;
    // The program itself: what stands for it on PATH is a script, whose end is not the browser's.
    let mut browser = Command::new("/usr/lib/chromium/chromium-headless-shell");
    // The lab's CA is none that the browser knows. As root it has no sandbox, and shows only this page.
    browser.args(["--no-sandbox", "--ignore-certificate-errors", "--disable-gpu", "--no-proxy-server"]);
    browser.arg(format!("--host-resolver-rules=MAP {HOST} {}", https.ip()));
    browser.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
    browser.args(["--remote-debugging-port=0", &format!("https://{HOST}:{}/", https.port())]);
    browser.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let mut running = browser.spawn().context("cannot run the browser")?;
    let said = timeout(SOON, heard.recv()).await;
    running.kill().await?;
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let said = said.ok().flatten().with_context(|| format!("the page says nothing; the browser:\n{}", log()))?;
    ensure!(said == HEARD, "{said}");
    Ok(())
}
