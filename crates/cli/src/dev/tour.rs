//! The tour itself, step by step: deliver, call, rotate, revoke, replace.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mintage_agent::AgentEvent;
use mintage_identity::{RevocationReason, Serial};
use mintage_proto::v1::{RenewAgentRequest, RevokeRequest, revoke_request::Target};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    events::{Events, WAIT},
    party::{DB, Party, WEB},
    peers::{Client, REVOKED, Server, Trusting},
    report::Report,
    stage::{AGENT, Stage},
    steps::Steps,
};
use crate::{failure::Failure, text::millis};

/// Pause of the caller between two calls while certificates rotate.
const CALL_PAUSE: Duration = Duration::from_millis(2);

/// Everything that moves during a tour.
pub(super) struct Tour {
    trusting: Trusting,
    web: Party,
    db: Party,
    server: Server,
    client: Client,
    /// Follows the agent's revocations; ends with the tour.
    _background: JoinSet<()>,
}

/// What a caller counted.
#[derive(Debug, Default)]
struct Calls {
    made: u64,
    failed: Vec<String>,
}

impl Tour {
    /// Waits for the first delivery, then sets up the two workloads on the delivered files.
    pub(super) async fn new(stage: &mut Stage, steps: &mut Steps, report: &mut Report) -> Result<Self, Failure> {
        let dir = report.dir.clone();
        let events = &mut stage.events;
        steps
            .take("deliver", async {
                let mut missing = BTreeSet::from([WEB, DB]);
                events
                    .until("the first delivery", |event| {
                        if let AgentEvent::Delivered { entry, .. } = event {
                            missing.remove(entry.as_str());
                        }
                        Ok(missing.is_empty())
                    })
                    .await?;
                Ok((
                    (),
                    format!(
                        "key, chain and bundle are in {} and {}",
                        dir.join(WEB).display(),
                        dir.join(DB).display()
                    ),
                ))
            })
            .await?;
        let mut background = JoinSet::new();
        let trusting = Trusting::of(&stage.agent, &mut background);
        let web = Party::new(dir.join(WEB), trusting.provider())?;
        let db = Party::new(dir.join(DB), trusting.provider())?;
        let server = trusting.serve(db.source.clone(), web.held.id.clone()).await?;
        let client = trusting.client(web.source.clone(), server.address, &db.held.id)?;
        report.first_serial = Some(web.held.serial);
        Ok(Self {
            trusting,
            web,
            db,
            server,
            client,
            _background: background,
        })
    }

    /// Walks through the steps.
    pub(super) async fn walk(
        mut self,
        stage: &mut Stage,
        report: &mut Report,
        steps: &mut Steps,
    ) -> Result<(), Failure> {
        steps.take("call", self.call(stage)).await?;
        steps.take("rotate", self.rotate(stage)).await?;
        let took = steps.take("revoke", Box::pin(self.revoke(stage))).await?;
        report.revoke_to_refused_ms = Some(took);
        steps.take("replace", self.replace(&mut stage.events)).await?;
        report.svids = vec![self.web.svid(), self.db.svid()];
        Ok(())
    }

    /// One call of web to db, each proven to the other.
    async fn call(&self, stage: &Stage) -> Result<((), String), Failure> {
        let held = stage.agent.trust_store().load_full();
        let domain = self.web.held.id.trust_domain();
        let trusted: Vec<_> = held
            .roots(&domain)
            .into_iter()
            .flatten()
            .map(|root| root.to_vec())
            .collect();
        if self.web.roots()? != trusted || self.db.roots()? != trusted {
            return Err(Failure::local("the delivered bundles are not the agent's"));
        }
        let answer = self
            .client
            .call()
            .await
            .map_err(|error| Failure::local(format!("web could not call db: {error}")))?;
        let (web, db) = (&self.web.held, &self.db.held);
        match answer.is(&web.id, &web.serial) {
            true => Ok((
                (),
                format!(
                    "{} called {} over mutual TLS, each saw the other's identity",
                    web.id, db.id
                ),
            )),
            false => Err(Failure::local(format!(
                "db saw {} {}, not web",
                answer.id, answer.serial
            ))),
        }
    }

    /// New keys and serials for both while web goes on calling.
    async fn rotate(&mut self, stage: &mut Stage) -> Result<((), String), Failure> {
        let (web, db) = (self.web.held.clone(), self.db.held.clone());
        let (stop, stopped) = watch::channel(false);
        let (answered, mut seen) = watch::channel(String::new());
        let caller = tokio::spawn(keep_calling(self.client.clone(), stopped, answered));
        called_under(&mut seen, &web.serial).await?;
        let asked = RenewAgentRequest {
            name: AGENT.to_owned(),
            ..RenewAgentRequest::default()
        };
        stage.admin.registry().renew_agent(asked).await?;
        self.follow_until(&mut stage.events, "the rotation", |tour| {
            tour.web.held.serial != web.serial && tour.db.held.serial != db.serial
        })
        .await?;
        called_under(&mut seen, &self.web.held.serial).await?;
        stop.send_replace(true);
        let calls = caller
            .await
            .map_err(|error| Failure::local(format!("the caller ended early: {error}")))?;
        if let Some(first) = calls.failed.first() {
            return Err(Failure::local(format!(
                "{} of {} calls failed during rotation: {first}",
                calls.failed.len(),
                calls.made
            )));
        }
        if self.web.held.key == web.key || self.db.held.key == db.key {
            return Err(Failure::local("a certificate was renewed over its old key"));
        }
        Ok((
            (),
            format!(
                "new keys and serials for web and db; {} calls meanwhile, none failed",
                calls.made
            ),
        ))
    }

