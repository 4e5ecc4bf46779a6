//! The instances that streams are open with.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use async_nats::Subject;

use crate::{Service, subjects::STREAM_IO};

/// Where one stream's frames go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The peer's number of the stream.
    pub(crate) id: u64,
    pub(crate) peer: Arc<Peer>,
}

/// One instance of a service.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `<service>.<instance>`.
    pub(crate) address: Box<str>,
    /// Where its frames go: one literal subject, which the server resolves once.
    pub(crate) subject: Subject,
    /// How often it has connected, as far as we know. Streams of an earlier time are lost.
    epoch: AtomicU32,
    heard: AtomicBool,
}

impl Peer {
    pub(super) fn new(address: &str, epoch: u32) -> Self {
        Self {
            address: address.into(),
            subject: data_subject(address).into(),
            epoch: AtomicU32::new(epoch),
            heard: AtomicBool::new(true),
        }
    }

    /// Something came from it.
    pub(crate) fn heard(&self) {
        if !self.heard.load(Relaxed) {
            self.heard.store(true, Relaxed);
        }
    }

    /// Whether something came since the last call.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Relaxed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    pub(super) fn set_epoch(&self, epoch: u32) {
        self.epoch.store(epoch, Relaxed);
    }
}

/// Where an instance's frames go.
fn data_subject(address: &str) -> String {
    format!("{STREAM_IO}.{address}.d")
}

/// What an instance subscribes: its frames, and what the server says about its opens and pings.
pub(super) fn subscription(address: &str) -> String {
    format!("{STREAM_IO}.{address}.>")
}

/// Reply subject of an open; only the server's "no responders" comes here.
pub(super) fn open_reply(address: &str, id: u64) -> String {
    format!("{STREAM_IO}.{address}.o.{id}")
}

/// Reply subject of a ping to `peer`; only the server's "no responders" comes here.
pub(super) fn ping_reply(address: &str, peer: &str) -> String {
    format!("{STREAM_IO}.{address}.p.{peer}")
}

/// Reply subject of what is sent to [`nobody`]; only the server's "no responders" comes here.
pub(super) fn round_trip_reply(address: &str, id: u64) -> String {
    format!("{STREAM_IO}.{address}.r.{id}")
}

/// A subject that we may publish to and no instance subscribes.
pub(super) fn nobody(peers: Service) -> String {
    format!("{STREAM_IO}.{peers}.nobody")
}

/// Whom a "no responders" is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent<'a> {
    Open(u64),
    Peer(&'a str),
    Nobody(u64),
}

pub(super) fn absent<'a>(address: &str, subject: &'a str) -> Option<Absent<'a>> {
    let rest = subject.strip_prefix(STREAM_IO)?.strip_prefix('.')?.strip_prefix(address)?.strip_prefix('.')?;
    match rest.split_once('.')? {
        ("o", id) => id.parse().ok().map(Absent::Open),
        ("r", id) => id.parse().ok().map(Absent::Nobody),
        ("p", peer) => Some(Absent::Peer(peer)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_its_reply_subjects() {
        let me = "gateway-link.abc";
        assert_eq!(absent(me, &open_reply(me, 7)), Some(Absent::Open(7)));
        assert_eq!(absent(me, &round_trip_reply(me, 8)), Some(Absent::Nobody(8)));
        assert_eq!(absent(me, &ping_reply(me, "proxy-executor.x1")), Some(Absent::Peer("proxy-executor.x1")));
        assert_eq!(absent(me, "pipeops.stream.io.gateway-link.abc.d"), None);
        assert_eq!(absent(me, "other"), None);
    }
}
