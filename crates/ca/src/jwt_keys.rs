//! The keys that sign JWT-SVIDs: made here when there is none, or an operator's; each recorded before its first use, and
//! changed with overlap. The next key is published before it signs, and the former one stays published while a token of its
//! lives.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use mintage_identity::{IssuerKeyId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::{
    Body,
    wire::{BundleChange, BundleJwtKey, CaEvent, CaEventKind, CaRole},
};
use mintage_mint::{JwtSigner, jwt_kid};
use mintage_policy::KeyView;
use mintage_state::View;
use mintage_svid::JwtAlgorithm;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::{
    ca_events::{bare, introduced},
    config::Config,
    control::{Origin, command},
    data_dir::DataDir,
    desk::Desk,
    error::CaError,
    keys,
    limits::{JWT_KEY_KEPT_AFTER, JWT_KEY_LOOK_INTERVAL, JWT_KEY_PUBLISHED_BEFORE, JWT_KEY_SIGNS, JWT_KEY_STEPS_MAX},
    status::Refusal,
};

/// The key in use, and where keys lie.
#[derive(Debug)]
pub(crate) struct JwtKeys {
    current: ArcSwapOption<JwtSigner>,
    data_dir: PathBuf,
    passphrase_file: Option<PathBuf>,
    imported: Option<Imported>,
}

/// An RSA key that an operator made: it signs in the place of those that are made here, for as long as it is configured.
struct Imported {
    id: IssuerKeyId,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imported").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Imported {
    fn read(file: &Path, passphrase_file: Option<&Path>, domain: &TrustDomain) -> Result<Self, CaError> {
        let protection = keys::find_protection(passphrase_file, domain)?;
        let pkcs8 = keys::read_made_elsewhere(file, &protection, domain)?;
        let refused = |why: String| CaError::KeyFile(file.display().to_string(), why);
        let signer = JwtSigner::from_pkcs8(domain, &pkcs8).map_err(|error| refused(error.to_string()))?;
        match signer.algorithm() {
            JwtAlgorithm::Rs256 => Ok(Self {
                id: signer.key_id(),
                pkcs8,
            }),
            _ => Err(refused(
                "ca.jwt_rsa_key_file is for an RSA key of 2048 to 4096 bits; keys of other kinds are made by the CA"
                    .to_owned(),
            )),
        }
    }
}

impl JwtKeys {
    /// No key in use yet; with the operator's, when there is one.
    ///
    /// # Errors
    /// Why that cannot be used.
    pub(crate) fn open(config: &Config, domain: &TrustDomain) -> Result<Self, CaError> {
        let read = |file: &PathBuf| Imported::read(file, config.passphrase_file.as_deref(), domain);
        Ok(Self {
            imported: config.jwt_rsa_key_file.as_ref().map(read).transpose()?,
            current: ArcSwapOption::empty(),
            data_dir: config.data_dir.clone(),
            passphrase_file: config.passphrase_file.clone(),
        })
    }

    /// The operator's key, unless it was revoked or replaced: no key comes back.
    fn wanted(&self, keys: &[Known]) -> Option<IssuerKeyId> {
        let id = self.imported.as_ref()?.id;
        let before = keys.iter().find(|key| key.id == id);
        let stands = |key: &Known| key.published && !key.blocked && (key.stage as i32) < CaEventKind::Retire as i32;
        before.is_none_or(stands).then_some(id)
    }

    /// The key that signs on this state: while one takes over from another, or one that is revoked is replaced, none does.
    pub(crate) fn current(&self, view: &View) -> Result<Arc<JwtSigner>, Refusal> {
        let is_active = |signer: &Arc<JwtSigner>| {
            let key = view.ca_key(CaRole::Jwt, &signer.key_id());
            let blocked = view.key_blocked(&SpkiHash::new(*signer.key_id().as_bytes()));
            key.is_some_and(|key| key.stage == CaEventKind::Activate && !blocked)
        };
        self.current.load_full().filter(is_active).ok_or_else(|| {
            let text = "this CA has no key for JWT-SVIDs right now; ask again in a moment";
            Refusal::unavailable("jwt-key", text)
        })
    }

