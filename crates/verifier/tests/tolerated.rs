//! A verifier that goes on with an old filter says so in the log, once, and says when it no longer has to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use mintage_revocation::FreshnessPolicy;
use mintage_verifier::{AllowedIds, RevocationCheck, SvidClientVerifier, TrustStore, from_rustls};
use rustls::{server::danger::ClientCertVerifier, time_provider::TimeProvider};
use support::{Ca, Clock, FakeView, now, provider, trust};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// The lines since the last look.
    fn take(&self) -> Vec<String> {
        let octets = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(octets).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_begin_and_the_end_of_tolerating_an_old_filter_are_logged_once_each() {
    let sink = Sink::default();
    let make = {
        let sink = sink.clone();
        move || sink.clone()
    };
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(make).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
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
    assert_eq!(sink.take(), [""; 0]);
    assert!(ask(60) && ask(1_000_000));
    // A new snapshot is no news of the filter.
    store.swap(snapshot(FreshnessPolicy::default()));
    assert!(ask(600) && !ask(601));
    let told = sink.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("not fresh") && told[0].contains("trust_domain=a.test"),
        "{told:?}"
    );
    assert!(ask(0) && ask(0));
    let told = sink.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("fresh again"), "{told:?}");
    assert_eq!(store.counters().tolerated(), 3);
}
