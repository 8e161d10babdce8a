//! When one identity asks for its next certificate: a pure state machine over two clocks.
//!
//! `step(event, now, jitter)` gives the next state and what to do. Nothing here waits, reads a clock or draws a random
//! number. Age is counted on the clock that runs through suspend and, when the wall clock has moved further, on that
//! one: a clock set back never delays a renewal, a clock set forward brings it nearer but never twice for one
//! certificate. Renewal falls on a random point between 45 % and 55 % of the lifetime; an attempt that failed or found no
//! answer comes again within a tenth of the lifetime, counted from its ask; the certificate in hand serves until it ends.

use std::time::Duration;

use mintage_identity::UnixTime;

use crate::limits::{ASK_GAP, ASK_WAIT, ENDED_SPREAD_MAX};

/// How far the CA dates a certificate back (for verifiers with slow clocks). It is not part of the lifetime.
pub const BACKDATE: Duration = Duration::from_secs(30);
/// After a certificate came, the next ask waits at least this long unless somebody demands it.
const RENEW_FLOOR: Duration = Duration::from_secs(2);
/// First wait after a failure; doubled at each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The part of the lifetime (per mille) where the window of renewal begins, and its width.
const WINDOW_PER_MILLE: (u32, u32) = (450, 100);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, which certificates are dated by.
    pub wall: UnixTime,
    /// Time since boot, suspended time included; never goes back.
    pub boot: Duration,
}

/// A number from 0 to 65,535 drawn evenly; the caller draws it for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter(pub u16);

impl Jitter {
    /// An even share of `whole`, from nothing to all of it.
    pub(crate) fn of(self, whole: Duration) -> Duration {
        whole * u32::from(self.0) / u32::from(u16::MAX)
    }
}

/// What happened to the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is to be held, with certificates of about this lifetime.
    Want {
        /// Lifetime the entry asks for; bounds the waits while nothing is held.
        ttl: Duration,
    },
    /// It is no longer to be renewed.
    Unwant,
    /// The CA can be asked.
    Online,
    /// The CA cannot be asked; an ask under way is lost.
    Offline,
    /// A certificate was verified and put in place.
    Received {
        /// Its first second.
        not_before: UnixTime,
        /// Its last second.
        not_after: UnixTime,
        /// Time since it was asked for: it cannot be older.
        age: Duration,
    },
    /// A certificate from before a restart was found in place; only its dates tell its age.
    Restored {
        /// Its first second.
        not_before: UnixTime,
        /// Its last second.
        not_after: UnixTime,
    },
    /// The ask, or putting its certificate in place, failed.
    Failed {
        /// False when the same ask will get the same answer until somebody changes something.
        soon: bool,
    },
    /// A new certificate is demanded now: by the CA, or because the one in hand was revoked.
    RenewNow,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for a certificate; exactly one ask is under way until Received, Failed or Offline.
    Ask,
    /// The certificate in hand has ended: it is not to be served any more.
    Lapsed,
}

/// The certificate in hand, reduced to its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    not_after: UnixTime,
    lifetime: Duration,
    /// Age when it was put in place, and both clocks then.
    age_then: Duration,
    then: Now,
    /// Age at which the next one is asked for.
    renew_age: Duration,
    /// A renewal was already brought forward or spread for this certificate; it happens once.
    moved: bool,
    lapsed: bool,
}

impl Held {
    fn new(not_before: UnixTime, not_after: UnixTime, age: Duration, now: Now, jitter: Jitter) -> Self {
        let lifetime = not_after.since(not_before.plus(BACKDATE)).max(Duration::from_secs(1));
        let (start, width) = WINDOW_PER_MILLE;
        Self {
            not_after,
            lifetime,
            age_then: age,
            then: now,
            renew_age: lifetime * start / 1000 + jitter.of(lifetime * width / 1000),
            moved: false,
            lapsed: false,
        }
    }

    fn age_by_boot(&self, now: Now) -> Duration {
        self.age_then + now.boot.saturating_sub(self.then.boot)
    }

    fn age(&self, now: Now) -> Duration {
        self.age_by_boot(now)
            .max(self.age_then + now.wall.since(self.then.wall))
    }

