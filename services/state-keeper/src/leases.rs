//! Who of several instances leads, by the rules of client-go's leader election: a lease is over when its record has not
//! changed for as long as it says, by our own clock. What a record says of the time is for people only: no two
//! clocks need to agree.

use bus::state::{AcquireLease, Done, LeaseName, LeaseState, ReleaseLease, StateError};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::record::metadata;
use crate::storage::{Storage, StorageError};
use crate::store::{ATTEMPTS, pause};

/// How long a lease may be held without being asked for again, in seconds.
const TTL: std::ops::RangeInclusive<u32> = 1..=3600;
/// No pod has a longer name.
const LONGEST_HOLDER: usize = 253;

/// What was seen of each lease. One request at a time for each.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    gateway_link: Mutex<Option<Seen>>,
    route_syncer: Mutex<Option<Seen>>,
    components_installer: Mutex<Option<Seen>>,
}

/// A record, and since when it is known to be that.
#[derive(Clone, Debug)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

impl Leases {
    /// Takes the lease for whoever asks, or keeps it, if nobody else has it.
    pub async fn acquire(&self, storage: &Storage, wanted: &AcquireLease) -> Result<LeaseState, StateError> {
        let AcquireLease { name, holder, ttl_seconds } = wanted;
        check_holder(holder)?;
        let seconds = i32::try_from(*ttl_seconds).ok().filter(|_| TTL.contains(ttl_seconds));
        let seconds = seconds.ok_or_else(|| StateError::Invalid {
            reason: format!("a lease of {ttl_seconds} s: 1 to 3600 are possible"),
        })?;
        let mut seen = self.of(*name).lock().await;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let mut lease = read(storage, *name, &mut seen).await?;
            let before = lease.spec.clone().unwrap_or_default();
            let held_by = holder_of(&before);
            if let Some(other) = held_by.filter(|other| *other != holder)
                && seen.as_ref().is_some_and(Seen::is_running)
            {
                return Ok(LeaseState { held: false, holder: other.to_owned() });
            }
            let mine = held_by == Some(holder);
            let now = MicroTime(Timestamp::now());
            let transitions = before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!mine));
            lease.spec = Some(LeaseSpec {
                acquire_time: before.acquire_time.clone().filter(|_| mine).or_else(|| Some(now.clone())),
                holder_identity: Some(holder.clone()),
                lease_duration_seconds: Some(seconds),
                // The first holder is no transition.
                lease_transitions: Some(if before.renew_time.is_some() { transitions } else { 0 }),
                renew_time: Some(now),
                ..LeaseSpec::default()
            });
            if write(storage, &lease, &mut seen).await? {
                if !mine {
                    tracing::info!(lease = name.as_str(), holder, before = held_by, "a lease has a new holder");
                }
                return Ok(LeaseState { held: true, holder: holder.clone() });
            }
        }
        Err(contended(*name))
    }

    /// Ends the lease if `holder` has it.
    pub async fn release(&self, storage: &Storage, given: &ReleaseLease) -> Result<Done, StateError> {
        let ReleaseLease { name, holder } = given;
        check_holder(holder)?;
        let mut seen = self.of(*name).lock().await;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let mut lease = read(storage, *name, &mut seen).await?;
            let Some(spec) = lease.spec.as_mut().filter(|spec| holder_of(spec) == Some(holder)) else {
                return Ok(Done {});
            };
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            if write(storage, &lease, &mut seen).await? {
                tracing::info!(lease = name.as_str(), holder, "a lease was given back");
                return Ok(Done {});
            }
        }
        Err(contended(*name))
    }

    fn of(&self, name: LeaseName) -> &Mutex<Option<Seen>> {
        match name {
            LeaseName::GatewayLink => &self.gateway_link,
            LeaseName::RouteSyncer => &self.route_syncer,
            LeaseName::ComponentsInstaller => &self.components_installer,
        }
    }
}

impl Seen {
    /// Whether its holder may still count on it.
    fn is_running(&self) -> bool {
        let seconds = u64::try_from(self.spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        self.since.elapsed() < Duration::from_secs(seconds)
    }
}

/// The lease as it is stored, or a new one; `seen` follows it.
async fn read(storage: &Storage, name: LeaseName, seen: &mut Option<Seen>) -> Result<Lease, StorageError> {
    let object = object_name(name);
    let lease: Option<Lease> = storage.get(&object).await?;
    let lease = lease.unwrap_or_else(|| Lease { metadata: metadata(&object, "lease"), spec: None });
    let spec = lease.spec.clone().unwrap_or_default();
    if seen.as_ref().is_none_or(|seen| seen.spec != spec) {
        *seen = Some(Seen { spec, since: Instant::now() });
    }
    Ok(lease)
}

/// False when somebody else was faster.
async fn write(storage: &Storage, lease: &Lease, seen: &mut Option<Seen>) -> Result<bool, StorageError> {
    match storage.save(lease).await {
        Ok(stored) => {
            // From after it was stored: whoever holds it counts from when they asked.
            *seen = Some(Seen { spec: stored.spec.unwrap_or_default(), since: Instant::now() });
            Ok(true)
        }
        Err(StorageError::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

fn holder_of(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The name of the lease's object.
fn object_name(name: LeaseName) -> String {
    format!("pipeops-agent-{}", name.as_str())
}

fn check_holder(holder: &str) -> Result<(), StateError> {
    if (1..=LONGEST_HOLDER).contains(&holder.len()) && holder.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let reason = format!(
        "{:?} cannot hold a lease: 1 to {LONGEST_HOLDER} visible characters without a space are expected",
        holder.chars().take(LONGEST_HOLDER).collect::<String>()
    );
    Err(StateError::Invalid { reason })
}

fn contended(name: LeaseName) -> StateError {
    let name = object_name(name);
    StateError::Unavailable { reason: format!("Lease {name} was changed by others {ATTEMPTS} times in a row") }
}

#[cfg(test)]
mod tests;
