//! Trying inputs until the time is over or one fails.

use crate::{
    Target,
    mutate::Mutator,
    target::{Checker, Verdict},
};
use std::{
    collections::HashSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// An input that takes longer never ends.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// One that takes longer costs a peer too little for what it costs us.
const SLOW: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Inputs that were new are kept up to this.
const POOL: usize = 2000;
/// How often a failing input is tried while it is cut down.
const CUTS: usize = 400;
/// Memory of this process may grow by so much after the first inputs: pools, and what allocators keep.
const MORE_MEMORY: u64 = 192 << 20;
/// After so many inputs memory is looked at, again and again.
const LOOK_AT_MEMORY: usize = 5000;

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many inputs besides the corpus: the same ones with the same seed.
    Inputs(usize),
    /// For so long.
    Time(Duration),
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub inputs: usize,
    /// Different things that the target has said.
    pub outcomes: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} inputs, {} outcomes", self.inputs, self.outcomes)
    }
}

/// An input that must not do what it does.
#[derive(Debug)]
pub struct Failure {
    pub input: Vec<u8>,
    pub reason: String,
}

/// What the worker is doing.
#[derive(Debug)]
struct Now {
    input: Vec<u8>,
    since: Instant,
    progress: Progress,
}

/// Tries the corpus, then what is made of it. `tell` is called now and then.
///
/// # Errors
/// With the first input that fails.
pub fn run(
    target: Target,
    corpus: &[Vec<u8>],
    budget: Budget,
    seed: u64,
    tell: impl Fn(Progress),
) -> Result<Progress, Failure> {
    let now = Arc::new(Mutex::new(Now { input: Vec::new(), since: Instant::now(), progress: Progress::default() }));
    let (sender, ended) = mpsc::channel();
    let worker = {
        let (now, corpus) = (Arc::clone(&now), corpus.to_vec());
        move || {
            let outcome = Worker::new(target, corpus, seed, now).run(budget);
            // Nobody is there any more when it was found stuck.
            let _told = sender.send(outcome);
        }
    };
    let started = std::thread::Builder::new().name(format!("fuzz-{}", target.name())).spawn(worker);
    let worker =
        started.map_err(|error| Failure { input: Vec::new(), reason: format!("cannot start a thread: {error}") })?;
    loop {
        match ended.recv_timeout(TELL_EVERY) {
            Ok(outcome) => {
                // It has said all that it has to say.
                let _ended = worker.join();
                return outcome;
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = lock(&now);
                if now.since.elapsed() > STUCK_AFTER {
                    return Err(Failure { input: now.input.clone(), reason: "it does not end".to_owned() });
                }
                tell(now.progress);
            }
            Err(RecvTimeoutError::Disconnected) => {
                let input = lock(&now).input.clone();
                return Err(Failure { input, reason: "the worker has ended".to_owned() });
            }
        }
    }
}

struct Worker {
    checker: Checker,
    pool: Vec<Vec<u8>>,
    /// As many inputs of the pool stay for ever.
    corpus: usize,
    outcomes: HashSet<String>,
    mutator: Mutator,
    now: Arc<Mutex<Now>>,
    inputs: usize,
}

impl Worker {
    fn new(target: Target, corpus: Vec<Vec<u8>>, seed: u64, now: Arc<Mutex<Now>>) -> Self {
        Self {
            checker: Checker::new(target),
            corpus: corpus.len(),
            pool: corpus,
            outcomes: HashSet::new(),
            mutator: Mutator::new(seed, target.grain()),
            now,
            inputs: 0,
        }
    }

    fn run(mut self, budget: Budget) -> Result<Progress, Failure> {
        let begun = Instant::now();
        for input in self.pool.clone() {
            self.check(input)?;
        }
        let mut memory = None;
        let of_corpus = self.inputs;
        loop {
            let over = match budget {
                Budget::Inputs(inputs) => self.inputs - of_corpus >= inputs,
                Budget::Time(time) => begun.elapsed() >= time,
            };
            if over {
                return Ok(self.progress());
            }
            let input = self.mutator.next(&self.pool);
            self.check(input)?;
            if self.inputs.is_multiple_of(LOOK_AT_MEMORY) {
                let resident = resident();
                let first = *memory.get_or_insert(resident);
                if resident > first + MORE_MEMORY {
                    let reason = format!("memory grew from {first} to {resident} bytes in {} inputs", self.inputs);
                    return Err(Failure { input: lock(&self.now).input.clone(), reason });
                }
            }
        }
    }

