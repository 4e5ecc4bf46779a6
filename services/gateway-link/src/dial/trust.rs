use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::tls::{ClientTrust, client_config};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::DialError;
use crate::options::Tls;

/// With whom a TLS connection is made.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    ControlPlane,
    /// Is trusted for its certificate alone: pins, the client certificate and leave not to verify are for the control plane.
    Proxy,
}

/// What TLS connections are made with. Nothing of one connection is remembered for the next, so that each is verified
/// by what the files say when it is made.
#[derive(Debug)]
pub struct Trust(Arc<Files>);

#[derive(Debug)]
struct Files {
    peer: Peer,
    options: Tls,
    /// What was last read without a fault.
    good: Mutex<Arc<ClientConfig>>,
}

impl Trust {
    /// Fails when the files cannot be used: at the start that is a mistake to be seen at once. Blocks.
    pub fn open(peer: Peer, options: &Tls) -> Result<Self, DialError> {
        let good = Mutex::new(read(peer, options)?);
        Ok(Self(Arc::new(Files { peer, options: options.clone(), good })))
    }

    /// For one new connection.
    pub async fn connector(&self) -> TlsConnector {
        let files = Arc::clone(&self.0);
        // A file may be on a disk that is away.
        if let Err(died) = spawn_blocking(move || files.read()).await {
            tracing::error!(error = %died, "the TLS files were not read: going on with what was read before");
        }
        TlsConnector::from(Arc::clone(&self.0.good()))
    }
}

impl Files {
    fn read(&self) {
        match read(self.peer, &self.options) {
            Ok(new) => *self.good() = new,
            Err(error) => tracing::error!(
                error = runtime::error_text(&error),
                "THE TLS FILES CANNOT BE USED AS THEY ARE NOW: going on with what was read before; mend the files"
            ),
        }
    }

    fn good(&self) -> MutexGuard<'_, Arc<ClientConfig>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(peer: Peer, options: &Tls) -> Result<Arc<ClientConfig>, DialError> {
    let authorities = ClientTrust { ca_file: options.ca_file.as_deref(), ..ClientTrust::default() };
    let trust = match peer {
        Peer::Proxy => authorities,
        Peer::ControlPlane => ClientTrust {
            insecure_skip_verify: options.insecure_skip_verify,
            pins: &options.pins,
            certificate: match (&options.cert_file, &options.key_file) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                _ => return Err(DialError::HalfCertificate),
            },
            ..authorities
        },
    };
    Ok(client_config(trust, &[b"http/1.1"])?)
}