    fn remaining(&self, now: Now) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    fn ended(&self, now: Now) -> bool {
        now.wall >= self.not_after || self.age(now) >= self.lifetime
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not to be renewed.
    Idle,
    /// The next ask is due at this time since boot.
    Waiting { due: Duration },
    /// An ask is under way since this time; `again` when a newer certificate was demanded meanwhile.
    Asking { since: Duration, again: bool },
}

/// The state of one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    ttl: Duration,
    held: Option<Held>,
    phase: Phase,
    online: bool,
    failures: u32,
    last_ask: Option<Duration>,
    wanted_since: Duration,
    /// A new certificate was demanded before it was known whether one is to be had.
    demanded: bool,
}

impl Rotation {
    /// Nothing is held and nothing wanted.
    pub fn new() -> Self {
        Self {
            ttl: mintage_identity::Ttl::DEFAULT.duration(),
            held: None,
            phase: Phase::Idle,
            online: false,
            failures: 0,
            last_ask: None,
            wanted_since: Duration::ZERO,
            demanded: false,
        }
    }

    /// The next state and what to do.
    #[must_use]
    pub fn step(mut self, event: Event, now: Now, jitter: Jitter) -> (Self, Vec<Action>) {
        match event {
            Event::Want { ttl } => self.want(ttl, now, jitter),
            Event::Unwant => (self.phase, self.demanded) = (Phase::Idle, false),
            Event::Online => self.online = true,
            Event::Offline => self.offline(now),
            Event::Received {
                not_before,
                not_after,
                age,
            } => {
                let held = Held::new(not_before, not_after, age, now, jitter);
                let again = matches!(self.phase, Phase::Asking { again: true, .. });
                self.hold(held, if again { Duration::ZERO } else { RENEW_FLOOR }, now);
                if let (true, Phase::Waiting { due }) = (again, &mut self.phase) {
                    *due = now.boot;
                }
            }
            Event::Restored { not_before, not_after } => {
                let age = now.wall.since(not_before.plus(BACKDATE));
                self.hold(Held::new(not_before, not_after, age, now, jitter), Duration::ZERO, now);
            }
            Event::Failed { soon } => self.failed(soon, now, jitter),
            Event::RenewNow => match &mut self.phase {
                Phase::Idle => self.demanded = true,
                Phase::Waiting { due } => *due = (*due).min(now.boot),
                Phase::Asking { again, .. } => *again = true,
            },
            Event::Tick => {}
        }
        let actions = self.advance(now, jitter);
        (self, actions)
    }

    /// When the next step is due by itself, in time since boot; `None` when only an event can change anything.
    pub fn wake_at(&self, now: Now) -> Option<Duration> {
        let ask = match self.phase {
            Phase::Waiting { due } if self.online => Some(self.after_gap(due)),
            Phase::Asking { since, .. } => Some(since + self.ask_wait()),
            _ => None,
        };
        let end = self.held.filter(|h| !h.lapsed).map(|h| {
            let by_wall = h.not_after.since(now.wall);
            now.boot + h.remaining(now).min(by_wall)
        });
        match (ask, end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether the mere passing of time changes anything now: without it a [`Event::Tick`] does nothing.
    pub fn is_due(&self, now: Now) -> bool {
        let ends = self.held.is_some_and(|held| !held.lapsed && held.ended(now));
        ends || match self.phase {
            Phase::Idle => false,
            Phase::Asking { since, .. } => now.boot >= since + self.ask_wait(),
            Phase::Waiting { due } => self.online && (now.boot >= self.after_gap(due) || self.is_late(due, now)),
        }
    }

    /// True while a certificate is in hand that has not ended.
    pub fn serving(&self, now: Now) -> bool {
        self.held.is_some_and(|h| !h.ended(now))
    }

    /// How far past its point of renewal the certificate in hand is; with none in hand, how long one is wanted.
    pub fn lag(&self, now: Now) -> Duration {
        match (self.phase, self.held) {
            (Phase::Idle, _) => Duration::ZERO,
            (_, Some(held)) => held.age(now).saturating_sub(held.renew_age),
            (_, None) => now.boot.saturating_sub(self.wanted_since),
        }
    }

    /// The lifetime that bounds every wait for the CA; `None` when nothing is held and nothing wanted.
    pub fn bounding_life(&self) -> Option<Duration> {
        let held = self.held.is_some_and(|held| !held.lapsed);
        (held || self.wanted()).then(|| self.life())
    }

    /// True when the identity is to be renewed.
    pub fn wanted(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// True while an ask is under way.
    pub fn asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. })
    }

