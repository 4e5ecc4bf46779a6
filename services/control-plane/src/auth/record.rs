use http::HeaderMap;
use jiff::Timestamp;
use protocol::{AgentId, Secret, User};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::store::Record;

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Grant {
    /// An agent may register as this cluster.
    Agent { cluster: String },
    /// A user may reach clusters.
    User {
        #[serde(flatten)]
        user: User,
        /// The clusters this is limited to, by name; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clusters: Option<Vec<String>>,
    },
}

/// A token as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct TokenRecord {
    /// Names the token in lists and logs; also the first part of the token itself.
    pub id: String,
    pub created: Timestamp,
    pub grant: Grant,
    /// An agent's: who has registered with it, and is served by tokens of its own since.
    pub used: Option<Used>,
    hash: [u8; 32],
    /// A user's identity as it goes to the cluster, encoded once.
    identity: HeaderMap,
    revoked: CancellationToken,
}

/// A token is good for one registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub agent: AgentId,
    pub at: Timestamp,
}

/// A token that has just been made.
#[derive(Debug)]
pub struct NewToken {
    pub record: TokenRecord,
    pub secret: Secret,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    id: String,
    created: Timestamp,
    #[serde(flatten)]
    grant: Grant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
    /// SHA-256 of the secret part, hexadecimal. The secret has 256 random bits, so a slow hash would add nothing.
    sha256: String,
}

pub const PREFIX: &str = "pipeops_";
const ID_DIGITS: usize = 12;
const SECRET_BYTES: usize = 32;

/// `pipeops_<id>_<secret>`: a fixed beginning that secret scanners can look for, a public id of 12 hexadecimal digits, a
/// secret of 64. None: no token has this form.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let hex = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(id, ID_DIGITS) && hex(secret, 2 * SECRET_BYTES)).then_some((id, secret))
}

impl NewToken {
    pub fn generate(grant: Grant) -> Self {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        let secret = hex(&rand::random::<[u8; SECRET_BYTES]>());
        let token = Secret::new(format!("{PREFIX}{id}_{secret}"));
        let hash = Sha256::digest(secret.as_bytes()).into();
        let record = TokenRecord::new(id, Timestamp::now(), grant, None, hash);
        Self { record, secret: token }
    }
}

impl TokenRecord {
    fn new(id: String, created: Timestamp, grant: Grant, used: Option<Used>, hash: [u8; 32]) -> Self {
        let mut identity = HeaderMap::new();
        if let Grant::User { user, .. } = &grant {
            user.write_headers(&mut identity);
        }
        Self { id, created, grant, used, hash, identity, revoked: CancellationToken::new() }
    }

    /// Cancelled once the token is revoked, or is replaced by one of other rights: what was begun with it has to end.
    /// Waiting for it allocates nothing.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    /// What [`TokenRecord::matches`] compares with.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether it is the same token, good for the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.hash == other.hash && self.grant == other.grant
    }

    /// The same token as `before`, whose revocation is this one's too.
    pub fn in_place_of(self, before: &Self) -> Self {
        Self { revoked: before.revoked.clone(), ..self }
    }

    /// The same token, used by `agent` now.
    pub fn used_by(&self, agent: &AgentId) -> Self {
        Self { used: Some(Used { agent: agent.clone(), at: Timestamp::now() }), ..self.clone() }
    }

    /// Compares in constant time.
    pub fn matches(&self, secret: &str) -> bool {
        let given = Sha256::digest(secret.as_bytes());
        let difference = self.hash.iter().zip(given).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    /// The identity headers of a user's token.
    pub fn identity(&self) -> &HeaderMap {
        &self.identity
    }

    /// Whether the token's user may reach the cluster of that name at all.
    pub fn may_reach(&self, cluster: &str) -> bool {
        match &self.grant {
            Grant::User { clusters: Some(clusters), .. } => clusters.iter().any(|c| c == cluster),
            Grant::User { clusters: None, .. } => true,
            Grant::Agent { .. } => false,
        }
    }
}

impl Record for TokenRecord {
    fn name(&self) -> &str {
        &self.id
    }
}

impl TryFrom<Stored> for TokenRecord {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let hash = unhex(&stored.sha256).and_then(|bytes| bytes.try_into().ok());
        let hash = hash.ok_or("sha256 is not 64 hexadecimal digits")?;
        Ok(Self::new(stored.id, stored.created, stored.grant, stored.used, hash))
    }
}

impl From<TokenRecord> for Stored {
    fn from(record: TokenRecord) -> Self {
        let TokenRecord { id, created, grant, used, hash, .. } = record;
        Self { id, created, grant, used, sha256: hex(&hash) }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
