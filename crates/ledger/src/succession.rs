//! The statement by which a log's key names the log that follows it, so that who trusts the first key of a ledger can follow
//! all its shards: a signed note (C2SP signed-note) of three lines that is no checkpoint.

use std::fmt;

use crate::{
    LedgerError,
    checkpoint::LogKey,
    disk::read_whole,
    layout::Shard,
    limits::SUCCESSION_BYTES_MAX,
    note::{NoteSignature, SignedNote, Vkey},
    origin::Origin,
};

/// First line, so that no other note of the same key reads as this.
const HEAD: &str = "mintage ledger succession v1";

/// "After the log `from` comes the log with the key `to`", signed by the key of `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    to: Vkey,
    note: SignedNote,
}

/// A statement as it was read: nothing in it is believed before [`SuccessionClaim::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessionClaim {
    from: Origin,
    to: Vkey,
    next: Origin,
    note: SignedNote,
}

impl SuccessionClaim {
    /// Reads a statement.
    ///
    /// # Errors
    /// Refuses every other note, and more than 4 KB.
    pub fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > SUCCESSION_BYTES_MAX {
            let problem = format!("has {} bytes, the limit is {SUCCESSION_BYTES_MAX}", bytes.len());
            return Err(LedgerError::format("succession", problem));
        }
        let note = SignedNote::parse(bytes)?;
        let mut lines = note.text().lines().skip(1);
        let from = Origin::parse(lines.next().unwrap_or_default())?;
        let to = lines.next().unwrap_or_default().parse::<Vkey>()?;
        // Written again and compared whole: head, key and shape at once.
        if text_of(from.as_str(), &to) != note.text() {
            let problem = format!("is no statement of {from} about the log after it");
            return Err(LedgerError::format("succession", problem));
        }
        let next = Origin::parse(to.name())?;
        Ok(Self { from, to, next, note })
    }

    /// The log whose statement it says to be.
    pub fn from(&self) -> &Origin {
        &self.from
    }

    /// The key that it names.
    pub fn to(&self) -> &Vkey {
        &self.to
    }

    /// True when it names a log of the same ledger in the same trust domain, and not the very log that speaks.
    pub fn stays_in_its_ledger(&self) -> bool {
        let ledger = |origin: &Origin| (origin.trust_domain_str().to_owned(), origin.id().to_owned());
        ledger(&self.from) == ledger(&self.next) && self.from != self.next
    }

    /// The statement, when the log with the key `from` made it and may make it.
    ///
    /// # Errors
    /// Refuses another log's statement, a bad signature, and one about a log of another ledger.
    pub fn verify(&self, from: &Vkey) -> Result<Succession, LedgerError> {
        if from.name() != self.from.as_str() {
            let problem = format!("is of {}, not of {}", self.from, from.name());
            return Err(LedgerError::format("succession", problem));
        }
        self.note.verify(from)?;
        if !self.stays_in_its_ledger() {
            let problem = format!(
                "names {}, which is no other log of the ledger of {}",
                self.next, self.from
            );
            return Err(LedgerError::format("succession", problem));
        }
        Ok(Succession {
            to: self.to.clone(),
            note: self.note.clone(),
        })
    }
}

impl Succession {
    /// States that `to` follows the log `from`, whose key is `key`.
    pub fn sign(key: &LogKey, from: &Origin, to: &Vkey) -> Self {
        let text = text_of(from.as_str(), to);
        let vkey = key.vkey(from);
        let line = NoteSignature::new(vkey.name(), vkey.id(), key.sign_octets(text.as_bytes()));
        Self {
            to: to.clone(),
            note: SignedNote::new(text, vec![line]),
        }
    }

    /// Reads a statement and checks that the log with the key `from` made it.
    ///
    /// # Errors
    /// As [`SuccessionClaim::parse`] and [`SuccessionClaim::verify`].
    pub fn verify(bytes: &[u8], from: &Vkey) -> Result<Self, LedgerError> {
        SuccessionClaim::parse(bytes)?.verify(from)
    }

    /// The key of the log that follows.
    pub fn to(&self) -> &Vkey {
        &self.to
    }
}

/// The keys that are trusted, and those that follow from them by statements in the order of the logs. A statement of a log
/// that is not trusted adds nothing.
pub fn follow<'a>(trusted: &[Vkey], statements: impl IntoIterator<Item = &'a str>) -> Vec<Vkey> {
    let mut keys = trusted.to_vec();
    for statement in statements {
        let named = keys
            .iter()
            .find_map(|key| Succession::verify(statement.as_bytes(), key).ok());
        keys.extend(named.map(|succession| succession.to));
    }
    keys
}

