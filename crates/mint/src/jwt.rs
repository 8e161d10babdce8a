//! The road of a JWT-SVID, beside that of a certificate: Grant -> Prepared -> Sealed -> Issued, each moved into the next. The
//! token never enters the record; its claims and its hash do.

use std::{fmt, time::Duration};

use mintage_identity::{SpiffeId, UnixTime};
use mintage_ledger::{Attestation, Body, EncodedRecord, Hash, Receipt, Record, wire};
use mintage_policy::JwtGrant;
use mintage_svid::{JwtClaims, JwtSvid, compact, limits::JWT_RULE_SHIFT};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::{JwtSigner, MintError, RecordContext};

/// A token that says exactly what was granted and is not signed yet.
///
/// ```
/// # use mintage_mint::{JwtSigner, MintError, PreparedJwt, SealedJwt};
/// fn once(prepared: PreparedJwt, signer: &JwtSigner) -> Result<SealedJwt, MintError> {
///     prepared.sign(signer)
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use mintage_mint::{JwtSigner, MintError, PreparedJwt, SealedJwt};
/// fn twice(prepared: PreparedJwt, signer: &JwtSigner) -> Result<(SealedJwt, SealedJwt), MintError> {
///     Ok((prepared.sign(signer)?, prepared.sign(signer)?))
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use mintage_mint::{PreparedJwt, RecordContext};
/// fn unsigned(prepared: PreparedJwt, context: RecordContext) {
///     prepared.seal(context);
/// }
/// ```
#[derive(Debug)]
pub struct PreparedJwt {
    grant: JwtGrant,
    audiences: Vec<String>,
    jti: String,
    issued: UnixTime,
    expires: UnixTime,
    kid: String,
    input: String,
}

/// A signed token that nobody can reach: its hash goes into its record and, against the record's receipt, it goes out.
///
/// ```compile_fail,E0616
/// fn peek(sealed: mintage_mint::SealedJwt) -> String {
///     sealed.token.to_string()
/// }
/// ```
pub struct SealedJwt {
    prepared: PreparedJwt,
    token: Zeroizing<String>,
}

/// A signed token whose record is on its way. It opens for the receipt of exactly that record, once.
///
/// ```
/// # use mintage_ledger::Receipt;
/// # use mintage_mint::{AwaitingJwt, IssuedJwt, MintError};
/// fn released(waiting: AwaitingJwt, receipt: Receipt) -> Result<IssuedJwt, MintError> {
///     waiting.release(receipt)
/// }
/// ```
///
/// Without a receipt:
///
/// ```compile_fail,E0061
/// # use mintage_mint::{AwaitingJwt, IssuedJwt, MintError};
/// fn released(waiting: AwaitingJwt) -> Result<IssuedJwt, MintError> {
///     waiting.release()
/// }
/// ```
///
/// One receipt for two tokens:
///
/// ```compile_fail,E0382
/// # use mintage_ledger::Receipt;
/// # use mintage_mint::{AwaitingJwt, IssuedJwt, MintError};
/// fn released(a: AwaitingJwt, b: AwaitingJwt, receipt: Receipt) -> Result<(IssuedJwt, IssuedJwt), MintError> {
///     Ok((a.release(receipt)?, b.release(receipt)?))
/// }
/// ```
pub struct AwaitingJwt {
    token: Zeroizing<String>,
    spiffe_id: SpiffeId,
    expires: UnixTime,
    leaf_hash: Hash,
}

/// A token that is recorded and may leave.
pub struct IssuedJwt {
    token: Zeroizing<String>,
    spiffe_id: SpiffeId,
    expires: UnixTime,
    receipt: Receipt,
}

/// Builds the token for a Grant and reads it back against the Grant. `jti` are 16 octets from a CSPRNG. `iat` is now, or
/// just past what a rule of revocation strikes; the lifetime counts from it.
///
/// ```compile_fail,E0308
/// # use mintage_mint::{JwtSigner, MintError, PreparedJwt, prepare_jwt};
/// # use mintage_identity::UnixTime;
/// fn of_a_certificates_grant(grant: mintage_policy::Grant, now: UnixTime, signer: &JwtSigner) -> Result<PreparedJwt, MintError> {
///     prepare_jwt(grant, &[0; 16], now, signer)
/// }
/// ```
///
/// # Errors
/// [`MintError::OtherTrustDomain`] for the Grant of another trust domain; [`MintError::JwtLint`] when what was built differs
/// from what was granted.
pub fn prepare_jwt(
    grant: JwtGrant,
    jti: &[u8; 16],
    now: UnixTime,
    signer: &JwtSigner,
) -> Result<PreparedJwt, MintError> {
    if !grant.spiffe_id().is_member_of(signer.trust_domain()) {
        return Err(MintError::OtherTrustDomain {
            id: grant.spiffe_id().clone(),
            issuer: signer.trust_domain().clone(),
        });
    }
    let above = |cut: UnixTime| cut.plus(JWT_RULE_SHIFT).floor_to_second().plus(Duration::from_secs(1));
    let issued = now
        .floor_to_second()
        .max(grant.floor().map_or(now.floor_to_second(), above));
    let expires = issued.plus(grant.ttl().duration());
    let audiences = grant.audiences().to_vec();
    let jti: String = jti.iter().map(|octet| format!("{octet:02x}")).collect();
    let claims = JwtClaims {
        id: grant.spiffe_id(),
        audiences: &audiences,
        issued,
        expires,
        jti: &jti,
    };
    let kid = signer.public().kid().to_owned();
    let input = claims.signing_input(signer.algorithm(), &kid);
    lint(&input, &claims, signer)?;
    Ok(PreparedJwt {
        grant,
        audiences,
        jti,
        issued,
        expires,
        kid,
        input,
    })
}

