//! Tunnels as their clients see them, by whatever an agent understands.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use protocol::{StreamAnswer, StreamKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;

use crate::control_plane::{ControlPlane, SOON, ask, ca, token};
use crate::linked::Agent;

/// Code, stdout and stderr of `control-plane tunnel ...`.
async fn tunnel(data: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    let output = command.arg("tunnel").args(args).env_clear().env("PIPEOPS_DATA_DIR", data).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The port of one that is made for cluster `prod`.
pub async fn port(data: &Path, args: &[&str]) -> SocketAddr {
    let (code, said, error) = tunnel(data, &[&["create", "--cluster", "prod"], args].concat()).await;
    assert_eq!(code, Some(0), "{error}");
    let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}

async fn read<R: tokio::io::AsyncRead + Unpin>(stream: &mut R, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(SOON, stream.read_exact(&mut bytes)).await.expect("nothing comes").unwrap();
    bytes
}

/// What a client sees that says nothing: it may be reset before it knows that it is connected.
async fn reset(port: SocketAddr) -> std::io::Result<usize> {
    TcpStream::connect(port).await?.read(&mut [0]).await
}

async fn stage() -> (tempfile::TempDir, ControlPlane, String) {
    let place = tempfile::tempdir().unwrap();
    let server = ControlPlane::start(place.path(), &[]).await;
    let secret = token(place.path(), &["create", "--agent", "--cluster", "prod"]).await;
    (place, server, secret)
}

#[tokio::test]
async fn bytes_go_to_the_service_at_once_and_each_direction_ends_by_itself() {
    for capabilities in [&["streams/2"][..], &[]] {
        let (place, server, secret) = stage().await;
        let data = place.path();
        let mut agent = Agent::connect(&server, data, &secret, capabilities).await;
        let port = port(data, &["--tcp", "shop/postgres:5432", "--name", "orders"]).await;
        let mut client = TcpStream::connect(port).await.unwrap();
        client.write_all(b"question").await.unwrap();
        let (header, mut stream) = agent.stream().await;
        assert_eq!((header.kind, header.target.unwrap().to_string()), (StreamKind::Tcp, "shop/postgres:5432".into()));
        // Before the agent has said anything.
        assert_eq!(read(&mut stream, 8).await, b"question");
        client.shutdown().await.unwrap();
        if capabilities.is_empty() {
            assert_eq!(header.id.as_str(), "orders");
        } else {
            stream.write_all(&StreamAnswer::Connected.encode()).await.unwrap();
        }
        assert_eq!(timeout(SOON, stream.read(&mut [0])).await.expect("no end").unwrap(), 0);
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, client.read_to_end(&mut answer)).await.expect("no end").unwrap();
        assert_eq!(answer, b"answer");
    }
}

