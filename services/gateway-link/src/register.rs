use std::time::Duration;

use bus::Bus;
use bus::state::{GetIdentity, Identity, SaveRegistration};
use mux::{Control, Link};
use protocol::message::{ErrorReport, Features, Register, RegisterMetadata, RegisterSuccess};
use protocol::{AgentMessage, ClusterId, ControlMessage, RegistrationError, capability};
use tokio::time::{Instant, timeout_at};

use crate::options::Options;

/// What this agent can do beyond the published protocol.
pub fn capabilities() -> Vec<String> {
    [capability::STREAMS_2, capability::LINKS_N].map(str::to_owned).to_vec()
}

/// A registration that holds.
#[derive(Clone, Debug)]
pub struct Registered {
    pub cluster_id: ClusterId,
    /// What the control plane calls the cluster, where it says so.
    pub name: Option<String>,
    /// The peer speaks the same version of the link as we do.
    pub tuned: bool,
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
    options: &Options,
    version: &str,
    bus: &Bus,
    identity: &Identity,
    link: &Link,
    control: &mut Control,
) -> Result<Registered, RegisterError> {
    let request_id = format!("req_{:016x}_{}", rand::random::<u64>(), identity.agent_id);
    let message = AgentMessage::Register(Box::new(describe(options, version, identity)));
    link.send(message.encode(Some(&request_id))).await.map_err(|_| RegisterError::Lost)?;

    let limit = options.pipeops.timeout.get();
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
            ControlMessage::Error(ErrorReport { error, .. }) => return Err(RegisterError::Refused(error)),
            other => tracing::debug!(kind = other.kind(), "message before the registration's answer"),
        }
    };
    let cluster_id = success.cluster_id()?;
    save(bus, identity, &cluster_id, &success).await?;
    let tuned = capability::has(&success.capabilities, capability::STREAMS_2);
    Ok(Registered { cluster_id, name: success.name, tuned })
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

async fn save(
    bus: &Bus,
    identity: &Identity,
    cluster_id: &ClusterId,
    success: &RegisterSuccess,
) -> Result<(), RegisterError> {
    if identity.cluster_id.as_ref() == Some(cluster_id)
        && identity.gateway_ws_url == success.gateway_ws_url
        && success.token.is_none()
    {
        return Ok(());
    }
    let registration = SaveRegistration {
        cluster_id: cluster_id.clone(),
        gateway_ws_url: success.gateway_ws_url.clone(),
        cluster_token: success.token.clone(),
    };
    bus.request(&registration).await.map(drop).map_err(|error| RegisterError::Save(error.to_string()))
}

fn describe(options: &Options, version: &str, identity: &Identity) -> Register {
    let mut register = Register::new(identity.agent_id.clone(), &*options.agent.cluster_name);
    register.cluster_id.clone_from(&identity.cluster_id);
    register.agent_version = version.to_owned();
    register.hostname = hostname();
    register.labels.clone_from(&options.agent.labels);
    register.features = Features {
        supports_streaming: true,
        supports_binary_protocol: true,
        supports_websocket_proxy: true,
        supports_gateway: true,
        supports_response_streaming: true,
        ..Features::default()
    };
    register.metadata = Some(RegisterMetadata {
        agent_mode: "vm-agent".to_owned(),
        registration_timestamp: protocol::message::Pong::now().timestamp,
        registration_mode: if identity.cluster_id.is_some() { "resume" } else { "fresh" }.to_owned(),
        ..RegisterMetadata::default()
    });
    register.capabilities = capabilities();
    register
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
