//! One open stream: requests and views come in, responses go out, and before each the process is looked at again.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use super::{
    Sds,
    ask::{is_bundle, validator_of},
    offer::Offer,
    state::{Catalogue as _, Heard, Owed, Reply},
    wire::Protocol,
};
use crate::{
    config::Validator,
    core::Input,
    workload::{
        caller::Caller,
        pieces::Framed,
        places::Place,
        view::{Want, WorkloadView},
    },
};

/// Characters of names that a refusal tells: it travels in a header.
const TOLD_CHARS_MAX: usize = 500;

/// One stream of a caller.
pub(super) struct Session<P> {
    sds: Arc<Sds>,
    caller: Arc<Caller>,
    protocol: P,
    validator: Validator,
    watch: Option<(Want, watch::Receiver<WorkloadView>)>,
    /// Something was sent: what stands is better than the end of the stream.
    answered: bool,
    _place: Place,
}

/// What comes next on a stream.
pub(super) enum Step<R> {
    /// Nothing before a request or another view.
    Wait,
    Send(R),
    /// A last response where the protocol has one, and the end.
    End(Option<R>, Status),
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

fn ended() -> Status {
    Status::permission_denied("the calling process has ended")
}

impl<P: Protocol> Session<P> {
    /// Takes a place among the watches of the caller's user.
    pub(super) async fn open(sds: Arc<Sds>, caller: Arc<Caller>) -> Result<Self, Status> {
        if let Err(status) = caller.begins().await {
            sds.shared.metrics.workload_request("not_attested");
            return Err(status);
        }
        let Some(place) = sds.watches.take(caller.uid()) else {
            sds.shared.metrics.workload_request("too_many_watches");
            return Err(Status::resource_exhausted(
                "this user watches too often already; close some streams",
            ));
        };
        sds.shared.metrics.watches.inc();
        Ok(Self {
            validator: sds.settings.validator(),
            sds,
            caller,
            protocol: P::default(),
            watch: None,
            answered: false,
            _place: place,
        })
    }

    /// Serves the stream to its end.
    pub(super) async fn run(
        mut self,
        mut requests: Streaming<P::Request>,
        sender: mpsc::Sender<Result<Framed, Status>>,
    ) {
        if let Err(status) = self.serve(&mut requests, &sender).await {
            tokio::select! {
                biased;
                _ = self.caller.send(&sender, Err(status), &self.sds.shared) => {}
                () = self.sds.core.closed() => {}
            }
        }
    }

