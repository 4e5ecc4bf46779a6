//! What a peer can do beyond the published agent protocol. Both sides list theirs; only what both list is used.

/// Stream header version 2 with the kinds `kube`, `http`, `tcp` and `udp`.
pub const STREAMS_2: &str = "streams/2";

/// Several links of one cluster at the same time.
pub const LINKS_N: &str = "links/n";

/// `token_refresh` and its acknowledgement: the control plane gives the agent tokens that end.
pub const TOKEN_REFRESH: &str = "token_refresh";

/// `config_push` and its acknowledgement.
pub const CONFIG_PUSH: &str = "config_push";

/// All of them: what an agent and a control plane of this make can do.
pub const ALL: [&str; 4] = [STREAMS_2, LINKS_N, TOKEN_REFRESH, CONFIG_PUSH];

/// [`ALL`] as they go into a message.
pub fn all() -> Vec<String> {
    ALL.map(str::to_owned).to_vec()
}

/// Whether `list` names `capability`.
pub fn has(list: &[String], capability: &str) -> bool {
    list.iter().any(|c| c == capability)
}
