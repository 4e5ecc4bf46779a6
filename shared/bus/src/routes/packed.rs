//! A value as base64 of its compressed JSON.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More is not unpacked.
const LARGEST: u64 = 64 << 20;

pub fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let json = serde_json::to_vec(value).map_err(S::Error::custom)?;
    let mut packing = DeflateEncoder::new(Vec::new(), Compression::fast());
    let packed = packing.write_all(&json).and_then(|()| packing.finish()).map_err(S::Error::custom)?;
    serializer.serialize_str(&BASE64_STANDARD.encode(packed))
}

pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let packed = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
    let mut json = Vec::new();
    DeflateDecoder::new(&*packed).take(LARGEST).read_to_end(&mut json).map_err(D::Error::custom)?;
    serde_json::from_slice(&json).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::route::{IngressRoutes, RoutePath, RouteRule, RouteSync};

    use crate::routes::SyncRoutes;

    #[test]
    fn ten_thousand_routes_fit_a_message_and_are_what_they_were() {
        let ingresses = (0..10_000).map(|n| {
            let path = RoutePath {
                path: "/".to_owned(),
                path_type: protocol::route::PathType::Prefix,
                service_name: "ingress-nginx-controller".to_owned(),
                service_port: 80,
                service_namespace: Some("ingress-nginx".to_owned()),
                protocol: Default::default(),
            };
            let host = format!("shop-{}.customers.example.com", n * 7919 % 10_007);
            IngressRoutes {
                namespace: format!("customer-{n}"),
                ingress_name: format!("shop-{n}"),
                annotations: [("pipeops.io/deployment-name".to_owned(), format!("shop-{n}"))].into(),
                rules: vec![RouteRule { host, tls: true, tls_mode: Default::default(), paths: vec![path] }],
            }
        });
        let sync = SyncRoutes { sync: RouteSync { ingresses: ingresses.collect(), ..RouteSync::default() } };
        let json = serde_json::to_vec(&sync).unwrap();
        assert!(json.len() < 1_000_000, "{} bytes", json.len());
        assert_eq!(serde_json::from_slice::<SyncRoutes>(&json).unwrap(), sync);
    }

    proptest! {
        #[test]
        fn what_is_none_is_an_error(text in "[A-Za-z0-9+/=]{0,80}|.{0,20}") {
            let _read = serde_json::from_value::<SyncRoutes>(serde_json::json!({ "sync": text }));
        }
    }
}
