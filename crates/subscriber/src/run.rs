//! The subscriber itself: one stream after another, at one publisher after another, until it is told to stop.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mintage_identity::UnixTime;
use mintage_proto::v1::{
    BundleRequest, WatchRequest, revocation_client::RevocationClient, trust_domain_client::TrustDomainClient,
    watch_news::News as Wire,
};
use mintage_revocation::{Added, Applied, Replica, RevocationError};
use mintage_verifier::{AllowedIds, RevocationCheck, TlsSettings, TrustStore, client_config, from_rustls};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    Settings, SettingsError,
    bundle::{Held, KnownRevoked},
    connect::{ALPN, chain_of, connect},
    fetch::fetch_snapshot,
    limits::{BEHIND_BEATS_MAX, BUNDLE_EVERY, CALL_WAIT, GOOD_AFTER, MESSAGE_BYTES_MAX, SILENCE_MAX, SNAPSHOT_WAIT},
    retry::Retry,
    step::{Step, step},
};

/// What is new, for whoever keeps live connections. It is in force already.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// Something was revoked.
    Revoked(&'a Added),
    /// The bundle changed: other roots, perhaps fewer.
    Trust,
}

/// How a subscriber stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The publisher whose stream is open; none between two.
    pub publisher: Option<String>,
    /// Epoch and sequence of the set that is held; zeros for none.
    pub epoch: u64,
    /// See `epoch`.
    pub sequence: u64,
    /// Sequence of the bundle that is held; 0 for the roots of the settings.
    pub bundle: u64,
    /// Snapshots taken up so far.
    pub snapshots: u64,
    /// Deltas taken up so far.
    pub deltas: u64,
    /// What went wrong last, while nothing has gone right since.
    pub problem: Option<String>,
}

/// Follows one trust domain's revoked set and bundle.
pub struct Subscriber {
    settings: Settings,
    replica: Arc<Mutex<Replica>>,
    held: Held,
    /// What verifiers judge by.
    trust: Arc<TrustStore>,
    /// What publishers are judged by.
    publishers: Arc<TrustStore>,
    tls: Arc<ClientConfig>,
    status: watch::Sender<Status>,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("domain", &self.settings.domain)
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Subscriber {
    /// A subscriber that holds nothing yet and opens no socket before [`Self::run`].
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let replica = Replica::new(&settings.domain);
        let held = Held::given(settings.roots.clone());
        let roots = |error: mintage_verifier::TrustError| SettingsError::Roots {
            problem: error.to_string(),
        };
        let [strict, catching_up] = checks(&settings, &replica);
        let trust = TrustStore::new(held.trust(&settings.domain, strict).map_err(roots)?);
        let publishers = TrustStore::new(held.trust(&settings.domain, catching_up).map_err(roots)?);
        let allowed =
            AllowedIds::replicas_of(&settings.domain).map_err(|error| SettingsError::Tls(error.to_string()))?;
        let settings_of_tls = TlsSettings::new(settings.tls.provider().clone(), settings.tls.time().clone());
        let settings_of_tls = settings_of_tls.with_alpn([ALPN]);
        let tls = client_config(publishers.clone(), settings.identity.clone(), allowed, &settings_of_tls);
        Ok(Self {
            tls: tls.map_err(|error| SettingsError::Tls(error.to_string()))?,
            settings,
            replica: Arc::new(Mutex::new(replica)),
            held,
            trust,
            publishers,
            status: watch::Sender::default(),
        })
    }

    /// What verifiers judge by, kept current while [`Self::run`] runs. Until the first set has come it refuses everybody.
    pub fn trust(&self) -> &Arc<TrustStore> {
        &self.trust
    }

