//! A gateway-link, as one replica runs it.

use std::time::Duration;

use bus::Service;
use gateway_link::{Options, PipeOps, Reconnect, run_on};
use protocol::Secret;
use runtime::Context;
use targets::Names;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::keeper::Keeper;
use crate::peer::{Peer, SOON};

pub struct Agent {
    pub context: Context,
    running: JoinHandle<anyhow::Result<()>>,
}

pub fn options(peer: &Peer) -> Options {
    let pipeops = PipeOps {
        api_url: peer.url("http"),
        token: Some(Secret::new("by-hand")),
        reconnect: Reconnect { initial: runtime::Duration::from_millis(20), max: runtime::Duration::from_millis(100) },
        ..PipeOps::default()
    };
    Options { pipeops, ..Options::default() }
}

impl Agent {
    pub fn start(keeper: &Keeper, options: Options) -> Self {
        let context = Context::detached("gateway-link");
        let running =
            tokio::spawn(run_on(options, context.clone(), keeper.bus.bus(Service::GatewayLink), Names::dns(None)));
        Self { context, running }
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(self) {
        self.context.shutdown.cancel();
        self.ended().await.unwrap();
    }

    /// How it ends by itself.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        timeout(SOON, &mut self.running).await.expect("it goes on").unwrap()
    }

    /// Why it ends by itself.
    pub async fn failed(self) -> String {
        format!("{:#}", self.ended().await.expect_err("it was to fail"))
    }

    pub async fn is_ready(&self) {
        let ready = async {
            while !self.context.health.is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, ready).await.expect("it does not get ready");
    }

    /// Until it says that it waits for this.
    pub async fn waits(&self, reason: &str) {
        let waiting = async {
            while !self.context.health.not_ready().iter().any(|why| why.contains(reason)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waits = timeout(SOON, waiting).await;
        waits.unwrap_or_else(|_| panic!("not {reason:?}, but {:?}", self.context.health.not_ready()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.running.abort();
    }
}