    /// Revokes web's identity: a new call is refused, and the connection that is open ends.
    async fn revoke(&mut self, stage: &Stage) -> Result<(f64, String), Failure> {
        let lost =
            |error: std::io::Error| Failure::local(format!("web could not call db before its revocation: {error}"));
        // As a thief would have it: the files of now, whatever is delivered later.
        let copied = self.trusting.copied_client(&self.web, &self.server, &self.db)?;
        let mut open = copied.open().await.map_err(lost)?;
        open.ask().await.map_err(lost)?;
        let request = RevokeRequest {
            target: Some(Target::SpiffeId(self.web.held.id.to_string())),
            reason: RevocationReason::KeyCompromise.to_string(),
            note: "mintage dev".to_owned(),
            ..RevokeRequest::default()
        };
        let mut revocation = stage.admin.revocation();
        let begun = Instant::now();
        let (answer, refused, ended) = tokio::join!(
            revocation.revoke(request),
            timeout(WAIT, until_refused(&copied, &self.server, begun)),
            timeout(WAIT, async {
                open.ended().await;
                begun.elapsed()
            }),
        );
        let certificates = answer?.into_inner().certificates;
        let refused = refused.map_err(|_| Failure::local("db went on accepting the revoked certificate"))??;
        let ended = ended.map_err(|_| Failure::local("the open connection of the revoked certificate lived on"))?;
        let took = millis(refused);
        let line = format!(
            "{certificates} certificates of web; db refused it {took:.1} ms after the command and ended the open connection at {:.1} ms",
            millis(ended)
        );
        Ok((took, line))
    }

    /// The replacement that followed the revocation is good.
    async fn replace(&mut self, events: &mut Events) -> Result<((), String), Failure> {
        let revoked: Serial = self.web.held.serial;
        self.follow_until(events, "web's replacement", |tour| tour.web.held.serial != revoked)
            .await?;
        let answer = self
            .client
            .call()
            .await
            .map_err(|error| Failure::local(format!("db refused web's replacement: {error}")))?;
        match answer.is(&self.web.held.id, &self.web.held.serial) {
            true => Ok((
                (),
                "web's next certificate, with a new key, is accepted again".to_owned(),
            )),
            false => Err(Failure::local(format!(
                "db saw serial {}, not the replacement",
                answer.serial
            ))),
        }
    }

    /// Takes over what is delivered until `is_done`.
    async fn follow_until(
        &mut self,
        events: &mut Events,
        what: &str,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        if is_done(self) {
            return Ok(());
        }
        events
            .until(what, |event| {
                if let AgentEvent::Delivered { entry, .. } = event {
                    let party = if entry.as_str() == WEB {
                        &mut self.web
                    } else {
                        &mut self.db
                    };
                    party.take_again(self.trusting.provider())?;
                }
                Ok(is_done(self))
            })
            .await
    }
}

impl Trusting {
    /// A client under a copy of web's files.
    fn copied_client(&self, web: &Party, server: &Server, db: &Party) -> Result<Client, Failure> {
        self.client(web.copied(self.provider())?, server.address, &db.held.id)
    }
}

/// Waits until db has answered a call under web's certificate of this serial.
async fn called_under(seen: &mut watch::Receiver<String>, serial: &Serial) -> Result<(), Failure> {
    let serial = serial.to_string();
    match timeout(WAIT, seen.wait_for(|last| *last == serial)).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::local(format!("db never saw web's certificate {serial}"))),
    }
}

/// Calls again and again until told to stop; tells the serial that each call was seen under.
async fn keep_calling(client: Client, mut stop: watch::Receiver<bool>, answered: watch::Sender<String>) -> Calls {
    let mut calls = Calls::default();
    while !*stop.borrow_and_update() {
        calls.made += 1;
        match client.call().await {
            Ok(answer) => drop(answered.send_replace(answer.serial)),
            Err(error) => calls.failed.push(error.to_string()),
        }
        sleep(CALL_PAUSE).await;
    }
    calls
}

/// Calls until the server refuses the certificate as revoked; the time since `begun`.
async fn until_refused(client: &Client, server: &Server, begun: Instant) -> Result<Duration, Failure> {
    let refusals = server.refusals();
    let mut failed = None;
    loop {
        if client.call().await.is_err() {
            failed.get_or_insert_with(|| begun.elapsed());
        }
        // A call that was under way ends with its connection, which is no refusal; the next one is refused, and the server tells
        // why to its own log, perhaps a moment after the client's alert.
        let told = refusals.borrow().clone();
        match (failed, told.as_deref()) {
            (Some(took), Some(REVOKED)) => return Ok(took),
            (Some(_), Some(other)) => {
                return Err(Failure::local(format!("db refused web for another reason: {other}")));
            }
            _ => {}
        }
    }
}
