//! kubectl on a terminal.

use crate::{older, prepare::SOON};
use anyhow::{Result, ensure};
use e2e::Terminal;
use lab::Lab;
use std::sync::Arc;

pub async fn a_terminal_has_the_size_of_the_users(lab: Arc<Lab>) -> Result<()> {
    let namespace = "terminals";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let sizes = "while :; do new=$(stty size 2>/dev/null); test \"$new\" = \"$old\" || echo size $new; old=$new; sleep 0.1; done";
    let older = older::kubectl().await?;
    let (straight, through) = (lab.direct(), lab.proxied()?);
    for (tool, way) in [
        (straight, "straight"),
        (through, "through the agent"),
        (&straight.with_program(&older), "straight, older"),
        (&through.with_program(&older), "through the agent, older"),
    ] {
        for websockets in ["true", "false"] {
            let start = |script: &str| -> Result<Terminal> {
                let mut command = tool.command(&["exec", "-it", "box", "-n", namespace, "--", "sh", "-c", script]);
                command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
                Terminal::start(command, 24, 80)
            };
            let mut asks = start("read line; echo got $line; exit 3")?;
            asks.types("hello\n").await?;
            asks.shows("got hello", SOON).await?;
            let (code, shown) = asks.end(SOON).await?;
            ensure!(code == Some(3), "{way}: {code:?} {shown:?}");

            let mut terminal = start(sizes)?;
            terminal.shows("size 24 80", SOON).await?;
            terminal.resize(40, 120)?;
            terminal.shows("size 40 120", SOON).await?;
            // Ctrl-C is the remote shell's, not kubectl's.
            terminal.types("\x03").await?;
            let (code, shown) = terminal.end(SOON).await?;
            ensure!(code == Some(130), "{way}: {code:?} {shown:?}");
        }
    }
    Ok(())
}