    /// Makes a key, or takes the operator's, and stores it: it has to sign on until the next one takes over, even when it is
    /// no longer configured.
    fn make(&self, desk: &Desk) -> Result<JwtSigner, CaError> {
        let view = desk.state.view();
        let (signer, pkcs8) = match &self.imported {
            Some(imported) if view.ca_key(CaRole::Jwt, &imported.id).is_none() => {
                let pkcs8 = imported.pkcs8.clone();
                (JwtSigner::from_pkcs8(&desk.domain, &pkcs8)?, pkcs8)
            }
            Some(imported) => {
                let kid = jwt_kid(&imported.id);
                error!(
                    kid,
                    "the key of ca.jwt_rsa_key_file was replaced or revoked before: one made here signs instead, with ES256; give another file"
                );
                JwtSigner::generate(&desk.domain)?
            }
            None => JwtSigner::generate(&desk.domain)?,
        };
        let protection = keys::find_protection(self.passphrase_file.as_deref(), &desk.domain)?;
        let dir = DataDir::open(&self.data_dir)?.keys()?;
        let kid = signer.public().kid();
        keys::write_jwt_key(&dir, kid, &pkcs8, &protection, &desk.domain, desk.random_source)?;
        Ok(signer)
    }

    fn load(&self, desk: &Desk, kid: &str) -> Result<JwtSigner, CaError> {
        let protection = keys::find_protection(self.passphrase_file.as_deref(), &desk.domain)?;
        let dir = DataDir::open(&self.data_dir)?.keys()?;
        let pkcs8 = keys::read_jwt_key(&dir, kid, &protection, &desk.domain)?;
        Ok(JwtSigner::from_pkcs8(&desk.domain, &pkcs8)?)
    }

    /// Destroys the keys that sign no more.
    fn keep_only(&self, kids: &[String]) -> Result<(), CaError> {
        keys::remove_other_jwt_keys(&DataDir::open(&self.data_dir)?.keys()?, kids)
    }
}

/// A key as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: IssuerKeyId,
    stage: CaEventKind,
    /// When the next one takes over.
    until: UnixTime,
    /// It is in the bundle.
    published: bool,
    /// An operator has revoked it: it is replaced at once, and leaves the bundle with what it signed.
    blocked: bool,
}

/// What is due next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// There is no key: one is made that signs at once.
    Begin,
    /// The next key is published.
    Publish,
    /// The next key takes over.
    Change(IssuerKeyId),
    /// Nothing lives any more that these signed.
    Forget(Vec<IssuerKeyId>),
}

fn known(view: &View) -> Vec<Known> {
    let published = |kid: &str| {
        let mut bundle = view.bundle().into_iter().flat_map(|bundle| &bundle.jwt_keys);
        bundle.any(|(other, _)| other == kid)
    };
    let keys = view.ca_keys().filter(|key| key.role == CaRole::Jwt);
    keys.map(|key| Known {
        id: key.key_id,
        stage: key.stage,
        until: key.not_after.unwrap_or(UnixTime::from_seconds(0)),
        published: published(&jwt_kid(&key.key_id)),
        blocked: view.key_blocked(&SpkiHash::new(*key.key_id.as_bytes())),
    })
    .collect()
}

/// The key that signs: active, in the bundle, and not blocked.
fn signing(keys: &[Known]) -> Option<&Known> {
    let active = keys
        .iter()
        .filter(|key| key.published && !key.blocked && key.stage == CaEventKind::Activate);
    active.max_by_key(|key| key.until)
}

/// The step that is due, where the key with the id `imported` is wanted, or one that is made here.
fn step(keys: &[Known], now: UnixTime, imported: Option<IssuerKeyId>) -> Option<Step> {
    let Some(active) = signing(keys) else {
        return Some(Step::Begin);
    };
    let ids =
        |which: &dyn Fn(&&Known) -> bool| -> Vec<IssuerKeyId> { keys.iter().filter(which).map(|key| key.id).collect() };
    let blocked = ids(&|key| key.published && key.blocked);
    if !blocked.is_empty() {
        return Some(Step::Forget(blocked));
    }
    let next = keys
        .iter()
        .find(|key| key.published && key.stage == CaEventKind::Prepare);
    match next {
        None if is_over(active, now, imported) => return Some(Step::Publish),
        Some(next) if now >= next.until.minus(JWT_KEY_SIGNS) => return Some(Step::Change(next.id)),
        _ => {}
    }
    let old = ids(&|key| key.published && key.id != active.id && key.stage as i32 >= CaEventKind::Activate as i32);
    let forgotten = active.until.minus(JWT_KEY_SIGNS).plus(JWT_KEY_KEPT_AFTER) <= now;
    (forgotten && !old.is_empty()).then_some(Step::Forget(old))
}

