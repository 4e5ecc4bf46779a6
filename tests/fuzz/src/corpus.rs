//! Inputs as small files: one that is text is the file less its last line's end, any other is hexadecimal digits with comments.

use crate::Target;
use anyhow::{Context, Result, ensure};
use std::{
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

const HEX: &str = "hex";
const TEXT: &str = "txt";
/// Of a line of hexadecimal digits.
const BYTES_IN_LINE: usize = 32;

/// A file of the corpus.
#[derive(Clone, Debug)]
pub struct Entry {
    pub file: PathBuf,
    pub input: Vec<u8>,
}

fn folder(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name())
}

/// All inputs of a target, by the names of their files.
///
/// # Errors
/// When one cannot be read, or is not written as it has to be.
pub fn read(target: Target) -> Result<Vec<Entry>> {
    let folder = folder(target);
    let listed = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    files.into_iter().map(|file| Ok(Entry { input: parse(&file)?, file })).collect()
}

fn parse(file: &Path) -> Result<Vec<u8>> {
    let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if file.extension().is_some_and(|extension| extension == TEXT) {
        return Ok(content.strip_suffix(b"\n").unwrap_or(&content).to_vec());
    }
    let text = String::from_utf8(content).with_context(|| format!("{} is no text", file.display()))?;
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    ensure!(
        digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{} holds something else than pairs of hexadecimal digits and comments",
        file.display()
    );
    let pairs = digits.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    Ok(pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect())
}

/// Adds an input; gives its file.
///
/// # Errors
/// When it cannot be written.
pub fn write(target: Target, input: &[u8]) -> Result<PathBuf> {
    write_in(&folder(target), input)
}

fn write_in(folder: &Path, input: &[u8]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let plain = std::str::from_utf8(input).is_ok_and(|text| !text.contains(char::is_control));
    let (content, extension) = if plain { (text(input), TEXT) } else { (hex(input), HEX) };
    let file = folder.join(format!("found-{:016x}.{extension}", hasher.finish()));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn text(input: &[u8]) -> Vec<u8> {
    [input, b"\n"].concat()
}

fn hex(input: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    for line in input.chunks(BYTES_IN_LINE) {
        for byte in line {
            // Writing to memory does not fail.
            let _written = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for input in [&b""[..], b"{\"type\":\"ping\"}", b"\0\x01\xff and text", &[7; 100]] {
            let file = write_in(folder.path(), input).unwrap();
            assert_eq!(parse(&file).unwrap(), input, "{}", file.display());
        }
        let file = folder.path().join("by-hand.hex");
        std::fs::write(&file, "00 01 # a comment\n\nfF\n").unwrap();
        assert_eq!(parse(&file).unwrap(), [0, 1, 255]);
        std::fs::write(&file, "0").unwrap();
        assert!(parse(&file).is_err());
    }
}
