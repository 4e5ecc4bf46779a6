//! What an older agent makes of the channels of a session, and how they are told apart again.
//!
//! Such an agent takes the channel's byte from what comes on channels 0 to 3, and sends the rest as text: output, errors
//! and the last word of the session look alike. Here text is output again, on channel 1, unless it is a `Status` and the
//! last that comes: that belongs on channel 3. What comes with its channel's byte stays as it is.

use bytes::Bytes;
use protocol::Status;
use protocol::message::proxied::Opcode;
use serde::Deserialize;

const STDOUT: u8 = 1;
const ERROR: u8 = 3;
/// A `Status` is no longer.
const LONGEST_STATUS: usize = 64 * 1024;

/// The subprotocols that survive such an agent, whose name says nothing of channels for the last.
const CHANNELS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How the messages of one session are to be read.
#[derive(Debug)]
pub enum Channels {
    /// As they are.
    None,
    Merged {
        /// The session ends with a `Status`.
        with_status: bool,
        /// A `Status`, if it should be the last.
        kept: Option<Bytes>,
        /// The last word was said.
        concluded: bool,
    },
}

/// What is agreed with the client and asked of the API server.
#[derive(Debug, PartialEq, Eq)]
pub struct Subprotocol {
    /// For the client, which may have offered none.
    pub answer: Option<&'static str>,
    pub asked: &'static str,
}

impl Subprotocol {
    /// The first of what is offered that can be carried. None: none of it can.
    pub fn choose<'a>(mut offered: impl Iterator<Item = &'a str>, path: &str) -> Option<Self> {
        let mut any = false;
        let known = offered.find_map(|name| {
            any = true;
            CHANNELS.into_iter().chain([TUNNEL]).find(|known| *known == name)
        });
        if let Some(known) = known {
            return Some(Self { answer: Some(known), asked: known });
        }
        if any {
            return None;
        }
        // The API server speaks the oldest with who names none; the agent would name a newer one itself.
        let last = path.rsplit('/').next().unwrap_or_default();
        let asked = if matches!(last, "exec" | "attach" | "portforward") { "channel.k8s.io" } else { "" };
        Some(Self { answer: None, asked })
    }
}

impl Channels {
    pub fn of(subprotocol: &Subprotocol) -> Self {
        if !CHANNELS.contains(&subprotocol.asked) {
            return Self::None;
        }
        let with_status = subprotocol.asked.starts_with("v5.") || subprotocol.asked.starts_with("v4.");
        Self::Merged { with_status, kept: None, concluded: false }
    }

    /// A message of the agent, as those that the client is to get now.
    pub fn take(&mut self, opcode: Opcode, bytes: Bytes) -> [Option<(Opcode, Bytes)>; 2] {
        let Self::Merged { with_status, kept, concluded } = self else { return [None, Some((opcode, bytes))] };
        if !matches!(opcode, Opcode::Text | Opcode::Binary) {
            return [None, Some((opcode, bytes))];
        }
        let before = kept.take().map(|kept| on(STDOUT, &kept));
        if opcode == Opcode::Binary {
            *concluded |= *with_status && bytes.split_first().is_some_and(|(c, rest)| *c == ERROR && is_status(rest));
            return [before, Some((opcode, bytes))];
        }
        if *with_status && is_status(&bytes) {
            *kept = Some(bytes);
            return [before, None];
        }
        [before, Some(on(STDOUT, &bytes))]
    }

    /// No more comes: what the client is to get yet.
    pub fn conclude(&mut self) -> Option<(Opcode, Bytes)> {
        let Self::Merged { kept, concluded, .. } = self else { return None };
        let status = kept.take()?;
        *concluded = true;
        Some(on(ERROR, &status))
    }

    /// What the client is to get when the session did not come about: its last word.
    pub fn fail(&mut self, why: &str) -> Option<(Opcode, Bytes)> {
        let Self::Merged { with_status, concluded, .. } = self else { return None };
        if std::mem::replace(concluded, true) {
            return None;
        }
        let word = if *with_status { Status::bad_gateway(why).to_response(false).into_body() } else { why.into() };
        Some(on(ERROR, &word))
    }

    /// Whether the end is one that the client understands.
    pub fn is_concluded(&self) -> bool {
        matches!(self, Self::Merged { concluded: true, .. })
    }
}

fn on(channel: u8, bytes: &[u8]) -> (Opcode, Bytes) {
    (Opcode::Binary, [&[channel], bytes].concat().into())
}

