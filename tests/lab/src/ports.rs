//! Ports of 127.0.0.1 for the processes of labs.

use crate::folders;
use anyhow::{Context, Result, bail};
use std::{
    fs::{File, TryLockError},
    net::TcpListener,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// The lowest.
pub(crate) const FIRST: u16 = 20_000;
/// Below those that the system gives to outgoing connections, and those of Kubernetes' NodePorts: a port stays free while its process
/// restarts.
const PORTS: Range<u16> = FIRST..30_000;
const BLOCK: u16 = 100;

/// What is left of a block of ports, which is this program's as long as it runs: so two labs of a user never take the same.
#[derive(Debug)]
struct Block {
    left: Range<u16>,
    /// Locked.
    _file: File,
}

/// Of all labs of this program.
static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// `N` ports that nobody listens on, each given once.
///
/// # Errors
/// When so many labs run that there are none left.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = [0; N];
    for port in &mut ports {
        *port = next(&mut blocks)?;
    }
    Ok(ports)
}

fn next(blocks: &mut Vec<Block>) -> Result<u16> {
    loop {
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        if let Some(port) = blocks.last_mut().and_then(|block| block.left.by_ref().find(free)) {
            return Ok(port);
        }
        blocks.push(take()?);
    }
}

/// A block that no running program has.
fn take() -> Result<Block> {
    let folder = folders::cache()?.join("ports");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let starts: Vec<u16> = PORTS.step_by(BLOCK.into()).collect();
    // Not always the same first: connections of the last lab may still be about to end.
    let first = usize::try_from(std::process::id())? % starts.len();
    for start in starts.iter().cycle().skip(first).take(starts.len()) {
        let path = folder.join(start.to_string());
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(Block { left: *start..start + BLOCK, _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    bail!("every block of ports of {PORTS:?} is taken by a lab that runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_that_somebody_listens_on() {
        let [first, second] = free().unwrap();
        assert_ne!(first, second);
        let taken = TcpListener::bind(("127.0.0.1", second + 1)).ok();
        let ports: [u16; 150] = free().unwrap();
        let mut all = vec![first, second];
        all.extend(ports);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 152);
        assert!(taken.is_none() || !all.contains(&(second + 1)));
    }

    #[test]
    fn a_block_is_not_given_to_another_program() {
        let blocks: Vec<Block> = (0..5).map(|_| take().unwrap()).collect();
        let mut starts: Vec<u16> = blocks.iter().map(|block| block.left.start).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), 5);
    }
}
