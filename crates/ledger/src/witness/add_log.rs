//! What a witness does when it is shown the statement of a log that it follows about the log after it: from then on it
//! follows that one too. C2SP tlog-witness has no such call; a witness without it answers that there is nothing there.

use crate::{
    note::Vkey,
    succession::{Succession, SuccessionClaim},
};

/// What a witness does with a statement; each has its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogVerdict {
    /// Store this, then follow the log that it names (200).
    Follow(Succession),
    /// It is stored already (200).
    Followed,
    /// The body is no statement (400).
    Malformed(String),
    /// No key of the log has signed it, or a line of one does not verify (403).
    NotSigned(String),
    /// The witness does not follow the log that is said to speak (404).
    UnknownLog,
    /// Another log follows this one already, which this key is of (409).
    OtherSuccessor(Vkey),
    /// The log that is named is none that this one may name (422).
    Foreign(String),
}

impl LogVerdict {
    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Follow(_) | Self::Followed => 200,
            Self::Malformed(_) => 400,
            Self::NotSigned(_) => 403,
            Self::UnknownLog => 404,
            Self::OtherSuccessor(_) => 409,
            Self::Foreign(_) => 422,
        }
    }
}

/// Decides on a statement by the keys of the log that is said to speak; `next` is the key of the log that is known to follow
/// it. A log has one successor for ever, so `next` has to stay what it is until the verdict is carried out.
pub fn decide_log(keys: &[Vkey], next: Option<&Vkey>, claim: &SuccessionClaim) -> LogVerdict {
    let mut refused = None;
    for key in keys.iter().filter(|key| key.name() == claim.from().as_str()) {
        // A statement that verifies and leaves the ledger is told apart from one that nobody made.
        match claim.verify(key) {
            Ok(succession) => {
                return match next {
                    Some(known) if known == succession.to() => LogVerdict::Followed,
                    Some(known) => LogVerdict::OtherSuccessor(known.clone()),
                    None => LogVerdict::Follow(succession),
                };
            }
            Err(error) => refused = Some(error.to_string()),
        }
    }
    match refused {
        None => LogVerdict::UnknownLog,
        Some(why) if !claim.stays_in_its_ledger() => LogVerdict::Foreign(why),
        Some(why) => LogVerdict::NotSigned(why),
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        LogKey, Origin,
        tests::kit::{key, origin},
    };

    fn other(seed: u8) -> LogKey {
        LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0
    }

    fn named(by: &LogKey, seed: u8, name: &str) -> SuccessionClaim {
        let next = other(seed).vkey(&Origin::parse(name).unwrap());
        SuccessionClaim::parse(Succession::sign(by, &origin(), &next).to_string().as_bytes()).unwrap()
    }

    const NEXT: &str = "dev.test/mintage/a1b2/2027-01";

    #[test]
    fn a_log_has_one_successor_that_its_own_key_names() {
        let keys = [key().vkey(&origin())];
        let claim = named(&key(), 4, NEXT);
        let LogVerdict::Follow(succession) = decide_log(&keys, None, &claim) else {
            panic!("not followed")
        };
        assert_eq!(succession.to(), claim.to());
        assert_eq!(decide_log(&keys, Some(claim.to()), &claim), LogVerdict::Followed);
        let second = decide_log(&keys, Some(claim.to()), &named(&key(), 5, NEXT));
        assert_eq!(second, LogVerdict::OtherSuccessor(claim.to().clone()));
        assert_eq!(second.status(), 409);
        assert_eq!(decide_log(&keys, None, &named(&other(9), 4, NEXT)).status(), 403);
        assert_eq!(decide_log(&[], None, &claim).status(), 404);
        // The same octets as a key of another log are none of this one.
        let elsewhere = [key().vkey(&Origin::parse(NEXT).unwrap())];
        assert_eq!(decide_log(&elsewhere, None, &claim).status(), 404);
        // Of two keys of one log either may speak.
        let both = [other(9).vkey(&origin()), keys[0].clone()];
        assert_eq!(decide_log(&both, None, &claim).status(), 200);
        let foreign = decide_log(&keys, None, &named(&key(), 4, "other.test/mintage/a1b2/2027-01"));
        assert_eq!(foreign.status(), 422);
    }
}
