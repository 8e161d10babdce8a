//! Places among connections or streams of one kind, in all and of one source, so that no source takes them all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::acceptor::source_of;

/// Bounds on connections, in all and of one source.
#[derive(Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_source: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// This source has taken as many as one may.
    Source,
}

/// A place among the connections, given back on drop.
pub(crate) struct Place {
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _all: OwnedSemaphorePermit,
}

impl Places {
    /// So many in all, and of one source.
    pub(crate) fn new(all: usize, per_source: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            sources: Arc::default(),
            per_source,
        }
    }

    /// A place for one more from `ip`.
    ///
    /// # Errors
    /// Which bound is reached.
    pub(crate) fn take(&self, ip: IpAddr) -> Result<Place, Full> {
        let all = self.all.clone().try_acquire_owned().map_err(|_| Full::All)?;
        let source = source_of(ip);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_insert(0);
        if *count >= self.per_source {
            return Err(Full::Source);
        }
        *count += 1;
        drop(sources);
        Ok(Place {
            source,
            sources: self.sources.clone(),
            _all: all,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_one_source_nor_all_of_them_take_more_than_there_are() {
        let places = Places::new(3, 2);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut held = vec![places.take(one).unwrap(), places.take(one).unwrap()];
        assert_eq!(places.take(one).err(), Some(Full::Source), "its own are taken");
        held.push(places.take(other).unwrap());
        assert_eq!(places.take(other).err(), Some(Full::All), "all are taken");
        held.clear();
        assert!(places.take(one).is_ok());
        assert!(places.sources.lock().unwrap().is_empty());
    }
}
