//! rathole, as its own program calls it.

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (stop, stopped) = tokio::sync::broadcast::channel(1);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            drop(stop.send(true));
        }
    });
    rathole::run(rathole::Cli::parse(), stopped).await
}
