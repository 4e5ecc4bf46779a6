//! What the kernel says about a process.

use anyhow::{Context, Result};
use std::{fs, time::Duration};

/// Linux reports process times in hundredths of a second to user space on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    Ok(status_number(pid, "VmRSS:")? * 1024)
}

/// Threads.
pub(crate) fn threads(pid: u32) -> Result<usize> {
    Ok(usize::try_from(status_number(pid, "Threads:")?)?)
}

/// Open file descriptors.
pub(crate) fn fds(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))
        .with_context(|| format!("cannot list the descriptors of {pid}"))?
        .count())
}

/// User and system time since the start.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    // Fields 14 and 15 of proc_pid_stat(5).
    let ticks: u32 = stat(pid)?.iter().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

/// When it started, in ticks since boot: with the process id, this names a process for ever. `None` when there is no such process,
/// or when it has ended and only waits for its parent to notice.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let fields = stat(pid).ok()?;
    // Fields 3 and 22 of proc_pid_stat(5).
    let ended = fields.first().is_none_or(|state| state == "Z" || state == "X");
    if ended { None } else { fields.get(19)?.parse().ok() }
}

/// The fields of `/proc/PID/stat` from the third on: the second, the program's name in parentheses, may hold anything.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat has another shape here")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn status_number(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("process {pid} has no {key}"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{key} {line} of process {pid} is no number"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn knows_its_own_process() {
        let me = std::process::id();
        assert!(super::rss(me).unwrap() > 100 * 1024);
        assert!(super::threads(me).unwrap() >= 1);
        assert!(super::fds(me).unwrap() >= 3);
        assert!(super::start_time(me).unwrap() > 0);
        super::cpu_time(me).unwrap();
        assert_eq!(super::start_time(u32::MAX), None);
    }
}
