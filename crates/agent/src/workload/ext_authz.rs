//! Envoy's external authorization, network and HTTP filter alike: a connection whose certificate is not good is refused. Envoy's
//! own SPIFFE validator ignores CRLs, so this is how a revocation reaches it.

use std::sync::Arc;

use mintage_proto::{
    envoy_auth::{
        CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, attribute_context::Peer,
        authorization_server::Authorization, check_response::HttpResponse,
    },
    envoy_type::{HttpStatus, StatusCode},
    google_rpc,
};
use tonic::{Code, Request, Response, Status};

use super::{api::caller_of, checks::Checks};
use crate::{
    lookup::{Answer, Unknown, unescape_chain},
    shared::Shared,
};

/// The service.
pub(super) struct ExtAuthz {
    pub(super) shared: Arc<Shared>,
    pub(super) checks: Arc<Checks>,
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let uid = caller_of(&request)?.uid();
        let source = request.into_inner().attributes.and_then(|attributes| attributes.source);
        let answer = self.judge(uid, &source.unwrap_or_default()).await;
        self.shared.note_answer(&answer);
        Ok(Response::new(wire(&answer)))
    }
}

impl ExtAuthz {
    /// A name costs one look at the set, and is answered here; a certificate has its signatures checked in its user's turn.
    async fn judge(&self, uid: u32, source: &Peer) -> Answer {
        let shared = &self.shared;
        if source.certificate.is_empty() {
            return shared.desk.of_principal(&source.principal, shared.wall());
        }
        match unescape_chain("source.certificate", source.certificate.as_bytes()) {
            Ok(chain) => self.checks.of_chain(uid, shared, chain).await,
            Err(problem) => Answer::Unknown(Unknown::Invalid(problem)),
        }
    }
}

fn wire(answer: &Answer) -> CheckResponse {
    let status = |code: Code| google_rpc::Status {
        code: code.into(),
        message: answer.problem(),
    };
    if let Answer::Good { .. } = answer {
        return CheckResponse {
            status: Some(status(Code::Ok)),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {})),
        };
    }
    let http = match answer.is_for_now() {
        true => StatusCode::ServiceUnavailable,
        false => StatusCode::Forbidden,
    };
    CheckResponse {
        status: Some(status(Code::PermissionDenied)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: http.into() }),
            // For the peer, who learns no more than that; the words are for the proxy's log.
            body: format!("client certificate refused: {}\n", answer.word()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use mintage_revocation::Why;

    use super::*;

    #[test]
    fn only_good_is_ok_and_what_may_pass_is_told_as_such() {
        let of = |answer: Answer| {
            let response = wire(&answer);
            let http = match response.http_response {
                Some(HttpResponse::DeniedResponse(denied)) => denied.status.map(|status| status.code),
                Some(HttpResponse::OkResponse(_)) => None,
                None => panic!("the HTTP filter needs one"),
            };
            (response.status.map(|status| status.code), http)
        };
        let denied = |http| (Some(7), Some(http));
        assert_eq!(of(Answer::Good { tolerated: false }), (Some(0), None));
        assert_eq!(of(Answer::Good { tolerated: true }), (Some(0), None));
        assert_eq!(of(Answer::Revoked(Why::Serial)), denied(403));
        assert_eq!(of(Answer::Unknown(Unknown::NotCovered)), denied(403));
        assert_eq!(of(Answer::Unknown(Unknown::Invalid(String::new()))), denied(403));
        assert_eq!(of(Answer::Unknown(Unknown::Stale)), denied(503));
        assert_eq!(of(Answer::Unknown(Unknown::NoSet)), denied(503));
        assert_eq!(of(Answer::Unknown(Unknown::Busy)), denied(503));
    }
}
