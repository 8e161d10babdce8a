//! JWT-SVIDs of socket callers: asked of the CA when somebody wants one, kept for each entry and its audiences until half of
//! their life, and looked at again, against entries, bundle and revocations, whenever one is handed out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use mintage_identity::{Audiences, EntryName, RequestId, Selector, SpiffeId, UnixTime};
use mintage_proto::v1::{self, agent_message};
use tokio::sync::oneshot;
use tonic::Code;

use super::{
    Core, boot,
    entries::{few, left},
    slot::is_final,
};
use crate::{
    jwt::HeldJwt,
    limits::{
        ASK_WAIT, ASKS_PER_MESSAGE_MAX, JWT_ASK_GAP, JWT_ASK_WINDOW, JWT_ASKS_PER_ENTRY_MAX, JWT_CALLS_MAX, JWT_WAIT,
        JWTS_MAX, MESSAGE_UP_BYTES_MAX,
    },
    rotation::Now,
};

/// Bytes of one ask beside its audiences: request id, the longest entry name, framing.
const ASK_OVERHEAD_BYTES: usize = 192;
/// Between two looks for tokens that nobody may have any more.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// One token with the hint of its entry.
#[derive(Clone, Debug)]
pub(crate) struct JwtForCaller {
    pub(crate) held: Arc<HeldJwt>,
    /// Unique within an answer when it is not empty.
    pub(crate) hint: String,
}

/// Why a caller gets no token.
#[derive(Debug)]
pub(crate) enum NoJwt {
    /// It may not have one.
    Denied(String),
    /// The CA finds what it asks for wrong.
    Invalid(String),
    /// It may, and there is none now.
    Unavailable(String),
    /// Too much is asked at once.
    Exhausted(String),
}

type Answer = Result<Vec<JwtForCaller>, NoJwt>;

/// What a socket caller asks for.
pub(crate) struct JwtCall {
    pub(crate) proven: Arc<BTreeSet<Selector>>,
    /// Only this identity; every one that the caller may have where there is none.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) audiences: Audiences,
    pub(crate) reply: oneshot::Sender<Answer>,
}

struct Waiting {
    call: JwtCall,
    until: Duration,
}

type Key = (EntryName, Audiences);

/// What is known of one token.
#[derive(Default)]
struct Place {
    held: Option<Arc<HeldJwt>>,
    /// The ask under way, and when it was sent.
    pending: Option<(RequestId, Duration)>,
    /// Why the last ask failed. No other is sent for a while.
    failed: Option<Failed>,
}

/// An ask in vain.
struct Failed {
    why: String,
    /// Time since boot when it failed.
    at: Duration,
    /// The CA said no, and that asking again is of no use; then this is its code.
    refused: Option<Code>,
}

/// Every token and every call that waits for one.
#[derive(Default)]
pub(super) struct Jwts {
    places: HashMap<Key, Place>,
    by_request: HashMap<RequestId, Key>,
    waiting: Vec<Waiting>,
    due: Vec<Key>,
    /// How many were asked for by an entry since when.
    asked: HashMap<EntryName, (Duration, u32)>,
    prune_at: Duration,
}

impl Jwts {
    /// When the patience of some caller ends.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Whether one more may be asked for by an entry, beside those that wait to be sent in this turn. Each audience is a
    /// signature and a record at the CA, and audiences are the workload's to name.
    fn may_ask(&self, entry: &EntryName, now: Duration) -> bool {
        let within = |(since, _): &&(Duration, u32)| now.saturating_sub(*since) < JWT_ASK_WINDOW;
        let asked = self.asked.get(entry).filter(within).map_or(0, |(_, count)| *count);
        let waiting = self.due.iter().filter(|(name, _)| name == entry).count();
        asked as usize + waiting < JWT_ASKS_PER_ENTRY_MAX as usize
    }

    /// Counts an ask that was sent.
    fn asked(&mut self, entry: &EntryName, now: Duration) {
        let asked = self.asked.entry(entry.clone()).or_insert((now, 0));
        if now.saturating_sub(asked.0) >= JWT_ASK_WINDOW {
            *asked = (now, 0);
        }
        asked.1 += 1;
    }

    /// The stream broke: what was asked is asked again.
    pub(super) fn interrupted(&mut self) {
        self.by_request.clear();
        self.places.values_mut().for_each(|place| place.pending = None);
    }
}

/// What one entry gives a caller now.
enum Of {
    Held(Arc<HeldJwt>),
    Waiting,
    Failed(String),
    Refused(NoJwt),
    Limited(String),
}

