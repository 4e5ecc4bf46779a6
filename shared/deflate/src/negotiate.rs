//! The header field `Sec-WebSocket-Extensions` (RFC 6455, section 9.1; RFC 7692, section 7.1).

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};

/// What a client asks for.
pub const OFFER: HeaderValue =
    HeaderValue::from_static("permessage-deflate; client_no_context_takeover; server_no_context_takeover");

const NAME: &str = "permessage-deflate";
const CLIENT_FORGETS: &str = "client_no_context_takeover";
const SERVER_FORGETS: &str = "server_no_context_takeover";
const CLIENT_WINDOW: &str = "client_max_window_bits";
const SERVER_WINDOW: &str = "server_max_window_bits";

/// An answer that a client must not go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {answer:?}")]
pub struct BadAnswer {
    pub answer: String,
    pub why: &'static str,
}

/// The server's answer to the first offer in a request that it can keep to. None: there is none, the WebSocket is opened
/// without.
#[must_use]
pub fn accept(request: &HeaderMap) -> Option<HeaderValue> {
    let mut offers = Vec::new();
    for line in request.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        offers.extend(read(line.to_str().ok()?)?);
    }
    offers.iter().find_map(Extension::answer)
}

/// Whether the server's answer to [`OFFER`], or to none, says that messages are compressed.
///
/// # Errors
/// When it names what was not offered, or does not keep to the offer.
pub fn accepted(response: &HeaderMap, offered: bool) -> Result<bool, BadAnswer> {
    let lines: Vec<_> = response.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().collect();
    if lines.is_empty() {
        return Ok(false);
    }
    let answer = lines.iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>().join(", ");
    let bad = |why| BadAnswer { answer: answer.clone(), why };
    let extensions = read(&answer).ok_or_else(|| bad("it cannot be read"))?;
    let extension = match extensions.as_slice() {
        [] => return Ok(false),
        _ if !offered => return Err(bad("no extension was offered")),
        [extension] if extension.is_known() => extension,
        _ => return Err(bad("permessage-deflate alone was offered")),
    };
    if extension.says_twice() {
        return Err(bad("a parameter is in it twice"));
    }
    for (name, value) in &extension.parameters {
        match (name.as_str(), value) {
            (CLIENT_FORGETS | SERVER_FORGETS, None) => {}
            // What was packed with a smaller window is unpacked with a larger one.
            (SERVER_WINDOW, Some(bits)) if are_bits(bits) => {}
            (CLIENT_WINDOW, _) => return Err(bad("client_max_window_bits was not offered")),
            _ => return Err(bad("it has a parameter that there is not")),
        }
    }
    // A server that takes the offer has to.
    if !extension.has(SERVER_FORGETS) {
        return Err(bad("it lacks server_no_context_takeover, which was asked for"));
    }
    Ok(true)
}

#[derive(Debug, PartialEq, Eq)]
struct Extension {
    name: String,
    parameters: Vec<(String, Option<String>)>,
}

impl Extension {
    fn is_known(&self) -> bool {
        self.name.eq_ignore_ascii_case(NAME)
    }

    fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(name, _)| name == parameter)
    }

    fn says_twice(&self) -> bool {
        let mut names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
    }

    fn answer(&self) -> Option<HeaderValue> {
        if !self.is_known() || self.says_twice() {
            return None;
        }
        for (name, value) in &self.parameters {
            match (name.as_str(), value.as_deref()) {
                (CLIENT_FORGETS | SERVER_FORGETS | CLIENT_WINDOW, None) => {}
                (CLIENT_WINDOW, Some(bits)) if are_bits(bits) => {}
                // The compressor has this window and no other.
                (SERVER_WINDOW, Some("15")) => {}
                _ => return None,
            }
        }
        if !self.has(SERVER_WINDOW) {
            return Some(OFFER);
        }
        // It has to be repeated.
        let answer = format!("{NAME}; {CLIENT_FORGETS}; {SERVER_FORGETS}; {SERVER_WINDOW}=15");
        HeaderValue::try_from(answer).ok()
    }
}

fn are_bits(value: &str) -> bool {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// None: it is not what the field may be.
fn read(field: &str) -> Option<Vec<Extension>> {
    let mut rest = Rest(field);
    let mut extensions = Vec::new();
    loop {
        while rest.eat(',') {}
        if rest.0.is_empty() {
            return Some(extensions);
        }
        let mut extension = Extension { name: rest.token()?, parameters: Vec::new() };
        while rest.eat(';') {
            let name = rest.token()?.to_ascii_lowercase();
            let value = if rest.eat('=') { Some(rest.value()?) } else { None };
            extension.parameters.push((name, value));
        }
        extensions.push(extension);
        if !rest.0.is_empty() && !rest.0.starts_with(',') {
            return None;
        }
    }
}

struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, wanted: char) -> bool {
        self.skip_space();
        let Some(rest) = self.0.strip_prefix(wanted) else { return false };
        self.0 = rest;
        self.skip_space();
        true
    }

    fn token(&mut self) -> Option<String> {
        let end = self.0.find(|c| !is_of_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        self.skip_space();
        (!token.is_empty()).then(|| token.to_owned())
    }

    /// Quoted or not, it is a token.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token() };
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(chars.next()?),
                c => value.push(c),
            }
        }
        self.0 = chars.as_str();
        self.skip_space();
        (!value.is_empty() && value.chars().all(is_of_token)).then_some(value)
    }
}

fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests;
