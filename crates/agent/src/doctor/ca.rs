//! Whether the CA is reached and proves itself by the trust bundle.

use std::sync::Arc;

use mintage_verifier::{AllowedIds, IdentitySource, TlsSettings, TrustStore, client_config};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;

use super::{Kept, notes::Notes};
use crate::{
    Config, Deps,
    limits::ADDRESSES_MAX,
    link::{ALPN, ConnectError, connect},
    shared::Own,
};

/// Connects to every address of the CA, all at once; each ends within the agent's own waits.
pub(super) async fn examine(notes: &mut Notes, kept: &Kept, config: &Config, deps: &Deps) {
    let Some(membership) = &kept.membership else { return };
    let tls = match tls(kept, deps) {
        Ok(tls) => tls,
        Err(problem) => return notes.fail("ca", problem, "join again with a new token: mintage token create"),
    };
    let addresses = match config.ca_addresses() {
        [] => &membership.addresses,
        given => given,
    };
    let mut under_way = JoinSet::new();
    for address in addresses.iter().take(ADDRESSES_MAX).cloned() {
        let tls = tls.clone();
        under_way.spawn(async move {
            let connected = connect(&address, tls).await.map(drop);
            (address, connected)
        });
    }
    let mut found = under_way.join_all().await;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let any = found.iter().any(|(_, connected)| connected.is_ok());
    for (address, connected) in found {
        match connected {
            Ok(()) => notes.ok("ca", format!("{address} proves itself by the bundle")),
            // One of several is enough.
            Err(error) if any => notes.warn("ca", error.to_string(), advice(&error)),
            Err(error) => notes.fail("ca", error.to_string(), advice(&error)),
        }
    }
}

fn advice(error: &ConnectError) -> &'static str {
    match error.reached {
        false => {
            "see that mintage-ca runs, listens where agents look (listen, advertise) and that no firewall is between"
        }
        true => {
            "see that this is the CA's port for agents, that both clocks are right, and that the CA was not made anew: then \
                 join again with a new token"
        }
    }
}

/// As the agent connects, without its knowledge of what was revoked.
fn tls(kept: &Kept, deps: &Deps) -> Result<Arc<ClientConfig>, String> {
    let (Some(bundle), Some(domain)) = (&kept.bundle, kept.domain()) else {
        return Err("there is no trust bundle, by which the CA could prove itself".to_owned());
    };
    let trust = bundle.roots_trust().map_err(|error| error.to_string())?;
    let own = kept.store.agent().map_err(|error| error.to_string())?;
    let identity = own.map(Own::new).transpose()?.map(|own| {
        let chain = own.pair.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.pair.key.to_vec()));
        IdentitySource::new(chain, key, &deps.provider).map_err(|error| error.to_string())
    });
    let allowed = AllowedIds::replicas_of(domain).map_err(|error| error.to_string())?;
    let settings = TlsSettings::new(deps.provider.clone(), deps.clock.clone()).with_alpn([ALPN]);
    client_config(TrustStore::new(trust), identity.transpose()?, allowed, &settings).map_err(|error| error.to_string())
}
