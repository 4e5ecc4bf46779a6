use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long what DNS said counts: as long as the cluster's DNS lets anybody keep a Service's address, unless set otherwise.
const KEPT: Duration = Duration::from_secs(5);
/// The same for a name that has no address, which may be about to get one.
const FAILURE_KEPT: Duration = Duration::from_secs(1);
/// Lookups at once. Each takes a thread for as long as DNS takes, and the process has few of them for all its files as well.
const AT_ONCE: usize = 4;
/// From this many names on, those that count no more are thrown away.
const MANY: usize = 1024;

/// What one lookup found, and when.
#[derive(Clone, Debug)]
pub struct Found {
    at: Instant,
    /// Some, or why there are none.
    pub addresses: Result<Arc<[IpAddr]>, Arc<io::Error>>,
}

/// The addresses of names: whoever asks for one that is being looked up, or was a moment ago, asks DNS no more.
#[derive(Debug)]
pub struct Lookups {
    known: Mutex<HashMap<String, Shared<BoxFuture<'static, Found>>>>,
    places: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { known: Mutex::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Lookups {
    /// What is found for `name`, and whether that was known already.
    ///
    /// `look` is called if it is not, and runs to its end even where nobody waits for it any more.
    pub async fn find<F>(&self, name: &str, look: impl FnOnce() -> F) -> (Found, bool)
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let (lookup, known) = {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = |lookup: &Shared<_>| lookup.peek().is_none_or(Found::counts);
            match all.get(name).filter(|lookup| counts(lookup)) {
                Some(lookup) => (lookup.clone(), lookup.peek().is_some()),
                None => {
                    if all.len() >= MANY {
                        all.retain(|_, lookup| counts(lookup));
                    }
                    let lookup = self.start(look());
                    all.insert(name.to_owned(), lookup.clone());
                    (lookup, false)
                }
            }
        };
        (lookup.await, known)
    }

    /// What `found` says of `name` counts no more.
    pub fn forget(&self, name: &str, found: &Found) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(name).and_then(Shared::peek).is_some_and(|last| last.at == found.at) {
            all.remove(name);
        }
    }

    fn start<F>(&self, look: F) -> Shared<BoxFuture<'static, Found>>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let places = Arc::clone(&self.places);
        let task = tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            look.await
        });
        let found = async move {
            let looked = task.await.map_err(io::Error::other).flatten();
            let some = looked.and_then(|found| match found.is_empty() {
                false => Ok(found.into()),
                true => Err(io::ErrorKind::NotFound.into()),
            });
            Found { at: Instant::now(), addresses: some.map_err(Arc::new) }
        };
        found.boxed().shared()
    }
}

impl Found {
    fn counts(&self) -> bool {
        self.at.elapsed() < if self.addresses.is_ok() { KEPT } else { FAILURE_KEPT }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    /// A DNS that takes a second, and counts who asks it.
    #[derive(Default)]
    struct Dns {
        asked: AtomicUsize,
        at_once: AtomicUsize,
        most: AtomicUsize,
        says: Mutex<Vec<IpAddr>>,
    }

    impl Dns {
        async fn look(self: Arc<Self>) -> io::Result<Vec<IpAddr>> {
            self.asked.fetch_add(1, Relaxed);
            let now = self.at_once.fetch_add(1, Relaxed) + 1;
            self.most.fetch_max(now, Relaxed);
            sleep(Duration::from_secs(1)).await;
            self.at_once.fetch_sub(1, Relaxed);
            Ok(self.says.lock().unwrap().clone())
        }

        fn says(&self, address: &str) {
            *self.says.lock().unwrap() = vec![address.parse().unwrap()];
        }
    }

    async fn find(lookups: &Lookups, dns: &Arc<Dns>, name: &str) -> (String, bool) {
        let (found, known) = lookups.find(name, || Arc::clone(dns).look()).await;
        (found.addresses.map_or_else(|error| error.to_string(), |all| format!("{all:?}")), known)
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_in_a_while_however_many_want_it() {
        let (lookups, dns) = (Lookups::default(), Arc::new(Dns::default()));
        dns.says("10.0.0.1");
        let all = join_all((0..100).map(|_| find(&lookups, &dns, "web"))).await;
        assert!(all.iter().all(|found| *found == ("[10.0.0.1]".to_owned(), false)), "{all:?}");
        dns.says("10.0.0.2");
        assert_eq!(find(&lookups, &dns, "web").await, ("[10.0.0.1]".to_owned(), true));
        assert_eq!(dns.asked.load(Relaxed), 1);
        advance(KEPT).await;
        assert_eq!(find(&lookups, &dns, "web").await, ("[10.0.0.2]".to_owned(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_or_was_not_there_is_asked_for_anew() {
        let (lookups, dns) = (Lookups::default(), Arc::new(Dns::default()));
        let missing = find(&lookups, &dns, "web").await;
        assert_eq!(missing.0, io::Error::from(io::ErrorKind::NotFound).to_string());
        dns.says("10.0.0.1");
        assert_eq!(find(&lookups, &dns, "web").await, (missing.0, true));
        advance(FAILURE_KEPT).await;
        let (found, _) = lookups.find("web", || Arc::clone(&dns).look()).await;
        dns.says("10.0.0.2");
        lookups.forget("web", &found);
        assert_eq!(find(&lookups, &dns, "web").await, ("[10.0.0.2]".to_owned(), false));
        // What was found since is another's.
        lookups.forget("web", &found);
        assert!(find(&lookups, &dns, "web").await.1);
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_looked_up_at_once_and_none_is_looked_up_for_nothing() {
        let (lookups, dns) = (Lookups::default(), Arc::new(Dns::default()));
        let names = (0..20).map(|name| name.to_string()).collect::<Vec<_>>();
        let given_up = names.iter().map(|name| find(&lookups, &dns, name).now_or_never());
        assert!(given_up.collect::<Vec<_>>().iter().all(Option::is_none));
        dns.says("10.0.0.1");
        join_all(names.iter().map(|name| find(&lookups, &dns, name))).await;
        assert_eq!((dns.asked.load(Relaxed), dns.most.load(Relaxed)), (20, AT_ONCE));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_names_those_that_count_are_kept() {
        let (lookups, dns) = (Lookups::default(), Arc::new(Dns::default()));
        dns.says("10.0.0.1");
        let names = (0..MANY).map(|name| name.to_string()).collect::<Vec<_>>();
        join_all(names.iter().map(|name| find(&lookups, &dns, name))).await;
        advance(KEPT).await;
        find(&lookups, &dns, "web").await;
        assert_eq!(lookups.known.lock().unwrap().len(), 1);
    }
}
