//! A follower's copy of the set: takes signed news, verifies all of it, and only then publishes a new view.
//!
//! Whatever is refused changes nothing: the last good view stays, and grows old.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mintage_identity::{TrustDomain, UnixTime};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{
    EntryKey, RevocationError, Rule, SetHash, TrustDomainHash, VerifiedDelegation, View,
    body::Body,
    bucket::is_overrun,
    header::{Framed, Header, Kind},
    limits::{DELEGATED_KEYS_MAX, FUTURE_SKEW, RULES_MAX},
    pulse::Pulse,
};

/// The published view, shared with verifiers.
pub type ViewHandle = Arc<ArcSwap<View>>;

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epoch of the held set.
    pub epoch: u64,
    /// Ledger index of the last record folded in.
    pub sequence: u64,
    /// Hash of the set there.
    pub hash: SetHash,
}

/// What was taken up.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The sequence now held.
    pub sequence: u64,
    /// What it added.
    pub added: Added,
}

/// What a snapshot or delta added: which live connections to look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// A snapshot: anything may have been added, look at every connection.
    pub everything: bool,
    /// Serials, as keys of [`View::entry_key`].
    pub keys: Vec<EntryKey>,
    /// Rules, by what a certificate shows: SPIFFE ID, public key, issuer.
    pub rules: Vec<Rule>,
}

impl Added {
    /// True when the keys alone do not tell which connections are concerned.
    pub fn concerns_all(&self) -> bool {
        self.everything || !self.rules.is_empty()
    }

    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.keys.is_empty() && self.rules.is_empty()
    }
}

/// What a heartbeat said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The held set is the publisher's latest: it is fresh as of the heartbeat.
    Current,
    /// The publisher is ahead; the held set is not made fresher. Ask for the delta.
    Behind {
        /// Sequence held; 0 for none.
        have: u64,
        /// Sequence of the publisher.
        want: u64,
    },
    /// The publisher is behind this follower (another replica was followed before); nothing changed.
    PublisherBehind,
}

/// A follower of one trust domain's set.
pub struct Replica {
    trust_domain: TrustDomainHash,
    /// The highest epoch a CA key has stated.
    epoch: u64,
    delegations: Vec<VerifiedDelegation>,
    position: Option<Position>,
    view: ViewHandle,
}

impl Replica {
    /// A follower that has nothing yet; its view answers `Stale`.
    pub fn new(domain: &TrustDomain) -> Self {
        Self {
            trust_domain: TrustDomainHash::of(domain),
            epoch: 0,
            delegations: Vec::new(),
            position: None,
            view: Arc::new(ArcSwap::from_pointee(View::none())),
        }
    }

    /// The view as it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The place where every later view is published; hot paths keep an `arc_swap::Cache` of it.
    pub fn handle(&self) -> ViewHandle {
        Arc::clone(&self.view)
    }

    /// Where the follower stands; `None` before the first snapshot.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The epoch in which news is accepted; 0 before the first delegation.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Accepts a key. A higher epoch ends all keys of lower ones; the held set stays until a snapshot of the new epoch.
    ///
    /// # Errors
    /// Refuses another trust domain, an epoch lower than one already stated, and too many keys.
    pub fn trust(&mut self, delegation: VerifiedDelegation) -> Result<(), RevocationError> {
        if delegation.trust_domain() != self.trust_domain {
            return Err(RevocationError::WrongTrustDomain);
        }
        let epoch = delegation.statement().epoch();
        if epoch < self.epoch {
            let (held_epoch, held_sequence) = (self.epoch, self.held_sequence());
            return Err(RevocationError::Rollback {
                epoch,
                sequence: 0,
                held_epoch,
                held_sequence,
            });
        }
        if epoch > self.epoch {
            self.delegations.clear();
            self.epoch = epoch;
        }
        let key_id = delegation.statement().key_id();
        let not_after = delegation.statement().not_after();
        // The statement that ends last is kept: an older one may still be in some bundle.
        let later = self
            .delegations
            .iter()
            .any(|d| d.statement().key_id() == key_id && d.statement().not_after() >= not_after);
        if later {
            return Ok(());
        }
        self.delegations.retain(|held| held.statement().key_id() != key_id);
        if self.delegations.len() >= DELEGATED_KEYS_MAX {
            let (limit, found) = (DELEGATED_KEYS_MAX, self.delegations.len() + 1);
            return Err(RevocationError::TooMany {
                what: "delegated keys",
                limit,
                found,
            });
        }
        self.delegations.push(delegation);
        Ok(())
    }

    /// Takes up a snapshot. The one already held is accepted again and changes nothing but freshness.
    ///
    /// # Errors
    /// Refuses whatever does not verify, another trust domain or epoch, a future date, an ended object or delegation,
    /// and anything older than what is held.
    pub fn apply_snapshot(&mut self, bytes: &[u8], now: UnixTime) -> Result<Applied, RevocationError> {
        let framed = self.verified(bytes, Kind::Snapshot, now)?;
        check_not_ended(&framed.header, now)?;
        self.install(&framed, now)
    }

