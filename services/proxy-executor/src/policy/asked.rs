//! What a request asks of the Kubernetes API, read from its method and path as the API server reads it (`RequestInfo` of
//! k8s.io/apiserver), but refusing what two readers could take for two things.

use std::borrow::Cow;

use http::{Method, Uri};

/// Roots below which there are resources.
const CORE: &str = "api";
const GROUPS: &str = "apis";
/// Subresources of a Namespace; anything else below its name is a resource in it.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Resource(Resource),
    /// Anything else the API server answers: discovery, health, metrics. The path is decoded and without a slash at its end.
    Path {
        verb: &'static str,
        path: String,
    },
}

/// An operation on objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; empty for a method that is none.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// Empty for what lies in none. That of a Namespace object is itself.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
}

/// Why a request is not one thing to everybody who reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("its path has an empty segment")]
    EmptySegment,
    #[error("its path has a segment . or ..")]
    DotSegment,
    #[error("its path has a % that does not begin an encoded character")]
    Encoding,
    #[error("its path has the encoded character {0:?} where a name is expected")]
    Character(char),
    #[error("its path is one of the API's old proxy or watch paths, and names no resource")]
    Legacy,
    #[error("its query says in several ways, or unreadably, whether to watch")]
    Watch,
}

impl Asked {
    pub fn read(method: &Method, uri: &Uri) -> Result<Self, Ambiguous> {
        let segments = segments(uri.path())?;
        let (head, rest) = match segments.split_first() {
            Some((root, rest)) if root == CORE && rest.len() >= 2 => (None, rest),
            Some((root, rest)) if root == GROUPS && rest.len() >= 3 => {
                let (group, rest) = rest.split_first().ok_or(Ambiguous::EmptySegment)?;
                (Some(group), rest)
            }
            _ => {
                let path = segments.iter().flat_map(|segment| ["/", segment]).collect();
                return Ok(Self::Path { verb: verb_of_path(method), path });
            }
        };
        let (version, parts) = rest.split_first().ok_or(Ambiguous::EmptySegment)?;
        let mut asked = Resource {
            verb: verb_of(method),
            group: head.map(ToString::to_string).unwrap_or_default(),
            version: version.to_string(),
            ..Resource::default()
        };
        asked.read_parts(parts)?;
        if asked.name.is_empty() {
            match asked.verb {
                "get" if watches(uri.query().unwrap_or_default())? => asked.verb = "watch",
                "get" => asked.verb = "list",
                "delete" => asked.verb = "deletecollection",
                _ => {}
            }
        }
        Ok(Self::Resource(asked))
    }
}

impl Resource {
    /// Reads what comes after the version.
    fn read_parts(&mut self, parts: &[Cow<'_, str>]) -> Result<(), Ambiguous> {
        let mut parts = parts;
        match parts.first().map(AsRef::as_ref) {
            Some("watch") if parts.len() >= 2 => {
                // However it is sent, what is served there is a watch or nothing.
                self.verb = if self.verb == "get" { "watch" } else { "" };
                parts = parts.get(1..).unwrap_or_default();
            }
            Some("watch" | "proxy") => return Err(Ambiguous::Legacy),
            _ => {}
        }
        if let Some((first, rest)) = parts.split_first()
            && first == "namespaces"
            && let Some((namespace, below)) = rest.split_first()
        {
            self.namespace = namespace.to_string();
            if below.first().is_some_and(|below| !OF_NAMESPACES.contains(&below.as_ref())) {
                parts = below;
            }
        }
        let mut texts = parts.iter().map(ToString::to_string);
        self.resource = texts.next().unwrap_or_default();
        self.name = texts.next().unwrap_or_default();
        self.subresource = texts.next().unwrap_or_default();
        Ok(())
    }

    /// `pods/exec`, or `pods`.
    pub fn kind(&self) -> String {
        let Self { resource, subresource, .. } = self;
        if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = |verb: &'static str| if verb.is_empty() { "an unknown operation" } else { verb };
        match self {
            Self::Path { verb, path } => write!(f, "{} of {path:?}", known(verb)),
            Self::Resource(asked) => {
                write!(f, "{} of {}", known(asked.verb), asked.kind())?;
                if !asked.group.is_empty() {
                    write!(f, ".{}", asked.group)?;
                }
                match asked.namespace.as_str() {
                    "" => f.write_str(" in no namespace or in all"),
                    namespace => write!(f, " in namespace {namespace:?}"),
                }
            }
        }
    }
}

/// The decoded segments of a path. Those that the API server takes for names are strict: whatever else is put into a
/// path, no reader takes them for others. What comes behind them, such as the path below `proxy`, only has no dots.
fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, Ambiguous> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut segments = Vec::new();
    if path.is_empty() {
        return Ok(segments);
    }
    // One slash at the end is none.
    for raw in path.strip_suffix('/').unwrap_or(path).split('/') {
        let segment = decode(raw)?;
        if segment.split(['/', '\\']).any(|part| part == "." || part == "..") {
            return Err(Ambiguous::DotSegment);
        }
        if !is_behind_names(&segments) {
            if segment.is_empty() {
                return Err(Ambiguous::EmptySegment);
            }
            let odd = |c: &char| matches!(c, '/' | '\\' | '%' | '?' | '#' | ';') || c.is_control();
            if let Some(character) = segment.chars().find(odd) {
                return Err(Ambiguous::Character(character));
            }
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Whether a subresource has been named: `root, [group,] version, [watch,] [namespaces, x,] resource, name, subresource`.
fn is_behind_names(before: &[Cow<'_, str>]) -> bool {
    let names = match before.first().map(AsRef::as_ref) {
        Some(CORE) => 2,
        Some(GROUPS) => 3,
        _ => return false,
    };
    let mut rest = before.get(names..).unwrap_or_default();
    if rest.first().is_some_and(|first| first == "watch") {
        rest = rest.get(1..).unwrap_or_default();
    }
    // One more than enough for a Namespace's own subresources, which have nothing below them.
    if rest.first().is_some_and(|first| first == "namespaces") {
        rest = rest.get(2..).unwrap_or_default();
    }
    rest.len() >= 3
}

fn decode(raw: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>().ok_or(Ambiguous::Encoding)?;
        let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low] = digits;
        let (high, low) = (value(high).ok_or(Ambiguous::Encoding)?, value(low).ok_or(Ambiguous::Encoding)?);
        bytes.push(high << 4 | low);
        rest = after;
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Ambiguous::Encoding)
}

/// Whether a collection's query asks for a watch: what only some readers would see in it is refused.
fn watches(query: &str) -> Result<bool, Ambiguous> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).map_err(|_| Ambiguous::Watch)?;
        let value = decode(value).map_err(|_| Ambiguous::Watch)?;
        if !name.trim_matches(['+', ' ']).eq_ignore_ascii_case("watch") && !pair.contains(';') {
            continue;
        }
        if name != "watch" || pair.contains(';') || found.is_some() {
            return Err(Ambiguous::Watch);
        }
        // As the API server does: only these say no.
        found = Some(!value.eq_ignore_ascii_case("false") && value != "0");
    }
    Ok(found.unwrap_or(false))
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn verb_of_path(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
