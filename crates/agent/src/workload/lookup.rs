//! `mintage.v1.RevocationLookup`: our own question, batched.

use std::sync::Arc;

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_proto::v1::{
    RevocationAnswer, RevocationCause, RevocationCheckRequest, RevocationCheckResponse, RevocationQuestion,
    RevocationStatus, revocation_lookup_server::RevocationLookup,
};
use tonic::{Request, Response, Status};

use super::{api::caller_of, places::PerUid};
use crate::{
    limits::{LOOKUP_CALLS_MAX, LOOKUP_CALLS_PER_UID_MAX, LOOKUP_QUESTIONS_MAX},
    lookup::{Answer, Particulars, Unknown},
    shared::Shared,
};

/// The service.
pub(super) struct Lookup {
    shared: Arc<Shared>,
    calls: PerUid,
}

impl Lookup {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            calls: PerUid::new(LOOKUP_CALLS_PER_UID_MAX, LOOKUP_CALLS_MAX),
        }
    }
}

#[tonic::async_trait]
impl RevocationLookup for Lookup {
    async fn check(
        &self,
        request: Request<RevocationCheckRequest>,
    ) -> Result<Response<RevocationCheckResponse>, Status> {
        let caller = caller_of(&request)?;
        let questions = request.into_inner().questions;
        if questions.len() > LOOKUP_QUESTIONS_MAX {
            return Err(Status::invalid_argument(format!(
                "questions: {} are in one call, the limit is {LOOKUP_QUESTIONS_MAX}; use more calls",
                questions.len()
            )));
        }
        let busy = || Status::resource_exhausted("this user asks too often at once; try again");
        let place = self.calls.take(caller.uid()).ok_or_else(busy)?;
        let shared = self.shared.clone();
        // In a thread of its own, which keeps the place though the caller hangs up: signatures are checked.
        let answered = tokio::task::spawn_blocking(move || {
            let response = answer_all(&shared, &questions);
            drop(place);
            response
        });
        let response = answered
            .await
            .map_err(|_| Status::internal("the questions could not be answered"))?;
        Ok(Response::new(response))
    }
}

fn answer_all(shared: &Shared, questions: &[RevocationQuestion]) -> RevocationCheckResponse {
    let now = shared.wall();
    // Read first: the answers are at least as new as what is told of the set.
    let (sequence, age) = {
        let view = shared.desk.view();
        (view.sequence(), view.age(now))
    };
    let answers = questions.iter().map(|question| {
        let answer = answer(shared, question, now);
        shared.note_answer(&answer);
        wire(&answer)
    });
    RevocationCheckResponse {
        answers: answers.collect(),
        sequence,
        filter_age_ms: age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
    }
}

fn answer(shared: &Shared, question: &RevocationQuestion, now: UnixTime) -> Answer {
    if question.certificates.is_empty() {
        return match particulars(question) {
            Ok(shown) => shared.desk.of_shown(&shown.shown(), now),
            Err(problem) => Answer::Unknown(Unknown::Invalid(problem)),
        };
    }
    let alone = RevocationQuestion {
        certificates: question.certificates.clone(),
        ..RevocationQuestion::default()
    };
    if *question != alone {
        let problem = "certificates: stand beside other fields; give one or the other".to_owned();
        return Answer::Unknown(Unknown::Invalid(problem));
    }
    shared.desk.of_chain(&question.certificates, &shared.deps.provider, now)
}

fn particulars(question: &RevocationQuestion) -> Result<Particulars, String> {
    let named = |field: &str, error: mintage_identity::NameError| format!("{field}: {error}");
    let issuer = IssuerKeyId::from_slice(&question.issuer_key_id).map_err(|error| named("issuer_key_id", error))?;
    let serial = Serial::from_be_octets(&question.serial).map_err(|error| named("serial", error))?;
    let id = match question.spiffe_id.as_str() {
        "" => None,
        text => Some(SpiffeId::parse(text).map_err(|error| named("spiffe_id", error))?),
    };
    let key = match question.public_key_sha256.as_slice() {
        [] => None,
        octets => Some(SpkiHash::from_slice(octets).map_err(|error| named("public_key_sha256", error))?),
    };
    Ok(Particulars {
        name: Some((issuer, serial)),
        spiffe_id: id,
        spki_sha256: key,
        not_before: question.not_before_ms.map(UnixTime::from_millis),
        not_after: question.not_after_ms.map(UnixTime::from_millis),
    })
}

fn wire(answer: &Answer) -> RevocationAnswer {
    let (status, cause) = match answer {
        Answer::Good { .. } => (RevocationStatus::Good, RevocationCause::Unspecified),
        Answer::Revoked(_) => (RevocationStatus::Revoked, RevocationCause::Unspecified),
        Answer::Unknown(unknown) => (
            RevocationStatus::Unknown,
            match unknown {
                Unknown::Stale => RevocationCause::Stale,
                Unknown::NoSet => RevocationCause::NoSet,
                Unknown::NotCovered => RevocationCause::NotCovered,
                Unknown::ForeignIssuer(_) => RevocationCause::ForeignIssuer,
                Unknown::Incomplete(_) => RevocationCause::Incomplete,
                Unknown::Invalid(_) => RevocationCause::Invalid,
                // Never told here: a call without a place is refused whole.
                Unknown::Busy => RevocationCause::Unspecified,
            },
        ),
    };
    let revoked_by = match answer {
        Answer::Revoked(why) => why.as_str(),
        _ => "",
    };
    RevocationAnswer {
        status: status.into(),
        cause: cause.into(),
        revoked_by: revoked_by.to_owned(),
        problem: answer.problem(),
        tolerated: *answer == Answer::Good { tolerated: true },
    }
}
