//! HTTP to the API server, straight or through the agent, for what kubectl does not show.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use lab::Lab;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, RequestBuilder};
use serde::Deserialize;

/// How the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// One way to the API, as the lab's user.
#[derive(Clone, Debug)]
pub struct Front {
    client: Client,
    base: String,
    bearer: Option<String>,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: [Cluster; 1],
    users: [User; 1],
}

#[derive(Deserialize)]
struct Cluster {
    cluster: ClusterFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterFields {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct User {
    user: UserFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserFields {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Front {
    /// Straight to the API server, with the client certificate of the lab's user.
    ///
    /// # Errors
    /// When the lab's kubeconfig is not as expected.
    pub fn direct(lab: &Lab, protocol: Protocol) -> Result<Self> {
        Self::from_kubeconfig(lab.kubeconfig_direct(), protocol)
    }

    /// Through control plane and agent, with the token of the lab's user.
    ///
    /// # Errors
    /// When the lab has no services.
    pub fn through(lab: &Lab, protocol: Protocol) -> Result<Self> {
        Self::from_kubeconfig(lab.kubeconfig()?, protocol)
    }

    fn from_kubeconfig(path: &std::path::Path, protocol: Protocol) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let Kubeconfig { clusters: [cluster], users: [user] } = serde_json::from_slice(&text)?;
        let ca = STANDARD.decode(&cluster.cluster.certificate_authority_data)?;
        let mut builder: ClientBuilder =
            Client::builder().no_proxy().tls_certs_only(Certificate::from_pem_bundle(&ca)?);
        builder = match protocol {
            Protocol::Http1 => builder.http1_only(),
            // By ALPN, as kubectl does it.
            Protocol::Http2 => builder,
        };
        if let (Some(certificate), Some(key)) = (&user.user.client_certificate_data, &user.user.client_key_data) {
            let pem = [STANDARD.decode(certificate)?, STANDARD.decode(key)?].concat();
            builder = builder.identity(Identity::from_pem(&pem)?);
        }
        Ok(Self { client: builder.build()?, base: cluster.cluster.server, bearer: user.user.token })
    }

    /// A request for a path of the API, with the user's proof.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.anonymous(method, path);
        match &self.bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// A request that does not say whose it is; straight, the certificate of the connection does.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// GET.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }
}
