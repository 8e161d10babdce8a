//! The agent's own verbs beside the SPIFFE service: how the agent is, who the caller or another process is to it, and which
//! certificates the caller saw in use.

use std::sync::{Arc, PoisonError};

use mintage_proto::v1::{
    DeliveryStatus, ExplainRequest, ExplainResponse, ReportSeenRequest, ReportSeenResponse, SeenResult, StatusRequest,
    StatusResponse, WhoAmIEntry, WhoAmIRequest, WhoAmIResponse, agent_local_server::AgentLocal,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::{
    api::caller_of,
    caller::Caller,
    explain::Looker,
    places::{PerUid, Place},
    view::WhoAmI,
};
use crate::{
    core::Input,
    limits::{LOCAL_CALLS_MAX, LOCAL_CALLS_PER_UID_MAX, SEEN_CALLS_MAX, SEEN_CALLS_PER_UID_MAX, SEEN_CHAINS_MAX},
    seen::{Offered, SeenUse, fingerprint},
    shared::Shared,
    status::AgentStatus,
};

/// The service.
pub(super) struct Local {
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    looker: Looker,
    /// Calls under way: an answer may list every entry, and the core has other things to do.
    calls: PerUid,
    /// Reports under way: each costs signature checks.
    reports: PerUid,
}

impl Local {
    pub(super) fn new(shared: Arc<Shared>, core: mpsc::Sender<Input>, looker: Looker) -> Self {
        Self {
            shared,
            core,
            looker,
            calls: PerUid::new(LOCAL_CALLS_PER_UID_MAX, LOCAL_CALLS_MAX),
            reports: PerUid::new(SEEN_CALLS_PER_UID_MAX, SEEN_CALLS_MAX),
        }
    }

    fn place(&self, caller: &Caller) -> Result<Place, Status> {
        Self::place_of(&self.calls, caller)
    }

    fn place_of(places: &PerUid, caller: &Caller) -> Result<Place, Status> {
        let busy = || Status::resource_exhausted("this user asks too often at once; try again");
        places.take(caller.uid()).ok_or_else(busy)
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Status> {
        let (reply, receive) = oneshot::channel();
        let stopping = |_| Status::unavailable("the agent is stopping");
        self.core
            .send(input(reply))
            .await
            .map_err(|_| Status::unavailable("the agent is stopping"))?;
        receive.await.map_err(stopping)
    }
}

#[tonic::async_trait]
impl AgentLocal for Local {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let caller: Arc<Caller> = caller_of(&request)?;
        let _place = self.place(&caller)?;
        let status = self.ask(|reply| Input::Status { reply }).await?;
        Ok(Response::new(wire(&status)))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = caller_of(&request)?;
        let peer = caller.peer()?;
        let _place = self.place(&caller)?;
        let proven = caller.proven();
        let known = self.ask(|reply| Input::WhoAmI { proven, reply }).await?;
        caller.still_same().await?;
        Ok(Response::new(WhoAmIResponse {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
            selectors: peer.selectors().iter().map(ToString::to_string).collect(),
            entries: wire_entries(known),
            method: peer.method().to_owned(),
        }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let caller = caller_of(&request)?;
        let _place = self.place(&caller)?;
        let (proven, mut answer) = self.looker.look(&caller, request.into_inner().subject).await?;
        answer.entries = wire_entries(self.ask(|reply| Input::WhoAmI { proven, reply }).await?);
        Ok(Response::new(answer))
    }

    async fn report_seen(&self, request: Request<ReportSeenRequest>) -> Result<Response<ReportSeenResponse>, Status> {
        let caller = caller_of(&request)?;
        let place = Self::place_of(&self.reports, &caller)?;
        let chains: Vec<_> = request
            .into_inner()
            .chains
            .into_iter()
            .map(|chain| chain.certificates)
            .collect();
        if chains.len() > SEEN_CHAINS_MAX {
            return Err(Status::invalid_argument(format!(
                "chains: {} are in one call, the limit is {SEEN_CHAINS_MAX}; use more calls",
                chains.len()
            )));
        }
        let (shared, core) = (self.shared.clone(), self.core.clone());
        // In a thread of its own, which keeps the place though the caller hangs up: signatures are checked.
        let results = tokio::task::spawn_blocking(move || {
            let results: Vec<SeenResult> = chains.iter().map(|chain| seen(&shared, chain)).collect();
            drop(place);
            results
        });
        let results = results
            .await
            .map_err(|_| Status::internal("the report could not be looked at"))?;
        // A full queue holds something that leads to a turn just as well.
        let _ = core.try_send(Input::Saw);
        Ok(Response::new(ReportSeenResponse { results }))
    }
}

fn wire_entries(known: WhoAmI) -> Vec<WhoAmIEntry> {
    let entries = known.entries.into_iter();
    let entries = entries.map(|(name, spiffe_id, why_not)| WhoAmIEntry {
        name: name.to_string(),
        spiffe_id: spiffe_id.to_string(),
        matches: why_not.is_none(),
        why_not: why_not.unwrap_or_default(),
    });
    entries.collect()
}

/// Takes one chain that somebody saw in use, or says why not.
fn seen(shared: &Shared, chain: &[Vec<u8>]) -> SeenResult {
    let pool = || shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let now = shared.deps.now();
    let refused = |problem: String| {
        shared.metrics.seen("refused");
        SeenResult { problem, known: false }
    };
    let known = || {
        shared.metrics.seen("known");
        SeenResult {
            problem: String::new(),
            known: true,
        }
    };
    let Some(leaf) = chain.first() else {
        return refused("certificates: are missing; the leaf is needed, then those between it and the root".to_owned());
    };
    if pool().knows(&fingerprint(leaf), now.boot) {
        return known();
    }
    let trust = shared.roots_trust.load_full();
    let Some(trust) = trust.as_deref() else {
        return refused("there is no trust bundle yet; try again when the agent has joined".to_owned());
    };
    match SeenUse::verify(chain, trust, &shared.deps.provider, now.wall) {
        Ok(seen) => match pool().offer(seen, now.boot, shared.deps.jitter()) {
            Offered::Known => known(),
            Offered::Taken => {
                shared.metrics.seen("taken");
                SeenResult::default()
            }
            Offered::Sampled => {
                shared.metrics.seen("sampled");
                SeenResult::default()
            }
        },
        Err(error) => refused(format!(
            "certificates: no certificate of this trust domain in use: {error}"
        )),
    }
}

fn wire(status: &AgentStatus) -> StatusResponse {
    let age = status
        .revocation_age
        .and_then(|age| i64::try_from(age.as_millis()).ok());
    let deliveries = status.deliveries.iter().map(|delivery| DeliveryStatus {
        entry: delivery.entry.clone(),
        spiffe_id: delivery.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        directory: delivery
            .directory
            .as_deref()
            .map(|d| d.display().to_string())
            .unwrap_or_default(),
        serial: delivery.serial.map(|serial| serial.to_string()).unwrap_or_default(),
        not_after_ms: delivery.not_after.map_or(0, |end| end.millis()),
        problem: delivery.problem.clone().unwrap_or_default(),
    });
    StatusResponse {
        spiffe_id: status.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        not_after_ms: status.not_after.map_or(0, |end| end.millis()),
        connected: status.connected,
        revocation_sequence: status.revocation_sequence,
        // No filter is older than any filter.
        revocation_age_ms: age.unwrap_or(i64::MAX),
        deliveries: deliveries.collect(),
    }
}
