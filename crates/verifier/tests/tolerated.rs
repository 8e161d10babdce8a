//! A verifier that goes on with an old filter says so in the log, once, and says when it no longer has to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{io::Read, sync::Arc};

use mintage_revocation::FreshnessPolicy;
use mintage_verifier::{AllowedIds, RevocationCheck, SvidClientVerifier, TrustStore, from_rustls};
use rustls::{server::danger::ClientCertVerifier, time_provider::TimeProvider};
use support::{Ca, Clock, FakeView, now, provider, trust};

#[test]
fn the_begin_and_the_end_of_tolerating_an_old_filter_are_logged_once_each() {
    let mut log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.reopen().unwrap());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    // What came since the last look.
    let mut lines = || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (root, view) = (Ca::root("root"), FakeView::fresh());
    let snapshot = |freshness| {
        let view: Arc<dyn mintage_verifier::RevocationView> = view.clone();
        let view = Some(view);
        trust("a.test", &root, RevocationCheck::Required { view, freshness })
    };
    let store = TrustStore::new(snapshot(FreshnessPolicy::Open));
    let verifier = SvidClientVerifier::mandatory(store.clone(), AllowedIds::OwnTrustDomain, &provider());
    let leaf = root.good_leaf("spiffe://a.test/web");
    let time = Clock::new().current_time().unwrap();
    assert_eq!(from_rustls(time), now());
    let ask = |age| {
        view.set_age(age);
        verifier.verify_client_cert(&leaf.chain[0], &[], time).is_ok()
    };

    assert!(ask(0) && ask(59));
    assert_eq!(lines(), [""; 0]);
    assert!(ask(60) && ask(1_000_000));
    // A new snapshot is no news of the filter.
    store.swap(snapshot(FreshnessPolicy::default()));
    assert!(ask(600) && !ask(601));
    let told = lines();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("not fresh") && told[0].contains("trust_domain=a.test"),
        "{told:?}"
    );
    assert!(ask(0) && ask(0));
    let told = lines();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("fresh again"), "{told:?}");
    assert_eq!(store.counters().tolerated(), 3);
}