#[tokio::test]
async fn a_client_sees_a_reset_where_there_is_no_service_and_the_log_says_why() {
    let (place, mut server, secret) = stage().await;
    let data = place.path();
    let mut agent = Agent::connect(&server, data, &secret, &["streams/2"]).await;
    let port = port(data, &["--tcp", "shop/postgres:5432"]).await;
    let mut client = TcpStream::connect(port).await.unwrap();
    let (_, mut stream) = agent.stream().await;
    stream.write_all(&StreamAnswer::Refused("no such Service".into()).encode()).await.unwrap();
    stream.shutdown().await.unwrap();
    let error = timeout(SOON, client.read(&mut [0])).await.expect("nothing").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let said = server.says("a tunnel's client is not served").await;
    assert_eq!(said["service"], "shop/postgres:5432");
    assert!(said["error"].as_str().unwrap().ends_with("refused: no such Service"), "{said}");
    // In the middle of an answer as well.
    let mut client = TcpStream::connect(port).await.unwrap();
    let (_, mut stream) = agent.stream().await;
    stream.write_all(&[StreamAnswer::Connected.encode(), b"half".to_vec()].concat()).await.unwrap();
    assert_eq!(read(&mut client, 4).await, b"half");
    drop(stream);
    let error = timeout(SOON, client.read(&mut [0])).await.expect("nothing").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // And without any agent.
    drop(agent);
    let error = timeout(SOON, async {
        loop {
            if let Err(error) = reset(port).await {
                return error;
            }
        }
    });
    assert_eq!(error.await.expect("never reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.metric(r#"pipeops_control_plane_tunnel_errors_total{error_type="refused"}"#).await, 1.0);
}

#[tokio::test]
async fn datagrams_keep_their_bounds_and_each_client_gets_its_own_answers() {
    let (place, server, secret) = stage().await;
    let data = place.path();
    let mut agent = Agent::connect(&server, data, &secret, &["streams/2"]).await;
    let port = port(data, &["--udp", "kube-system/kube-dns:53"]).await;
    let mut clients = Vec::new();
    for question in [&b"first"[..], &[7; 9000]] {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(port).await.unwrap();
        client.send(question).await.unwrap();
        client.send(b"").await.unwrap();
        let (header, mut stream) = agent.stream().await;
        assert_eq!(
            (header.kind, header.target.unwrap().to_string()),
            (StreamKind::Udp, "kube-system/kube-dns:53".into())
        );
        let length = u16::try_from(question.len()).unwrap();
        assert_eq!(read(&mut stream, 2).await, length.to_be_bytes());
        assert_eq!(read(&mut stream, question.len()).await, question);
        assert_eq!(read(&mut stream, 2).await, [0, 0], "an empty one is one");
        clients.push((client, stream));
    }
    for (n, (client, stream)) in (0..).zip(&mut clients) {
        let answer = [StreamAnswer::Connected.encode(), vec![0, 1, n, 0, 2, 8, 8]].concat();
        stream.write_all(&answer).await.unwrap();
        let mut buffer = [0; 16];
        for expected in [vec![n], vec![8, 8]] {
            let length = timeout(SOON, client.recv(&mut buffer)).await.expect("no answer").unwrap();
            assert_eq!(buffer[..length], expected);
        }
    }
}

#[tokio::test]
async fn datagrams_to_a_service_that_is_refused_cost_no_stream_each() {
    let (place, server, secret) = stage().await;
    let mut agent = Agent::connect(&server, place.path(), &secret, &["streams/2"]).await;
    let port = port(place.path(), &["--udp", "kube-system/kube-dns:53"]).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(port).await.unwrap();
    client.send(b"question").await.unwrap();
    let (_, mut stream) = agent.stream().await;
    stream.write_all(&StreamAnswer::Refused("no".into()).encode()).await.unwrap();
    stream.shutdown().await.unwrap();
    let dropped = r#"pipeops_control_plane_tunnel_errors_total{error_type="dropped"}"#;
    let seen = timeout(SOON, async {
        while server.metric(dropped).await < 20.0 {
            client.send(b"again").await.unwrap();
        }
    });
    seen.await.expect("they are not dropped");
    // Another client is served meanwhile, and the first one again after a while.
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.connect(port).await.unwrap();
    other.send(b"other").await.unwrap();
    let (_, mut stream) = agent.stream().await;
    assert_eq!(read(&mut stream, 7).await, b"\x00\x05other");
    let retried = timeout(SOON, async {
        loop {
            client.send(b"later").await.unwrap();
            tokio::select! {
                (_, mut stream) = agent.stream() => break read(&mut stream, 7).await,
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
        }
    });
    assert_eq!(retried.await.expect("it is not tried again"), b"\x00\x05later");
}

#[tokio::test]
async fn an_older_agent_gets_and_gives_datagrams_as_pieces_of_a_stream() {
    let (place, server, secret) = stage().await;
    let mut agent = Agent::connect(&server, place.path(), &secret, &[]).await;
    let port = port(place.path(), &["--udp", "kube-system/kube-dns:53"]).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(port).await.unwrap();
    client.send(b"question").await.unwrap();
    let (header, mut stream) = agent.stream().await;
    assert_eq!((header.kind, header.id.as_str()), (StreamKind::Udp, "udp-kube-system-kube-dns-53"));
    assert_eq!(read(&mut stream, 8).await, b"question");
    stream.write_all(b"answer").await.unwrap();
    let mut buffer = [0; 64];
    let length = timeout(SOON, client.recv(&mut buffer)).await.expect("no answer").unwrap();
    assert_eq!(buffer[..length], *b"answer");
}

#[tokio::test]
async fn the_command_makes_lists_and_deletes() {
    let (place, server, secret) = stage().await;
    let data = place.path();
    let refused = tunnel(data, &["create", "--cluster", "prod", "--tcp", "shop/web:80"]).await;
    assert!(refused.0 == Some(1) && refused.2.contains(r#"cluster "prod" has not registered"#), "{refused:?}");
    let mut agent = Agent::connect(&server, data, &secret, &["streams/2"]).await;
    let first = port(data, &["--tcp", "shop/web:80"]).await;
    let wanted = free_port().await.to_string();
    let second = tunnel(data, &["create", "--cluster", "prod", "--udp", "shop/dns:53", "--port", &wanted]).await;
    assert_eq!(second.0, Some(0), "{second:?}");
    let list = tunnel(data, &["list"]).await.1;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["CLUSTER", "ID", "PROTOCOL", "PORT", "SERVICE", "BY"]);
    assert_eq!(rows[1], ["prod", "tcp-shop-web-80", "tcp", &first.port().to_string(), "shop/web:80", "operator"]);
    assert_eq!(rows[2], ["prod", "udp-shop-dns-53", "udp", &wanted, "shop/dns:53", "operator"]);
    for (args, error) in [
        (&["--tcp", "shop/web:80"][..], "has a tunnel \"tcp-shop-web-80\" already"),
        (&["--tcp", "shop/web:81", "--port", "80"], "not among those for tunnels, 15000-35000"),
        (&["--tcp", "web"], "use NAMESPACE/SERVICE:PORT"),
        (&["--tcp", "shop/web:81", "--name", "a/b"], "cannot be the id of a tunnel"),
    ] {
        let said = tunnel(data, &[&["create", "--cluster", "prod"], args].concat()).await;
        assert!(said.0 == Some(1) && said.2.contains(error), "{said:?}");
    }
    let mut client = TcpStream::connect(first).await.unwrap();
    let (_, stream) = agent.stream().await;
    assert_eq!(tunnel(data, &["delete", "--cluster", "prod", "tcp-shop-web-80"]).await.0, Some(0));
    let error = timeout(SOON, client.read(&mut [0])).await.expect("its connections go on").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(first).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(stream);
    let again = tunnel(data, &["delete", "--cluster", "prod", "tcp-shop-web-80"]).await;
    assert!(again.0 == Some(1) && again.2.contains("has no tunnel"), "{again:?}");
}

/// Among those for tunnels.
async fn free_port() -> u16 {
    for port in 34_000..35_000 {
        if UdpSocket::bind(("0.0.0.0", port)).await.is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

fn entry(id: &str, more: Value) -> Value {
    let mut tunnel = json!({
        "protocol": "tcp", "tunnel_id": id, "gateway_name": "gw", "gateway_namespace": "infra", "gateway_port": 5432,
        "service_name": "postgres", "service_namespace": "shop", "service_port": 5432, "routing_mode": "tunnel",
    });
    for (key, value) in more.as_object().unwrap() {
        tunnel[key] = value.clone();
    }
    tunnel
}

#[tokio::test]
async fn a_port_is_that_of_one_tunnel_and_a_wish_that_failed_does_not_stick() {
    let (place, server, secret) = stage().await;
    let (data, ca) = (place.path(), ca(place.path()));
    let other = token(data, &["create", "--agent", "--cluster", "other"]).await;
    let _agents = [
        Agent::connect(&server, data, &secret, &["streams/2"]).await,
        Agent::connect(&server, data, &other, &["streams/2"]).await,
    ];
    let of = |cluster: &str| format!("/api/v1/clusters/agent/{cluster}/tunnels");
    let mut connection = server.connect(&ca).await.unwrap();
    let (_, old) = ask(&mut connection, "POST", &of("other"), &other, &entry("x", json!({}))).await;
    let (_, made) = ask(&mut connection, "POST", &of("prod"), &secret, &entry("db", json!({}))).await;
    let port = &made["tunnel_port"];
    // The older tunnel of another cluster cannot get it, now or later.
    let wish = entry("x", json!({"tunnel_port": port}));
    let (status, said) = ask(&mut connection, "POST", &of("other"), &other, &wish).await;
    assert!(status == 409 && said["message"].as_str().unwrap().contains("is another tunnel's"), "{said}");
    let sync =
        ask(&mut connection, "POST", &format!("{}/sync", of("other")), &other, &json!({"tunnels": [wish]})).await;
    assert!(sync.1["rejected"][0]["reason"].as_str().unwrap().contains("is another tunnel's"), "{sync:?}");
    let (_, again) = ask(&mut connection, "POST", &of("other"), &other, &entry("x", json!({}))).await;
    assert_ne!(&again["tunnel_port"], port);
    assert!(old["tunnel_port"].is_u64());

    // Somebody else listens on this one.
    let busy = loop {
        let port = free_port().await;
        if let Ok(busy) = TcpListener::bind(("0.0.0.0", port)).await {
            break busy;
        }
    };
    let wish = entry("web", json!({"tunnel_port": busy.local_addr().unwrap().port()}));
    let (status, said) = ask(&mut connection, "POST", &of("prod"), &secret, &wish).await;
    assert!(status == 503 && said["message"].as_str().unwrap().contains("cannot listen on"), "{said}");
    let (status, said) = ask(&mut connection, "POST", &of("prod"), &secret, &entry("web", json!({}))).await;
    assert_eq!(status, 200, "what is asked for now counts: {said}");
    // A tunnel leads where it was asked to lead last.
    let moved = entry("web", json!({"service_name": "other", "protocol": "udp"}));
    let (status, said) = ask(&mut connection, "POST", &of("prod"), &secret, &moved).await;
    assert_eq!((status, &said["protocol"], &said["service_name"]), (200, &json!("udp"), &json!("other")), "{said}");
}

#[tokio::test]
async fn an_agents_token_opens_no_ports_without_the_certificate_that_agents_need() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let authority = data.join("agents.crt");
    std::fs::write(&authority, rcgen::generate_simple_self_signed(vec!["agents".to_owned()]).unwrap().cert.pem())
        .unwrap();
    let server = ControlPlane::start(data, &[("PIPEOPS_TLS_CLIENT_CA_FILE", &authority)]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut connection = server.connect(&ca(data)).await.unwrap();
    let path = "/api/v1/clusters/agent/prod/tunnels";
    let (status, said) = ask(&mut connection, "POST", path, &secret, &entry("db", json!({}))).await;
    assert!(status == 403 && said["message"].as_str().unwrap().contains("shows no client certificate"), "{said}");
    let (status, said) =
        ask(&mut connection, "POST", "/api/v1/gateway/routes/sync", &secret, &json!({"ingresses": []})).await;
    assert!(status == 403 && said["message"].as_str().unwrap().contains("shows no client certificate"), "{said}");
}

#[tokio::test]
async fn clients_of_tunnels_leave_room_for_requests() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[("PIPEOPS_GATEWAY_MAX_CLIENTS", Path::new("2"))]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut agent = Agent::connect(&server, data, &secret, &["streams/2"]).await;
    let ports = [port(data, &["--tcp", "shop/a:1"]).await, port(data, &["--tcp", "shop/b:1"]).await];
    let mut open = Vec::new();
    for port in ports {
        let client = TcpStream::connect(port).await.unwrap();
        open.push((client, agent.stream().await));
    }
    let error = timeout(SOON, reset(ports[0])).await.expect("nothing").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.metric(r#"pipeops_control_plane_tunnel_errors_total{error_type="too_many"}"#).await, 1.0);
    // One that goes makes room.
    drop(open.pop());
    let came = timeout(SOON, async {
        loop {
            // One for which there is no room may be reset before it knows that it is connected.
            let Ok(client) = TcpStream::connect(ports[0]).await else { continue };
            tokio::select! {
                stream = agent.stream() => break (client, stream),
                _ = client.readable() => {}
            }
        }
    });
    came.await.expect("there is room");
}

#[tokio::test]
async fn an_agent_registers_what_its_cluster_has_and_nothing_of_another() {
    let (place, mut server, secret) = stage().await;
    let (data, ca) = (place.path(), ca(place.path()));
    let user = token(data, &["create", "--user", "ana", "--cluster", "prod"]).await;
    let stranger = token(data, &["create", "--user", "bob", "--cluster", "other"]).await;
    let other = token(data, &["create", "--agent", "--cluster", "other"]).await;
    let agent = Agent::connect(&server, data, &secret, &["streams/2"]).await;
    let _other = Agent::connect(&server, data, &other, &["streams/2"]).await;
    let of = |rest: &str| format!("/api/v1/clusters/agent/prod/tunnels{rest}");
    let mut connection = server.connect(&ca).await.unwrap();

    let (status, made) = ask(&mut connection, "POST", &of(""), &secret, &entry("db", json!({}))).await;
    assert_eq!(status, 200, "{made}");
    let port = made["tunnel_port"].as_u64().unwrap();
    assert_eq!(made["tunnel_endpoint"], format!("cp:{port}"));
    TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap();
    // The same again is the same.
    let again = ask(&mut connection, "POST", &of(""), &secret, &entry("db", json!({}))).await.1;
    assert_eq!(again["tunnel_port"], port);

    for (path, who, body, status) in [
        (of(""), &other, entry("db", json!({})), 403),
        (of("/sync"), &other, json!({"tunnels": []}), 403),
        (of(""), &user, entry("db2", json!({})), 403),
        (of(""), &secret, entry("db2", json!({"service_name": "10.0.0.1"})), 400),
        (of(""), &secret, entry("db2", json!({"tunnel_port": 80})), 400),
        (of(""), &secret, entry("../x", json!({})), 400),
        (of("/sync"), &secret, json!({}), 400),
        (of("/sync"), &secret, json!({"tunnels": null}), 200),
    ] {
        let (got, said) = ask(&mut connection, "POST", &path, who, &body).await;
        assert_eq!(got, status, "{path} {body}: {said}");
        assert!(said["kind"] == "Status" || status == 200, "{said}");
    }
    // An empty set is a set.
    assert_eq!(ask(&mut connection, "GET", &of(""), &user, &Value::Null).await, (200, json!([])));

    let set = json!({"cluster_uuid": "prod", "tunnels": [
        entry("db", json!({})), entry("udp", json!({"protocol": "UDP"})),
        entry("direct", json!({"routing_mode": "direct", "public_endpoint": "203.0.113.9:5432"})),
        entry("bad", json!({"protocol": "sctp"})), entry("udp", json!({})), {"tunnel_id": "none"},
    ]});
    let (status, synced) = ask(&mut connection, "POST", &of("/sync"), &secret, &set).await;
    assert_eq!(status, 200, "{synced}");
    let accepted = synced["accepted"].as_array().unwrap();
    assert_eq!(accepted.iter().map(|tunnel| &tunnel["tunnel_id"]).collect::<Vec<_>>(), ["db", "udp", "direct"]);
    assert_eq!(accepted[0]["tunnel_port"], port, "a tunnel that is made again finds its port");
    assert_eq!(accepted[2]["tunnel_endpoint"], "203.0.113.9:5432");
    let rejected = synced["rejected"].as_array().unwrap();
    let reasons: Vec<_> =
        rejected.iter().map(|one| (one["tunnel_id"].as_str().unwrap(), one["reason"].as_str().unwrap())).collect();
    assert!(reasons[0].0 == "bad" && reasons[0].1.contains("neither tcp nor udp"), "{reasons:?}");
    assert!(reasons[1] == ("udp", "another one has the same tunnel_id") && reasons[2].0 == "none", "{reasons:?}");

    // What whoever runs the control plane has made is theirs.
    super::tunnels::port(data, &["--tcp", "shop/web:80", "--name", "ours"]).await;
    let ours = ask(&mut connection, "POST", &of(""), &secret, &entry("ours", json!({}))).await;
    assert!(ours.0 == 403 && ours.1["message"].as_str().unwrap().contains("who alone can change it"), "{ours:?}");
    assert_eq!(ask(&mut connection, "DELETE", &of("/ours"), &secret, &Value::Null).await.0, 403);
    assert_eq!(ask(&mut connection, "DELETE", &of("/udp"), &secret, &Value::Null).await.0, 204);
    assert_eq!(ask(&mut connection, "DELETE", &of("/udp"), &secret, &Value::Null).await.0, 404);
    let (_, list) = ask(&mut connection, "GET", &of(""), &user, &Value::Null).await;
    let ids: Vec<_> = list.as_array().unwrap().iter().map(|tunnel| &tunnel["tunnel_id"]).collect();
    assert_eq!(ids, ["db", "direct", "ours"]);
    assert_eq!(ask(&mut connection, "GET", &of(""), &stranger, &Value::Null).await.0, 403);

    // A port stays its tunnel's across a restart.
    drop((agent, connection));
    server.terminate().await;
    // Its port is free once it has ended.
    while server.line().await.is_some() {}
    let server = ControlPlane::start(data, &[]).await;
    let mut connection = server.connect(&ca).await.unwrap();
    let (_, list) = ask(&mut connection, "GET", &of(""), &user, &Value::Null).await;
    assert_eq!((&list[0]["tunnel_id"], &list[0]["tunnel_port"]), (&json!("db"), &json!(port)));
    TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap();
}
