//! What the requests ask for.

use super::{Scale, rows::Row, subjects::Subject};
use crate::{
    objects::{configmap, create, pod},
    watches::Watched,
};
use anyhow::Result;
use lab::Lab;

/// 800 ConfigMaps with this much text make a LIST of 2.4 MB.
const LIST: (usize, usize) = (800, 2600);
/// A ConfigMap with this much text has 430 bytes, with what the API server adds.
const SMALL: usize = 32;
const NAMESPACES: [&str; 4] = ["bench-small", "bench-list", "bench-pods", "bench-watch"];

/// Paths of what there is.
pub(super) struct Fixtures {
    pub(super) small: String,
    pub(super) list: String,
    pub(super) pods: String,
    pub(super) watched: Watched,
}

impl Fixtures {
    /// Makes what the rows need.
    pub(super) async fn create(lab: &Lab, direct: &Subject, scale: Scale, rows: &[Row]) -> Result<Self> {
        let target = &direct.api;
        for name in NAMESPACES {
            lab.create_namespace(name).await?;
        }
        let [small, list, pods, watched_in] = NAMESPACES.map(|name| format!("/api/v1/namespaces/{name}"));
        let (small, list, pods, watched_in) = (
            format!("{small}/configmaps"),
            format!("{list}/configmaps"),
            format!("{pods}/pods"),
            format!("{watched_in}/configmaps"),
        );
        create(target, &small, 1, |_| configmap("small", SMALL)).await?;
        create(target, &watched_in, 1, |_| configmap("watched", SMALL)).await?;
        if rows.iter().any(|row| matches!(row, Row::List1 | Row::List8)) {
            let (count, text) = LIST;
            create(target, &list, count, |at| configmap(&format!("item-{at:04}"), text)).await?;
        }
        if rows.contains(&Row::ListPods) {
            create(target, &pods, scale.pods, pod).await?;
        }
        Ok(Self {
            small: format!("{small}/small"),
            list,
            pods,
            watched: Watched {
                object: format!("{watched_in}/watched"),
                collection: watched_in,
                writer: target.clone(),
            },
        })
    }
}
