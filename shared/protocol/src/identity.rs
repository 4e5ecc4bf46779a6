//! Who a proxied request is made for, as headers between our own hops.
//!
//! The control plane writes them after it has stripped whatever the client sent under these names; the executor reads
//! them and impersonates. Values are percent-encoded UTF-8, so that any user name that an identity provider may give
//! fits into a header line.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The user's name, exactly once.
pub const USER: HeaderName = HeaderName::from_static("x-pipeops-user");

/// One group of the user; repeated.
pub const GROUP: HeaderName = HeaderName::from_static("x-pipeops-group");

/// The id under which this request appears in the audit records of both sides.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-pipeops-request-id");

/// In the agent's answer where it speaks for a Service that gave none: the body says why, as text or as a `Status`.
pub const NO_ANSWER: HeaderName = HeaderName::from_static("x-pipeops-no-answer");

/// Longest name of a user or group, in bytes after decoding.
pub const MAX_NAME: usize = 1024;

/// Most groups of one user: so many that a request with all of them, the longest names and the client's own headers still
/// fits what our hops take as the head of a message.
pub const MAX_GROUPS: usize = 64;

const OURS: &str = "x-pipeops-";
const IMPERSONATE: &str = "impersonate-";

/// A user as Kubernetes knows one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// Why the headers do not name a user. A request with such headers must be refused, never run as somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the request names no user (header x-pipeops-user is absent)")]
    Missing,
    #[error("the request names more than one user (header x-pipeops-user is repeated)")]
    Repeated,
    #[error("header {header} is not percent-encoded UTF-8")]
    Encoding { header: HeaderName },
    #[error("header {header} is empty")]
    Empty { header: HeaderName },
    /// The API server trims header values: such a name would become another one there.
    #[error("header {header} holds a name with a control character, or with white space at its beginning or end")]
    Spacing { header: HeaderName },
    #[error("header {header} is longer than {MAX_NAME} bytes")]
    TooLong { header: HeaderName },
    #[error("the request names more than {MAX_GROUPS} groups")]
    TooManyGroups,
}

impl User {
    /// Writes the user into `headers`, in place of any user that is there.
    ///
    /// One allocation per value; names of plain ASCII are copied as they are.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(USER, encode(&self.name));
        headers.remove(GROUP);
        for group in &self.groups {
            headers.append(GROUP, encode(group));
        }
    }

    /// Reads the user from `headers`.
    ///
    /// # Errors
    /// When there is no user or more than one, or a value is not what [`User::write_headers`] writes.
    pub fn read_headers(headers: &HeaderMap) -> Result<Self, IdentityError> {
        let mut users = headers.get_all(USER).iter();
        let name = users.next().ok_or(IdentityError::Missing)?;
        if users.next().is_some() {
            return Err(IdentityError::Repeated);
        }
        let name = decode(&USER, name)?;
        let mut groups = Vec::new();
        for group in headers.get_all(GROUP) {
            if groups.len() == MAX_GROUPS {
                return Err(IdentityError::TooManyGroups);
            }
            groups.push(decode(&GROUP, group)?);
        }
        Ok(Self { name, groups })
    }
}

