//! What reads the bytes of peers.

mod config;
mod frames;
mod header;
mod link;
mod messages;

use crate::mutate::Grain;
use clap::ValueEnum;

/// One reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Control messages of an agent, and what they hold
    AgentMessage,
    /// Control messages of a control plane, and what they hold
    ControlMessage,
    /// The head of a stream, whole and in pieces
    StreamHeader,
    /// A link's other end: yamux, and the WebSocket below it
    Link,
    /// Compressed messages below a link's WebSocket, whole and in pieces
    CompressedFrames,
    /// What a cluster is to be configured as
    ClusterConfig,
}

/// What became of an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it has to be; in words that are the same for inputs of one kind.
    Good(String),
    Bad(String),
}

/// A target at work.
pub(crate) enum Checker {
    /// It keeps nothing from one input to the next.
    Plain(fn(&[u8]) -> Result<String, String>),
    Link(Box<link::Bench>),
}

impl Target {
    /// As on the command line, and its folder in the corpus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentMessage => "agent-message",
            Self::ControlMessage => "control-message",
            Self::StreamHeader => "stream-header",
            Self::Link => "link",
            Self::CompressedFrames => "compressed-frames",
            Self::ClusterConfig => "cluster-config",
        }
    }

    pub(crate) fn grain(self) -> Grain {
        match self {
            Self::AgentMessage | Self::ControlMessage => Grain::Json(&messages::WORDS),
            Self::ClusterConfig => Grain::Json(&config::WORDS),
            Self::StreamHeader => Grain::Lengths,
            Self::CompressedFrames => Grain::Messages,
            Self::Link => Grain::Frames,
        }
    }
}

impl Checker {
    pub(crate) fn new(target: Target) -> Self {
        match target {
            Target::AgentMessage => Self::Plain(messages::agent),
            Target::ControlMessage => Self::Plain(messages::control),
            Target::StreamHeader => Self::Plain(header::check),
            Target::ClusterConfig => Self::Plain(config::check),
            Target::CompressedFrames => Self::Plain(frames::check),
            Target::Link => Self::Link(Box::new(link::Bench::new())),
        }
    }

    /// After a panic: what that has gone through is of no more use.
    pub(crate) fn renew(&mut self) {
        if let Self::Link(bench) = self {
            **bench = link::Bench::new();
        }
    }

    pub(crate) fn check(&mut self, input: &[u8]) -> Verdict {
        let outcome = match self {
            Self::Plain(check) => check(input),
            Self::Link(bench) => bench.check(input),
        };
        match outcome {
            Ok(outcome) => Verdict::Good(outcome),
            Err(reason) => Verdict::Bad(reason),
        }
    }
}

/// What kind of an error it is: its words up to what differs from input to input, which is quoted or a figure.
pub(crate) fn kind_of(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let words = text.split(['"', '`']).next().unwrap_or_default();
    words.chars().filter(|c| !c.is_ascii_digit()).take(80).collect()
}
