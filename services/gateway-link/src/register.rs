use std::time::Duration;

use bus::Bus;
use bus::state::{GetIdentity, Identity, SaveRegistration};
use mux::{Control, Link};
use protocol::message::{ErrorReport, Features, Register, RegisterMetadata, RegisterSuccess};
use protocol::{AgentMessage, ClusterId, ControlMessage, RegistrationError, capability, endpoint};
use tokio::time::{Instant, timeout_at};

use crate::options::Options;

/// What the agent tells of itself.
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    pub options: &'a Options,
    pub version: &'a str,
    pub identity: &'a Identity,
    /// Such as `v1.36.3`; empty: not known yet.
    pub k8s_version: &'a str,
    /// The control plane has said that it does not know the cluster's id any more.
    pub forgotten: bool,
}

/// A registration that holds.
#[derive(Clone, Debug)]
pub struct Registered {
    pub cluster_id: ClusterId,
    /// What the control plane calls the cluster, where it says so.
    pub name: Option<String>,
    /// Where to go on, if not here.
    pub gateway: Option<String>,
    /// What the control plane can do beyond the published protocol.
    pub capabilities: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The control plane answers, but not with a registration: nothing will change until somebody acts.
    #[error(transparent)]
    Invalid(#[from] RegistrationError),
    #[error("registration response is not a valid message")]
    Unreadable(#[from] protocol::ParseError),
    #[error("the control plane refuses the registration: {0}")]
    Refused(String),
    /// The id that was sent is of no use: registering without one may succeed.
    #[error("the control plane does not know the cluster's id any more: {0}")]
    Forgotten(String),
    #[error("no answer to the registration within {0:?}")]
    Timeout(Duration),
    #[error("the link was lost during registration")]
    Lost,
    #[error("cannot keep the registration: {0}")]
    Save(String),
}

/// Registers over an open link and stores what came back. Messages before the answer, other than its own, are not
/// expected from any control plane and are passed over.
pub async fn register(
    introduction: Introduction<'_>,
    bus: &Bus,
    link: &Link,
    control: &mut Control,
) -> Result<Registered, RegisterError> {
    let identity = introduction.identity;
    let request_id = format!("req_{:016x}_{}", rand::random::<u64>(), identity.agent_id);
    let message = AgentMessage::Register(Box::new(introduction.register()));
    link.send(message.encode(Some(&request_id))).await.map_err(|_| RegisterError::Lost)?;

    let limit = introduction.options.pipeops.timeout.get();
    let mut deadline = Instant::now() + limit;
    let success = loop {
        let frame = timeout_at(deadline, control.recv())
            .await
            .map_err(|_| RegisterError::Timeout(limit))?
            .ok_or(RegisterError::Lost)?;
        let Some(text) = frame.as_text() else { continue };
        match ControlMessage::parse(text)?.1 {
            ControlMessage::RegisterSuccess(success) => break success,
            ControlMessage::RegisterInProgress => deadline = Instant::now() + limit,
            ControlMessage::Error(report) if introduction.cluster_id().is_some() && report.asks_for_registration() => {
                return Err(RegisterError::Forgotten(report.error));
            }
            ControlMessage::Error(ErrorReport { error, .. }) => return Err(RegisterError::Refused(error)),
            other => tracing::debug!(kind = other.kind(), "message before the registration's answer"),
        }
    };
    let cluster_id = success.cluster_id()?;
    let gateway = gateway(&success, &cluster_id)?;
    save(bus, identity, &cluster_id, gateway.as_deref(), &success).await?;
    let RegisterSuccess { name, capabilities, .. } = *success;
    Ok(Registered { cluster_id, name, gateway, capabilities })
}

/// Who this agent is, from state-keeper; asked again until it answers.
pub async fn identity(bus: &Bus, mut waiting: impl FnMut(String)) -> Identity {
    const PAUSE: Duration = Duration::from_millis(500);
    loop {
        match bus.request(&GetIdentity {}).await {
            Ok(identity) => return identity,
            Err(error) => waiting(format!("no identity from state-keeper: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The gateway's URL. It names the cluster where that has a name for it, so that it is all that has to be kept.
fn gateway(success: &RegisterSuccess, id: &ClusterId) -> Result<Option<String>, RegisterError> {
    let Some(url) = &success.gateway_ws_url else { return Ok(None) };
    let name = success.gateway_cluster()?;
    Ok(Some(if name == *id { url.clone() } else { endpoint::with_cluster(url, &name) }))
}

async fn save(
    bus: &Bus,
    identity: &Identity,
    cluster_id: &ClusterId,
    gateway: Option<&str>,
    success: &RegisterSuccess,
) -> Result<(), RegisterError> {
    if identity.cluster_id.as_ref() == Some(cluster_id)
        && identity.gateway_ws_url.as_deref() == gateway
        && success.token.is_none()
    {
        return Ok(());
    }
    let registration = SaveRegistration {
        cluster_id: cluster_id.clone(),
        gateway_ws_url: gateway.map(str::to_owned),
        cluster_token: success.token.clone(),
    };
    bus.request(&registration).await.map(drop).map_err(|error| RegisterError::Save(error.to_string()))
}

impl Introduction<'_> {
    fn cluster_id(&self) -> Option<&ClusterId> {
        self.identity.cluster_id.as_ref().filter(|_| !self.forgotten)
    }

    fn register(self) -> Register {
        let cluster_id = self.cluster_id().cloned();
        let Self { options, version, identity, k8s_version, .. } = self;
        let mode = if cluster_id.is_some() { "resume" } else { "fresh" };
        Register {
            cluster_id,
            agent_version: version.to_owned(),
            k8s_version: k8s_version.to_owned(),
            hostname: hostname(),
            labels: options.agent.labels.clone(),
            features: Features {
                supports_streaming: true,
                supports_binary_protocol: true,
                supports_websocket_proxy: true,
                supports_gateway: true,
                supports_response_streaming: true,
                supports_compression: false,
            },
            metadata: Some(RegisterMetadata {
                agent_mode: "vm-agent".to_owned(),
                registration_timestamp: protocol::message::Pong::now().timestamp,
                registration_mode: mode.to_owned(),
                ..RegisterMetadata::default()
            }),
            capabilities: capability::all(),
            ..Register::new(identity.agent_id.clone(), &*options.agent.cluster_name)
        }
    }
}

/// Of the machine, or the pod.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