/// True when the statement in a shard's folder, made by the key `from` of the shard before, names the shard's key.
///
/// # Errors
/// Fails when there is no statement, or it is not one of that key.
pub(crate) fn names(shard: &Shard, from: &Vkey) -> Result<bool, LedgerError> {
    Ok(Succession::verify(read(shard)?.as_bytes(), from)?.to == shard.vkey)
}

/// The statement in a shard's folder, whatever it says.
pub(crate) fn read(shard: &Shard) -> Result<String, LedgerError> {
    let path = shard.succession();
    let bytes = read_whole(&path, SUCCESSION_BYTES_MAX as u64, "the statement of the log before")?;
    String::from_utf8(bytes).map_err(|_| LedgerError::format("succession", "is no text"))
}

fn text_of(from: &str, to: &Vkey) -> String {
    format!("{HEAD}\n{from}\n{to}\n")
}

impl fmt::Display for Succession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ForeignCheckpoint,
        tests::kit::{key, origin},
    };
    use zeroize::Zeroizing;

    #[test]
    fn only_the_log_before_can_name_the_next() {
        let (other, _) = LogKey::generate(&Zeroizing::new([4; 32])).unwrap();
        let next = Origin::parse("dev.test/mintage/a1b2/2026-01").unwrap();
        let signed = Succession::sign(&key(), &origin(), &other.vkey(&next));
        let bytes = signed.to_string().into_bytes();
        let read = Succession::verify(&bytes, &key().vkey(&origin())).unwrap();
        assert_eq!((read.to(), &read), (&other.vkey(&next), &signed));
        let text = signed.to_string();
        let trusted = [key().vkey(&origin())];
        assert_eq!(
            follow(&trusted, [text.as_str(), "no note"]),
            [trusted[0].clone(), other.vkey(&next)]
        );
        assert_eq!(follow(&[other.vkey(&next)], [text.as_str()]).len(), 1);
        // By the key of another log, or the same key under another name.
        assert!(Succession::verify(&bytes, &other.vkey(&origin())).is_err());
        assert!(Succession::verify(&bytes, &key().vkey(&next)).is_err());
        // It is no checkpoint, and a checkpoint is no succession.
        assert!(ForeignCheckpoint::parse(signed.note.text()).is_err());
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(Succession::verify(&altered, &key().vkey(&origin())).is_err(), "{at}");
        }
    }
    #[test]
    fn a_log_names_another_log_of_its_own_ledger_alone() {
        let (other, _) = LogKey::generate(&Zeroizing::new([4; 32])).unwrap();
        let own = key().vkey(&origin());
        let about = |name: &str| {
            let next = other.vkey(&Origin::parse(name).unwrap());
            Succession::sign(&key(), &origin(), &next).to_string()
        };
        assert!(Succession::verify(about("dev.test/mintage/a1b2/2027-01").as_bytes(), &own).is_ok());
        for elsewhere in [
            "other.test/mintage/a1b2/2027-01",
            "dev.test/mintage/a1b3/2027-01",
            origin().as_str(),
        ] {
            let told = Succession::verify(about(elsewhere).as_bytes(), &own).unwrap_err();
            assert!(told.to_string().contains("no other log of the ledger"), "{told}");
        }
    }

    #[test]
    fn a_statement_of_any_log_is_short() {
        let domain = format!("{}.test", "a".repeat(250));
        let long = |shard: &str| Origin::parse(&format!("{domain}/mintage/{}/{shard}", "b".repeat(64))).unwrap();
        let (from, next) = (long("2026-01-23456789"), long("2026-02-23456789"));
        let (other, _) = LogKey::generate(&Zeroizing::new([4; 32])).unwrap();
        let signed = Succession::sign(&key(), &from, &other.vkey(&next)).to_string();
        assert!(SuccessionClaim::parse(signed.as_bytes()).is_ok(), "{}", signed.len());
        let line = signed.lines().last().unwrap();
        let padded = signed.clone() + &format!("{line}\n").repeat(SUCCESSION_BYTES_MAX / line.len());
        assert!(SuccessionClaim::parse(padded.as_bytes()).is_err(), "{}", padded.len());
    }
}