    fn want(&mut self, ttl: Duration, now: Now, jitter: Jitter) {
        self.ttl = ttl;
        if self.phase != Phase::Idle {
            return;
        }
        self.wanted_since = now.boot;
        let demanded = std::mem::take(&mut self.demanded);
        let due = match self.held.filter(|_| !demanded) {
            Some(held) => now.boot + held.renew_age.saturating_sub(held.age(now)),
            None => now.boot,
        };
        self.phase = Phase::Waiting { due };
        // A fleet that was off together comes back together. Whoever has no certificate any more is waited for.
        let late = |held: &Held| held.age(now) > held.renew_age && !held.ended(now) && !held.moved;
        if !demanded && self.held.as_ref().is_some_and(late) {
            self.share(now, jitter);
        }
    }

    fn offline(&mut self, now: Now) {
        self.online = false;
        if let Phase::Asking { .. } = self.phase {
            // The answer is lost with the stream: ask again as soon as there is one.
            self.phase = Phase::Waiting { due: now.boot };
        }
    }

    fn hold(&mut self, held: Held, floor: Duration, now: Now) {
        self.failures = 0;
        if self.phase != Phase::Idle {
            let due = now.boot + held.renew_age.saturating_sub(held.age_then).max(floor);
            self.phase = Phase::Waiting { due };
        }
        self.held = Some(held);
    }

    fn failed(&mut self, soon: bool, now: Now, jitter: Jitter) {
        if self.phase == Phase::Idle {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        // What the ask itself took is part of the tenth.
        let asking = match self.phase {
            Phase::Asking { since, .. } => now.boot.saturating_sub(since),
            _ => Duration::ZERO,
        };
        let cap = (self.life() / 10).saturating_sub(asking);
        let doubled = RETRY_FIRST * (1 << (self.failures - 1).min(16));
        let whole = if soon { doubled.min(cap) } else { cap };
        self.phase = Phase::Waiting {
            due: now.boot + whole / 2 + jitter.of(whole / 2),
        };
    }

    /// What every event, and the mere passing of time, leads to.
    fn advance(&mut self, now: Now, jitter: Jitter) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(held) = &mut self.held
            && !held.lapsed
            && held.ended(now)
        {
            held.lapsed = true;
            actions.push(Action::Lapsed);
        }
        if let Phase::Asking { since, .. } = self.phase
            && now.boot >= since + self.ask_wait()
        {
            self.failed(true, now, jitter);
        }
        if !self.online {
            return actions;
        }
        self.spread(now, jitter);
        if let Phase::Waiting { due } = self.phase
            && now.boot >= self.after_gap(due)
        {
            self.phase = Phase::Asking {
                since: now.boot,
                again: false,
            };
            self.last_ask = Some(now.boot);
            actions.push(Action::Ask);
        }
        actions
    }

    /// After a stepped clock, a sleep or an outage many identities of many nodes are late at once: each takes an even share
    /// of a short while, once. Whoever has a certificate in hand can wait longer than one whose certificate has ended.
    fn spread(&mut self, now: Now, jitter: Jitter) {
        let Phase::Waiting { due } = self.phase else { return };
        if self.is_late(due, now) {
            self.share(now, jitter);
        }
    }

    fn share(&mut self, now: Now, jitter: Jitter) {
        let life = self.life();
        let Some(held) = &mut self.held else { return };
        held.moved = true;
        let left = held.lifetime.saturating_sub(held.age_by_boot(now));
        let whole = match held.ended(now) {
            true => ENDED_SPREAD_MAX.min(life / 20),
            false => (life / 10).min(left / 4),
        };
        self.phase = Phase::Waiting {
            due: now.boot + jitter.of(whole),
        };
    }

    /// Whether the renewal that is due then is late for a reason that many may share, and was not moved yet.
    fn is_late(&self, due: Duration, now: Now) -> bool {
        self.held.is_some_and(|held| {
            let late = now.boot > due + self.life() / 20;
            let stepped = now.boot < due && held.age(now) >= held.renew_age && held.age_by_boot(now) < held.renew_age;
            !held.moved && (late || stepped)
        })
    }

    fn after_gap(&self, due: Duration) -> Duration {
        self.last_ask.map_or(due, |last| due.max(last + ASK_GAP))
    }

    /// How long an answer is waited for: half of the tenth, so that the other half spreads the next asks.
    fn ask_wait(&self) -> Duration {
        ASK_WAIT.min(self.life() / 20)
    }

    /// The lifetime that bounds retries: of the certificate in hand, or of the one wanted, whichever is shorter.
    fn life(&self) -> Duration {
        self.held
            .map_or(self.ttl, |held| held.lifetime.min(self.ttl))
            .max(Duration::from_secs(10))
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
