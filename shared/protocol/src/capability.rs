//! What a peer can do beyond the published agent protocol. Both sides list theirs; only what both list is used.

/// Stream header version 2 with the kinds `kube`, `http`, `tcp` and `udp`.
pub const STREAMS_2: &str = "streams/2";

/// Several links of one cluster at the same time.
pub const LINKS_N: &str = "links/n";

/// Whether `list` names `capability`.
pub fn has(list: &[String], capability: &str) -> bool {
    list.iter().any(|c| c == capability)
}