/// Removes every header by which a client could claim an identity: all of `x-pipeops-*` and `impersonate-*`.
///
/// Allocates only when there is something to remove.
pub fn strip(headers: &mut HeaderMap) {
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| is_identity(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

/// Removes the headers by which our own hops name a user, all of `x-pipeops-*`, and no others: what else is claimed in the
/// request is for whoever judges its own credentials.
pub fn strip_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Whether `name` is one of those that [`strip`] removes.
pub fn is_identity(name: &HeaderName) -> bool {
    // A HeaderName is always lower case.
    name.as_str().starts_with(OURS) || name.as_str().starts_with(IMPERSONATE)
}

/// Whether `name` can be a user or a group: not empty, not too long, and the same after every hop.
pub fn is_acceptable(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.trim() == name && !name.contains(char::is_control)
}

/// Whether `byte` stands for itself. A comma does not: an intermediary may join repeated headers with one.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%' && byte != b','
}

/// `text` as a header value: visible ASCII stands for itself, everything else is percent-encoded UTF-8.
pub fn encode(text: &str) -> HeaderValue {
    let encoded: Cow<'_, str> = if text.bytes().all(is_plain) {
        Cow::Borrowed(text)
    } else {
        let mut out = String::with_capacity(text.len() + 16);
        for byte in text.bytes() {
            if is_plain(byte) {
                out.push(char::from(byte));
            } else {
                let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0').to_ascii_uppercase();
                out.extend(['%', digit(byte >> 4), digit(byte & 0x0f)]);
            }
        }
        Cow::Owned(out)
    };
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn decode(header: &HeaderName, value: &HeaderValue) -> Result<String, IdentityError> {
    let raw = value.as_bytes();
    if raw.is_empty() {
        return Err(IdentityError::Empty { header: header.clone() });
    }
    if raw.len() > MAX_NAME * 3 {
        return Err(IdentityError::TooLong { header: header.clone() });
    }
    let invalid = || IdentityError::Encoding { header: header.clone() };
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|d| char::from(*d).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                match (digit(), digit()) {
                    (Some(high), Some(low)) => out.push(high << 4 | low),
                    _ => return Err(invalid()),
                }
            }
            _ if is_plain(byte) => out.push(byte),
            _ => return Err(invalid()),
        }
    }
    if out.len() > MAX_NAME {
        return Err(IdentityError::TooLong { header: header.clone() });
    }
    let name = String::from_utf8(out).map_err(|_| invalid())?;
    if is_acceptable(&name) { Ok(name) } else { Err(IdentityError::Spacing { header: header.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect() }
    }

    #[test]
    fn ordinary_names_stay_readable() {
        let mut headers = HeaderMap::new();
        user("system:serviceaccount:ns:name", &["oidc:dev/ops@example.com"]).write_headers(&mut headers);
        assert_eq!(headers[USER], "system:serviceaccount:ns:name");
        assert_eq!(headers[GROUP], "oidc:dev/ops@example.com");
        user("Zoë, 100%", &[]).write_headers(&mut headers);
        assert_eq!(headers[USER], "Zo%C3%AB%2C%20100%25");
        assert!(!headers.contains_key(GROUP), "groups of the previous user must not stay");
    }

    #[test]
    fn a_request_without_exactly_one_valid_user_is_refused() {
        let read = |pairs: &[(&HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            User::read_headers(&headers)
        };
        assert_eq!(read(&[]), Err(IdentityError::Missing));
        assert_eq!(read(&[(&USER, "a"), (&USER, "b")]), Err(IdentityError::Repeated));
        assert_eq!(read(&[(&USER, "")]), Err(IdentityError::Empty { header: USER }));
        for bad in ["%", "%4", "%zz", "a b", "a,b", "%ff", "%C3"] {
            assert_eq!(read(&[(&USER, bad)]), Err(IdentityError::Encoding { header: USER }), "{bad}");
        }
        assert_eq!(read(&[(&USER, "a"), (&GROUP, "%")]), Err(IdentityError::Encoding { header: GROUP }));
        for trimmed in ["%20system:masters", "system:masters%09", "%20", "a%0Ab", "%C2%A0a"] {
            assert_eq!(
                read(&[(&USER, "a"), (&GROUP, trimmed)]),
                Err(IdentityError::Spacing { header: GROUP }),
                "{trimmed}"
            );
        }
        assert_eq!(read(&[(&USER, &"a".repeat(1025))]), Err(IdentityError::TooLong { header: USER }));
        assert_eq!(read(&[(&USER, "a"), (&GROUP, "g"), (&GROUP, "h")]), Ok(user("a", &["g", "h"])));
        let (user_header, group_header) = (USER, GROUP);
        let groups = std::iter::repeat_n((&group_header, "g"), 257);
        let many: Vec<_> = std::iter::once((&user_header, "a")).chain(groups).collect();
        assert_eq!(read(&many), Err(IdentityError::TooManyGroups));
    }

    #[test]
    fn no_claimed_identity_survives_stripping() {
        let mut headers = HeaderMap::new();
        for name in [
            "X-PipeOps-User",
            "x-pipeops-group",
            "x-pipeops-anything",
            "Impersonate-User",
            "Impersonate-Extra-a",
            "impersonate-uid",
        ] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "root".parse().unwrap());
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "root".parse().unwrap());
        }
        headers.append("accept", "*/*".parse().unwrap());
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    /// Of any characters but controls, without white space around it.
    fn any_name() -> impl Strategy<Value = String> {
        r"\PC{1,60}".prop_map(|text| if text.trim().is_empty() { "x".into() } else { text.trim().to_owned() })
    }

    proptest! {
        #[test]
        fn every_user_is_read_back(name in any_name(), groups in prop::collection::vec(any_name(), 0..6)) {
            let user = User { name, groups };
            let mut headers = HeaderMap::new();
            user.write_headers(&mut headers);
            prop_assert!(headers.values().all(|v| v.as_bytes().iter().all(u8::is_ascii_graphic)));
            prop_assert_eq!(User::read_headers(&headers), Ok(user));
        }

        #[test]
        fn no_header_value_makes_reading_panic(value in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(USER, value);
                if let Ok(user) = User::read_headers(&headers) {
                    prop_assert!(!user.name.is_empty());
                }
            }
        }
    }
}
