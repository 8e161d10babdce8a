//! The CA's own server certificate: an X.509-SVID like any other, granted to the replica, recorded in the ledger before
//! it is used, and renewed with a new key at half of its life, by the wall clock: that is what decides for whoever
//! connects whether it has ended.

use std::{sync::Arc, time::Duration};

use mintage_identity::{Ttl, UnixTime};
use mintage_ledger::{Actor, CommitError};
use mintage_mint::{Issued, ProvenKey, RecordContext, prepare};
use mintage_policy::grant_replica;
use mintage_verifier::IdentitySource;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::{
    desk::Desk,
    drawn::Drawn,
    issue::{RANDOM_OCTETS_PER_ASK, reserve},
    limits::{DECIDE_ROUNDS_MAX, OWN_LOOK_INTERVAL},
    status::Refusal,
};

/// Lifetime of the server certificate: an hour, like an agent's.
const LIFETIME_SECONDS: i64 = 3600;
/// First pause after a failed renewal; doubled up to a tenth of the lifetime.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(LIFETIME_SECONDS.unsigned_abs() / 10);

/// Issues a certificate for this replica and puts it in place.
pub(crate) async fn renew(
    desk: &Arc<Desk>,
    source: &IdentitySource,
    provider: &CryptoProvider,
) -> Result<Issued, Refusal> {
    let random = ring::rand::SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .map_err(|_| Refusal::unavailable("random", "the system gives no randomness"))?;
    let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
    let issued = issue(desk, &pkcs8).await?;
    // The roots travel too: a node that joins knows their hashes and learns the certificates here.
    let roots = desk
        .state
        .view()
        .bundle()
        .map(|bundle| bundle.roots_der.clone())
        .unwrap_or_default();
    let chain: Vec<CertificateDer<'static>> = issued
        .chain_der()
        .into_iter()
        .chain(roots)
        .map(CertificateDer::from)
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    source
        .replace(chain, key, provider)
        .map_err(|error| Refusal::new(tonic::Code::Internal, "own-certificate", error.to_string()))?;
    desk.own_certificate.store(Some(Arc::new(issued.leaf_der().to_vec())));
    info!(serial = %issued.serial(), id = %issued.spiffe_id(), "own server certificate in place");
    Ok(issued)
}

async fn issue(desk: &Arc<Desk>, pkcs8: &[u8]) -> Result<Issued, Refusal> {
    let ttl = Ttl::from_seconds(LIFETIME_SECONDS).unwrap_or(Ttl::DEFAULT);
    for _ in 0..DECIDE_ROUNDS_MAX {
        let now = desk.clock.now()?;
        let view = desk.state.view();
        let grant = grant_replica(&desk.domain, &desk.replica, ttl, &*view, now)?;
        let key = ProvenKey::of_private_key(pkcs8)?;
        let mut drawn = Drawn::new(desk.random_source, RANDOM_OCTETS_PER_ASK);
        let reservation = reserve(desk, (&view, &desk.policy(), now), &key, &grant, None, &mut drawn)?;
        let sealed = prepare(grant, key, *reservation.serial(), now, &desk.issuer)?.sign(&desk.issuer)?;
        let seen = sealed.decided_at();
        let (awaiting, record) = sealed.seal(RecordContext {
            actor: Actor::Replica { id: desk.own_id() },
            request_id: None,
            replica: desk.replica.clone(),
            time: now,
            salt: drawn.next()?,
        })?;
        match desk.commits.submit(vec![(record, seen)]).outcomes().await.pop() {
            Some(Ok(receipt)) => {
                desk.wait_applied(Some(receipt.position())).await?;
                return Ok(awaiting.release(receipt)?);
            }
            Some(Err(CommitError::Moved { control_head })) => {
                let waited = desk.state.wait_applied(control_head.saturating_sub(1)).await;
                waited.map_err(|error| Refusal::unavailable("state", error.to_string()))?;
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Refusal::bug("the ledger gave no outcome for a record")),
        }
    }
    Err(Refusal::unavailable(
        "moved",
        "the state kept changing under this decision",
    ))
}

/// When the certificate in place is renewed. The two clocks come from outside: the wall clock says when, the monotonic one
/// keeps failed tries apart.
#[derive(Debug)]
struct Schedule {
    renew_at: UnixTime,
    retry: Duration,
    not_before: Option<Duration>,
}

impl Schedule {
    /// For a certificate that was put in place now and ends at `not_after`.
    fn of(not_after: UnixTime, now: UnixTime) -> Self {
        Self {
            renew_at: now.plus(not_after.since(now) / 2),
            retry: RETRY_MIN,
            not_before: None,
        }
    }

    fn is_due(&self, wall: UnixTime, monotonic: Duration) -> bool {
        wall >= self.renew_at && self.not_before.is_none_or(|instant| monotonic >= instant)
    }

    /// A renewal failed; the pause before the next one.
    fn failed(&mut self, monotonic: Duration) -> Duration {
        let pause = self.retry;
        self.not_before = Some(monotonic + pause);
        self.retry = (pause * 2).min(RETRY_MAX);
        pause
    }
}

/// Renews at half of each life until told to stop.
pub(crate) async fn keep(
    desk: Arc<Desk>,
    source: Arc<IdentitySource>,
    provider: Arc<CryptoProvider>,
    first: Issued,
    stop: CancellationToken,
) {
    let clock = desk.clock.clock().clone();
    let mut schedule = Schedule::of(first.not_after(), clock.now());
    let mut look = tokio::time::interval(OWN_LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        if !schedule.is_due(clock.now(), clock.monotonic()) {
            continue;
        }
        match renew(&desk, &source, &provider).await {
            Ok(issued) => schedule = Schedule::of(issued.not_after(), clock.now()),
            Err(problem) => {
                let pause = schedule.failed(clock.monotonic());
                error!(%problem, "own server certificate not renewed; trying again in {pause:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_wall_clock_decides_whatever_the_other_says() {
        let now = UnixTime::from_seconds(1_800_000_000);
        let schedule = Schedule::of(now.plus(60 * MINUTE), now);
        let monotonic = Duration::from_secs(5);
        assert!(!schedule.is_due(now.plus(29 * MINUTE), monotonic + 600 * MINUTE));
        // A machine that was suspended: the wall clock has moved on, and nothing else.
        assert!(schedule.is_due(now.plus(30 * MINUTE), monotonic));
    }

    #[test]
    fn failed_renewals_are_tried_again_ever_more_slowly_but_before_the_end() {
        let now = UnixTime::from_seconds(1_800_000_000);
        let mut schedule = Schedule::of(now.plus(60 * MINUTE), now);
        let due = now.plus(30 * MINUTE);
        let mut monotonic = Duration::ZERO;
        let mut pauses = Vec::new();
        while monotonic < 30 * MINUTE {
            let pause = schedule.failed(monotonic);
            assert!(!schedule.is_due(due, monotonic + pause - Duration::from_millis(1)));
            monotonic += pause;
            assert!(schedule.is_due(due, monotonic));
            pauses.push(pause);
        }
        assert_eq!(pauses[..3], [1, 2, 4].map(Duration::from_secs));
        assert!(
            pauses.iter().all(|pause| *pause <= 6 * MINUTE) && pauses.len() > 10,
            "{pauses:?}"
        );
    }
}
