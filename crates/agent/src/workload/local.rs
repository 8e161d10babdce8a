//! The agent's own verbs beside the SPIFFE service: how the agent is, and who the caller is to it.

use std::sync::Arc;

use mintage_proto::v1::{
    DeliveryStatus, StatusRequest, StatusResponse, WhoAmIEntry, WhoAmIRequest, WhoAmIResponse,
    agent_local_server::AgentLocal,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::{
    api::caller_of,
    caller::{Caller, PerUid, Place},
};
use crate::{
    core::Input,
    limits::{LOCAL_CALLS_MAX, LOCAL_CALLS_PER_UID_MAX},
    status::AgentStatus,
};

/// The service.
pub(super) struct Local {
    core: mpsc::Sender<Input>,
    /// Calls under way: an answer may list every entry, and the core has other things to do.
    calls: PerUid,
}

impl Local {
    pub(super) fn new(core: mpsc::Sender<Input>) -> Self {
        Self {
            core,
            calls: PerUid::new(LOCAL_CALLS_PER_UID_MAX, LOCAL_CALLS_MAX),
        }
    }

    fn place(&self, caller: &Caller) -> Result<Place, Status> {
        let busy = || Status::resource_exhausted("this user asks too often at once; try again");
        self.calls.take(caller.uid()).ok_or_else(busy)
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
        let entries = known.entries.into_iter().map(|(name, spiffe_id, why_not)| WhoAmIEntry {
            name: name.to_string(),
            spiffe_id: spiffe_id.to_string(),
            matches: why_not.is_none(),
            why_not: why_not.unwrap_or_default(),
        });
        Ok(Response::new(WhoAmIResponse {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
            selectors: peer.selectors().iter().map(ToString::to_string).collect(),
            entries: entries.collect(),
            method: peer.method().to_owned(),
        }))
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
