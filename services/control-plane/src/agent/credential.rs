use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::auth::AgentToken;

/// A token that was not acknowledged is followed by another after this long.
const AGAIN: Duration = Duration::from_secs(30);

/// What a link's agent goes by: the token that it came with, then those that it was given.
#[derive(Debug)]
pub struct Credential {
    pub token: AgentToken,
    /// When the agent is to be given another.
    due: Instant,
    /// When the last that it has is over. None: it came with one that is for its registration.
    ends: Option<Instant>,
    /// Of the last that it was given, until it says that it keeps it.
    given: Option<Timestamp>,
}

impl Credential {
    pub fn new(token: AgentToken) -> Self {
        let ends = token.session.as_ref().map(|session| instant(session.expires));
        // At once: after a registration it is known again how long the agent may be away.
        Self { token, due: Instant::now(), ends, given: None }
    }

    /// Resolves when the agent is to be given a token. Never more often than it can take.
    pub async fn due(&self) {
        sleep_until(self.due).await;
    }

    /// It was given one that is good until then.
    pub fn given(&mut self, expires: Timestamp) {
        self.given = Some(expires);
        let left = instant(expires).saturating_duration_since(Instant::now());
        self.due = Instant::now() + AGAIN.min(left / 2);
    }

    /// It keeps it. False: it was given none.
    pub fn kept(&mut self) -> bool {
        let Some(expires) = self.given.take() else { return false };
        let ends = instant(expires);
        self.ends = Some(ends);
        self.due = Instant::now() + ends.saturating_duration_since(Instant::now()) / 2;
        true
    }

    /// Resolves when the agent has no token that is good.
    pub async fn ended(&self) {
        match self.ends {
            Some(ends) => sleep_until(ends).await,
            None => std::future::pending().await,
        }
    }
}

fn instant(at: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, NewToken};
    use std::sync::Arc;

    #[test]
    fn an_agent_is_given_its_next_token_when_half_of_the_last_is_over() {
        let from_now = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs_f64().round();
        let record = Arc::new(NewToken::generate(Grant::Agent { cluster: "prod".into() }).record);
        let mut credential = Credential::new(AgentToken { record, session: None });
        assert_eq!((from_now(credential.due), credential.ends), (0.0, None));
        assert!(!credential.kept(), "it was given none");
        credential.given(Timestamp::now() + Duration::from_secs(3600));
        assert_eq!((from_now(credential.due), credential.ends), (30.0, None), "it does not say that it keeps it");
        credential.given(Timestamp::now() + Duration::from_secs(3600));
        assert!(credential.kept());
        assert_eq!((from_now(credential.due), credential.ends.map(from_now)), (1800.0, Some(3600.0)));
    }
}
