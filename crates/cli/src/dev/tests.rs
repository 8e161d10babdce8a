//! A whole tour in this process: every promise of it is kept, and what stays on disk proves it again.

use std::fs;

use mintage_identity::{Serial, TrustDomain};
use mintage_svid::{X509Svid, key_matches, pem};

use super::{guided, report::Report, steps::Steps};
use crate::{
    audit::verify::{VerifyArgs, verify},
    output::{Format, Output},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_tour_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let mut steps = Steps::begin(Output::new(Format::Json));
    let mut report = Report::new(&dir.path().canonicalize().unwrap());
    let outcome = guided(&mut report, &mut steps, true).await;
    report.finish(&mut steps);
    let json = serde_json::to_value(&report).unwrap();
    assert!(outcome.unwrap().is_none(), "{json:#}");
    let taken: Vec<_> = json["steps"].as_array().unwrap().iter().collect();
    let names: Vec<_> = taken.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "ca", "entries", "join", "deliver", "call", "rotate", "revoke", "replace", "audit"
        ]
    );
    assert!(taken.iter().all(|step| step["ok"] == true), "{json:#}");
    assert!(json["revoke_to_refused_ms"].as_f64().unwrap() < 5_000.0);
    assert!(!json.to_string().contains("PRIVATE KEY"));

    for svid in json["svids"].as_array().unwrap() {
        let read = |field: &str| fs::read_to_string(svid[field].as_str().unwrap()).unwrap();
        let chain = X509Svid::from_pem(&read("certificate")).unwrap();
        assert_eq!(chain.id().as_str(), svid["spiffe_id"]);
        assert_eq!(
            *chain.leaf().serial(),
            svid["serial"].as_str().unwrap().parse::<Serial>().unwrap()
        );
        let key = pem::decode_private_key(&read("private_key")).unwrap();
        assert!(key_matches(&chain.chain_der()[0], &key).unwrap());
        let domain = TrustDomain::parse("dev.test").unwrap();
        assert_eq!(
            mintage_svid::TrustBundle::from_pem(domain, &read("bundle"))
                .unwrap()
                .roots()
                .len(),
            1
        );
    }

    let verified = verify(&report.ca_dir(), &VerifyArgs::strict(report.vkey_file())).map_err(|refused| refused.failure);
    let shard = &verified.unwrap().shards[0];
    assert_eq!(
        (json["ledger"]["size"].as_u64(), json["ledger"]["root"].as_str()),
        (Some(shard.size), Some(&*shard.root))
    );
}