/// The first of many texts: an explanation travels in a header.
fn first(texts: &[String], separator: &str) -> String {
    let mut shown = few(texts.iter().cloned());
    shown.extend(left(texts.len(), shown.len()));
    shown.join(separator)
}

impl Core {
    /// Takes a call; it is answered in this turn, or when its token comes.
    pub(super) fn jwt_called(&mut self, call: JwtCall) {
        if self.jwts.waiting.len() >= JWT_CALLS_MAX {
            let why = format!("more than {JWT_CALLS_MAX} calls wait for a JWT-SVID; try again");
            return drop(call.reply.send(Err(NoJwt::Exhausted(why))));
        }
        let until = boot(self.shared.deps.now()) + JWT_WAIT;
        self.jwts.waiting.push(Waiting { call, until });
    }

    /// Answers the calls that can be answered and asks for what the others need.
    pub(super) fn serve_jwts(&mut self) {
        let now = self.shared.deps.now();
        self.prune_jwts(now);
        if self.jwts.waiting.is_empty() {
            return;
        }
        for waiting in std::mem::take(&mut self.jwts.waiting) {
            if waiting.call.reply.is_closed() {
                continue;
            }
            match self.judge(&waiting, now) {
                Some(answer) => drop(waiting.call.reply.send(answer)),
                None => self.jwts.waiting.push(waiting),
            }
        }
        self.ask_for_jwts(now);
    }

    /// The answer to a call; `None` while it is better to wait.
    fn judge(&mut self, waiting: &Waiting, now: Now) -> Option<Answer> {
        let JwtCall {
            proven, id, audiences, ..
        } = &waiting.call;
        let impatient = boot(now) >= waiting.until;
        let unavailable = |why: &str| impatient.then(|| Err(NoJwt::Unavailable(why.to_owned())));
        if !self.entries.known() {
            return unavailable(&self.silence());
        }
        let matching = self.entries.matching(proven);
        let mut allowed: Vec<(EntryName, SpiffeId, String)> = Vec::new();
        let (mut refused, mut others) = (Vec::new(), Vec::new());
        for (name, entry) in matching {
            if id.as_ref().is_some_and(|id| *id != entry.spiffe_id) {
                others.push(entry.spiffe_id.to_string());
                continue;
            }
            match entry.jwt.why_not(audiences) {
                None => allowed.push((name.clone(), entry.spiffe_id.clone(), entry.hint.clone())),
                Some(why) => refused.push(format!("{name}: {why}")),
            }
        }
        if allowed.is_empty() {
            let why = match (refused.is_empty(), id) {
                (false, _) => format!("no JWT-SVID issued: {}", first(&refused, "; ")),
                (true, Some(id)) if !others.is_empty() => {
                    let others = first(&others, ", ");
                    format!("no JWT-SVID issued: the caller has no identity {id}, but {others}")
                }
                // There may be one by now.
                _ if !self.entries.heard() => return unavailable(&self.silence()),
                _ => self.entries.explain_none(proven),
            };
            return Some(Err(NoJwt::Denied(why)));
        }
        self.collect(allowed, audiences, impatient, now)
    }

    /// The tokens of these entries, as far as they are there.
    fn collect(
        &mut self,
        allowed: Vec<(EntryName, SpiffeId, String)>,
        audiences: &Audiences,
        impatient: bool,
        now: Now,
    ) -> Option<Answer> {
        let (mut svids, mut waits, mut missing) = (Vec::new(), false, None);
        let mut hints = BTreeSet::new();
        for (name, id, hint) in allowed {
            match self.token_of((name, audiences.clone()), &id, impatient, now) {
                Of::Held(held) => {
                    // A hint names one identity only; the first of two keeps it.
                    let unique = hint.is_empty() || hints.insert(hint.clone());
                    let hint = if unique { hint } else { String::new() };
                    svids.push(JwtForCaller { held, hint });
                    continue;
                }
                Of::Waiting => waits = true,
                Of::Failed(why) => _ = missing.get_or_insert(NoJwt::Unavailable(why)),
                Of::Refused(no) => _ = missing.get_or_insert(no),
                Of::Limited(why) => _ = missing.get_or_insert(NoJwt::Exhausted(why)),
            }
            // Clients take the first token for their own: another's does not come in its place.
            if svids.is_empty() && (missing.is_some() || impatient) {
                break;
            }
        }
        if svids.is_empty()
            && let Some(why) = missing
        {
            return Some(Err(why));
        }
        if waits && !impatient {
            return None;
        }
        match svids.is_empty() {
            false => Some(Ok(svids)),
            true => Some(Err(NoJwt::Unavailable(self.silence()))),
        }
    }

