//! Agents that ask and an administrator that revokes until the CA is gone, and what they were told on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mintage_identity::Serial;
use mintage_proto::v1::{Entry, Receipt, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_svid::LeafInfo;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    ca::{self, CaProcess},
    client::{Joined, admin, join},
    federation::own_entry,
    stream::{Stream, ask},
};

const AGENTS: usize = 3;
const ASKS_PER_BATCH: usize = 4;
/// Between two revocations.
const REVOKE_PAUSE: Duration = Duration::from_millis(15);
/// Longest wait for a first answer, and for clients to end.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What clients were told, in every life of the CA.
#[derive(Debug, Default)]
pub struct Told {
    /// Certificates that were let go, with their receipts.
    pub certificates: BTreeMap<Serial, Receipt>,
    /// Acknowledged as revoked.
    pub revoked: BTreeSet<Serial>,
    /// Serials that came more than once.
    pub twice: Vec<Serial>,
}

/// Told to many clients.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Told>>);

impl Shared {
    /// Looks at what was told.
    pub fn look<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.0.lock().expect("no panic under the lock"))
    }

    /// Serials of all certificates so far.
    pub fn serials(&self) -> BTreeSet<Serial> {
        self.look(|told| told.certificates.keys().copied().collect())
    }
}

/// Gives a new CA one entry, and agents that have joined it. What it issues outlives any campaign: of what has ended the CA no
/// longer says that it was revoked.
pub async fn agents(socket: &Path) -> Vec<Joined> {
    let entry = Entry {
        ttl_seconds: 86_400,
        ..own_entry(&ca::domain(), "web")
    };
    ca::apply(socket, vec![entry]).await.expect("the entry is applied");
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let token = ca::token(socket, &format!("n{n}")).await;
        agents.push(join(&token).await.expect("an agent joins"));
    }
    agents
}

/// Asks batch after batch until the CA is gone or the work is over.
async fn asks(agent: Joined, address: String, shared: Shared, over: Arc<AtomicBool>) {
    let Ok(mut stream) = Stream::open(&agent, &address).await else {
        return;
    };
    while !over.load(Ordering::Relaxed) {
        let batch = (0..ASKS_PER_BATCH).map(|_| ask("web")).collect();
        if stream.ask(batch).await.is_err() {
            return;
        }
        let Ok(results) = stream.minted().await else { return };
        for result in results {
            assert!(result.refusal.is_none(), "{:?}", result.refusal);
            let serial = *LeafInfo::parse(&result.leaf).expect("an SVID").serial();
            let receipt = result.receipt.expect("a receipt");
            shared.look(|told| {
                if told.certificates.insert(serial, receipt).is_some() {
                    told.twice.push(serial);
                }
            });
        }
    }
}

/// Revokes certificates that clients have, one after the other, until the CA is gone or the work is over.
async fn revokes(channel: Channel, shared: Shared, over: Arc<AtomicBool>) {
    let mut revocation = RevocationClient::new(channel);
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(REVOKE_PAUSE).await;
        let live = shared.look(|told| {
            let mut serials = told.certificates.keys();
            serials.find(|serial| !told.revoked.contains(serial)).copied()
        });
        let Some(serial) = live else { continue };
        let request = RevokeRequest {
            target: Some(Target::Serial(serial.to_string())),
            reason: "key-compromise".to_owned(),
            no_renew: true,
            ..RevokeRequest::default()
        };
        if revocation.revoke(request).await.is_err() {
            return;
        }
        shared.look(|told| told.revoked.insert(serial));
    }
}

/// One life of the CA under load. It is killed when `dies_after` has passed since the first answer of this life, or
/// without it is stopped by SIGTERM after half a second of work.
pub async fn live(running: CaProcess, agents: &[Joined], shared: &Shared, dies_after: Option<Duration>) {
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    let before = shared.look(|told| told.certificates.len());
    for agent in agents {
        clients.spawn(asks(
            agent.clone(),
            running.address.clone(),
            shared.clone(),
            over.clone(),
        ));
    }
    let channel = admin(&running.admin_socket()).await.expect("the admin socket answers");
    clients.spawn(revokes(channel, shared.clone(), over.clone()));
    let answered = async {
        while shared.look(|told| told.certificates.len()) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, answered)
        .await
        .expect("agents that joined before are answered");
    tokio::time::sleep(dies_after.unwrap_or(Duration::from_millis(500))).await;
    if dies_after.is_some() {
        running.kill();
    } else {
        let code = tokio::task::spawn_blocking(|| running.stop()).await.expect("no panic");
        assert_eq!(code, Some(0), "SIGTERM under load is a clean stop");
    }
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = tokio::time::timeout(WAIT_MAX, clients.join_next())
        .await
        .expect("clients end")
    {
        ended.expect("no client panics");
    }
}
