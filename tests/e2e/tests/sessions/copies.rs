//! `kubectl cp`.

use anyhow::{Context, Result, ensure};
use lab::Lab;
use sha2::{Digest, Sha256};
use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

const SIZE: usize = 1 << 30;
const BLOCK: usize = 1 << 20;

/// Every block is different, so that one that is lost, doubled or moved shows. Gives the hash.
fn write(file: &Path) -> Result<String> {
    let mut out = std::fs::File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    let (mut hash, mut block) = (Sha256::new(), vec![0x5a_u8; BLOCK]);
    for number in 0..SIZE / BLOCK {
        if let Some(start) = block.get_mut(..8) {
            start.copy_from_slice(&(number as u64).to_le_bytes());
        }
        hash.update(&block);
        out.write_all(&block)?;
    }
    Ok(text(&hash.finalize()))
}

fn hash(file: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => hash.update(block.get(..count).unwrap_or_default()),
        }
    }
    Ok(text(&hash.finalize()))
}

fn text(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

pub async fn a_gibibyte_is_copied_both_ways(lab: Arc<Lab>) -> Result<()> {
    let namespace = "copies";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let kubectl = lab.proxied()?;
    let (there, back) = (lab.folder().join("there"), lab.folder().join("back"));
    let sent = tokio::task::spawn_blocking({
        let there = there.clone();
        move || write(&there)
    })
    .await??;
    let file = format!("{namespace}/box:/tmp/file");
    kubectl.stdout(&["cp", &there.display().to_string(), &file]).await?;
    let seen = kubectl.stdout(&["exec", "box", "-n", namespace, "--", "sha256sum", "/tmp/file"]).await?;
    ensure!(seen.starts_with(&sent), "sent {sent}, there {seen}");
    kubectl.stdout(&["cp", "--retries=0", &file, &back.display().to_string()]).await?;
    let got = tokio::task::spawn_blocking({
        let back = back.clone();
        move || hash(&back)
    })
    .await??;
    for file in [there, back] {
        std::fs::remove_file(file)?;
    }
    ensure!(got == sent, "sent {sent}, back {got}");
    Ok(())
}
