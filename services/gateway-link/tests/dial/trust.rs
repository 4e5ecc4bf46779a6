use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::peers::{Authority, ControlPlane, Files};
use crate::{Tls, dial, failure, settings, trusting};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use gateway_link::{Dialer, PipeOps};

#[tokio::test]
async fn a_replaced_authority_counts_from_the_next_connection_on_and_old_and_new_are_trusted_together() {
    let files = Files::new();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (before, after) = (old.sign("localhost"), new.sign("localhost"));
    let control_plane = ControlPlane::start(Some(&before)).await;
    let tls = Tls { ca_file: Some(files.write("ca.pem", &old.pem())), ..Tls::default() };
    let dialer = trusting(tls, &control_plane);
    let first = dial(&dialer).await.unwrap();

    control_plane.show(&after, None);
    let error = failure(&dialer).await;
    assert!(error.contains("localhost:") && error.contains("UnknownIssuer"), "{error}");
    files.write("ca.pem", &format!("{}{}", old.pem(), new.pem()));
    dial(&dialer).await.unwrap();
    control_plane.show(&before, None);
    dial(&dialer).await.unwrap();
    files.write("ca.pem", &new.pem());
    assert!(failure(&dialer).await.contains("UnknownIssuer"), "a session of before was resumed");
    drop(first);
}

#[tokio::test]
async fn a_file_that_breaks_later_changes_nothing_and_one_that_is_broken_at_the_start_is_an_error() {
    let files = Files::new();
    let authority = Authority::new("authority");
    let (server, client, other) = (authority.sign("localhost"), authority.sign("agent"), authority.sign("agent"));
    let control_plane = ControlPlane::start(Some(&server)).await;
    control_plane.show(&server, Some(&authority));
    let tls = Tls {
        ca_file: Some(files.write("ca.pem", &authority.pem())),
        cert_file: Some(files.write("tls.crt", &client.pem)),
        key_file: Some(files.write("tls.key", &client.key.serialize_pem())),
        ..Tls::default()
    };
    let dialer = trusting(tls.clone(), &control_plane);
    let broken = [
        ("ca.pem", "no certificate", "no certificate in"),
        ("tls.crt", "no certificate", "no certificate in"),
        ("tls.key", "no key", "cannot read key file"),
        ("tls.key", &other.key.serialize_pem(), "cannot be used together"),
    ];
    for (name, content, said) in broken {
        let path = files.write(name, content);
        dial(&dialer).await.unwrap();
        assert_eq!(control_plane.seen(), [Some(client.chain[0].clone())], "{name}");
        let options = PipeOps { tls: tls.clone(), ..settings("https", &control_plane) };
        let error = runtime::error_text(&Dialer::new(&options).unwrap_err());
        assert!(error.contains(said) && error.contains(path.to_str().unwrap()), "{error}");
        for (name, content) in
            [("ca.pem", authority.pem()), ("tls.crt", client.pem.clone()), ("tls.key", client.key.serialize_pem())]
        {
            files.write(name, &content);
        }
    }
}

#[tokio::test]
async fn a_file_that_takes_its_time_keeps_nothing_else_waiting() {
    let files = Files::new();
    let authority = Authority::new("authority");
    let control_plane = ControlPlane::start(Some(&authority.sign("localhost"))).await;
    let path = files.write("ca.pem", &authority.pem());
    let dialer = trusting(Tls { ca_file: Some(path.clone()), ..Tls::default() }, &control_plane);
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let ticks = Arc::new(AtomicUsize::new(0));
    let disk = std::thread::spawn({
        let ticks = Arc::clone(&ticks);
        move || {
            // Opens as soon as somebody reads.
            let mut file = File::options().write(true).open(path).unwrap();
            let (before, limit) = (ticks.load(SeqCst), Instant::now() + Duration::from_secs(5));
            let moves = || ticks.load(SeqCst) > before + 1;
            while !moves() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(1));
            }
            file.write_all(authority.pem().as_bytes()).unwrap();
            moves()
        }
    });
    let ticking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticks.fetch_add(1, SeqCst);
        }
    };
    tokio::select! {
        dialed = dial(&dialer) => drop(dialed.unwrap()),
        () = ticking => {}
    }
    assert!(disk.join().unwrap(), "all waited for the file");
}

