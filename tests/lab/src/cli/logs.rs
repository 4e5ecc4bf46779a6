//! `cargo lab logs`: of processes, and of a node's pods as the kubelet keeps them.

use crate::lab;
use anyhow::{Context, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// What logs, and where to.
#[derive(Debug)]
struct Source {
    /// What it can be asked for by.
    names: Vec<String>,
    /// What it is called among others.
    title: String,
    /// The oldest first: one for each start of a container.
    files: Vec<PathBuf>,
    container: bool,
}

/// Shows them, of the run that is on or was the last.
pub(super) async fn run(name: &str, follow: bool) -> Result<()> {
    let folder = lab::logs(&lab::current()?);
    let mut show = Show { follow, ..Show::default() };
    loop {
        let sources = sources(&folder)?;
        let known: BTreeSet<&str> = sources.iter().flat_map(|source| &source.names).map(String::as_str).collect();
        ensure!(!known.is_empty(), "no lab was up yet; `cargo lab up` starts one");
        // One that is followed may go for a while.
        ensure!(
            known.contains(name) || !show.files.is_empty(),
            "there is no log of {name:?} in {}, only of {}",
            folder.display(),
            known.into_iter().collect::<Vec<_>>().join(", ")
        );
        let sources: Vec<_> = sources.iter().filter(|source| source.names.iter().any(|known| known == name)).collect();
        match show.more(&sources, &mut io::stdout().lock()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            shown => shown.with_context(|| format!("cannot show the log of {name}"))?,
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// What has logged into this folder.
fn sources(folder: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for file in entries(folder)? {
        if let Some(name) = name(&file).strip_suffix(".log") {
            let (names, title) = (vec![name.to_owned()], name.to_owned());
            sources.push(Source { names, title, files: vec![file], container: false });
        }
    }
    for pod_folder in entries(&folder.join("pods"))? {
        let pod_folder_name = name(&pod_folder);
        let mut words = pod_folder_name.split('_');
        let (Some(namespace), Some(pod)) = (words.next(), words.next()) else { continue };
        for container in entries(&pod_folder)? {
            let numbered = entries(&container)?.into_iter().filter_map(|file| {
                let number = name(&file).strip_suffix(".log")?.parse::<u32>().ok()?;
                Some((number, file))
            });
            let files = numbered.collect::<BTreeMap<_, _>>().into_values().collect();
            let container = name(&container);
            let title = format!("{namespace}/{pod} {container}");
            sources.push(Source { names: vec![pod.to_owned(), container], title, files, container: true });
        }
    }
    Ok(sources)
}

/// The paths in a folder in order; none when it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()),
    };
    let mut entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort();
    Ok(entries)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How far the files have been shown.
#[derive(Debug, Default)]
struct Show {
    follow: bool,
    files: BTreeMap<PathBuf, (BufReader<File>, Vec<u8>)>,
    last: String,
}

impl Show {
    /// Shows what is new.
    fn more(&mut self, sources: &[&Source], out: &mut impl Write) -> io::Result<()> {
        for source in sources {
            for path in &source.files {
                while let Some(line) = self.line(path)? {
                    if sources.len() > 1 && self.last != source.title {
                        writeln!(out, "==> {} <==", source.title)?;
                    }
                    self.last.clone_from(&source.title);
                    out.write_all(if source.container { said(&line) } else { &line })?;
                }
            }
        }
        out.flush()
    }

    /// The next line of a file; one that is not whole yet when it is not followed.
    fn line(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        if !self.files.contains_key(path) {
            self.files.insert(path.to_owned(), (BufReader::new(File::open(path)?), Vec::new()));
        }
        let Some((reader, begun)) = self.files.get_mut(path) else { return Ok(None) };
        reader.read_until(b'\n', begun)?;
        if begun.ends_with(b"\n") || !self.follow && !begun.is_empty() {
            return Ok(Some(std::mem::take(begun)));
        }
        // The kubelet begins a new file under the same name when one is large.
        if fs::metadata(path).is_ok_and(|now| reader.get_ref().metadata().is_ok_and(|shown| shown.ino() != now.ino())) {
            self.files.remove(path);
            return self.line(path);
        }
        Ok(None)
    }
}

/// What a container has said: containerd writes when, on which output, and whether that is all (`F`) or a part (`P`) of a
/// line.
fn said(line: &[u8]) -> &[u8] {
    let mut words = line.splitn(4, |byte| *byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some(b"P"), Some(text)) => text.strip_suffix(b"\n").unwrap_or(text),
        (Some(_), Some(text)) => text,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Path, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn logs_of_processes_and_containers_are_found_by_their_names_and_shown_as_they_grow() {
        let folder = std::env::temp_dir().join(format!("lab-logs-{}", std::process::id()));
        write(&folder.join("etcd.log"), "ready\n");
        let container = |pod: &str| folder.join(format!("pods/pipeops-system_{pod}_a-uid/nats"));
        write(&container("nats-1").join("0.log"), "2026-11-26T22:28:11Z stderr F first start\n");
        write(
            &container("nats-1").join("10.log"),
            "2026-11-26T22:28:12Z stdout P one \n2026-11-26T22:28:12Z stdout F line\n",
        );
        write(&container("nats-1").join("0.log.20261126-222811"), "rotated\n");
        write(&container("nats-2").join("0.log"), "2026-11-26T22:28:11Z stdout F \n2026-11-26T22:28:11Z stdout F un");
        let all = sources(&folder).unwrap();
        let mut show = Show { follow: true, ..Show::default() };
        let mut shown = |name: &str| {
            let named: Vec<_> = all.iter().filter(|source| source.names.iter().any(|known| known == name)).collect();
            let mut out = Vec::new();
            show.more(&named, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown("etcd"), "ready\n");
        assert_eq!(shown("nats-1"), "first start\none line\n");
        assert_eq!(shown("nats"), "==> pipeops-system/nats-2 nats <==\n\n");
        write(&container("nats-2").join("next"), "2026-11-26T22:28:11Z stdout F another file\n");
        fs::rename(container("nats-2").join("next"), container("nats-2").join("0.log")).unwrap();
        assert_eq!(shown("nats-2"), "another file\n");
        assert_eq!(shown("nothing"), "");
        fs::remove_dir_all(&folder).unwrap();
    }
}
