//! `mintage svid watch`: what this process is given, again at each change. What is no longer given is withdrawn: it is told,
//! and the files that were written of it go.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use mintage_proto::workload::X509svidRequest;
use serde::Serialize;
use tonic::{Code, Status};

use super::{
    answer::{Answer, SvidRow, TAG, is_withdrawal, refused},
    client, files,
};
use crate::{
    cli::Context,
    endpoint::{Endpoint, spiffe},
    failure::Failure,
    interrupt::Interrupt,
    limits::{WORKLOAD_AGAIN_FIRST, WORKLOAD_AGAIN_MAX},
    output::{Format, notice, write},
};

/// `svid watch`.
#[derive(Args, Debug)]
#[command(
    after_help = "The files go on with the identity that they began with. When the agent no longer gives it, the files that \
    this run wrote are removed, all at once, and standard error says so; they come back when it is given again. In jsonl, \
    an identity that is no longer given is a line with \"withdrawn\": true."
)]
pub(crate) struct Watch {
    /// Only this identity
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Writes svid.pem, svid_key.pem and svid_bundle.pem into this folder at each change: of --spiffe-id, else of the
    /// identity whose files lie there, else of the first one
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// The stream stays open and is opened again; only a refusal of the call itself ends it (SPIFFE Workload API, section 4).
pub(super) async fn run(context: &Context, watch: Watch) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let pinned = files::pinned(watch.spiffe_id.as_deref(), watch.write.as_deref(), TAG)?;
    let mut watching = Watching {
        context,
        watch,
        again: WORKLOAD_AGAIN_FIRST,
        pinned,
        began: false,
        written: false,
        shown: BTreeSet::new(),
    };
    loop {
        let ended = tokio::select! {
            ended = watching.once() => ended,
            () = interrupt.came() => return Ok(()),
        };
        match ended {
            Ended::For(failure) => return Err(failure),
            Ended::Because(why) => notice(&format!("{why}; asking again in {} ms", watching.again.as_millis())),
        }
        tokio::select! {
            () = tokio::time::sleep(watching.again) => {}
            () = interrupt.came() => return Ok(()),
        }
        watching.again = (watching.again * 2).min(WORKLOAD_AGAIN_MAX);
    }
}

/// What outlives one stream.
struct Watching<'a> {
    context: &'a Context,
    watch: Watch,
    /// The wait before the next stream.
    again: Duration,
    /// Whose files are written: another one may come to be the first of several, and a reader takes names for an identity.
    pinned: Option<String>,
    /// The files were written once: a folder that is refused from the beginning is a mistake, later on it is a fault that may end.
    began: bool,
    /// The files of this run are in the folder.
    written: bool,
    /// The identities of the last answer.
    shown: BTreeSet<String>,
}

/// How one stream ended.
enum Ended {
    /// Another one may do better.
    Because(String),
    /// No other one will.
    For(Failure),
}

/// A line of jsonl.
#[derive(Serialize)]
struct Withdrawn<'a> {
    spiffe_id: &'a str,
    withdrawn: bool,
}

impl Watching<'_> {
    async fn once(&mut self) -> Ended {
        let opened = async { client(Endpoint::of(self.context)?).await };
        let mut client = match opened.await {
            Ok(client) => client,
            Err(failure @ Failure::Remote(_)) => return Ended::Because(failure.to_string()),
            Err(failure) => return Ended::For(failure),
        };
        let opened = client.fetch_x509svid(spiffe(X509svidRequest {})).await;
        let mut stream = match opened {
            Ok(opened) => opened.into_inner(),
            Err(status) => return self.ended(&status, true),
        };
        let mut fresh = true;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::Because("the agent ended the stream".to_owned()),
                Err(status) => return self.ended(&status, fresh),
            };
            let answer = match Answer::read(message) {
                Ok(answer) => answer,
                Err(failure) => return Ended::Because(failure.to_string()),
            };
            // The next stream begins with everything, so that what is not written now is written then.
            if let Err(ended) = self.take(answer) {
                return ended;
            }
            (fresh, self.again) = (false, WORKLOAD_AGAIN_FIRST);
        }
    }

    fn ended(&mut self, status: &Status, fresh: bool) -> Ended {
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented => return Ended::For(refused(status)),
            // Of an older connection it may say something about that alone, so a new one is asked first.
            _ if fresh && is_withdrawal(status) => {
                if let Err(ended) = self.take(Answer { svids: Vec::new() }) {
                    return ended;
                }
            }
            _ => {}
        }
        // An identity may come yet, and the agent too.
        Ended::Because(refused(status).to_string())
    }

    /// A whole answer: what is not in it is withdrawn.
    fn take(&mut self, mut answer: Answer) -> Result<(), Ended> {
        if let (Some(wanted), false) = (&self.watch.spiffe_id, answer.svids.is_empty()) {
            answer.svids.retain(|svid| svid.row.spiffe_id == *wanted);
            if answer.svids.is_empty() {
                notice(&format!("the agent gives this process no {wanted}, but others"));
            }
        }
        if let Some(folder) = self.watch.write.clone() {
            self.keep(&folder, &answer)?;
        }
        self.show(&answer.into_rows()).map_err(Ended::For)
    }

    fn keep(&mut self, folder: &Path, answer: &Answer) -> Result<(), Ended> {
        let Some(chosen) = answer.chosen(self.pinned.as_deref()) else {
            return self.withdraw(folder);
        };
        match chosen.write(folder) {
            Ok(()) => {
                (self.began, self.written) = (true, true);
                self.pinned = Some(chosen.row.spiffe_id.clone());
                Ok(())
            }
            Err(failure) if self.began => Err(Ended::Because(format!("the files stay as they were: {failure}"))),
            Err(failure) => Err(Ended::For(failure)),
        }
    }

    fn withdraw(&mut self, folder: &Path) -> Result<(), Ended> {
        let Some(id) = &self.pinned else { return Ok(()) };
        let shown = folder.display();
        if !self.written {
            // Files of an earlier run may be another process's, which is still given them.
            notice(&format!(
                "nothing is written to {shown}: it is for {id}, which the agent does not give to this process; --spiffe-id names \
                 another"
            ));
            return Ok(());
        }
        match files::remove(folder, TAG) {
            Ok(()) => {
                self.written = false;
                notice(&format!("{id} is withdrawn: its files are removed from {shown}"));
                Ok(())
            }
            Err(failure) => Err(Ended::Because(format!(
                "{id} is withdrawn, and its files cannot be removed: {failure}"
            ))),
        }
    }

    fn show(&mut self, rows: &[SvidRow]) -> Result<(), Failure> {
        let given: BTreeSet<String> = rows.iter().map(|row| row.spiffe_id.clone()).collect();
        let before = std::mem::replace(&mut self.shown, given);
        if before.is_empty() && rows.is_empty() {
            return Ok(());
        }
        let gone = before.difference(&self.shown).map(|spiffe_id| Withdrawn {
            spiffe_id,
            withdrawn: true,
        });
        let gone: Vec<Withdrawn<'_>> = gone.collect();
        for Withdrawn { spiffe_id, .. } in &gone {
            notice(&format!("{spiffe_id} is no longer given to this process"));
        }
        if self.context.output.format() == Format::Jsonl {
            write(&self.context.output.lines(&gone)?)?;
        }
        self.context.output.list("svids", rows, None)
    }
}