#[tokio::test]
async fn the_client_certificate_is_shown_and_a_new_one_from_the_next_connection_on() {
    let files = Files::new();
    let (servers, agents) = (Authority::new("servers"), Authority::new("agents"));
    let (server, first, second) = (servers.sign("localhost"), agents.sign("agent"), agents.sign("agent"));
    let control_plane = ControlPlane::start(Some(&server)).await;
    control_plane.show(&server, Some(&agents));
    let bare = Tls { ca_file: Some(files.write("ca.pem", &servers.pem())), ..Tls::default() };
    dial(&trusting(bare.clone(), &control_plane)).await.unwrap();
    assert_eq!(control_plane.seen(), [None]);

    let mut tls = bare.clone();
    tls.cert_file = Some(files.write("tls.crt", &first.pem));
    tls.key_file = Some(files.write("tls.key", &first.key.serialize_pem()));
    let dialer = trusting(tls, &control_plane);
    dial(&dialer).await.unwrap();
    assert_eq!(control_plane.seen(), [Some(first.chain[0].clone())]);
    files.write("tls.crt", &second.pem);
    files.write("tls.key", &second.key.serialize_pem());
    dial(&dialer).await.unwrap();
    assert_eq!(control_plane.seen(), [Some(second.chain[0].clone())]);

    let half = Tls { cert_file: Some(files.write("tls.crt", &first.pem)), ..bare };
    let error = Dialer::new(&PipeOps { tls: half, ..settings("https", &control_plane) }).unwrap_err().to_string();
    assert!(error.contains("pipeops.tls.cert_file and pipeops.tls.key_file go together"), "{error}");
}

#[tokio::test]
async fn one_pinned_key_of_the_verified_chain_is_enough_and_none_is_refused() {
    let files = Files::new();
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let mut server = authority.sign("localhost");
    let control_plane = ControlPlane::start(Some(&server)).await;
    let ca_file = Some(files.write("ca.pem", &authority.pem()));
    let pinning = |pins: &[_]| Tls { pins: pins.to_vec(), ca_file: ca_file.clone(), ..Tls::default() };

    let error = failure(&trusting(pinning(&[stranger.pin()]), &control_plane)).await;
    let shown = format!("sha256/{}", BASE64_STANDARD.encode(Sha256::digest(server.key_info())));
    assert!(error.contains("none of the keys in pipeops.tls.pins") && error.contains(&shown), "{error}");

    dial(&trusting(pinning(&[shown.parse().unwrap()]), &control_plane)).await.unwrap();
    dial(&trusting(pinning(&[stranger.pin(), authority.pin()]), &control_plane)).await.unwrap();
    // A key that is kept over a renewal.
    let renewed = authority.sign("localhost");
    control_plane.show(&renewed, None);
    dial(&trusting(pinning(&[server.pin(), renewed.pin()]), &control_plane)).await.unwrap();
    assert!(failure(&trusting(pinning(&[server.pin()]), &control_plane)).await.contains("pipeops.tls.pins"));

    // A certificate that is only sent along, as anybody can, is not part of the chain.
    server.chain.push(stranger.der());
    control_plane.show(&server, None);
    assert!(failure(&trusting(pinning(&[stranger.pin()]), &control_plane)).await.contains("pipeops.tls.pins"));
    dial(&trusting(pinning(&[authority.pin()]), &control_plane)).await.unwrap();
    // Nor does a pin make a certificate trusted that is not.
    let unknown = Tls { ca_file: None, ..pinning(&[server.pin()]) };
    assert!(failure(&trusting(unknown, &control_plane)).await.contains("UnknownIssuer"));
}

#[tokio::test]
async fn pins_of_the_servers_own_key_count_where_nothing_else_is_verified() {
    let _files = Files::new();
    let authority = Authority::new("authority");
    let mut server = authority.sign("another.name");
    server.chain.push(authority.der());
    let control_plane = ControlPlane::start(Some(&server)).await;
    let insecure = |pins: &[_]| Tls { pins: pins.to_vec(), insecure_skip_verify: true, ..Tls::default() };
    dial(&trusting(insecure(&[]), &control_plane)).await.unwrap();
    dial(&trusting(insecure(&[server.pin()]), &control_plane)).await.unwrap();
    let error = failure(&trusting(insecure(&[authority.pin()]), &control_plane)).await;
    assert!(error.contains("pipeops.tls.pins") && error.contains(&server.pin().to_string()), "{error}");
}