    /// Takes up a saved snapshot at start: as [`Self::apply_snapshot`], but its own end does not count. It is as old as
    /// it is, and the freshness policy judges that.
    ///
    /// # Errors
    /// As [`Self::apply_snapshot`], the end of the object apart.
    pub fn restore_snapshot(&mut self, bytes: &[u8], now: UnixTime) -> Result<Applied, RevocationError> {
        let framed = self.verified(bytes, Kind::Snapshot, now)?;
        self.install(&framed, now)
    }

    /// Takes up a delta that continues the held sequence. The last one already held is accepted and changes nothing.
    ///
    /// # Errors
    /// As [`Self::apply_snapshot`], and [`RevocationError::BrokenChain`] when it continues another state than the held.
    pub fn apply_delta(&mut self, bytes: &[u8], now: UnixTime) -> Result<Applied, RevocationError> {
        let framed = self.verified(bytes, Kind::Delta, now)?;
        check_not_ended(&framed.header, now)?;
        self.continue_with(&framed, now)
    }

    /// Takes up a saved delta at start: as [`Self::apply_delta`], but its own end does not count.
    ///
    /// # Errors
    /// As [`Self::apply_delta`], the end of the object apart.
    pub fn restore_delta(&mut self, bytes: &[u8], now: UnixTime) -> Result<Applied, RevocationError> {
        let framed = self.verified(bytes, Kind::Delta, now)?;
        self.continue_with(&framed, now)
    }

    /// Takes up a heartbeat: when the held set is the publisher's latest, it is fresh as of the earlier of `now` and the
    /// heartbeat's date, so that replaying an old one helps nobody.
    ///
    /// # Errors
    /// As [`Self::apply_snapshot`]; [`RevocationError::BrokenChain`] when the publisher's set at this sequence is not
    /// the held one, or is of a new epoch, and when the held one was cut short by a horizon that lies ahead of its time:
    /// take the snapshot.
    pub fn heartbeat(&mut self, bytes: &[u8], now: UnixTime) -> Result<Beat, RevocationError> {
        let framed = self.verified(bytes, Kind::Heartbeat, now)?;
        let header = &framed.header;
        check_not_ended(header, now)?;
        let Some(held) = self.position else {
            return Ok(Beat::Behind {
                have: 0,
                want: header.sequence,
            });
        };
        if header.epoch != held.epoch {
            return Err(broken(held.sequence, "the heartbeat is of a newer epoch"));
        }
        match header.sequence.cmp(&held.sequence) {
            std::cmp::Ordering::Greater => Ok(Beat::Behind {
                have: held.sequence,
                want: header.sequence,
            }),
            std::cmp::Ordering::Less => Ok(Beat::PublisherBehind),
            std::cmp::Ordering::Equal if header.set_hash != held.hash => {
                Err(broken(held.sequence, "the publisher's set at this sequence is another"))
            }
            std::cmp::Ordering::Equal => {
                self.raise(header, now);
                // What ended before that horizon is not covered, and may be gone: only a snapshot brings it back.
                match is_overrun(self.view.load().horizon(), now) {
                    true => Err(broken(held.sequence, "it was cut short when the clock was ahead")),
                    false => Ok(Beat::Current),
                }
            }
        }
    }

    fn held_sequence(&self) -> u64 {
        self.position.map_or(0, |held| held.sequence)
    }

