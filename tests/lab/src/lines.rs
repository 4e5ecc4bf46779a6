//! Commands that go on, line by line.

use crate::run::Tool;
use anyhow::{Context, Result, bail};
use std::{collections::VecDeque, process::ExitStatus, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, copy_buf, sink},
    process::{Child, ChildStdout},
};

/// A running command and what it has printed.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    stdout: tokio::io::Lines<BufReader<ChildStdout>>,
    seen: VecDeque<String>,
}

impl Lines {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn of(tool: &Tool, args: &[&str]) -> Result<Self> {
        let mut child = tool.spawn(args)?;
        let stdout = child.stdout.take().context("the command has no stdout")?;
        Ok(Self { child, stdout: BufReader::new(stdout).lines(), seen: VecDeque::new() })
    }

    /// The next line.
    ///
    /// # Errors
    /// When there is none within `limit`, or the command ends.
    pub async fn next(&mut self, limit: Duration) -> Result<String> {
        match tokio::time::timeout(limit, self.stdout.next_line()).await {
            Ok(Ok(Some(line))) => {
                if self.seen.len() == 5 {
                    self.seen.pop_front();
                }
                self.seen.push_back(line.clone());
                Ok(line)
            }
            Ok(Ok(None)) => {
                let (status, stderr) = self.end(limit).await?;
                bail!("the command ended with {status}: {stderr}")
            }
            Ok(Err(error)) => Err(error).context("cannot read the command's output"),
            Err(_) => bail!("no line within {limit:?}; the last ones were {:?}", self.seen),
        }
    }

    /// Makes sure that for `time` it neither prints nor ends.
    ///
    /// # Errors
    /// When it does.
    pub async fn silent_for(&mut self, time: Duration) -> Result<()> {
        match tokio::time::timeout(time, self.stdout.next_line()).await {
            Err(_) => Ok(()),
            Ok(Ok(Some(line))) => bail!("it was to be silent, and printed {line:?}"),
            Ok(_) => {
                let (status, stderr) = self.end(time).await?;
                bail!("it was to go on, and ended with {status}: {stderr}")
            }
        }
    }

    /// Waits for its end; gives its stderr too.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn end(&mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let mut stderr = String::new();
        let work = async {
            if let Some(pipe) = &mut self.child.stderr {
                pipe.read_to_string(&mut stderr).await?;
            }
            self.child.wait().await
        };
        let status = tokio::time::timeout(limit, work).await.context("the command does not end")??;
        Ok((status, stderr))
    }

    /// Lets it print what it likes until it ends; gives its stderr.
    pub(crate) async fn rest(mut self) -> std::io::Result<(ExitStatus, String)> {
        let mut stderr = String::new();
        let read_stderr = async {
            match &mut self.child.stderr {
                Some(pipe) => pipe.read_to_string(&mut stderr).await,
                None => Ok(0),
            }
        };
        let mut nowhere = sink();
        tokio::try_join!(copy_buf(self.stdout.get_mut(), &mut nowhere), read_stderr)?;
        Ok((self.child.wait().await?, stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn the_rest_may_be_more_than_a_pipe_holds() {
        let shell = Tool::new(Path::new("/bin/sh"), Path::new("/dev/null"), Path::new("/tmp"));
        let print = "seq 1 100000; echo why >&2; seq 1 100000; exit 3";
        let mut lines = Lines::of(&shell, &["-c", print]).unwrap();
        assert_eq!(lines.next(Duration::from_secs(10)).await.unwrap(), "1");
        let rest = tokio::time::timeout(Duration::from_secs(10), lines.rest()).await;
        let (status, stderr) = rest.expect("it is not read").unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(3), "why\n"));
    }
}