/// Another key has to take over from this one. An operator's key ends when its operator says so.
fn is_over(active: &Known, now: UnixTime, imported: Option<IssuerKeyId>) -> bool {
    match imported {
        Some(wanted) => active.id != wanted,
        None => now >= active.until.minus(JWT_KEY_PUBLISHED_BEFORE),
    }
}

/// The bundle with other JWT keys, under the next sequence.
fn bundle(view: &View, change: impl FnOnce(&mut Vec<BundleJwtKey>)) -> Result<Body, Refusal> {
    let before = view
        .bundle()
        .ok_or_else(|| Refusal::bug("the ledger holds no bundle"))?;
    let standing = before.jwt_keys.iter().map(|(kid, spki_der)| BundleJwtKey {
        kid: kid.clone(),
        spki_der: spki_der.clone(),
    });
    let mut jwt_keys = standing.collect();
    change(&mut jwt_keys);
    Ok(Body::BundleChange(BundleChange {
        sequence: before.sequence + 1,
        roots_der: before.roots_der.clone(),
        jwt_keys,
    }))
}

fn event(id: &IssuerKeyId, kind: CaEventKind) -> Body {
    Body::CaEvent(CaEvent {
        event: kind.into(),
        role: CaRole::Jwt.into(),
        key_id: id.as_bytes().to_vec(),
        ..CaEvent::default()
    })
}

/// The records of a new key: prepared alone, or active at once in the place of those before it.
fn new_key(view: &View, signer: &JwtSigner, until: UnixTime, at_once: bool) -> Result<Vec<Body>, Refusal> {
    let public = signer.public();
    let [prepared, activated] = introduced(bare(CaRole::Jwt, public.spki_der(), Vec::new(), until.seconds()));
    let mut bodies = vec![prepared];
    if at_once {
        bodies.push(activated);
        let former = known(view)
            .into_iter()
            .filter(|key| (key.stage as i32) < CaEventKind::Retire as i32);
        bodies.extend(former.map(|key| event(&key.id, CaEventKind::Retire)));
    }
    bodies.push(bundle(view, |keys| {
        keys.push(BundleJwtKey {
            kid: public.kid().to_owned(),
            spki_der: public.spki_der().to_vec(),
        });
    })?);
    Ok(bodies)
}

/// Carries out one step: what it needs is stored first, then recorded.
async fn take(desk: &Arc<Desk>, step: Step) -> Result<(), Refusal> {
    let origin = Origin::replica(desk);
    match step {
        Step::Begin | Step::Publish => {
            let signer = on_disk(desk, JwtKeys::make).await?;
            let at_once = step == Step::Begin;
            let ahead = if at_once {
                Duration::ZERO
            } else {
                JWT_KEY_PUBLISHED_BEFORE
            };
            let until = desk.clock.now()?.plus(ahead).plus(JWT_KEY_SIGNS);
            command(desk, &origin, |view| Ok((new_key(view, &signer, until, at_once)?, ()))).await?;
            info!(
                kid = signer.public().kid(),
                at_once, "a new key for JWT-SVIDs is in the bundle"
            );
        }
        Step::Change(next) => {
            let bodies = |view: &View| {
                let mut bodies = vec![event(&next, CaEventKind::Activate)];
                let former = known(view).into_iter().filter(|key| key.stage == CaEventKind::Activate);
                bodies.extend(former.map(|key| event(&key.id, CaEventKind::Retire)));
                Ok((bodies, ()))
            };
            command(desk, &origin, bodies).await?;
            info!(kid = jwt_kid(&next), "another key signs JWT-SVIDs from now on");
        }
        Step::Forget(old) => {
            let kids: Vec<String> = old.iter().map(jwt_kid).collect();
            let bodies = |view: &View| {
                Ok((
                    vec![bundle(view, |keys| keys.retain(|key| !kids.contains(&key.kid)))?],
                    (),
                ))
            };
            command(desk, &origin, bodies).await?;
            info!(kids = %kids.join(" "), "keys of JWT-SVIDs whose tokens are over left the bundle");
        }
    }
    Ok(())
}

/// Work on key files, off the event loop.
async fn on_disk<T: Send + 'static>(
    desk: &Arc<Desk>,
    work: impl FnOnce(&JwtKeys, &Desk) -> Result<T, CaError> + Send + 'static,
) -> Result<T, Refusal> {
    let worker = desk.clone();
    let done = tokio::task::spawn_blocking(move || work(&worker.jwt_keys, &worker)).await;
    done.map_err(|_| Refusal::bug("work on a key file ended early"))?
        .map_err(|error| Refusal::unavailable("jwt-key", error.to_string()))
}