    async fn serve(
        &mut self,
        requests: &mut Streaming<P::Request>,
        sender: &mpsc::Sender<Result<Framed, Status>>,
    ) -> Result<(), Status> {
        loop {
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.hear(&request)?,
                    None => return Ok(()),
                },
                changed = changed(&mut self.watch) => changed?,
                () = sender.closed() => return Ok(()),
                () = self.caller.ended() => return Err(ended()),
                // A stream that has asked for nothing looks at no view whose end would tell.
                () = self.sds.core.closed() => return Err(stopping()),
            }
            match self.step().await? {
                Step::Wait => {}
                Step::Send(response) => self.send(sender, response).await?,
                Step::End(last, status) => {
                    if let Some(last) = last {
                        self.send(sender, last).await?;
                    }
                    return Err(status);
                }
            }
        }
    }

    /// The answer to one request alone.
    pub(super) async fn fetch(mut self, request: &P::Request) -> Result<P::Response, Status> {
        self.hear(request)?;
        loop {
            match self.step().await? {
                Step::Send(response) => {
                    self.caller.still_same().await?;
                    return Ok(response);
                }
                Step::End(_, status) => return Err(status),
                Step::Wait => tokio::select! {
                    changed = changed(&mut self.watch) => changed?,
                    () = self.caller.ended() => return Err(ended()),
                },
            }
        }
    }

    async fn send(
        &mut self,
        sender: &mpsc::Sender<Result<Framed, Status>>,
        response: P::Response,
    ) -> Result<(), Status> {
        self.caller.still_same().await?;
        self.sds.shared.metrics.sds("sent");
        if !std::mem::replace(&mut self.answered, true) {
            self.sds.shared.metrics.workload_request("ok");
        }
        let message = Ok(P::pieces(response).framed());
        tokio::select! {
            biased;
            sent = self.caller.send(sender, message, &self.sds.shared) => match sent {
                true => Ok(()),
                false => Err(Status::cancelled("the client has gone")),
            },
            () = self.sds.core.closed() => Err(stopping()),
        }
    }

    fn hear(&mut self, request: &P::Request) -> Result<(), Status> {
        let invalid = |status| {
            self.sds.shared.metrics.sds("invalid");
            status
        };
        self.protocol.check(request).map_err(invalid)?;
        if let Some(node) = P::node(request) {
            self.validator = validator_of(node)
                .map_err(invalid)?
                .unwrap_or(self.sds.settings.validator());
        }
        match self.protocol.hear(request) {
            Heard::Taken => {}
            Heard::Stale => self.sds.shared.metrics.sds("stale"),
            Heard::Refused(why) => self.sds.note_refused(self.caller.uid(), &why),
        }
        Ok(())
    }

    /// What the stream owes its client now.
    async fn step(&mut self) -> Result<Step<P::Response>, Status> {
        let names = self.protocol.names();
        let everything = self.protocol.everything();
        if names.is_empty() && !everything {
            return Ok(Step::Wait);
        }
        let identities = everything || !names.iter().all(|name| is_bundle(name, &self.sds.settings));
        let view = self.view(if identities { Want::Svids } else { Want::Bundles }).await?;
        let sds = self.sds.clone();
        match view {
            WorkloadView::Pending => Ok(Step::Wait),
            WorkloadView::Denied(why) => {
                sds.shared.metrics.workload_request("denied");
                sds.shared.log_denied(self.caller.uid(), &why);
                let last = self.protocol.withdraw().map(|reply| P::response(reply, None));
                Ok(Step::End(last, Status::permission_denied(&*why)))
            }
            WorkloadView::Unavailable(why) => Ok(self.not_yet(&why)),
            WorkloadView::Ready(given) => {
                let offer = Offer {
                    svids: &given.svids,
                    trust: &given.trust,
                    settings: &sds.settings,
                    validator: self.validator,
                    contexts: &sds.contexts,
                };
                let asked: Vec<String> = match everything {
                    true => names.iter().cloned().chain(offer.everything()).collect(),
                    false => names,
                };
                if let Some(why) = offer.lacks(asked.iter().map(String::as_str)) {
                    return Ok(self.not_yet(&why));
                }
                match self.protocol.owed(&offer) {
                    Owed::Nothing => Ok(Step::Wait),
                    Owed::Unknown(unknown) => Ok(self.unknown(&unknown, &offer)),
                    Owed::Reply(reply) => Ok(self.reply(reply, &asked, &offer)),
                }
            }
        }
    }

    fn reply(&self, reply: Reply, asked: &[String], offer: &Offer<'_>) -> Step<P::Response> {
        let missing = asked.iter().find(|name| offer.version(name).is_none());
        if let Some(name) = missing {
            self.sds.note_unknown(self.caller.uid(), name);
        }
        Step::Send(P::response(reply, Some(offer)))
    }

    /// Nothing that is asked for is to be had: the stream ends and says so, because there is no response that could.
    fn unknown(&self, unknown: &[String], offer: &Offer<'_>) -> Step<P::Response> {
        if let Some(name) = unknown.first() {
            self.sds.note_unknown(self.caller.uid(), name);
        }
        let (unknown, names) = (listed(unknown), listed(&offer.names()));
        let status = Status::permission_denied(format!("this caller has no secret named {unknown}; it has {names}"));
        Step::End(None, status)
    }

    /// Before the first response the stream ends with the reason; after it what the client has is left to it.
    fn not_yet(&self, why: &str) -> Step<P::Response> {
        if self.answered {
            self.sds.note_held_back(self.caller.uid(), why);
            return Step::Wait;
        }
        self.sds.shared.metrics.workload_request("unavailable");
        Step::End(None, Status::unavailable(why))
    }

    /// The view as it is. Who has asked for an identity goes on to see identities.
    async fn view(&mut self, want: Want) -> Result<WorkloadView, Status> {
        if self
            .watch
            .as_ref()
            .is_none_or(|(has, _)| *has == Want::Bundles && want == Want::Svids)
        {
            let (reply, receive) = oneshot::channel();
            let proven = self.caller.proven();
            let input = Input::Watch { proven, want, reply };
            self.sds.core.send(input).await.map_err(|_| stopping())?;
            let view = receive.await.map_err(|_| stopping())?;
            self.watch = Some((want, view.map_err(Status::resource_exhausted)?));
        }
        let Some((_, view)) = &mut self.watch else {
            return Err(stopping());
        };
        Ok(view.borrow_and_update().clone())
    }
}

impl<P> Drop for Session<P> {
    fn drop(&mut self) {
        self.sds.shared.metrics.watches.dec();
    }
}

/// As many of these names as a message has room for.
fn listed(names: &[String]) -> String {
    let text = format!("{names:?}");
    match text.char_indices().nth(TOLD_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Completes at another view; never before there is one.
async fn changed(watch: &mut Option<(Want, watch::Receiver<WorkloadView>)>) -> Result<(), Status> {
    match watch {
        Some((_, view)) => view.changed().await.map_err(|_| stopping()),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_fits_into_a_header_whatever_was_asked_for() {
        assert_eq!(listed(&["a".to_owned(), "b\n".to_owned()]), r#"["a", "b\n"]"#);
        let long = listed(&vec!["\u{e4}".repeat(2000); 16]);
        assert_eq!(long.chars().count(), TOLD_CHARS_MAX + 3);
    }
}
