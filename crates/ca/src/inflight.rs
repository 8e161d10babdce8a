//! What is being issued right now: serials and keys that are taken but not yet in the index, so that two issuances at
//! the same instant cannot share either.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mintage_identity::{Serial, SpiffeId, SpkiHash};

/// The reservations; shared by every issuance of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Arc<Mutex<Taken>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    serials: HashSet<Serial>,
    /// Key to the identity it is being issued for, and how often.
    keys: HashMap<SpkiHash, (SpiffeId, usize)>,
}

/// One issuance's serial and key; given back when dropped, which must be after the index holds the record.
#[derive(Debug)]
pub(crate) struct Reservation {
    serial: Serial,
    key: SpkiHash,
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
}

impl InFlight {
    /// Takes the serial and the key for `id`. With `rotate_keys` a key that is taken is refused to everyone: the index
    /// does not know of its certificate yet and could not tell that this is the second one. Without, the same identity
    /// may take it again.
    pub(crate) fn reserve(
        &self,
        serial: Serial,
        key: SpkiHash,
        id: &SpiffeId,
        rotate_keys: bool,
    ) -> Result<Reservation, Conflict> {
        let mut taken = self.taken();
        if taken.serials.contains(&serial) {
            return Err(Conflict::Serial);
        }
        match taken.keys.get_mut(&key) {
            Some((holder, _)) if holder != id => return Err(Conflict::Key(holder.clone())),
            Some(_) if rotate_keys => return Err(Conflict::Busy),
            Some((_, count)) => *count += 1,
            None => {
                taken.keys.insert(key, (id.clone(), 1));
            }
        }
        taken.serials.insert(serial);
        drop(taken);
        Ok(Reservation {
            serial,
            key,
            flight: self.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // The sets are whole after every statement; a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The serial taken.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.flight.taken();
        taken.serials.remove(&self.serial);
        if let Some((_, count)) = taken.keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_rotates_is_taken_once_even_by_its_own_identity() {
        let flight = InFlight::default();
        let [one, two, three] = [1, 2, 3].map(|octet| Serial::from_random([octet; 16]));
        let key = SpkiHash::new([7; 32]);
        let web = SpiffeId::parse("spiffe://td/web").unwrap();
        let db = SpiffeId::parse("spiffe://td/db").unwrap();
        let held = flight.reserve(one, key, &web, true).unwrap();
        assert_eq!(flight.reserve(two, key, &web, true).unwrap_err(), Conflict::Busy);
        assert_eq!(
            flight.reserve(two, key, &db, true).unwrap_err(),
            Conflict::Key(web.clone())
        );
        // What was refused took nothing: the serial is free, and one return frees the key.
        let other = flight.reserve(two, SpkiHash::new([8; 32]), &web, true).unwrap();
        drop(held);
        let again = flight.reserve(three, key, &db, true).unwrap();
        drop((other, again));
        assert_eq!(*flight.taken(), Taken::default());
    }

    #[test]
    fn a_serial_and_a_key_are_taken_once() {
        let flight = InFlight::default();
        let (one, two) = (Serial::from_random([1; 16]), Serial::from_random([2; 16]));
        let key = SpkiHash::new([7; 32]);
        let web = SpiffeId::parse("spiffe://td/web").unwrap();
        let db = SpiffeId::parse("spiffe://td/db").unwrap();
        let held = flight.reserve(one, key, &web, false).unwrap();
        assert_eq!(
            flight.reserve(one, SpkiHash::new([8; 32]), &web, false).unwrap_err(),
            Conflict::Serial
        );
        assert_eq!(
            flight.reserve(two, key, &db, false).unwrap_err(),
            Conflict::Key(web.clone())
        );
        let again = flight.reserve(two, key, &web, false).unwrap();
        drop(held);
        assert!(flight.reserve(one, key, &db, false).is_err());
        drop(again);
        assert!(flight.reserve(one, key, &db, false).is_ok());
    }
}