/// Takes every step that is due, and puts the key in use that the ledger says. One that cannot be read is replaced, once.
pub(crate) async fn bring_up(desk: &Arc<Desk>) -> Result<(), Refusal> {
    for _ in 0..JWT_KEY_STEPS_MAX {
        let now = desk.clock.now()?;
        let keys = known(&desk.state.view());
        match step(&keys, now, desk.jwt_keys.wanted(&keys)) {
            Some(due) => take(desk, due).await?,
            None => break,
        }
    }
    if let Err(problem) = put_in_use(desk).await {
        // Tokens are short; a lost key costs nobody anything but the next one.
        error!(%problem, "the key for JWT-SVIDs cannot be used; another one takes its place");
        take(desk, Step::Begin).await?;
        put_in_use(desk).await?;
    }
    Ok(())
}

async fn put_in_use(desk: &Arc<Desk>) -> Result<(), Refusal> {
    let keys = known(&desk.state.view());
    let active = signing(&keys).ok_or_else(|| Refusal::bug("no key for JWT-SVIDs was recorded"))?;
    let in_use = desk.jwt_keys.current.load_full();
    if in_use.is_some_and(|signer| signer.key_id() == active.id) {
        return Ok(());
    }
    let kid = jwt_kid(&active.id);
    let signer = on_disk(desk, move |keys, desk| keys.load(desk, &kid)).await?;
    desk.jwt_keys.current.store(Some(Arc::new(signer)));
    let kept = keys
        .iter()
        .filter(|key| (key.stage as i32) < CaEventKind::Retire as i32);
    let kept: Vec<String> = kept.map(|key| jwt_kid(&key.id)).collect();
    if let Err(problem) = on_disk(desk, move |keys, _| keys.keep_only(&kept)).await {
        error!(%problem, "the key files of former JWT keys could not be removed; it is tried again with the next one");
    }
    Ok(())
}

