//! Commands on a terminal.

use anyhow::{Context, Result, bail};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::{File, OpenOptions},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, timeout_at},
};

/// A command whose stdin, stdout and stderr are a terminal, and what it shows there.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    control: File,
    reader: tokio::fs::File,
    writer: tokio::fs::File,
    shown: String,
    /// Up to where [`Terminal::shows`] has found what it looked for.
    seen: usize,
}

impl Terminal {
    /// Starts it on a terminal of that size. It ends with its handle.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the command cannot be run.
    pub fn start(command: Command, rows: u16, columns: u16) -> Result<Self> {
        let control = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?);
        grantpt(&control)?;
        unlockpt(&control)?;
        let name = ptsname(&control, Vec::new())?.into_string().context("a terminal's name is no text")?;
        let own =
            OpenOptions::new().read(true).write(true).open(&name).with_context(|| format!("cannot open {name}"))?;
        resize(&control, rows, columns)?;
        // A terminal tells its size and Ctrl-C to the session it controls, so the command needs a session of its own.
        let inner = command.as_std();
        let mut outer = Command::new("setsid");
        outer.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(key, value),
                None => outer.env_remove(key),
            };
        }
        outer.stdin(Stdio::from(own.try_clone()?)).stdout(Stdio::from(own.try_clone()?)).stderr(Stdio::from(own));
        let child = outer.kill_on_drop(true).spawn().context("cannot run setsid")?;
        drop(outer);
        let (reader, writer) = (tokio::fs::File::from_std(control.try_clone()?), control.try_clone()?.into());
        Ok(Self { child, control, reader, writer, shown: String::new(), seen: 0 })
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        resize(&self.control, rows, columns)
    }

    /// Types a text.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub async fn types(&mut self, text: &str) -> Result<()> {
        self.writer.write_all(text.as_bytes()).await?;
        Ok(self.writer.flush().await?)
    }

    /// Waits until it shows `text`, after what the last call waited for.
    ///
    /// # Errors
    /// When it does not within `limit`, or ends before.
    pub async fn shows(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.shown.get(self.seen..).and_then(|rest| rest.find(text));
            if let Some(at) = found {
                self.seen += at + text.len();
                return Ok(());
            }
            if !self.read(deadline).await? {
                bail!("it ended and never showed {text:?}, but {:?}", self.shown);
            }
        }
    }

    /// Waits for its end; gives its exit code and all that it has shown.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn end(mut self, limit: Duration) -> Result<(Option<i32>, String)> {
        let deadline = Instant::now() + limit;
        while self.read(deadline).await? {}
        let status = timeout_at(deadline, self.child.wait()).await.context("it does not end")??;
        Ok((status.code(), self.shown))
    }

    /// Reads what comes next; false at its end, which a terminal shows as an error.
    async fn read(&mut self, deadline: Instant) -> Result<bool> {
        let mut bytes = [0; 4096];
        let read = timeout_at(deadline, self.reader.read(&mut bytes)).await;
        let count = read.with_context(|| format!("it shows nothing more than {:?}", self.shown))?.unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()));
        Ok(count > 0)
    }
}

fn resize(control: &File, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(control, size).context("cannot set a terminal's size")
}