    /// How it stands from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Follows until `stop`, telling `on_news` what came into force. To be spawned.
    pub async fn run(mut self, on_news: impl Fn(News<'_>) + Send + Sync, stop: CancellationToken) {
        tokio::select! {
            () = self.follow_on(&on_news) => {}
            () = stop.cancelled() => {}
        }
    }

    /// One publisher after another, for ever.
    async fn follow_on(&mut self, on_news: &(impl Fn(News<'_>) + Sync)) {
        let count = self.settings.publishers.len();
        let (mut at, mut failed, mut retry) = (usize::from(self.drawn()) % count, 0, Retry::default());
        loop {
            let address = self.settings.publishers[at % count].clone();
            let began = Instant::now();
            let problem = self.session(&address, on_news).await;
            let is_good = self.status.borrow().publisher.is_some() && began.elapsed() >= GOOD_AFTER;
            tracing::info!(
                publisher = address,
                problem,
                "the stream of revocation news is not open"
            );
            self.status.send_modify(|status| {
                status.publisher = None;
                status.problem = Some(format!("{address}: {problem}"));
            });
            at += 1;
            failed += 1;
            if is_good {
                failed = 1;
                retry.reset();
            }
            // Another publisher is tried at once; when all were, in vain, there is a pause.
            if failed >= count {
                failed = 0;
                sleep(retry.next(self.drawn())).await;
            }
        }
    }

    /// One stream, from the connection to its end; why it ended.
    async fn session(&mut self, address: &str, on_news: &(impl Fn(News<'_>) + Sync)) -> String {
        match self.follow(address, on_news).await {
            Ok(never) => match never {},
            Err(problem) => problem,
        }
    }

    async fn follow(
        &mut self,
        address: &str,
        on_news: &(impl Fn(News<'_>) + Sync),
    ) -> Result<std::convert::Infallible, String> {
        let channel = connect(address, self.tls.clone()).await?;
        // First the keys that may sign, then what they signed.
        self.refresh(&channel, on_news).await?;
        let mut client = RevocationClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let position = locked(&self.replica).position();
        let request = WatchRequest {
            epoch: position.map_or(0, |held| held.epoch),
            sequence: position.map_or(0, |held| held.sequence),
        };
        let opened = within(CALL_WAIT, "the stream did not open", client.watch(request)).await?;
        let mut stream = opened.map_err(|status| chain_of(&status))?.into_inner();
        self.status
            .send_modify(|status| status.publisher = Some(address.to_owned()));
        tracing::info!(publisher = address, "following revocation news");
        let (mut behind, mut bundle_due) = (0, Instant::now() + BUNDLE_EVERY);
        loop {
            let message = tokio::select! {
                message = within(SILENCE_MAX, "no news and no heartbeat came", stream.message()) => message?,
                () = sleep_until(bundle_due) => {
                    self.refresh(&channel, on_news).await?;
                    bundle_due = Instant::now() + BUNDLE_EVERY;
                    continue;
                }
            };
            let message = message.map_err(|status| chain_of(&status))?;
            let message = message.ok_or("the publisher ended the stream")?;
            // A newer publisher may say what is not known here yet.
            let Some(news) = message.news else { continue };
            match self.take(news, &channel, on_news).await? {
                Step::PublisherBehind => behind += 1,
                _ => behind = 0,
            }
            if behind >= BEHIND_BEATS_MAX {
                return Err("the publisher is behind what is held, and does not catch up".to_owned());
            }
        }
    }

    /// Takes up one piece of news, and what it asks for.
    async fn take(
        &mut self,
        news: Wire,
        channel: &Channel,
        on_news: &(impl Fn(News<'_>) + Sync),
    ) -> Result<Step, String> {
        let mut done = self.step(news.clone(), on_news).await;
        if matches!(done, Err(RevocationError::UnknownKey { .. })) {
            // Another key may have taken over since the bundle was read.
            self.refresh(channel, on_news).await?;
            done = self.step(news, on_news).await;
        }
        if matches!(done, Ok(Step::Fetch)) {
            let fetched = within(
                SNAPSHOT_WAIT,
                "the snapshot did not arrive",
                fetch_snapshot(channel.clone()),
            )
            .await?;
            let snapshot = fetched.map_err(|error| format!("snapshot: {error}"))?;
            done = self.step(Wire::Snapshot(snapshot.into()), on_news).await;
        }
        match done {
            Ok(Step::Lost) => Err("reading a snapshot ended early".to_owned()),
            done => done.map_err(|error| error.to_string()),
        }
    }

    async fn step(&self, news: Wire, on_news: &(impl Fn(News<'_>) + Sync)) -> Result<Step, RevocationError> {
        let now = self.now();
        let is_snapshot = matches!(news, Wire::Snapshot(_));
        let done = match is_snapshot {
            // A large one takes a second: not on a thread that others wait for.
            true => {
                let replica = self.replica.clone();
                let worker = tokio::task::spawn_blocking(move || step(&mut locked(&replica), &news, now));
                worker.await.unwrap_or(Ok(Step::Lost))
            }
            false => step(&mut locked(&self.replica), &news, now),
        }?;
        if let Step::Took(applied) = &done {
            self.took(applied, is_snapshot, on_news);
        }
        if matches!(done, Step::Took(_) | Step::Current) {
            self.status.send_if_modified(|status| status.problem.take().is_some());
        }
        Ok(done)
    }

    fn took(&self, applied: &Applied, is_snapshot: bool, on_news: &impl Fn(News<'_>)) {
        let epoch = locked(&self.replica).position().map_or(0, |held| held.epoch);
        if !applied.added.is_empty() {
            on_news(News::Revoked(&applied.added));
        }
        self.status.send_modify(|status| {
            (status.epoch, status.sequence) = (epoch, applied.sequence);
            match is_snapshot {
                true => status.snapshots += 1,
                false => status.deltas += 1,
            }
        });
    }

    /// Asks for the bundle, and takes it up when it says something new.
    async fn refresh(&mut self, channel: &Channel, on_news: &(impl Fn(News<'_>) + Sync)) -> Result<(), String> {
        let mut client = TrustDomainClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let asked = within(
            CALL_WAIT,
            "the bundle did not come",
            client.bundle(BundleRequest::default()),
        )
        .await?;
        let offered = asked
            .map_err(|status| format!("bundle: {}", chain_of(&status)))?
            .into_inner();
        let offered = offered.bundle.ok_or("an answer without a bundle")?;
        let domain = &self.settings.domain;
        let next = self.held.followed_by(domain, offered)?;
        let (delegations, refused) = next.delegations(domain, self.now());
        for problem in refused {
            tracing::debug!(problem, "a revocation delegation of the bundle is not taken");
        }
        let [strict, catching_up] = {
            let mut replica = locked(&self.replica);
            for delegation in delegations {
                if let Err(error) = replica.trust(delegation) {
                    tracing::debug!(%error, "a revocation delegation of the bundle is not taken");
                }
            }
            checks(&self.settings, &replica)
        };
        if next.roots != self.held.roots {
            let unusable = |error: mintage_verifier::TrustError| format!("the bundle cannot be used: {error}");
            let (trust, publishers) = (
                next.trust(domain, strict).map_err(unusable)?,
                next.trust(domain, catching_up).map_err(unusable)?,
            );
            self.trust.swap(trust);
            self.publishers.swap(publishers);
            on_news(News::Trust);
        }
        self.status.send_modify(|status| status.bundle = next.sequence);
        self.held = next;
        Ok(())
    }

    fn now(&self) -> UnixTime {
        // Without a clock everything is of the future, and refused.
        let now = self.settings.tls.time().current_time();
        now.map_or(UnixTime::from_seconds(0), from_rustls)
    }

    fn drawn(&self) -> u16 {
        let mut octets = [0; 2];
        // Without randomness the waits are the shortest.
        let _ = self.settings.tls.provider().secure_random.fill(&mut octets);
        u16::from_be_bytes(octets)
    }
}

/// How verifiers look at revocation, and how publishers are looked at.
fn checks(settings: &Settings, replica: &Replica) -> [RevocationCheck; 2] {
    let required = |view, freshness| RevocationCheck::Required {
        view: Some(view),
        freshness,
    };
    let handle = replica.handle();
    [
        required(handle.clone(), settings.freshness),
        required(Arc::new(KnownRevoked(handle)), settings.freshness),
    ]
}

fn locked(replica: &Mutex<Replica>) -> MutexGuard<'_, Replica> {
    // A panic while it was held leaves the last good view.
    replica.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, String> {
    timeout(limit, work)
        .await
        .map_err(|_| format!("{what} within {limit:?}"))
}