    fn check(&mut self, input: Vec<u8>) -> Result<(), Failure> {
        self.inputs += 1;
        let progress = self.progress();
        let begun = Instant::now();
        *lock(&self.now) = Now { input: input.clone(), since: begun, progress };
        match self.verdict(&input) {
            Verdict::Good(outcome) if begun.elapsed() < SLOW => {
                if self.outcomes.insert(outcome) {
                    self.keep(input);
                }
                Ok(())
            }
            Verdict::Good(_) => Err(Failure { input, reason: format!("it takes {:?}", begun.elapsed()) }),
            Verdict::Bad(reason) => Err(self.cut_down(input, reason)),
        }
    }

    fn verdict(&mut self, input: &[u8]) -> Verdict {
        catch_unwind(AssertUnwindSafe(|| self.checker.check(input))).unwrap_or_else(|panic| {
            self.checker.renew();
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Verdict::Bad(format!("it panics: {}", text.unwrap_or_default()))
        })
    }

    fn keep(&mut self, input: Vec<u8>) {
        if self.pool.len() >= POOL + self.corpus {
            // The one that is mutated least from here on.
            let oldest = self.corpus;
            self.pool.swap_remove(oldest);
        }
        self.pool.push(input);
    }

    /// Leaves out what is not needed to fail.
    fn cut_down(&mut self, mut input: Vec<u8>, mut reason: String) -> Failure {
        let mut size = input.len() / 2;
        let mut tries = 0;
        while size > 0 && tries < CUTS {
            let mut at = 0;
            while at < input.len() && tries < CUTS {
                let mut shorter = input.clone();
                shorter.drain(at..(at + size).min(input.len()));
                tries += 1;
                *lock(&self.now) = Now { input: input.clone(), since: Instant::now(), progress: self.progress() };
                match self.verdict(&shorter) {
                    Verdict::Bad(still) => (input, reason) = (shorter, still),
                    Verdict::Good(_) => at += size,
                }
            }
            size /= 2;
        }
        Failure { input, reason }
    }

    fn progress(&self) -> Progress {
        Progress { inputs: self.inputs, outcomes: self.outcomes.len() }
    }
}

fn lock(now: &Mutex<Now>) -> MutexGuard<'_, Now> {
    now.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of this process in bytes; 0 where that is not to be had.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(check: fn(&[u8]) -> Result<String, String>) -> Result<Progress, Failure> {
        let now = Now { input: Vec::new(), since: Instant::now(), progress: Progress::default() };
        let mut worker =
            Worker::new(Target::StreamHeader, vec![b"the beginning".to_vec()], 1, Arc::new(Mutex::new(now)));
        worker.checker = Checker::Plain(check);
        worker.run(Budget::Inputs(20_000))
    }

    #[test]
    fn an_input_that_fails_is_found_and_cut_down() {
        let found = run_with(|input| {
            assert!(!input.contains(&0xff), "a byte of 255");
            Ok(String::new())
        });
        let Failure { input, reason } = found.unwrap_err();
        assert_eq!((input.as_slice(), reason.as_str()), (&[0xff][..], "it panics: a byte of 255"));
        let found = run_with(|input| if input.len() > 40 { Err("long".to_owned()) } else { Ok(String::new()) });
        let Failure { input, reason } = found.unwrap_err();
        assert_eq!((input.len(), reason.as_str()), (41, "long"));
        assert_eq!(run_with(|_| Ok(String::new())).unwrap().inputs, 20_001);
    }

    #[test]
    fn what_says_something_new_leads_further() {
        // By chance alone, one in 2^32.
        let found = run_with(|input| {
            let length = input.iter().take_while(|byte| **byte == 0).count();
            if length < 4 { Ok(length.to_string()) } else { Err("found".to_owned()) }
        });
        assert_eq!(found.unwrap_err().input, [0; 4]);
    }
}