    /// What there is of one token; an ask is put down where one is needed.
    fn token_of(&mut self, key: Key, id: &SpiffeId, impatient: bool, now: Now) -> Of {
        let (bundle, view) = (self.shared.bundle.load_full(), self.shared.view.load());
        let Some(bundle) = bundle.filter(|bundle| !bundle.document().jwt_keys().is_empty()) else {
            return Of::Failed("the CA has no key for JWT-SVIDs: it is older than this agent".to_owned());
        };
        let since_boot = boot(now);
        let place = self.jwts.places.get_mut(&key);
        let good = place.as_ref().and_then(|place| place.held.clone());
        let good = good.filter(|held| held.is_good(id, (bundle.document(), &view), now.wall));
        if let Some(held) = good.as_ref().filter(|held| held.is_fresh(now.wall)) {
            return Of::Held(held.clone());
        }
        // A token past half of its life is better than none.
        let or_good = |other: Of| good.clone().map_or(other, Of::Held);
        if let Some(place) = place {
            if place
                .pending
                .as_ref()
                .is_some_and(|(_, at)| since_boot.saturating_sub(*at) > ASK_WAIT)
                && let Some((id, _)) = place.pending.take()
            {
                self.jwts.by_request.remove(&id);
            }
            if place.pending.is_some() {
                return if impatient { or_good(Of::Waiting) } else { Of::Waiting };
            }
            let lately = |failed: &&Failed| since_boot.saturating_sub(failed.at) < JWT_ASK_GAP;
            if let Some(failed) = place.failed.as_ref().filter(lately) {
                return or_good(match failed.refused {
                    Some(Code::InvalidArgument) => Of::Refused(NoJwt::Invalid(failed.why.clone())),
                    Some(_) => Of::Refused(NoJwt::Denied(failed.why.clone())),
                    None => Of::Failed(failed.why.clone()),
                });
            }
        }
        if self.upstream.is_none() {
            return or_good(Of::Waiting);
        }
        if !self.jwts.due.contains(&key) {
            if !self.jwts.may_ask(&key.0, since_boot) {
                let seconds = JWT_ASK_WINDOW.as_secs();
                return or_good(Of::Limited(format!(
                    "entry {} was asked for {JWT_ASKS_PER_ENTRY_MAX} new JWT-SVIDs within {seconds} s; use fewer audiences",
                    key.0
                )));
            }
            self.jwts.due.push(key);
        }
        if impatient { or_good(Of::Waiting) } else { Of::Waiting }
    }