/// Reads the token as a verifier does, before it is signed.
fn lint(input: &str, claims: &JwtClaims<'_>, signer: &JwtSigner) -> Result<(), MintError> {
    let read = JwtSvid::parse(&compact(input, &[]))?;
    let header = read.header();
    let same = [
        (
            header.algorithm == signer.algorithm() && header.kid.as_deref() == Some(signer.public().kid()),
            "header",
        ),
        (read.id() == claims.id, "sub"),
        (read.audiences() == claims.audiences, "aud"),
        (read.issued_at() == Some(claims.issued), "iat"),
        (read.expires() == claims.expires, "exp"),
        (read.claims().len() == 5, "list of claims"),
    ];
    match same.into_iter().find(|(same, _)| !same) {
        None => Ok(()),
        Some((_, what)) => Err(MintError::JwtLint(what)),
    }
}

impl PreparedJwt {
    /// Signs.
    ///
    /// # Errors
    /// Refuses another key than it was prepared for.
    pub fn sign(self, signer: &JwtSigner) -> Result<SealedJwt, MintError> {
        if signer.public().kid() != self.kid {
            return Err(MintError::JwtLint("key"));
        }
        let signature = signer.sign(self.input.as_bytes())?;
        Ok(SealedJwt {
            token: Zeroizing::new(compact(&self.input, &signature)),
            prepared: self,
        })
    }
}

impl SealedJwt {
    /// The control index the Grant was decided on.
    pub fn decided_at(&self) -> u64 {
        self.prepared.grant.decided_at()
    }

    /// Makes the record. The token waits for its receipt.
    ///
    /// # Errors
    /// [`MintError::Record`] when the record is over the ledger's limits.
    pub fn seal(self, context: RecordContext) -> Result<(AwaitingJwt, EncodedRecord), MintError> {
        let record = self.record(context).encode()?;
        let awaiting = AwaitingJwt {
            token: self.token,
            spiffe_id: self.prepared.grant.spiffe_id().clone(),
            expires: self.prepared.expires,
            leaf_hash: record.leaf_hash(),
        };
        Ok((awaiting, record))
    }

    fn record(&self, context: RecordContext) -> Record {
        let prepared = &self.prepared;
        let (entry, agent) = (prepared.grant.entry(), prepared.grant.agent());
        let selectors = entry.selectors().iter().map(|selector| selector.as_str().to_owned());
        let body = wire::IssueJwt {
            spiffe_id: prepared.grant.spiffe_id().to_string(),
            entry: entry.name().to_string(),
            entry_revision: entry.revision(),
            selectors: selectors.collect(),
            rule: prepared.grant.rule().to_owned(),
            audiences: prepared.audiences.clone(),
            issued_s: prepared.issued.seconds(),
            expires_s: prepared.expires.seconds(),
            kid: prepared.kid.clone(),
            jti: prepared.jti.clone(),
            token_sha256: sha256(&self.token),
        };
        Record {
            time: context.time,
            salt: context.salt,
            actor: context.actor,
            attestation: Some(Attestation {
                kind: agent.attestation_kind().to_owned(),
                evidence: *agent.evidence(),
                proven_at: agent.proven_at(),
            }),
            request_id: context.request_id,
            replica: context.replica.as_str().to_owned(),
            control_seen: prepared.grant.decided_at(),
            body: Body::IssueJwt(body),
        }
    }
}

impl AwaitingJwt {
    /// Opens the seal.
    ///
    /// # Errors
    /// [`MintError::OtherReceipt`] for the receipt of another record; the token is then lost, as it must be.
    pub fn release(self, receipt: Receipt) -> Result<IssuedJwt, MintError> {
        if receipt.leaf_hash() != self.leaf_hash {
            return Err(MintError::OtherReceipt);
        }
        Ok(IssuedJwt {
            token: self.token,
            spiffe_id: self.spiffe_id,
            expires: self.expires,
            receipt,
        })
    }
}

impl IssuedJwt {
    /// The token in its compact form.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// When it ends.
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The proof that it is recorded.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

fn sha256(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

/// Each says whose token it is and shows nothing of it: a log line must not release what is sealed.
macro_rules! quiet {
    ($($name:ident, $id:expr;)*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let id: fn(&Self) -> &SpiffeId = $id;
                f.debug_struct(stringify!($name)).field("spiffe_id", id(self)).finish_non_exhaustive()
            }
        })*
    };
}

quiet! {
    SealedJwt, |sealed| sealed.prepared.grant.spiffe_id();
    AwaitingJwt, |awaiting| &awaiting.spiffe_id;
    IssuedJwt, |issued| &issued.spiffe_id;
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
