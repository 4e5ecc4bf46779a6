//! The same commands straight and through the agent.

use crate::normalise;
use anyhow::{Result, ensure};
use lab::{Lab, Tool};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// One command.
#[derive(Clone, Debug)]
pub struct Step {
    args: Vec<String>,
    input: String,
    env: Vec<(String, String)>,
    tool: Which,
    /// What it must end with; the direct run proves that the test itself is right.
    code: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Kubectl,
    Helm,
}

/// Commands that build on each other. The last of them leave nothing behind, because all of them run twice.
#[derive(Clone, Debug, Default)]
pub struct Story {
    steps: Vec<Step>,
    kubectl: Option<PathBuf>,
}

/// What a run through the agent and a straight one are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Step {
    fn new(tool: Which, command: &str) -> Self {
        Self { args: words(command), input: String::new(), env: Vec::new(), tool, code: 0 }
    }

    /// kubectl with these arguments; 'single quotes' keep a space.
    #[must_use]
    pub fn kubectl(command: &str) -> Self {
        Self::new(Which::Kubectl, command)
    }

    /// helm with these arguments.
    #[must_use]
    pub fn helm(command: &str) -> Self {
        Self::new(Which::Helm, command)
    }

    /// Text for its stdin.
    #[must_use]
    pub fn input(mut self, input: &str) -> Self {
        input.clone_into(&mut self.input);
        self
    }

    /// A variable for its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The exit code, when it is not 0.
    #[must_use]
    pub fn ends_with(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The command line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", if self.tool == Which::Helm { "helm" } else { "kubectl" }, self.args.join(" "))
    }

    fn tool(&self, tool: &Tool, kubectl: Option<&Path>) -> Tool {
        let tool = kubectl.map_or_else(|| tool.clone(), |binary| tool.with_program(binary));
        self.env.iter().fold(tool, |tool, (key, value)| tool.with_env(key, value))
    }

    async fn run(&self, lab: &Lab, through: bool, kubectl: Option<&Path>) -> Result<Seen> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let output = match (self.tool, through) {
            (Which::Helm, true) => lab.helm(&args).await?,
            (Which::Helm, false) => lab.helm_direct(&args).await?,
            (Which::Kubectl, true) => self.tool(lab.proxied()?, kubectl).run_with_input(&args, &self.input).await?,
            (Which::Kubectl, false) => self.tool(lab.direct(), kubectl).run_with_input(&args, &self.input).await?,
        };
        let seen =
            Seen { code: output.status.code(), stdout: normalise(&output.stdout), stderr: normalise(&output.stderr) };
        ensure!(
            through || seen.code == Some(self.code),
            "straight, {} ends with {:?}: {}{}",
            self.line(),
            seen.code,
            seen.stdout,
            seen.stderr
        );
        Ok(seen)
    }
}

impl Story {
    /// Commands in their order.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), kubectl: None }
    }

    /// With another kubectl than the lab's, both ways.
    #[must_use]
    pub fn with_kubectl(mut self, binary: &Path) -> Self {
        self.kubectl = Some(binary.to_owned());
        self
    }

    async fn run(&self, step: &Step, lab: &Lab, through: bool) -> Result<Seen> {
        step.run(lab, through, self.kubectl.as_deref()).await
    }

    /// Runs all of it straight, then all of it through the agent: stdout, stderr and exit codes have to be the same.
    ///
    /// # Errors
    /// What differed, or what could not be run.
    pub async fn same_both_ways(&self, lab: &Lab) -> Result<()> {
        let mut straight = Vec::new();
        for step in &self.steps {
            straight.push(self.run(step, lab, false).await?);
        }
        for (step, straight) in self.steps.iter().zip(&straight) {
            compare(step, straight, &self.run(step, lab, true).await?)?;
        }
        Ok(())
    }

    /// For commands that change nothing: each runs both ways at once, so that what it shows is of the same moment.
    ///
    /// # Errors
    /// As [`Story::same_both_ways`].
    pub async fn same_at_once(&self, lab: &Lab) -> Result<()> {
        for step in &self.steps {
            let (straight, through) = tokio::try_join!(self.run(step, lab, false), self.run(step, lab, true))?;
            compare(step, &straight, &through)?;
        }
        Ok(())
    }
}

fn compare(step: &Step, straight: &Seen, through: &Seen) -> Result<()> {
    let mut differences = String::new();
    if straight.code != through.code {
        write!(differences, "\nexit code {:?}, through the agent {:?}", straight.code, through.code)?;
    }
    for (what, straight, through) in
        [("stdout", &straight.stdout, &through.stdout), ("stderr", &straight.stderr, &through.stderr)]
    {
        if straight == through {
            continue;
        }
        let at = straight.lines().zip(through.lines()).take_while(|(straight, through)| straight == through).count();
        let line = |text: &str| text.lines().nth(at).unwrap_or("(its end)").to_owned();
        let (straight, through) = (line(straight), line(through));
        // Of long lines, what is around the first difference.
        let same = straight.chars().zip(through.chars()).take_while(|(straight, through)| straight == through).count();
        let part = |line: &str| line.chars().skip(same.saturating_sub(80)).take(240).collect::<String>();
        write!(
            differences,
            "\n{what} differs from line {} on:\n  straight: {}\n  through:  {}",
            at + 1,
            part(&straight),
            part(&through)
        )?;
    }
    ensure!(differences.is_empty(), "{}{differences}", step.line());
    Ok(())
}

/// Splits at spaces, but not between single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match (character, quoted, words.last_mut()) {
            ('\'', _, _) => quoted = !quoted,
            (' ', false, _) => words.push(String::new()),
            (_, _, Some(word)) => word.push(character),
            (_, _, None) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_keep_spaces() {
        assert_eq!(words("patch cm a -p '{\"a\": 1}'  -o=x'a b'"), ["patch", "cm", "a", "-p", "{\"a\": 1}", "-o=xa b"]);
    }
}
