//! Follows the CA's lists of revoked certificates beside the stream, for as long as the connection lives. A list that is
//! not taken is asked for again a little later: its key may be in a bundle that is still on its way.

use std::{future::pending, sync::Arc};

use mintage_proto::{
    CrlAssembly,
    v1::{WatchCrlsRequest, crls_client::CrlsClient},
};
use mintage_svid::limits::CRL_BYTES_MAX;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tonic::{Code, Status, transport::Channel};

use super::connect::chain_of;
use crate::{
    core::Input,
    crls::Taken,
    limits::{CRLS_AGAIN_AFTER, MESSAGE_DOWN_BYTES_MAX},
    shared::Shared,
};

/// Runs until it is dropped, or the CA turns out to be one that has no lists.
pub(super) async fn follow(shared: Arc<Shared>, inbox: mpsc::Sender<Input>, channel: Channel) {
    loop {
        match round(&shared, &inbox, channel.clone()).await {
            Ok(()) => tracing::debug!("lists of revoked certificates are asked for again"),
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::debug!("this CA has no lists of revoked certificates yet");
                return;
            }
            Err(status) => tracing::debug!(problem = chain_of(&status), "no lists of revoked certificates come"),
        }
        sleep(CRLS_AGAIN_AFTER).await;
    }
}

/// One stream of lists, to its end or until a list is wanted again.
async fn round(shared: &Arc<Shared>, inbox: &mpsc::Sender<Input>, channel: Channel) -> Result<(), Status> {
    let mut client = CrlsClient::new(channel).max_decoding_message_size(MESSAGE_DOWN_BYTES_MAX);
    let mut stream = client.watch(WatchCrlsRequest { once: false }).await?.into_inner();
    let mut parts = CrlAssembly::new(CRL_BYTES_MAX);
    let mut again: Option<Instant> = None;
    loop {
        let wanted = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let chunk = tokio::select! {
            chunk = stream.message() => chunk?,
            () = wanted => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let taken = match parts.add(chunk) {
            Ok(None) => continue,
            Ok(Some(der)) => take(shared, inbox, der).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = taken {
            shared.problem("revocation", "list", &problem);
            again.get_or_insert_with(|| Instant::now() + CRLS_AGAIN_AFTER);
        }
    }
}

/// Verifies a list, puts it in force, tells the core and keeps it: all in one, for this task may be dropped at any await.
async fn take(shared: &Arc<Shared>, inbox: &mpsc::Sender<Input>, der: Vec<u8>) -> Result<(), String> {
    let (worker, inbox) = (shared.clone(), inbox.clone());
    let taken = tokio::task::spawn_blocking(move || {
        let bundle = worker
            .bundle
            .load_full()
            .ok_or("there is no trust bundle to verify it by")?;
        let held = worker.crls.load_full();
        let (signer, crls) = match held.with(&der, &bundle, worker.wall())? {
            Taken::New(signer, crls) => (signer, Arc::new(crls)),
            Taken::Known => return Ok(()),
        };
        let before = worker.crls.compare_and_swap(&held, crls);
        if !Arc::ptr_eq(&before, &held) {
            return Err("another one came between".to_owned());
        }
        worker.note_lists();
        // The core never waits for this thread, so this ends as soon as it gets to its queue.
        let _ = inbox.blocking_send(Input::Crls);
        // What cannot be kept is in force all the same; after a restart it comes again.
        if let Err(error) = worker.store.save_crl(&signer, &der) {
            worker.problem("store", "list of revoked certificates", &error.to_string());
        }
        Ok(())
    });
    taken.await.map_err(|error| error.to_string())?
}