fn is_status(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind<'a> {
        kind: &'a str,
        api_version: &'a str,
        status: &'a str,
    }
    bytes.first() == Some(&b'{')
        && bytes.len() <= LONGEST_STATUS
        && serde_json::from_slice::<Kind<'_>>(bytes).is_ok_and(|object| {
            object.kind == "Status" && object.api_version == "v1" && matches!(object.status, "Success" | "Failure")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"metadata":{},"status":"Success","kind":"Status","apiVersion":"v1"}"#;

    fn merged(name: &'static str) -> Channels {
        Channels::of(&Subprotocol { answer: Some(name), asked: name })
    }

    fn take(channels: &mut Channels, opcode: Opcode, bytes: &'static str) -> Vec<String> {
        let given = channels.take(opcode, Bytes::from_static(bytes.as_bytes()));
        given.into_iter().flatten().map(|(code, bytes)| format!("{code:?} {}", bytes.escape_ascii())).collect()
    }

    #[test]
    fn the_first_that_can_be_carried_is_chosen() {
        let choose = |offered: &str, path: &str| {
            Subprotocol::choose(offered.split(',').map(str::trim).filter(|name| !name.is_empty()), path)
        };
        let both = |name| Some(Subprotocol { answer: Some(name), asked: name });
        let exec = "/api/v1/namespaces/a/pods/b/exec";
        assert_eq!(choose("v5.channel.k8s.io, v4.channel.k8s.io", exec), both("v5.channel.k8s.io"));
        assert_eq!(choose("v4.base64.channel.k8s.io, v4.channel.k8s.io", exec), both("v4.channel.k8s.io"));
        let secret = "base64url.bearer.authorization.k8s.io.c2VjcmV0, channel.k8s.io";
        assert_eq!(choose(secret, exec), both("channel.k8s.io"), "a token is no subprotocol to be passed on");
        assert_eq!(choose(TUNNEL, "/api/v1/namespaces/a/pods/b/portforward"), both(TUNNEL));
        assert_eq!(choose("v4.base64.channel.k8s.io", exec), None);
        assert_eq!(choose("", exec), Some(Subprotocol { answer: None, asked: "channel.k8s.io" }));
        assert_eq!(choose("", "/api/v1/pods"), Some(Subprotocol { answer: None, asked: "" }));
    }

    #[test]
    fn text_is_output_and_the_last_status_is_the_end() {
        for name in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
            let mut channels = merged(name);
            assert_eq!(take(&mut channels, Opcode::Text, "a"), ["Binary \\x01a"]);
            assert_eq!(take(&mut channels, Opcode::Binary, "\u{1}b"), ["Binary \\x01b"]);
            // A program may print one.
            assert!(take(&mut channels, Opcode::Text, STATUS).is_empty());
            assert_eq!(take(&mut channels, Opcode::Text, "c")[1], "Binary \\x01c");
            assert!(take(&mut channels, Opcode::Text, STATUS).is_empty() && !channels.is_concluded());
            let (opcode, last) = channels.conclude().unwrap();
            assert_eq!((opcode, last), (Opcode::Binary, [b"\x03", STATUS.as_bytes()].concat().into()));
            assert!(channels.is_concluded() && channels.conclude().is_none() && channels.fail("why").is_none());
        }
        let mut channels = merged("v4.channel.k8s.io");
        take(
            &mut channels,
            Opcode::Binary,
            concat!("\u{3}", r#"{"kind":"Status","apiVersion":"v1","status":"Failure"}"#),
        );
        assert!(channels.is_concluded(), "an agent that leaves the channels alone");
    }

    #[test]
    fn what_has_no_channels_stays_as_it_is() {
        for name in [TUNNEL, ""] {
            let mut channels = Channels::of(&Subprotocol { answer: None, asked: name });
            assert_eq!(take(&mut channels, Opcode::Text, STATUS).len(), 1);
            assert_eq!(take(&mut channels, Opcode::Binary, "a"), ["Binary a"]);
            assert!(channels.conclude().is_none() && channels.fail("why").is_none() && !channels.is_concluded());
        }
    }

    #[test]
    fn a_session_that_broke_says_why_in_the_words_of_its_protocol() {
        let (_, said) = merged("v5.channel.k8s.io").fail("no such pod").unwrap();
        let status: Status = serde_json::from_slice(&said[1..]).unwrap();
        assert_eq!((said[0], status.message.as_str(), status.status.as_str()), (ERROR, "no such pod", "Failure"));
        assert_eq!(merged("channel.k8s.io").fail("no such pod").unwrap().1, "\u{3}no such pod");
        // Before those of version 4 there is no Status: one that a program prints is output.
        assert_eq!(take(&mut merged("v3.channel.k8s.io"), Opcode::Text, STATUS).len(), 1);
    }
}
