//! One NATS connection that is kept: options, credentials, and its events as calls.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_nats::{AuthError, Client, ConnectOptions, Event, ServerAddr, ServerError};

use crate::{ConnectError, Options, Service, subjects};

/// Shortest and longest wait between attempts.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers none of two pings is given up.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Messages that may wait for the socket; writers wait when it is full.
const CLIENT_CAPACITY: usize = 512;
/// Messages that may wait for a task of ours. Bytes are bounded by credit and handlers by their number, so this is
/// only to be never reached.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// What a connection goes through. Called in order, from a task of the client; must not wait.
pub(crate) trait Events: Send + Sync {
    fn connected(&self);
    fn disconnected(&self, reason: &str);
    /// Still away, for this reason.
    fn failing(&self, reason: &str);
    /// The server refused a publish to this subject.
    fn denied(&self, subject: &str);
    /// Messages were lost because we did not take them.
    fn slow(&self);
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    /// As the server's monitoring shows it.
    name: &'static str,
    /// The client reads into buffers of half this size or more.
    read_buffer: u16,
}

pub(super) const RPC: Role = Role { name: "rpc", read_buffer: 8 * 1024 };
pub(super) const STREAMS: Role = Role { name: "io", read_buffer: u16::MAX };

/// Begins to connect and returns at once; from then on the client reconnects for ever. `events` does not own the
/// receiver unless `keep` does: a client must not keep alive what keeps it alive.
pub(super) async fn connect(
    options: &Options,
    service: Service,
    role: Role,
    events: Weak<dyn Events>,
    keep: Option<Arc<dyn Events>>,
) -> Result<Client, ConnectError> {
    let address = options.url.parse::<ServerAddr>().map_err(|source| {
        // It may hold a password, where none belongs.
        let shown = options.url.rsplit_once('@').map_or(&*options.url, |(_, host)| host);
        ConnectError::Url { url: shown.to_owned(), source }
    })?;
    if address.has_user_pass() || address.password().is_some() {
        return Err(ConnectError::Credentials);
    }
    if options.user.is_some() && options.password_file.is_none() {
        return Err(ConnectError::NoPassword);
    }
    let mut connect = match &options.password_file {
        Some(path) => {
            let read = {
                let path = path.clone();
                move || std::fs::read_to_string(&path).map(|text| text.trim_end().to_owned())
            };
            read().map_err(|source| ConnectError::File { what: "bus password file", path: path.clone(), source })?;
            let user = options.user.clone().unwrap_or_else(|| service.as_str().to_owned());
            // Read at each attempt (a few bytes of a local file): a rotated password needs no restart.
            ConnectOptions::with_auth_callback(move |_nonce| {
                let (user, password) = (user.clone(), read());
                async move {
                    let mut auth = async_nats::Auth::new();
                    auth.username = Some(user);
                    auth.password = Some(password.map_err(AuthError::new)?);
                    Ok(auth)
                }
            })
        }
        None => ConnectOptions::new(),
    };
    if let Some(path) = &options.ca_file {
        std::fs::metadata(path).map_err(|source| ConnectError::File {
            what: "bus CA file",
            path: path.clone(),
            source,
        })?;
        connect = connect.add_root_certificates(path.clone());
    }
    connect
        .name(format!("{service}/{}", role.name))
        .read_buffer_capacity(role.read_buffer)
        .custom_inbox_prefix(subjects::inbox(service))
        .no_echo()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ignore_discovered_servers()
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .client_capacity(CLIENT_CAPACITY)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .request_timeout(Some(crate::request::REQUEST_TIMEOUT))
        // Our subjects are literals or checked addresses.
        .skip_subject_validation(true)
        .reconnect_delay_callback(delay)
        .event_callback(move |event| {
            if let Some(events) = events.upgrade() {
                dispatch(&*events, event);
            }
            // Moved in so that it lives as long as the client does.
            let _ = &keep;
            async {}
        })
        .connect(address)
        .await
        .map_err(ConnectError::Client)
}

fn dispatch(events: &dyn Events, event: Event) {
    match event {
        Event::Connected => events.connected(),
        Event::Disconnected => events.disconnected("bus connection lost"),
        Event::Closed => events.disconnected("bus closed"),
        Event::SlowConsumer(_) => events.slow(),
        Event::ClientError(error) => events.failing(&error.to_string()),
        Event::ServerError(ServerError::Other(text)) => match denied_subject(&text) {
            Some(subject) => {
                tracing::error!(subject, "the bus denies publishing");
                events.denied(subject);
            }
            None => tracing::error!(error = %text, "bus server error"),
        },
        Event::ServerError(error) => events.failing(&error.to_string()),
        Event::LameDuckMode | Event::Draining => {}
    }
}

/// The subject of a `Permissions Violation for Publish to "…"`.
fn denied_subject(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("Permissions Violation for Publish to ")?;
    let subject = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
    subject.or(rest.split_whitespace().next())
}

/// 50 ms doubling to 1 s, with ±25 % so that replicas do not return in step.
fn delay(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(1) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings.min(8)).unwrap_or(8);
    let wait = RECONNECT.0.saturating_mul(1 << doublings).min(RECONNECT.1);
    wait.mul_f64(rand::random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_soon_and_never_waits_long() {
        for attempt in 0..100 {
            assert!(delay(attempt) <= Duration::from_millis(1250), "attempt {attempt}");
        }
        assert!(delay(1) >= Duration::from_millis(37) && delay(1) <= Duration::from_millis(63));
    }

    #[test]
    fn finds_the_subject_of_a_violation() {
        assert_eq!(denied_subject("Permissions Violation for Publish to \"a.b\""), Some("a.b"));
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"a.b\""), None);
    }
}
