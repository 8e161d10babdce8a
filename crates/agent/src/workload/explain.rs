//! Who a process of the node would be to this agent: it is looked at by number, as nearly as that can be like its own call.

use std::{collections::BTreeSet, sync::Arc};

use mintage_attest::unix::WorkloadPeer;
use mintage_identity::Selector;
use mintage_proto::v1::{ExplainResponse, explain_request::Subject};
use tonic::Status;

use super::{
    attesting::{Attesting, Looked, NotAttested},
    caller::Caller,
};
use crate::roles::{Role, role_of};

/// What is true of every look by number.
const BY_NUMBER: [&str; 2] = [
    "user and groups are those of now; a connection keeps those of the moment it was made",
    "the number may have come to another process since you read it",
];
/// What is true of a user.
const BY_USER: &str = "only the user's number is taken as shown; groups, path and digest are a process's: give --pid";

/// Looks at processes that are named by number.
pub(super) struct Looker(pub(super) Arc<Attesting>);

impl Looker {
    /// What the subject shows, and an answer without its entries.
    pub(super) async fn look(
        &self,
        caller: &Arc<Caller>,
        subject: Option<Subject>,
    ) -> Result<(Arc<BTreeSet<Selector>>, ExplainResponse), Status> {
        let operator = role_of(caller.uid(), mintage_sys::process::effective_uid()) == Role::Operator;
        let only_of = (!operator).then(|| caller.uid());
        match subject {
            None => {
                let peer = caller.peer()?;
                caller.still_same().await?;
                Ok((caller.proven(), told(peer, &[])))
            }
            Some(Subject::Pid(pid)) => {
                let uid = caller.uid();
                let peer = self.at(Looked { uid, pid }, only_of).await?;
                Ok((Arc::new(peer.selectors().clone()), told(&peer, &BY_NUMBER)))
            }
            Some(Subject::Uid(uid)) => match only_of.is_some_and(|own| own != uid) {
                true => Err(Status::permission_denied(format!(
                    "user {uid} is another; ask as root, or as that user"
                ))),
                false => user(uid),
            },
        }
    }

    async fn at(&self, looked: Looked, only_of: Option<u32>) -> Result<WorkloadPeer, Status> {
        self.0.look_at(looked, only_of).await.map_err(|not| match not {
            NotAttested::Refused(why) => Status::failed_precondition(format!("process {}: {why}", looked.pid)),
            NotAttested::Late(why) => Status::unavailable(why),
        })
    }
}

fn user(uid: u32) -> Result<(Arc<BTreeSet<Selector>>, ExplainResponse), Status> {
    let selector = Selector::parse(&format!("unix:uid:{uid}")).map_err(|error| Status::internal(error.to_string()))?;
    let answer = ExplainResponse {
        uid,
        selectors: vec![selector.to_string()],
        approximate: vec![BY_USER.to_owned()],
        ..ExplainResponse::default()
    };
    Ok((Arc::new(BTreeSet::from([selector])), answer))
}

fn told(peer: &WorkloadPeer, approximate: &[&str]) -> ExplainResponse {
    ExplainResponse {
        pid: peer.pid(),
        uid: peer.uid(),
        selectors: peer.selectors().iter().map(ToString::to_string).collect(),
        entries: Vec::new(),
        method: peer.method().to_owned(),
        approximate: approximate.iter().map(|text| (*text).to_owned()).collect(),
    }
}
