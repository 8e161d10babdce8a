//! The CA's own server certificate: an X.509-SVID like any other, granted to the replica, recorded in the ledger before
//! it is used, and renewed with a new key at half of its life.

use std::{sync::Arc, time::Duration};

use mintage_identity::Ttl;
use mintage_ledger::{Actor, CommitError};
use mintage_mint::{Issued, ProvenKey, RecordContext, prepare};
use mintage_policy::grant_replica;
use mintage_verifier::IdentitySource;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::{
    desk::Desk,
    drawn::Drawn,
    issue::{RANDOM_OCTETS_PER_ASK, reserve},
    limits::DECIDE_ROUNDS_MAX,
    status::Refusal,
};

/// Lifetime of the server certificate: an hour, like an agent's.
const LIFETIME_SECONDS: i64 = 3600;
/// First pause after a failed renewal; doubled up to a tenth of the lifetime.
const RETRY_MIN: Duration = Duration::from_secs(1);

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
        let grant = grant_replica(&desk.domain, &desk.replica, ttl, &*desk.state.view(), now)?;
        let key = ProvenKey::of_private_key(pkcs8)?;
        let mut drawn = Drawn::new(desk.random_source, RANDOM_OCTETS_PER_ASK);
        let reservation = reserve(desk, &key, &grant, now, &desk.policy(), &mut drawn)?;
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
                desk.wait_applied(Some(receipt.index())).await?;
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

/// Renews at half of each life until told to stop.
pub(crate) async fn keep(
    desk: Arc<Desk>,
    source: Arc<IdentitySource>,
    provider: Arc<CryptoProvider>,
    first: Issued,
    stop: CancellationToken,
) {
    let half = |issued: &Issued| issued.not_after().since(desk.clock.unguarded()) / 2;
    let mut wait = half(&first);
    let mut retry = RETRY_MIN;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        match renew(&desk, &source, &provider).await {
            Ok(issued) => {
                wait = half(&issued);
                retry = RETRY_MIN;
            }
            Err(problem) => {
                error!(%problem, "own server certificate not renewed; trying again in {retry:?}");
                wait = retry;
                retry = (retry * 2).min(Duration::from_secs(LIFETIME_SECONDS.unsigned_abs() / 10));
            }
        }
    }
}