    /// Sends the asks that were put down in this turn.
    fn ask_for_jwts(&mut self, now: Now) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for key in std::mem::take(&mut self.jwts.due) {
            let Some(id) = self.shared.deps.request_id() else {
                tracing::warn!("the system gives no random numbers; no JWT-SVID is asked for");
                return;
            };
            let (entry, audiences) = &key;
            let ask = v1::JwtAsk {
                request_id: id.as_bytes().to_vec(),
                entry: entry.to_string(),
                audiences: audiences.to_vec(),
            };
            let len = ASK_OVERHEAD_BYTES + audiences.iter().map(|audience| audience.len() + 4).sum::<usize>();
            if batch.len() == ASKS_PER_MESSAGE_MAX || bytes + len > MESSAGE_UP_BYTES_MAX {
                self.send_jwt_asks(std::mem::take(&mut batch), now);
                bytes = 0;
            }
            bytes += len;
            batch.push((id, key, ask));
        }
        self.send_jwt_asks(batch, now);
    }

    fn send_jwt_asks(&mut self, batch: Vec<(RequestId, Key, v1::JwtAsk)>, now: Now) {
        if batch.is_empty() {
            return;
        }
        let (known, asks): (Vec<_>, Vec<_>) = batch.into_iter().map(|(id, key, ask)| ((id, key), ask)).unzip();
        let mint = v1::Mint {
            jwt_asks: asks,
            ..v1::Mint::default()
        };
        // Where there is no room, the callers' next turn asks again.
        if !self.send(agent_message::Message::Mint(mint)) {
            return;
        }
        for (id, key) in known {
            self.jwts.asked(&key.0, boot(now));
            self.make_room_for_jwt();
            let place = self.jwts.places.entry(key.clone()).or_default();
            place.pending = Some((id, boot(now)));
            self.jwts.by_request.insert(id, key);
        }
    }

    /// The token that ends first goes where there are too many.
    fn make_room_for_jwt(&mut self) {
        let places = &mut self.jwts.places;
        if places.len() < JWTS_MAX {
            return;
        }
        let idle = places.iter().filter(|(_, place)| place.pending.is_none());
        let end = |place: &Place| {
            place
                .held
                .as_ref()
                .map_or(UnixTime::from_seconds(0), |held| held.expires())
        };
        let first = idle.min_by_key(|(_, place)| end(place)).map(|(key, _)| key.clone());
        first.map(|key| places.remove(&key));
    }

    /// Takes the CA's answers.
    pub(super) fn jwts_minted(&mut self, results: Vec<v1::JwtResult>) {
        let now = self.shared.deps.now();
        for result in results {
            let id = RequestId::from_slice(&result.request_id).ok();
            let Some(key) = id.and_then(|id| self.jwts.by_request.remove(&id)) else {
                tracing::debug!("an answer to no ask of ours was passed over");
                continue;
            };
            let refused = result.refusal.as_ref().filter(|refusal| is_final(refusal));
            let refused = refused.map(|refusal| Code::from_i32(refusal.grpc_code.cast_signed()));
            let outcome = match result.refusal {
                Some(refusal) => Err(format!("the CA refused: {} ({})", refusal.message, refusal.code)),
                None => self.verified_jwt(&key, result.token, now),
            };
            let Some(place) = self.jwts.places.get_mut(&key) else {
                continue;
            };
            place.pending = None;
            match outcome {
                Ok(held) => {
                    tracing::info!(spiffe_id = %held.id(), entry = %key.0, "JWT-SVID received");
                    (place.held, place.failed) = (Some(Arc::new(held)), None);
                }
                Err(why) => {
                    place.failed = Some(Failed {
                        why: why.clone(),
                        at: boot(now),
                        refused,
                    });
                    self.shared.problem("jwt", key.0.as_str(), &why);
                }
            }
        }
    }

    fn verified_jwt(&self, (name, audiences): &Key, token: String, now: Now) -> Result<HeldJwt, String> {
        let entry = self.entries.get(name).ok_or("the entry is gone")?;
        let bundle = self.shared.bundle.load_full().ok_or("there is no trust bundle")?;
        let trust = (bundle.document(), &**self.shared.view.load());
        HeldJwt::verify(token, (&entry.spiffe_id, audiences), trust, now.wall)
            .map_err(|why| format!("the CA's JWT-SVID was not taken: {why}"))
    }

    /// Drops tokens that no entry stands for any more, that were revoked, or that are over.
    fn prune_jwts(&mut self, now: Now) {
        if self.jwts.places.is_empty() || boot(now) < self.jwts.prune_at {
            return;
        }
        self.jwts.prune_at = boot(now) + PRUNE_EVERY;
        let (Some(bundle), view) = (self.shared.bundle.load_full(), self.shared.view.load()) else {
            return;
        };
        let (entries, since_boot) = (&self.entries, boot(now));
        self.jwts
            .asked
            .retain(|_, (since, _)| since_boot.saturating_sub(*since) < JWT_ASK_WINDOW);
        self.jwts.places.retain(|(name, audiences), place| {
            let entry = entries.get(name).filter(|entry| entry.jwt.why_not(audiences).is_none());
            place.held = place.held.take().filter(|held| {
                entry.is_some_and(|entry| held.is_good(&entry.spiffe_id, (bundle.document(), &view), now.wall))
            });
            let failing = |failed: &Failed| since_boot.saturating_sub(failed.at) < JWT_ASK_GAP;
            place.held.is_some() || place.pending.is_some() || place.failed.as_ref().is_some_and(failing)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_counts_against_its_entry_when_it_was_sent_and_not_before() {
        let mut jwts = Jwts::default();
        let (web, db) = (EntryName::parse("web").unwrap(), EntryName::parse("db").unwrap());
        let audiences = |number: u32| Audiences::parse(&[number.to_string()]).unwrap();
        let now = Duration::from_secs(5);
        // With no room on the stream each turn looks again.
        for _ in 0..3 * JWT_ASKS_PER_ENTRY_MAX {
            assert!(jwts.may_ask(&web, now));
        }
        jwts.due = (0..JWT_ASKS_PER_ENTRY_MAX)
            .map(|number| (web.clone(), audiences(number)))
            .collect();
        assert!(
            !jwts.may_ask(&web, now) && jwts.may_ask(&db, now),
            "those of one turn are too many"
        );
        jwts.due.clear();
        assert!(jwts.may_ask(&web, now));
        for _ in 0..JWT_ASKS_PER_ENTRY_MAX {
            jwts.asked(&web, now);
        }
        assert!(!jwts.may_ask(&web, now));
        assert!(jwts.may_ask(&web, now + JWT_ASK_WINDOW));
    }
}
