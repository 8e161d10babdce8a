//! JWT-SVIDs as this agent believes them: signed by a key of the bundle and struck by no rule of revocation.

use std::fmt;

use mintage_identity::{Audiences, IssuerKeyId, Serial, SpiffeId, UnixTime};
use mintage_revocation::{Query, Verdict, View};
use mintage_svid::{JwtSvid, SvidError, TrustBundle, jwt_rule_date, spki_sha256};
use zeroize::Zeroizing;

/// A token that was verified when it came. Whether it may still be handed out is asked at each use.
pub(crate) struct HeldJwt {
    token: Zeroizing<String>,
    svid: JwtSvid,
    /// Half of its life.
    renew_at: UnixTime,
}

impl HeldJwt {
    /// Verifies what the CA sent.
    ///
    /// # Errors
    /// Refuses a token of another identity or for other audiences, and what [`believe`] refuses.
    pub(crate) fn verify(
        token: String,
        (id, audiences): (&SpiffeId, &Audiences),
        (bundle, view): (&TrustBundle, &View),
        now: UnixTime,
    ) -> Result<Self, String> {
        let token = Zeroizing::new(token);
        let svid = JwtSvid::parse(&token).map_err(|error| error.to_string())?;
        if svid.id() != id {
            return Err(format!("it is of {}, the entry is of {id}", svid.id()));
        }
        if !audiences.iter().eq(svid.audiences().iter().map(String::as_str)) {
            return Err("it is for other audiences than were asked for".to_owned());
        }
        let issued = svid.issued_at().ok_or("it does not say when it was issued")?;
        if now >= svid.expires() || issued >= svid.expires() {
            return Err("it has expired".to_owned());
        }
        believe(&svid, bundle, view, now)?;
        // Counted from when it came: a node whose clock is behind renews in time all the same.
        let left = svid.expires().since(issued.max(now));
        Ok(Self {
            renew_at: svid.expires().minus(left / 2),
            token,
            svid,
        })
    }

    /// True while it may be handed out: it is believed and has life left.
    pub(crate) fn is_good(&self, id: &SpiffeId, (bundle, view): (&TrustBundle, &View), now: UnixTime) -> bool {
        let kid = self.svid.header().kid.as_deref();
        let known = kid.is_some_and(|kid| bundle.jwt_key(kid).is_some());
        self.svid.id() == id && now < self.svid.expires() && known && !is_struck(&self.svid, bundle, view, now)
    }

    /// True before half of its life.
    pub(crate) fn is_fresh(&self, now: UnixTime) -> bool {
        now < self.renew_at
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    pub(crate) fn expires(&self) -> UnixTime {
        self.svid.expires()
    }
}

impl fmt::Debug for HeldJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldJwt").field("id", self.id()).finish_non_exhaustive()
    }
}

/// Checks who signed a token, and that no rule of revocation strikes it. Claims are the caller's.
///
/// # Errors
/// Why it is not believed.
pub(crate) fn believe(svid: &JwtSvid, bundle: &TrustBundle, view: &View, now: UnixTime) -> Result<(), String> {
    svid.verify_with(bundle).map_err(|error: SvidError| error.to_string())?;
    match is_struck(svid, bundle, view, now) {
        true => Err(format!("{} was revoked after it was issued", svid.id())),
        false => Ok(()),
    }
}

/// Rules on the identity, on a prefix or on the signing key; a token has no serial, so nothing else can strike it. One that
/// does not say when it was issued is older than every cut.
fn is_struck(svid: &JwtSvid, bundle: &TrustBundle, view: &View, now: UnixTime) -> bool {
    let signer = svid.header().kid.as_deref().and_then(|kid| bundle.jwt_key(kid));
    let key = signer.map_or_else(|| spki_sha256(&[]), |key| spki_sha256(key.spki_der()));
    let query = Query {
        issuer: IssuerKeyId::new(*key.as_bytes()),
        serial: &Serial::from_random([0; 16]),
        not_before: jwt_rule_date(svid.issued_at().unwrap_or(UnixTime::from_seconds(0))),
        not_after: svid.expires(),
        spiffe_id: Some(svid.id()),
        spki_sha256: key,
    };
    matches!(view.check(&query, now), Verdict::Revoked { .. })
}
