//! What is being issued right now: serials, keys and requests that are taken but not yet in the index, so that two
//! issuances at the same instant cannot share any of them.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;
use mintage_identity::{AgentName, RequestId, Serial, SpiffeId, SpkiHash};

/// The reservations; shared by every issuance of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    taken: Arc<Mutex<Taken>>,
    tags: RandomState,
}

/// Whose request and its id, as a tag under a secret of this process. Two that share one, which happens to one pair in
/// 2^64, cost one of them a second ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request(u64);

/// What one issuance takes.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) serial: Serial,
    pub(crate) key: SpkiHash,
    /// None where the CA asks for itself.
    pub(crate) request: Option<Request>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    serials: HashSet<Serial, RandomState>,
    /// Key to the identity it is being issued for, and how often.
    keys: HashMap<SpkiHash, (SpiffeId, usize), RandomState>,
    requests: HashSet<Request, RandomState>,
}

/// One issuance's claim; given back when dropped, which must be after the index holds the record.
#[derive(Debug)]
pub(crate) struct Reservation {
    claim: Claim,
    flight: InFlight,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Draw another serial.
    Serial,
    /// The key is being issued under this other identity.
    Key(SpiffeId),
    /// The key is being issued for the same identity, and each certificate needs a key of its own.
    Busy,
    /// The request is being answered, for whatever key.
    Request,
}

impl InFlight {
    /// The tag of an agent's request.
    pub(crate) fn request(&self, agent: &AgentName, id: &RequestId) -> Request {
        Request(self.tags.hash_one((agent, id)))
    }

    /// Takes what the claim names, for `id`. With `rotate_keys` a key that is taken is refused to everyone: the index
    /// does not know of its certificate yet and could not tell that this is the second one. Without, the same identity
    /// may take it again. A request is taken once in any case: what its first answer is, the index cannot tell yet.
    pub(crate) fn reserve(&self, claim: Claim, id: &SpiffeId, rotate_keys: bool) -> Result<Reservation, Conflict> {
        let mut taken = self.taken();
        if taken.serials.contains(&claim.serial) {
            return Err(Conflict::Serial);
        }
        match taken.keys.get(&claim.key) {
            Some((holder, _)) if holder != id => return Err(Conflict::Key(holder.clone())),
            Some(_) if rotate_keys => return Err(Conflict::Busy),
            _ => {}
        }
        if let Some(request) = &claim.request
            && !taken.requests.insert(*request)
        {
            return Err(Conflict::Request);
        }
        taken.keys.entry(claim.key).or_insert_with(|| (id.clone(), 0)).1 += 1;
        taken.serials.insert(claim.serial);
        drop(taken);
        Ok(Reservation {
            claim,
            flight: self.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // The sets are whole after every statement; a panic elsewhere does not spoil them.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The serial taken.
    pub(crate) fn serial(&self) -> &Serial {
        &self.claim.serial
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.flight.taken();
        taken.serials.remove(&self.claim.serial);
        if let Some(request) = &self.claim.request {
            taken.requests.remove(request);
        }
        if let Some((_, count)) = taken.keys.get_mut(&self.claim.key) {
            *count -= 1;
            if *count == 0 {
                taken.keys.remove(&self.claim.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(serial: u8, key: u8) -> Claim {
        Claim {
            serial: Serial::from_random([serial; 16]),
            key: SpkiHash::new([key; 32]),
            request: None,
        }
    }

    fn of(flight: &InFlight, agent: &str, request: u8, claim: Claim) -> Claim {
        let id = RequestId::from_slice(&[request; 16]).unwrap();
        Claim {
            request: Some(flight.request(&AgentName::parse(agent).unwrap(), &id)),
            ..claim
        }
    }

    fn ids() -> (SpiffeId, SpiffeId) {
        let id = |path: &str| SpiffeId::parse(&format!("spiffe://td{path}")).unwrap();
        (id("/web"), id("/db"))
    }

    #[test]
    fn a_key_that_rotates_is_taken_once_even_by_its_own_identity() {
        let flight = InFlight::default();
        let (web, db) = ids();
        let held = flight.reserve(claim(1, 7), &web, true).unwrap();
        assert_eq!(flight.reserve(claim(2, 7), &web, true).unwrap_err(), Conflict::Busy);
        assert_eq!(
            flight.reserve(claim(2, 7), &db, true).unwrap_err(),
            Conflict::Key(web.clone())
        );
        // What was refused took nothing: the serial is free, and one return frees the key.
        let other = flight.reserve(claim(2, 8), &web, true).unwrap();
        drop(held);
        let again = flight.reserve(claim(3, 7), &db, true).unwrap();
        drop((other, again));
        assert_eq!(*flight.taken(), Taken::default());
    }

    #[test]
    fn a_serial_and_a_key_are_taken_once() {
        let flight = InFlight::default();
        let (web, db) = ids();
        let held = flight.reserve(claim(1, 7), &web, false).unwrap();
        assert_eq!(flight.reserve(claim(1, 8), &web, false).unwrap_err(), Conflict::Serial);
        assert_eq!(
            flight.reserve(claim(2, 7), &db, false).unwrap_err(),
            Conflict::Key(web.clone())
        );
        let again = flight.reserve(claim(2, 7), &web, false).unwrap();
        drop(held);
        assert!(flight.reserve(claim(1, 7), &db, false).is_err());
        drop(again);
        assert!(flight.reserve(claim(1, 7), &db, false).is_ok());
    }

    #[test]
    fn a_request_is_taken_once_whatever_its_key() {
        let flight = InFlight::default();
        let (web, _) = ids();
        let held = flight.reserve(of(&flight, "a", 1, claim(1, 7)), &web, false).unwrap();
        for key in [7, 8] {
            let second = flight.reserve(of(&flight, "a", 1, claim(2, key)), &web, false);
            assert_eq!(second.unwrap_err(), Conflict::Request);
        }
        let other_agent = flight.reserve(of(&flight, "b", 1, claim(2, 8)), &web, false).unwrap();
        let other_request = flight.reserve(of(&flight, "a", 2, claim(3, 9)), &web, false).unwrap();
        drop(held);
        let after = flight.reserve(of(&flight, "a", 1, claim(4, 7)), &web, false).unwrap();
        drop((other_agent, other_request, after));
        assert_eq!(*flight.taken(), Taken::default());
    }
}