    /// Reads and verifies everything but the body's content and its place in the chain.
    fn verified<'a>(&self, bytes: &'a [u8], kind: Kind, now: UnixTime) -> Result<Framed<'a>, RevocationError> {
        let framed = Framed::read(bytes)?;
        let header = &framed.header;
        if header.kind != kind {
            return Err(RevocationError::malformed(
                "header",
                "its kind is not the one asked for",
            ));
        }
        if header.trust_domain != self.trust_domain {
            return Err(RevocationError::WrongTrustDomain);
        }
        let delegation = self
            .delegations
            .iter()
            .find(|held| *held.statement().key_id().as_bytes() == header.key_id);
        let Some(delegation) = delegation else {
            let key_id = crate::RevocationKeyId(header.key_id).to_string();
            return Err(RevocationError::UnknownKey { key_id });
        };
        UnparsedPublicKey::new(&ED25519, delegation.public_key())
            .verify(&framed.to_be_signed(), framed.signature)
            .map_err(|_| RevocationError::BadSignature {
                what: "header's signature",
            })?;
        if !framed.body_is_the_signed_one() {
            return Err(RevocationError::BadSignature { what: "body's hash" });
        }
        // All below is the key's own word; now its right to speak.
        delegation.statement().check_end(now)?;
        if header.epoch != self.epoch {
            let (epoch, sequence) = (header.epoch, header.sequence);
            let (held_epoch, held_sequence) = (self.epoch, self.held_sequence());
            return Err(RevocationError::Rollback {
                epoch,
                sequence,
                held_epoch,
                held_sequence,
            });
        }
        if header.this_update > now.plus(FUTURE_SKEW) {
            let seconds_ahead = header.this_update.since(now).as_secs();
            return Err(RevocationError::FutureDate { seconds_ahead });
        }
        Ok(framed)
    }

    fn install(&mut self, framed: &Framed<'_>, now: UnixTime) -> Result<Applied, RevocationError> {
        let header = &framed.header;
        let former = self.view.load_full();
        let overrun = is_overrun(former.horizon(), now);
        if let Some(held) = self.position.filter(|held| held.epoch >= header.epoch) {
            self.check_not_older(header, held)?;
            // One that was cut short is made anew, of a snapshot that was not.
            if header.sequence == held.sequence && !overrun {
                self.raise(header, now);
                return Ok(Applied {
                    sequence: held.sequence,
                    added: Added::default(),
                });
            }
        }
        let pulse = Pulse::new(header.this_update.min(now), header.horizon);
        if !overrun {
            // A horizon never goes back; a heartbeat of another epoch says nothing about this set.
            pulse.raise(UnixTime::from_millis(i64::MIN), former.horizon(), now);
        }
        let view = View::of_snapshot(header.epoch, header.sequence, framed.body, pulse)?;
        self.publish(header, view.counting_on(&former));
        let added = Added {
            everything: true,
            ..Added::default()
        };
        Ok(Applied {
            sequence: header.sequence,
            added,
        })
    }

    fn continue_with(&mut self, framed: &Framed<'_>, now: UnixTime) -> Result<Applied, RevocationError> {
        let header = &framed.header;
        let Some(held) = self.position else {
            return Err(broken(0, "there is no snapshot yet"));
        };
        if held.epoch != header.epoch {
            return Err(broken(held.sequence, "the delta is of a newer epoch"));
        }
        self.check_not_older(header, held)?;
        if header.sequence == held.sequence {
            self.raise(header, now);
            return Ok(Applied {
                sequence: held.sequence,
                added: Added::default(),
            });
        }
        if header.base_sequence != held.sequence {
            return Err(broken(held.sequence, "the delta continues another sequence"));
        }
        if header.previous != held.hash {
            return Err(broken(
                held.sequence,
                "the delta continues another set of this sequence",
            ));
        }
        let body = Body::decode(framed.body)?;
        let added = added_by(&body);
        let mut view = View::clone(&self.view.load());
        view.extend(header.sequence, &body);
        if view.rule_count() > RULES_MAX {
            // Some of them are over by now; what the publisher still holds is within the limit.
            return Err(broken(
                held.sequence,
                "with this delta it has more rules than a set may",
            ));
        }
        self.publish(header, view);
        // Only now: the former view must not look fresh as of a delta it does not hold.
        self.raise(header, now);
        Ok(Applied {
            sequence: header.sequence,
            added,
        })
    }

    fn check_not_older(&self, header: &Header, held: Position) -> Result<(), RevocationError> {
        if header.sequence < held.sequence {
            let (epoch, sequence) = (header.epoch, header.sequence);
            let (held_epoch, held_sequence) = (held.epoch, held.sequence);
            return Err(RevocationError::Rollback {
                epoch,
                sequence,
                held_epoch,
                held_sequence,
            });
        }
        if header.sequence == held.sequence && header.set_hash != held.hash {
            return Err(broken(held.sequence, "the publisher's set at this sequence is another"));
        }
        Ok(())
    }

    fn raise(&self, header: &Header, now: UnixTime) {
        let view = self.view.load();
        view.pulse().raise(header.this_update.min(now), header.horizon, now);
        if let Some(without) = view.without_dead() {
            self.view.store(Arc::new(without));
        }
    }

    fn publish(&mut self, header: &Header, view: View) {
        self.view.store(Arc::new(view));
        self.position = Some(Position {
            epoch: header.epoch,
            sequence: header.sequence,
            hash: header.set_hash,
        });
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("epoch", &self.epoch)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

fn broken(held_sequence: u64, problem: &'static str) -> RevocationError {
    RevocationError::BrokenChain { held_sequence, problem }
}

fn check_not_ended(header: &Header, now: UnixTime) -> Result<(), RevocationError> {
    if now <= header.next_update {
        return Ok(());
    }
    let seconds_ago = now.since(header.next_update).as_secs();
    Err(RevocationError::Expired { seconds_ago })
}

fn added_by(body: &Body) -> Added {
    let count = body.segments.iter().map(|segment| segment.fingerprints.len()).sum();
    let mut keys = Vec::with_capacity(count);
    for segment in &body.segments {
        let issuer = body.issuers[segment.issuer].id;
        let fingerprints = segment.fingerprints.iter();
        keys.extend(fingerprints.map(|&fingerprint| EntryKey { issuer, fingerprint }));
    }
    Added {
        everything: false,
        keys,
        rules: body.rules.clone(),
    }
}