/// Looks now and then whether a step is due, until told to stop.
pub(crate) async fn keep(desk: Arc<Desk>, stop: CancellationToken) {
    let mut look = tokio::time::interval(JWT_KEY_LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut views = desk.state.subscribe();
    let mut seen = views.borrow_and_update().revoked().sequence();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            // A key that was revoked is replaced at once.
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = views.borrow_and_update().revoked().sequence();
                if std::mem::replace(&mut seen, now) == now {
                    continue;
                }
            }
            () = stop.cancelled() => return,
        }
        if let Err(problem) = bring_up(&desk).await {
            desk.metrics.alarm("jwt-key");
            error!(%problem, "the keys for JWT-SVIDs are not as they should be; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixTime = UnixTime::from_millis(1_800_000_000_000);

    fn key(number: u8, stage: CaEventKind, until: UnixTime, published: bool) -> Known {
        Known {
            id: IssuerKeyId::new([number; 32]),
            stage,
            until,
            published,
            blocked: false,
        }
    }

    #[test]
    fn without_a_published_key_one_is_made() {
        assert_eq!(step(&[], START, None), Some(Step::Begin));
        let ends = START.plus(JWT_KEY_SIGNS);
        let out_of_the_bundle = key(1, CaEventKind::Activate, ends, false);
        assert_eq!(
            step(&[out_of_the_bundle], START, None),
            Some(Step::Begin),
            "a restore takes keys out"
        );
        assert_eq!(
            step(&[key(1, CaEventKind::Prepare, ends, true)], START, None),
            Some(Step::Begin)
        );
        assert_eq!(step(&[key(1, CaEventKind::Activate, ends, true)], START, None), None);
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_the_former_stays_while_its_tokens_live() {
        let ends = START.plus(JWT_KEY_SIGNS);
        let publish = ends.minus(JWT_KEY_PUBLISHED_BEFORE);
        let mut keys = vec![key(1, CaEventKind::Activate, ends, true)];
        let before = publish.minus(Duration::from_millis(1));
        assert_eq!(step(&keys, before, None), None);
        assert_eq!(step(&keys, publish, None), Some(Step::Publish));
        let next = publish.plus(JWT_KEY_PUBLISHED_BEFORE).plus(JWT_KEY_SIGNS);
        keys.push(key(2, CaEventKind::Prepare, next, true));
        assert_eq!(step(&keys, publish, None), None, "nobody knows it yet");
        assert_eq!(step(&keys, ends.minus(Duration::from_millis(1)), None), None);
        assert_eq!(step(&keys, ends, None), Some(Step::Change(keys[1].id)));
        keys[0].stage = CaEventKind::Retire;
        keys[1].stage = CaEventKind::Activate;
        assert_eq!(step(&keys, ends, None), None);
        let kept = ends.plus(JWT_KEY_KEPT_AFTER);
        assert_eq!(step(&keys, kept.minus(Duration::from_millis(1)), None), None);
        assert_eq!(step(&keys, kept, None), Some(Step::Forget(vec![keys[0].id])));
        keys[0].published = false;
        assert_eq!(step(&keys, kept, None), None);
    }

    #[test]
    fn a_key_that_is_blocked_is_replaced_and_taken_out_of_the_bundle() {
        let ends = START.plus(JWT_KEY_SIGNS);
        let mut keys = vec![key(1, CaEventKind::Activate, ends, true)];
        keys[0].blocked = true;
        assert_eq!(step(&keys, START, None), Some(Step::Begin));
        keys[0].stage = CaEventKind::Retire;
        keys.push(key(2, CaEventKind::Activate, ends, true));
        assert_eq!(
            step(&keys, START, None),
            Some(Step::Forget(vec![keys[0].id])),
            "and not kept for its tokens"
        );
        keys[0].published = false;
        assert_eq!(step(&keys, START, None), None);
    }

    #[test]
    fn a_ca_that_was_away_publishes_before_it_changes() {
        let ends = START.plus(JWT_KEY_SIGNS);
        let late = ends.plus(JWT_KEY_SIGNS);
        let mut keys = vec![key(1, CaEventKind::Activate, ends, true)];
        assert_eq!(step(&keys, late, None), Some(Step::Publish));
        let next = late.plus(JWT_KEY_PUBLISHED_BEFORE).plus(JWT_KEY_SIGNS);
        keys.push(key(2, CaEventKind::Prepare, next, true));
        assert_eq!(step(&keys, late, None), None, "the old one goes on meanwhile");
        assert_eq!(
            step(&keys, late.plus(JWT_KEY_PUBLISHED_BEFORE), None),
            Some(Step::Change(keys[1].id))
        );
    }

    #[test]
    fn an_operators_key_is_published_first_and_then_signs_for_as_long_as_it_is_wanted() {
        let ends = START.plus(JWT_KEY_SIGNS);
        let mut keys = vec![key(1, CaEventKind::Activate, ends, true)];
        let wanted = Some(IssuerKeyId::new([2; 32]));
        assert_eq!(step(&keys, START, wanted), Some(Step::Publish));
        keys.push(key(
            2,
            CaEventKind::Prepare,
            START.plus(JWT_KEY_PUBLISHED_BEFORE).plus(JWT_KEY_SIGNS),
            true,
        ));
        assert_eq!(step(&keys, START, wanted), None, "nobody knows it yet");
        let known = START.plus(JWT_KEY_PUBLISHED_BEFORE);
        assert_eq!(step(&keys, known, wanted), Some(Step::Change(keys[1].id)));
        keys[0].stage = CaEventKind::Retire;
        keys[1].stage = CaEventKind::Activate;
        let forgotten = known.plus(JWT_KEY_KEPT_AFTER);
        assert_eq!(step(&keys, forgotten, wanted), Some(Step::Forget(vec![keys[0].id])));
        keys[0].published = false;
        let years = keys[1].until.plus(JWT_KEY_SIGNS * 36);
        assert_eq!(step(&keys, years, wanted), None);
        assert_eq!(
            step(&keys, years, None),
            Some(Step::Publish),
            "until it is wanted no more"
        );
    }

    #[test]
    fn the_shift_of_tokens_is_that_of_cuts() {
        // A rule made after a token must reach it: mint shifts by the one, the state's commands by the other.
        assert_eq!(
            mintage_svid::limits::JWT_RULE_SHIFT,
            mintage_state::limits::CUT_BEFORE_NOW
        );
        let longest = Duration::from_secs(u64::from(mintage_identity::limits::TTL_SECONDS_MAX));
        assert!(JWT_KEY_KEPT_AFTER > longest + JWT_KEY_LOOK_INTERVAL);
    }
}
